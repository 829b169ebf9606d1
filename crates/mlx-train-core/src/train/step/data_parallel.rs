//! One step of several ranks, each of which has its own rows of the batch.

use super::gradients::Mean;
use crate::{
    Result,
    distributed::{Group, bucket::sums},
    model::Loss,
};
use mlx_rs::{Array, Dtype, ops::maximum, stop_gradient};

impl Mean {
    /// The mean over the targets of all ranks: every rank counts by the weight of its loss.
    pub(super) fn over(self, group: &Group, dtype: Dtype) -> Result<Self> {
        if group.is_alone() {
            return Ok(self);
        }
        let Self { loss: Loss { value, weight }, gradients } = self;
        let (share, weight) = share_of(group, &weight)?;
        let value = group.all_sum(&value.multiply(&share)?)?;
        let scaled = gradients.iter().map(|gradient| {
            Ok(gradient.as_dtype(Dtype::Float32)?.multiply(&share)?.as_dtype(gradient.dtype())?)
        });
        let gradients = sums(group, &scaled.collect::<Result<Vec<_>>>()?, dtype)?;
        Ok(Self { loss: Loss { value, weight }, gradients })
    }
}

/// Which part of the targets of all ranks a rank has, and how many all have.
pub(super) fn share_of(group: &Group, weight: &Array) -> Result<(Array, Array)> {
    let weight = stop_gradient(weight)?;
    let total = group.all_sum(&weight)?;
    // Where no rank has a target that counts, nothing is added.
    Ok((weight.divide(maximum(&total, Array::from_f32(f32::MIN_POSITIVE))?)?, total))
}

/// The mean over all ranks of what the loss has moved besides the trained parameters: running statistics.
pub(super) fn mean_of_moved(group: &Group, now: &Array) -> Result<Array> {
    if group.is_alone() {
        return Ok(now.clone());
    }
    let ranks = Array::from_int(group.world_size() as i32).as_dtype(now.dtype())?;
    Ok(group.all_sum(now)?.divide(ranks)?.as_dtype(now.dtype())?)
}

/// The key from which this rank's draws come, so that no two ranks drop the same.
pub(super) fn draws_of_rank(group: &Group, draws: &Array) -> Result<Array> {
    if group.is_alone() {
        return Ok(draws.clone());
    }
    Ok(draws.add(Array::from_slice(&[0_u32, group.rank() as u32], &[2]))?)
}
