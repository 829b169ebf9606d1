//! Which parameters of a model are split.

use std::collections::BTreeMap;

/// Which axis of which parameter is divided among the ranks of a tensor group.
///
/// It comes from [`model::shard`](crate::model::shard), or for any number of ranks, without any, from
/// [`model::splits`](crate::model::splits).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Splits {
    pub(super) num_ranks: usize,
    pub(super) axes: BTreeMap<String, usize>,
}

impl Splits {
    /// Among how many ranks.
    pub fn num_ranks(&self) -> usize {
        self.num_ranks.max(1)
    }

    /// The axis by which the parameter of this full name (`model.layers.0.mlp.up_proj.weight`) is split; `None` if
    /// all of it is on every rank.
    pub fn axis(&self, name: &str) -> Option<usize> {
        self.axes.get(name).copied()
    }

    /// The parameters that are split and their axes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.axes.iter().map(|(name, &axis)| (name.as_str(), axis))
    }

    /// Whether nothing is split.
    pub fn is_empty(&self) -> bool {
        self.axes.is_empty()
    }
}
