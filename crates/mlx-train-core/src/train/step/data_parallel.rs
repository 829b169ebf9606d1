//! One step of several ranks, each of which has its own rows of the batch.

use super::gradients::Mean;
use crate::{Result, distributed::Group, model::Loss};
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, indexing::TryIndexOp, maximum},
};

/// How many bytes of gradients travel together. A collective of a few kilobytes waits longer than it works; one of
/// all gradients could not begin before the last of them is there. Source: Li et al., arXiv:2006.15704, section
/// 3.2.3, whose default is the same.
pub(super) const BUCKET_BYTES: usize = 25 << 20;

impl Mean {
    /// The mean over the targets of all ranks: every rank counts by the weight of its loss.
    pub(super) fn over(self, group: &Group) -> Result<Self> {
        if group.is_alone() {
            return Ok(self);
        }
        let Self { loss: Loss { value, weight }, gradients } = self;
        let total = group.all_sum(&weight)?;
        // Where no rank has a target that counts, nothing is added.
        let share = weight.divide(maximum(&total, Array::from_f32(f32::MIN_POSITIVE))?)?;
        let value = group.all_sum(&value.multiply(&share)?)?;
        let mut summed = Vec::with_capacity(gradients.len());
        let mut rest = &gradients[..];
        while !rest.is_empty() {
            let (bucket, others) = rest.split_at(bucket_len(rest));
            summed.extend(sum(group, bucket, &share)?);
            rest = others;
        }
        Ok(Self { loss: Loss { value, weight: total }, gradients: summed })
    }
}

/// How many of the gradients, one at least, go into the next bucket.
fn bucket_len(gradients: &[Array]) -> usize {
    let mut bytes = 0;
    let fitting = gradients.iter().take_while(|gradient| {
        bytes += gradient.size() * size_of::<f32>();
        bytes <= BUCKET_BYTES
    });
    fitting.count().max(1)
}

/// The sums over all ranks of gradients times the share of each rank, in f32 on the way.
fn sum(group: &Group, gradients: &[Array], share: &Array) -> Result<Vec<Array>> {
    let flat = gradients
        .iter()
        .map(|gradient| Ok(gradient.as_dtype(Dtype::Float32)?.multiply(share)?.reshape(&[-1])?));
    let flat = flat.collect::<Result<Vec<_>>>()?;
    let bucket = group.all_sum(&concatenate(&flat, 0)?)?;
    let mut first = 0;
    let parts = gradients.iter().map(|gradient| {
        let last = first + gradient.size() as i32;
        let part = bucket.try_index(first..last)?.reshape(gradient.shape())?;
        first = last;
        Ok(part.as_dtype(gradient.dtype())?)
    });
    parts.collect()
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
