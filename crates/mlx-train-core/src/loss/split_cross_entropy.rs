//! Cross-entropy over classes that are divided among ranks.
//!
//! Each rank has the logits of a part of the classes, and needs little of the others': of each target the logarithm
//! of the sum of their exponentials, the target's logit where they have it, and the mean of their logits where labels
//! are smoothed. Ranks gather these, and each computes the same loss of them. Source: Shoeybi et al., arXiv:1909.08053,
//! section 3, who reduce the maximum and the sum one after the other.

use super::{
    CrossEntropy, Loss, cross_entropy,
    cross_entropy::{Classes, Scores, check_targets, masked_mean, nan_unless, nothing},
};
use crate::{
    Array, Result,
    distributed::Group,
    exponential::log_sum_exp,
    integers::{self, Part},
};
use mlx_rs::{
    Dtype,
    ops::{select, stack},
};

/// The mean cross-entropy, in nats, of logits of all ranks against classes `(...)`, where each rank of `group` has
/// those of an equal part of the classes, `(..., V / ranks)`, the first rank of the first.
///
/// It is [`cross_entropy`](super::cross_entropy()) of the logits one after the other along their last axis, within
/// rounding, and the same on all ranks, which pass the same targets and options. Its gradient is that of the one loss
/// for this rank's logits.
///
/// # Errors
/// As [`cross_entropy`](super::cross_entropy()).
pub fn split_cross_entropy(
    logits: &Array,
    targets: &Array,
    options: &CrossEntropy,
    group: &Group,
) -> Result<Loss> {
    const NAME: &str = "split_cross_entropy";
    if group.is_alone() {
        return cross_entropy(logits, targets, options);
    }
    options.check(NAME)?;
    check_targets(NAME, logits, targets)?;
    if targets.size() == 0 {
        return Ok(nothing());
    }
    let logits = logits.as_dtype(Dtype::Float32)?;
    let (classes, part) = classes_of(targets, logits.dim(-1), options.ignore_index, group)?;
    let log_z = log_sum_exp(&logits)?; // (...)
    let picked = logits.take_along_axis(part.nearest.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    let picked = select(&part.is_here, picked, Array::from_f32(0.0))?;
    let mean = options.mean_of(&logits)?;
    let each = options.of_each(&Scores { log_z, picked, mean }.of_all(group)?)?;
    masked_mean(&nan_unless(&classes.is_class, &each)?, classes.mask.as_ref())
}

/// What targets `(...)` are among all classes, of which each rank has `len`, and which of them are here.
pub(super) fn classes_of(
    targets: &Array,
    len: i32,
    ignore_index: Option<i32>,
    group: &Group,
) -> Result<(Classes, Part)> {
    let num_classes = len.saturating_mul(group.world_size() as i32);
    let part = integers::part(&integers::signed(targets)?, len, group)?;
    Ok((Classes::of(targets, num_classes, ignore_index)?, part))
}

impl Scores {
    /// Those of all classes, where these are of the classes of this rank.
    pub(super) fn of_all(&self, group: &Group) -> Result<Self> {
        let own: Vec<&Array> = [&self.log_z, &self.picked].into_iter().chain(&self.mean).collect();
        let own = stack(&own, 0)?; // (k, ...)
        let all = group.gather_from_parallel(&own.expand_dims(0)?)?; // (ranks, k, ...)
        let all = all.split_equal(own.dim(0), 1)?.into_iter();
        let all = all.map(|part| Ok(part.squeeze_axes(&[1])?)).collect::<Result<Vec<_>>>()?;
        let [log_z, picked, mean @ ..] = all.as_slice() else {
            return Err(crate::Error::message("MLX lost a part of a gathered array"));
        };
        // Parts are equal, so the mean of their means is that of all.
        let mean = mean.first().map(|mean| mean.mean_axis(0, None)).transpose()?;
        let log_z = log_z.logsumexp_axis(0, None)?;
        // It is 0 on all ranks but one.
        Ok(Self { log_z, picked: picked.sum_axis(0, None)?, mean })
    }
}
