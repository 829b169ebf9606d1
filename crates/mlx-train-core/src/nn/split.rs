//! How linear layers compute with a rank's part of their parameters.

use super::{NnError, Outputs};
use crate::{
    Array, Result,
    distributed::{Group, Sharding, Turn},
};

/// How a linear layer is split, and among which ranks.
#[derive(Debug, Clone)]
pub(super) struct LinearSplit {
    pub(super) way: Way,
    pub(super) group: Group,
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
        let [num_outputs, num_inputs] = self.shape();
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
        match sharding.take_turn(self.shape()) {
            Turn::Columns => self.by(Way::Columns, sharding),
            Turn::Rows => self.by(Way::Rows, sharding),
            Turn::Whole => {}
        }
    }

    /// The shape `[out, in]` of the weight.
    pub(super) fn shape(&self) -> [i32; 2] {
        [0, 1].map(|axis: usize| self.weight.shape().get(axis).copied().unwrap_or(0))
    }
}

/// A linear layer that may be split.
pub(super) trait SplitLinear {
    fn split(&self) -> Option<&LinearSplit>;

    /// `(out, in)`.
    fn weight(&self) -> &Array;

    fn bias(&self) -> Option<&Array>;

    /// Whether the layer is a product with its weight and nothing else.
    fn is_plain(&self) -> bool;

    /// What the parameters that are here make of `x`, with this bias, or added to this array.
    fn affine(&self, x: &Array, added: Option<&Array>) -> Result<Array>;

    /// The outputs of the layer for `x` `(..., in)`.
    fn outputs(&self, x: &Array) -> Result<Array> {
        let Some(LinearSplit { way, group }) = self.split() else {
            return self.affine(x, self.bias());
        };
        match way {
            Way::Columns => self.affine(&group.copy_to_parallel(x)?, self.bias()),
            Way::Vocabulary => {
                let part = self.affine(&group.copy_to_parallel(x)?, self.bias())?;
                gather_last_axis(group, &part)
            }
            Way::Rows => {
                let sum = group.reduce_from_parallel(&self.affine(x, None)?)?;
                // Once, not by every rank.
                Ok(match self.bias() {
                    Some(bias) => sum.add(bias)?,
                    None => sum,
                })
            }
        }
    }

    /// Those, added to `other` `(..., out)` if there is one.
    fn outputs_onto(&self, x: &Array, other: Option<&Array>) -> Result<Array> {
        let Some(other) = other else { return self.outputs(x) };
        // A sum takes the wider dtype, and so would the product.
        let is_alike = |y: &Array| y.dtype() == other.dtype();
        if self.split().is_none() && self.bias().is_none() && is_alike(x) && is_alike(self.weight())
        {
            return self.affine(x, Some(other));
        }
        Ok(other.add(self.outputs(x)?)?)
    }

    /// Those for `silu(gate) * up` of two layers.
    fn outputs_of_swiglu(&self, gated: &Outputs<2>, other: Option<&Array>) -> Result<Array> {
        let group = match self.split() {
            None => None,
            Some(LinearSplit { way: Way::Rows, group }) => Some(group),
            Some(_) => return self.outputs_onto(&gated.swiglu()?, other),
        };
        // A rank adds it to the sum over ranks, once.
        let (inside, outside) = if group.is_none() { (other, None) } else { (None, other) };
        let product =
            if self.is_plain() { gated.swiglu_product(self.weight(), inside)? } else { None };
        let Some(product) = product else { return self.outputs_onto(&gated.swiglu()?, other) };
        let sum = match group {
            Some(group) => group.reduce_from_parallel(&product)?,
            None => product,
        };
        match outside {
            Some(other) => Ok(other.add(sum)?),
            None => Ok(sum),
        }
    }
}

impl LinearSplit {
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
