//! Many arrays in few messages: a collective of a few kilobytes waits longer than it works.
//!
//! Shape letters: R ranks, n what a rank holds of an array.

use super::{Group, group::to_i32};
use crate::{Array, Result};
use mlx_rs::{Dtype, ops::concatenate};

/// How many bytes of gradients are added up together; a sum of all could not begin before the last of them is
/// there. Source: Li et al., arXiv:2006.15704, section 3.2.3, whose default is the same.
pub(crate) const SUMMED_BYTES: usize = 25 << 20;

/// How many bytes of parts travel together. They are copied on the way, and memory is why they are parts.
const COPIED_BYTES: usize = 256 << 10;

/// The sums over all ranks of arrays of any shapes, which travel as `dtype` and keep their own.
pub(crate) fn sums(group: &Group, arrays: &[Array], dtype: Dtype) -> Result<Vec<Array>> {
    let flat = arrays.iter().map(|it| Ok(it.as_dtype(dtype)?.reshape(&[1, it.size() as i32])?));
    let flat = flat.collect::<Result<Vec<_>>>()?; // (1, n)
    let summed = in_buckets(&flat, SUMMED_BYTES, |bucket| group.all_sum(bucket))?;
    let pairs = summed.iter().zip(arrays);
    pairs.map(|(sum, like)| Ok(sum.reshape(like.shape())?.as_dtype(like.dtype())?)).collect()
}

/// The whole arrays of which every rank holds parts along these axes.
pub(crate) fn gathered(group: &Group, parts: &[Array], axes: &[usize]) -> Result<Vec<Array>> {
    let first = parts.iter().zip(axes).map(|(part, &axis)| Ok(part.move_axis(axis as i32, 0)?));
    let first = first.collect::<Result<Vec<_>>>()?;
    let flat = first.iter().map(|part| Ok(part.reshape(&[1, part.size() as i32])?));
    let flat = flat.collect::<Result<Vec<_>>>()?; // (1, n)
    let wholes = in_buckets(&flat, COPIED_BYTES, |bucket| group.all_gather(bucket))?; // (R, n)
    let wholes = wholes.iter().zip(&first).zip(axes).map(|((whole, part), &axis)| {
        let mut shape = part.shape().to_vec();
        shape[0] *= to_i32(group.world_size())?;
        Ok(whole.reshape(&shape)?.move_axis(0, axis as i32)?)
    });
    wholes.collect()
}

/// This rank's parts along these axes of the sums over all ranks of arrays, which travel as `dtype` and keep their
/// own.
pub(crate) fn scattered(
    group: &Group,
    wholes: &[Array],
    axes: &[usize],
    dtype: Dtype,
) -> Result<Vec<Array>> {
    let ranks = to_i32(group.world_size())?;
    let first = wholes
        .iter()
        .zip(axes)
        .map(|(whole, &axis)| Ok(whole.as_dtype(dtype)?.move_axis(axis as i32, 0)?));
    let first = first.collect::<Result<Vec<_>>>()?;
    let flat = first.iter().map(|it| Ok(it.reshape(&[ranks, it.size() as i32 / ranks])?));
    let flat = flat.collect::<Result<Vec<_>>>()?; // (R, n)
    let parts = in_buckets(&flat, COPIED_BYTES, |bucket| {
        // Where the backend makes the whole sum first, a view of it would keep it.
        Ok(group.reduce_scatter(bucket)?.contiguous()?)
    })?; // (1, n)
    let parts = parts.iter().zip(&first).zip(wholes.iter().zip(axes));
    let parts = parts.map(|((part, whole), (like, &axis))| {
        let mut shape = whole.shape().to_vec();
        shape[0] /= ranks;
        Ok(part.reshape(&shape)?.move_axis(0, axis as i32)?.as_dtype(like.dtype())?)
    });
    parts.collect()
}

/// What `collective` makes of the rows of matrices: of large ones alone, of others next to each other as long as
/// their bytes allow.
fn in_buckets(
    matrices: &[Array],
    bytes: usize,
    collective: impl Fn(&Array) -> Result<Array>,
) -> Result<Vec<Array>> {
    let mut outputs = matrices.to_vec();
    for bucket in buckets(matrices, bytes) {
        let own: Vec<&Array> = bucket.iter().map(|&at| &matrices[at]).collect();
        if let [alone] = own[..] {
            outputs[bucket[0]] = collective(alone)?;
            continue;
        }
        let ends = own.iter().scan(0, |end, matrix| {
            *end += matrix.dim(1);
            Some(*end)
        });
        let ends: Vec<i32> = ends.take(own.len() - 1).collect();
        let together = collective(&concatenate(&own, 1)?)?;
        for (at, output) in bucket.into_iter().zip(together.split_at_indices(&ends, 1)?) {
            outputs[at] = output;
        }
    }
    Ok(outputs)
}

/// Which arrays travel together.
fn buckets(arrays: &[Array], bytes: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    // The last bucket of small arrays, their dtype, and how full it is.
    let mut open: Option<(usize, Dtype, usize)> = None;
    for (at, array) in arrays.iter().enumerate() {
        let (own, dtype) = (array.nbytes(), array.dtype());
        match &mut open {
            Some((bucket, of, filled)) if *of == dtype && *filled + own <= bytes => {
                buckets[*bucket].push(at);
                *filled += own;
            }
            _ => {
                if own <= bytes {
                    open = Some((buckets.len(), dtype, own));
                }
                buckets.push(vec![at]);
            }
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::ops::zeros_dtype;

    #[test]
    fn small_arrays_of_a_dtype_travel_together_and_large_ones_alone() -> Result<()> {
        let of = |count: i32, dtype| Ok(zeros_dtype(&[1, count], dtype)?);
        let arrays: Vec<Array> = [2, 50, 3, 4, 4]
            .into_iter()
            .map(|count| of(count, Dtype::Float32))
            .chain([of(1, Dtype::Bfloat16)])
            .collect::<Result<_>>()?;
        assert_eq!(buckets(&arrays, 40), [vec![0, 2, 3], vec![1], vec![4], vec![5]]);
        assert_eq!(buckets(&[], 40), Vec::<Vec<usize>>::new());
        Ok(())
    }
}
