//! How linear layers compute with a rank's part of their parameters.

use super::NnError;
use crate::{
    Array, Result,
    distributed::{Group, Sharding, Turn},
};

/// How a linear layer is split, and among which ranks.
#[derive(Debug, Clone)]
pub(super) struct LinearSplit {
    way: Way,
    group: Group,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Parts of the outputs, with which this rank goes on.
    Columns,
    /// Parts of the outputs, which are gathered.
    Vocabulary,
    /// Parts of the inputs, which this rank alone has.
    Rows,
}

/// A linear layer that can be split.
pub(super) struct Splitting<'a> {
    pub(super) split: &'a mut Option<LinearSplit>,
    /// `(out, in)`.
    pub(super) weight: &'a Array,
    pub(super) has_bias: bool,
}

impl Splitting<'_> {
    /// Splits the layer. By rows, its bias stays whole.
    pub(super) fn by(self, way: Way, sharding: &mut Sharding<'_>) {
        let [num_outputs, num_inputs] = self.whole();
        if way == Way::Rows {
            sharding.split("weight", 1, num_inputs);
        } else {
            sharding.split("weight", 0, num_outputs);
            if self.has_bias {
                sharding.split("bias", 0, num_outputs);
            }
        }
        let mut group = self.split.take().map(|split| split.group);
        sharding.keep(&mut group);
        *self.split = group.map(|group| LinearSplit { way, group });
    }

    /// Splits the layer in turn with those before it.
    pub(super) fn in_turn(self, sharding: &mut Sharding<'_>) {
        let way = match sharding.take_turn(self.whole()) {
            Turn::Columns => Some(Way::Columns),
            Turn::Rows => Some(Way::Rows),
            Turn::Whole => self.split.as_ref().map(|split| split.way),
        };
        if let Some(way) = way {
            self.by(way, sharding);
        }
    }

    /// The shape `[out, in]` of the whole weight that this one is, or is a part of.
    pub(super) fn whole(&self) -> [i32; 2] {
        let length = |axis: usize| self.weight.shape().get(axis).copied().unwrap_or(0);
        let mut whole = [length(0), length(1)];
        if let Some(LinearSplit { way, group }) = self.split.as_ref() {
            whole[usize::from(*way == Way::Rows)] *= group.world_size() as i32;
        }
        whole
    }
}

impl LinearSplit {
    /// Runs `affine(x, bias)` of this rank's part of the parameters.
    pub(super) fn forward(
        &self,
        x: &Array,
        bias: Option<&Array>,
        affine: impl FnOnce(&Array, Option<&Array>) -> Result<Array>,
    ) -> Result<Array> {
        let Self { way, group } = self;
        match way {
            Way::Columns => affine(&group.copy_to_parallel(x)?, bias),
            Way::Vocabulary => gather_last_axis(group, &affine(&group.copy_to_parallel(x)?, bias)?),
            Way::Rows => {
                let sum = group.reduce_from_parallel(&affine(x, None)?)?;
                // Once, not by every rank.
                Ok(match bias {
                    Some(bias) => sum.add(bias)?,
                    None => sum,
                })
            }
        }
    }

    /// The factors A `(rank, in)` and B `(out, rank)` of an adapter beside the layer: one is split as the layer is,
    /// and what ranks make of the other, which all have, differs.
    pub(super) fn adapter(&self, a: &Array, b: &Array) -> Result<[Array; 2]> {
        let Self { way, group } = self;
        Ok(match way {
            Way::Columns | Way::Vocabulary => [group.copy_to_parallel(a)?, b.clone()],
            Way::Rows => [a.clone(), group.copy_to_parallel(b)?],
        })
    }

    /// The ranks that have the other parts of the outputs.
    pub(super) fn group_of_outputs(&self) -> Result<&Group> {
        match self.way {
            Way::Columns | Way::Vocabulary => Ok(&self.group),
            Way::Rows => Err(NnError::HeadByRows.into()),
        }
    }
}

/// The parts `(..., n)` of all ranks as `(..., ranks * n)`, with which all go on alike.
pub(super) fn gather_last_axis(group: &Group, part: &Array) -> Result<Array> {
    let parts = group.gather_from_parallel(&part.expand_dims(0)?)?; // (ranks, ..., n)
    Ok(parts.move_axis(0, -2)?.flatten(-2, -1)?)
}
