//! The last layer of a classifier or a language model, and its losses.

use super::{linear::affine, split::gather_last_axis};
use crate::{
    Array, Result,
    distributed::Group,
    loss::{self, CrossEntropy, Loss},
};
use std::borrow::Cow;

/// The layer that makes logits of features: a [`Linear`](super::Linear), or an [`Embedding`](super::Embedding) that is
/// tied to it.
///
/// Each rank may have a part of the classes (`#[shard(vocabulary)]`). The losses are those of whole logits, which
/// never exist for them: ranks exchange three numbers for each target.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    weight: &'a Array,
    bias: Option<&'a Array>,
    /// The ranks that have the other classes.
    group: Option<&'a Group>,
}

impl<'a> Head<'a> {
    pub(super) fn new(
        weight: &'a Array,
        bias: Option<&'a Array>,
        group: Option<&'a Group>,
    ) -> Self {
        Self { weight, bias, group }
    }

    /// The logits `(..., V)` of features `(..., C)`, of all classes.
    ///
    /// # Errors
    /// When `x` is of another width, or MLX fails.
    pub fn logits(&self, x: &Array) -> Result<Array> {
        self.whole(&self.part(x)?)
    }

    /// The mean cross-entropy of features `(..., C)` against classes `(...)`, and the logits `(..., V)`, which are
    /// gathered only if they are computed: [`cross_entropy`](loss::cross_entropy()).
    ///
    /// # Errors
    /// As [`cross_entropy`](loss::cross_entropy()).
    pub fn cross_entropy(
        &self,
        x: &Array,
        targets: &Array,
        options: &CrossEntropy,
    ) -> Result<(Loss, Array)> {
        let part = self.part(x)?;
        let loss = match self.group {
            None => loss::cross_entropy(&part, targets, options)?,
            Some(group) => loss::split_cross_entropy(&part, targets, options, group)?,
        };
        Ok((loss, self.whole(&part)?))
    }

    /// The mean cross-entropy of features `(..., C)` against classes `(...)`, in chunks of tokens, whose logits alone
    /// exist: [`linear_cross_entropy`](loss::linear_cross_entropy()).
    ///
    /// # Errors
    /// As [`linear_cross_entropy`](loss::linear_cross_entropy()); when the layer has a bias.
    pub fn linear_cross_entropy(
        &self,
        x: &Array,
        targets: &Array,
        options: &CrossEntropy,
        chunk: Option<usize>,
    ) -> Result<Loss> {
        if self.bias.is_some() {
            return Err(super::NnError::HeadWithBias.into());
        }
        match self.group {
            None => loss::linear_cross_entropy(x, self.weight, targets, options, chunk),
            Some(group) => {
                loss::split_linear_cross_entropy(x, self.weight, targets, options, chunk, group)
            }
        }
    }

    /// The logits of the classes that are here.
    fn part(&self, x: &Array) -> Result<Array> {
        let x = match self.group {
            None => Cow::Borrowed(x),
            Some(group) => Cow::Owned(group.copy_to_parallel(x)?),
        };
        affine(&x, self.weight, self.bias)
    }

    fn whole(&self, part: &Array) -> Result<Array> {
        match self.group {
            None => Ok(part.clone()),
            Some(group) => gather_last_axis(group, part),
        }
    }
}
