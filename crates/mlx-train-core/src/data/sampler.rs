//! Which row stands at which position of a run.

use super::{DataError, Permutation, alias::AliasTable, random};
use crate::Result;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, sync::Arc};

/// In which order the rows of an epoch come.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Order {
    /// As they stand in the dataset.
    Sequential,
    /// Each row once, in an order of its own in each epoch.
    #[default]
    Shuffled,
    /// Drawn with replacement: a row of weight `w` (finite, not negative, one a row) comes with
    /// probability `w / sum(weights)` each time. An epoch is as many draws as there are rows.
    Weighted(Arc<[f64]>),
}

impl Order {
    /// [`Order::Weighted`] by these weights, one a row.
    pub fn weighted(weights: impl Into<Arc<[f64]>>) -> Self {
        Self::Weighted(weights.into())
    }
}

/// A name that tells one order from another: weights are told apart by a hash.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequential => f.write_str("sequential"),
            Self::Shuffled => f.write_str("shuffled"),
            Self::Weighted(weights) => {
                let fold = |hash, weight: &f64| random::mix(hash ^ weight.to_bits());
                write!(f, "weighted by {:016x}", weights.iter().fold(random::GOLDEN, fold))
            }
        }
    }
}

/// What becomes of the rows that are left over when the ranks share an epoch equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remainder {
    /// The epoch's first rows come a second time, fewer than `world_size` of them, so that none is left out.
    #[default]
    Repeat,
    /// The epoch's last rows are left out, fewer than `world_size` of them; other ones in each shuffled epoch.
    Drop,
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeat => "repeated",
            Self::Drop => "dropped",
        })
    }
}

/// The row at every position of an endless run, each computed by itself in constant time.
///
/// Positions count from 0, the first row of the first epoch, through all epochs. So one number says
/// how far a run has come, and to resume there costs nothing.
///
/// ```
/// # use mlx_train_core::data::{Order, Sampler};
/// let sampler = Sampler::new(Order::Shuffled, 1_000_000_000, 7)?;
/// let rows = sampler.rows(5_000_000_000..5_000_000_004); // in the sixth epoch, at once
/// assert_eq!(rows[2], sampler.row(5_000_000_002));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    rule: Rule,
    /// What tells the order from others; of weights, it takes a look at all of them.
    order_name: Arc<str>,
    len: usize,
    seed: u64,
    rank: usize,
    world_size: usize,
    remainder: Remainder,
}

/// How the row at a position of an epoch is found.
#[derive(Debug, Clone)]
enum Rule {
    InOrder,
    Permuted,
    Drawn(Arc<AliasTable>),
}

impl Sampler {
    /// An order of `len` rows; `seed` decides the random ones.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when there is no row, or weights are not one a row, finite, not negative,
    /// and one of them above zero.
    pub fn new(order: Order, len: usize, seed: u64) -> Result<Self> {
        if len == 0 {
            return Err(
                DataError::Invalid("the data has no row: name data that has some".into()).into()
            );
        }
        let order_name = order.to_string().into();
        let rule = match order {
            Order::Sequential => Rule::InOrder,
            Order::Shuffled => Rule::Permuted,
            Order::Weighted(weights) if weights.len() == len => {
                Rule::Drawn(Arc::new(AliasTable::new(&weights)?))
            }
            Order::Weighted(weights) => {
                let problem = format!(
                    "{} weights do not fit {len} rows: give one weight for each row",
                    weights.len()
                );
                return Err(DataError::Invalid(problem).into());
            }
        };
        let (rank, world_size, remainder) = (0, 1, Remainder::default());
        Ok(Self { rule, order_name, len, seed, rank, world_size, remainder })
    }

    /// The part of one process among `world_size` that read the same data: its own positions, from 0.
    ///
    /// Position `p` of rank `r` is position `p * world_size + r` of the epoch without ranks. So the
    /// batches of all ranks together are the large batches of one process, every row comes once in an
    /// epoch (but for the remainder), and all ranks have equally many: a position belongs to all of them.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless `rank` is below `world_size`, or when the remainder that is dropped
    /// is everything.
    pub fn shard(self, rank: usize, world_size: usize, remainder: Remainder) -> Result<Self> {
        if rank >= world_size {
            let problem = format!(
                "rank {rank} is not one of {world_size}: ranks are 0 to the world size, without it"
            );
            return Err(DataError::Invalid(problem).into());
        }
        if remainder == Remainder::Drop && self.len < world_size {
            let problem = format!(
                "{} rows leave none for each of {world_size} ranks: use fewer ranks, more data, or \
                 repeat the remainder in place of dropping it",
                self.len
            );
            return Err(DataError::Invalid(problem).into());
        }
        Ok(Self { rank, world_size, remainder, ..self })
    }

    /// How many positions an epoch has: the rows, or this rank's share of them.
    pub fn rows_per_epoch(&self) -> usize {
        match self.remainder {
            Remainder::Repeat => self.len.div_ceil(self.world_size),
            Remainder::Drop => self.len / self.world_size,
        }
    }

    /// How many rows the data has.
    pub fn num_rows(&self) -> usize {
        self.len
    }

    /// What tells the order from others: its name, and the seed of a random one.
    pub(super) fn order(&self) -> (&str, Option<u64>) {
        let is_random = !matches!(self.rule, Rule::InOrder);
        (&self.order_name, is_random.then_some(self.seed))
    }

    /// What becomes of the rows that the processes cannot share equally.
    pub fn remainder(&self) -> Remainder {
        self.remainder
    }

    /// How many processes share the rows.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The row at a position.
    pub fn row(&self, position: u64) -> usize {
        let (epoch, index) = self.split(position);
        self.epoch(epoch)(index)
    }

    /// The rows at positions one after the other, which may be of several epochs.
    pub fn rows(&self, positions: Range<u64>) -> Vec<usize> {
        let mut rows = Vec::with_capacity((positions.end.saturating_sub(positions.start)) as usize);
        let mut position = positions.start;
        while position < positions.end {
            let (epoch, first) = self.split(position);
            let in_epoch = self.rows_per_epoch() - first;
            let count = (positions.end - position).min(in_epoch as u64);
            rows.extend((first..first + count as usize).map(self.epoch(epoch)));
            position += count;
        }
        rows
    }

    /// The epoch of a position, and how far it is into it.
    fn split(&self, position: u64) -> (u64, usize) {
        let per_epoch = self.rows_per_epoch() as u64;
        (position / per_epoch, (position % per_epoch) as usize)
    }

    /// The order of one epoch: the row at each of this rank's positions in it.
    fn epoch(&self, epoch: u64) -> impl Fn(usize) -> usize + '_ {
        let permutation = Permutation::new(self.len, self.seed, epoch);
        let draws = random::epoch_state(self.seed, epoch);
        move |index| {
            // Only the last position of a rank can lie behind the end, and there the epoch starts again.
            let index = (index * self.world_size + self.rank) % self.len;
            match &self.rule {
                Rule::InOrder => index,
                Rule::Permuted => permutation.at(index),
                Rule::Drawn(table) => {
                    let counter = (index as u64 + 1).wrapping_mul(random::GOLDEN);
                    table.draw(random::mix(draws.wrapping_add(counter)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(order: Order, len: usize, seed: u64) -> Sampler {
        Sampler::new(order, len, seed).unwrap()
    }

    fn epoch(sampler: &Sampler, epoch: u64) -> Vec<usize> {
        let len = sampler.rows_per_epoch() as u64;
        sampler.rows(epoch * len..(epoch + 1) * len)
    }

    fn orders(len: usize) -> impl Strategy<Value = Order> {
        prop_oneof![
            Just(Order::Sequential),
            Just(Order::Shuffled),
            prop::collection::vec(0.1_f64..9.0, len).prop_map(Order::weighted),
        ]
    }

    proptest! {
        #[test]
        fn every_row_comes_once_in_an_epoch(
            len in 1_usize..200, seed: u64, number in 0_u64..1000, shuffled: bool,
        ) {
            let order = if shuffled { Order::Shuffled } else { Order::Sequential };
            let mut rows = epoch(&sampler(order, len, seed), number);
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..len));
        }

        #[test]
        fn rows_one_by_one_are_the_rows_at_once(
            (len, order) in (1_usize..50).prop_flat_map(|len| (Just(len), orders(len))),
            seed: u64, start in 0_u64..500, count in 0_u64..200,
        ) {
            let sampler = sampler(order, len, seed);
            let one_by_one: Vec<usize> =
                (start..start + count).map(|position| sampler.row(position)).collect();
            prop_assert_eq!(one_by_one, sampler.rows(start..start + count));
        }

        #[test]
        fn ranks_share_each_epoch_and_repeat_or_drop_less_than_one_row_each(
            len in 1_usize..100, world_size in 1_usize..9, seed: u64, number in 0_u64..9,
        ) {
            for remainder in [Remainder::Repeat, Remainder::Drop] {
                let shard = |rank| sampler(Order::Shuffled, len, seed).shard(rank, world_size, remainder);
                let Ok(shards) = (0..world_size).map(shard).collect::<Result<Vec<_>>>() else {
                    prop_assert!(remainder == Remainder::Drop && len < world_size);
                    continue;
                };
                let parts: Vec<Vec<usize>> = shards.iter().map(|shard| epoch(shard, number)).collect();
                prop_assert!(parts.iter().all(|part| part.len() == parts[0].len()));
                let mut counts = vec![0; len];
                parts.iter().flatten().for_each(|&row| counts[row] += 1);
                let total: usize = counts.iter().sum();
                prop_assert!(total.abs_diff(len) < world_size);
                match remainder {
                    // Twice only where the remainder is larger than the data itself.
                    Remainder::Repeat => prop_assert!(
                        counts.iter().all(|&count| count >= 1 && (count <= 2 || len < world_size))
                    ),
                    Remainder::Drop => prop_assert!(counts.iter().all(|&count| count <= 1)),
                }
                // Row for row, the ranks take turns in the order of one process.
                let whole = epoch(&sampler(Order::Shuffled, len, seed), number);
                let turns = (0..parts[0].len()).flat_map(|index| parts.iter().map(move |part| part[index]));
                prop_assert!(turns.zip(whole).all(|(a, b)| a == b));
            }
        }
    }

    #[test]
    fn epochs_have_orders_of_their_own() {
        for order in [Order::Shuffled, Order::weighted(vec![1.0; 100])] {
            let sampler = sampler(order, 100, 3);
            assert_eq!(epoch(&sampler, 2), epoch(&sampler, 2));
            assert_ne!(epoch(&sampler, 2), epoch(&sampler, 3));
        }
    }

    #[test]
    fn weights_say_how_often_a_row_comes() {
        let weights: Vec<f64> = (0..1000).map(|row| f64::from(row % 4)).collect();
        let sampler = sampler(Order::weighted(weights), 1000, 5);
        let mut counts = [0_u32; 4];
        (0..20).flat_map(|number| epoch(&sampler, number)).for_each(|row| counts[row % 4] += 1);
        // 20 000 draws by 0, 1, 2 and 3 sixths, and five standard deviations: 350 at most.
        assert_eq!(counts[0], 0);
        for (count, expected) in counts.into_iter().zip([0_u32, 3333, 6667, 10_000]) {
            assert!(count.abs_diff(expected) < 350, "{count} draws, expected {expected}");
        }
    }

    #[test]
    fn orders_that_cannot_be_are_refused() {
        let refused = |sampler: Result<Sampler>| sampler.unwrap_err().to_string();
        assert!(refused(Sampler::new(Order::Shuffled, 0, 0)).contains("has no row"));
        let weights = Sampler::new(Order::weighted([1.0, 2.0]), 3, 0);
        assert!(refused(weights).contains("2 weights do not fit 3 rows"));
        let three = || sampler(Order::Shuffled, 3, 0);
        assert!(refused(three().shard(2, 2, Remainder::Repeat)).contains("rank 2 is not one of 2"));
        assert!(refused(three().shard(0, 4, Remainder::Drop)).contains("3 rows leave none"));
    }
}
