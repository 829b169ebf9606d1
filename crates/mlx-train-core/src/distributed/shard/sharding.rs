//! The passes through a model that find out, and say, what is split.

use super::{Shard, Splits};
use crate::{
    Result,
    distributed::{DistributedError, Group},
};
use std::collections::BTreeMap;

/// One pass through a model that is split: what [`Shard::shard`] is handed.
///
/// The first passes look at everything and change nothing, so that all that cannot be split is told at once. Only
/// then, and only for real ranks, a last one hands out their group and divides numbers.
#[derive(Debug)]
pub struct Sharding<'a> {
    num_ranks: usize,
    /// What layers get; `None` while nothing changes.
    group: Option<&'a Group>,
    /// The names of the fields on the way here.
    path: Vec<String>,
    axes: BTreeMap<String, usize>,
    problems: Vec<Problem>,
    /// Among how many ranks layers are split already.
    split_before: Option<usize>,
    /// The layers that are split by columns and by rows in turn, in order.
    chain: Vec<Link>,
    /// What becomes of each of them; nothing before all are known.
    turns: Vec<Turn>,
}

/// A number that the ranks do not divide.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// Where it is, with `*` for positions.
    place: String,
    value: usize,
    /// In how many such places it is.
    count: usize,
}

/// A layer of a chain.
#[derive(Debug, Clone, Copy)]
struct Link {
    num_inputs: i32,
    num_outputs: i32,
    /// Whether something between it and the next needs whole features.
    ends_whole: bool,
}

/// How a layer of a chain is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Columns,
    Rows,
    Whole,
}

impl Sharding<'_> {
    /// What of `model` is split among `num_ranks` ranks; if these are those of `group`, its layers compute so from
    /// here on.
    ///
    /// # Errors
    /// [`DistributedError::Indivisible`] with everything that does not divide; [`DistributedError::SplitBefore`] when
    /// the model is split already.
    pub(crate) fn of(
        model: &mut dyn Shard,
        num_ranks: usize,
        group: Option<&Group>,
    ) -> Result<Splits> {
        let Sharding { chain, split_before, .. } = Sharding::pass(model, num_ranks, None, &[]);
        if let Some(num_ranks) = split_before {
            return Err(DistributedError::SplitBefore { num_ranks }.into());
        }
        let turns = turns(&chain, num_ranks);
        let Sharding { axes, problems, .. } = Sharding::pass(model, num_ranks, None, &turns);
        refuse(&problems, num_ranks)?;
        if let Some(group) = group {
            Sharding::pass(model, num_ranks, Some(group), &turns);
        }
        Ok(Splits { num_ranks, axes })
    }

    fn pass<'a>(
        model: &mut dyn Shard,
        num_ranks: usize,
        group: Option<&'a Group>,
        turns: &[Turn],
    ) -> Sharding<'a> {
        let mut sharding = Sharding {
            num_ranks,
            group,
            path: Vec::new(),
            axes: BTreeMap::new(),
            problems: Vec::new(),
            split_before: None,
            chain: Vec::new(),
            turns: turns.to_vec(),
        };
        model.shard(&mut sharding);
        sharding
    }

    /// Among how many ranks the model is split.
    pub fn num_ranks(&self) -> usize {
        self.num_ranks
    }

    /// Runs `shard` for the field of this name, which may hold dots.
    pub fn field(&mut self, name: &str, shard: impl FnOnce(&mut Self)) {
        self.path.push(name.to_owned());
        shard(self);
        self.path.pop();
    }

    /// Splits the parameter of this name, in the field at hand, by an axis, which is `length` long: what a layer of
    /// one's own says of each parameter of which ranks hold parts.
    pub fn split(&mut self, parameter: &str, axis: usize, length: i32) {
        let path = self.path.iter().map(String::as_str);
        let name = path.chain([parameter]).collect::<Vec<_>>().join(".");
        let length = usize::try_from(length).unwrap_or(0);
        self.check(&format!("axis {axis} of `{}`", pattern(&name)), length);
        self.axes.insert(name, axis);
    }

    /// Lets the layer at hand keep the group that it computes with from here on, once everything divides.
    pub fn keep(&mut self, kept: &mut Option<Group>) {
        match self.group {
            Some(group) => *kept = Some(group.clone()),
            None => self.split_before = kept.as_ref().map(Group::world_size).or(self.split_before),
        }
    }

    /// Which rank this is, once everything divides.
    pub(crate) fn rank(&self) -> Option<u32> {
        self.group.map(|group| group.rank() as u32)
    }

    /// A rank's share of `whole`, the number at hand, once everything divides.
    pub(super) fn divide(&mut self, whole: usize) -> Option<usize> {
        let place = format!("`{}`", pattern(&self.path.join(".")));
        self.check(&place, whole);
        self.group.map(|_| whole / self.num_ranks)
    }

    /// How the linear layer at hand is split, which takes turns with those before it; whole while not all of them
    /// are known.
    pub(crate) fn take_turn(&mut self, [num_outputs, num_inputs]: [i32; 2]) -> Turn {
        self.chain.push(Link { num_inputs, num_outputs, ends_whole: false });
        self.last_turn()
    }

    /// How the last linear layer was split that takes turns.
    pub(crate) fn last_turn(&self) -> Turn {
        let last = self.chain.len().checked_sub(1).and_then(|last| self.turns.get(last));
        last.copied().unwrap_or(Turn::Whole)
    }

    /// What is at hand needs whole features of the linear layer before it, which takes turns with others.
    pub fn needs_whole(&mut self) {
        if let Some(last) = self.chain.last_mut() {
            last.ends_whole = true;
        }
    }

    /// Notes a number that the ranks do not divide.
    fn check(&mut self, place: &str, value: usize) {
        if value.is_multiple_of(self.num_ranks) && value > 0 {
            return;
        }
        let mut known = self.problems.iter_mut();
        match known.find(|known| known.place == place && known.value == value) {
            Some(known) => known.count += 1,
            None => self.problems.push(Problem { place: place.to_owned(), value, count: 1 }),
        }
    }
}

/// Two neighbours whose features between them divide take turns; all others stay whole.
fn turns(chain: &[Link], num_ranks: usize) -> Vec<Turn> {
    let mut turns = vec![Turn::Whole; chain.len()];
    let mut index = 0;
    while let [first, second, ..] = &chain[index..] {
        let divides = (first.num_outputs as usize).is_multiple_of(num_ranks);
        if divides && !first.ends_whole && first.num_outputs == second.num_inputs {
            turns[index] = Turn::Columns;
            turns[index + 1] = Turn::Rows;
            index += 1;
        }
        index += 1;
    }
    turns
}

/// `model.layers.3.mlp` as `model.layers.*.mlp`, so that the same mistake of many layers is one.
fn pattern(name: &str) -> String {
    let is_position = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if is_position(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// All problems at once, if there are some.
fn refuse(problems: &[Problem], num_ranks: usize) -> Result<(), DistributedError> {
    if problems.is_empty() {
        return Ok(());
    }
    let divides_all = |ranks: &usize| {
        problems.iter().all(|problem| problem.value > 0 && problem.value.is_multiple_of(*ranks))
    };
    let fewer = (1..num_ranks).rev().find(divides_all).unwrap_or(1);
    let problems = problems.iter().map(|Problem { place, value, count }| match count {
        1 => format!("{place} is {value}"),
        _ => format!("{place} is {value} ({count} times)"),
    });
    Err(DistributedError::Indivisible { num_ranks, problems: problems.collect(), fewer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_take_turns_where_the_width_between_them_divides() {
        use Turn::{Columns, Rows, Whole};
        let chain = |widths: &[i32], whole: &[usize]| {
            let links = widths.windows(2).enumerate().map(|(index, width)| Link {
                num_inputs: width[0],
                num_outputs: width[1],
                ends_whole: whole.contains(&index),
            });
            links.collect::<Vec<_>>()
        };
        for (widths, whole, expected) in [
            (&[784, 256, 10][..], &[][..], &[Columns, Rows][..]),
            (&[784, 256, 128, 10], &[], &[Columns, Rows, Whole]),
            (&[784, 255, 128, 10], &[], &[Whole, Columns, Rows]),
            (&[784, 256, 128, 10], &[0], &[Whole, Columns, Rows]),
            (&[784, 10], &[], &[Whole]),
            (&[784], &[], &[]),
        ] {
            assert_eq!(turns(&chain(widths, whole), 2), expected, "{widths:?}");
        }
        // Layers that are not neighbours in the model.
        let apart = [chain(&[4, 6], &[]), chain(&[8, 2], &[])].concat();
        assert_eq!(turns(&apart, 2), [Whole, Whole]);
    }

    #[test]
    fn everything_that_does_not_divide_is_told_once_with_its_name() {
        struct Heads(i32);
        impl Shard for Heads {
            fn shard(&mut self, sharding: &mut Sharding<'_>) {
                sharding.field("num_heads", |sharding| {
                    crate::distributed::SplitBy::<crate::distributed::way::Divide>::split(
                        &mut self.0,
                        sharding,
                    );
                });
                sharding.split("weight", 1, 10);
            }
        }
        let mut blocks = vec![Heads(6), Heads(6), Heads(8)];
        let refused = Sharding::of(&mut blocks, 4, None).unwrap_err().to_string();
        let expected = "the model cannot be split over 4 ranks: `*.num_heads` is 6 (2 times), axis 1 of \
             `*.weight` is 10 (3 times); take multiples of 4, or split it over 2";
        assert_eq!(refused, expected);
        assert_eq!(Sharding::of(&mut blocks, 2, None).unwrap().axis("2.weight"), Some(1));
        assert_eq!(blocks[0].0, 6);
    }
}
