//! How often the best class is the right one.

use super::{
    Loss,
    cross_entropy::{Classes, check_targets, masked_mean, nan_unless, nothing},
};
use crate::{Array, Result};
use mlx_rs::{Dtype, ops::indexing::argmax_axis};

/// The share, in `[0, 1]`, of targets `(...)` whose logit in `(..., V)` is the largest, and how many
/// targets there are. It is a metric: its gradient is zero.
///
/// Targets equal to `ignore_index` count for nothing; if every one is, share and weight are 0.
/// Among equal logits the first one counts. A target that is neither a class nor ignored makes the
/// share NaN.
///
/// # Errors
/// [`LossError`](super::LossError) when the targets do not fit the logits; or when MLX fails.
pub fn accuracy(logits: &Array, targets: &Array, ignore_index: Option<i32>) -> Result<Loss> {
    check_targets("accuracy", logits, targets)?;
    if targets.size() == 0 {
        return Ok(nothing());
    }
    let Classes { nearest, is_class, mask } = Classes::of(targets, logits.dim(-1), ignore_index)?;
    let best = argmax_axis(logits, -1, None)?.as_dtype(Dtype::Int32)?;
    let is_best = best.eq(&nearest)?.as_dtype(Dtype::Float32)?;
    masked_mean(&nan_unless(&is_class, &is_best)?, mask.as_ref())
}
