//! Integers that say where to read and write, which MLX itself never checks.
//!
//! On every device MLX gathers from, and in the gradient scatters to, whatever address an index
//! leads to: one out of range reads and overwrites memory of something else. To look at indices
//! from the host would stall a GPU, so they are bounded where they are used, by these operations.

use crate::{Array, Result, distributed::Group};
use mlx_rs::{
    Dtype,
    ops::{maximum, minimum},
};

/// Integers of any dtype as int32 or int64, every value that fits int64 unchanged.
pub(crate) fn signed(integers: &Array) -> Result<Array> {
    Ok(match integers.dtype() {
        Dtype::Int64 | Dtype::Uint32 => integers.as_dtype(Dtype::Int64)?,
        // As int64 the largest would be negative, and beside int64 MLX would make floats of them.
        Dtype::Uint64 => {
            let largest = Array::from_slice(&[i64::MAX as u64], &[]);
            minimum(integers, largest)?.as_dtype(Dtype::Int64)?
        }
        _ => integers.as_dtype(Dtype::Int32)?,
    })
}

/// The nearest index in `0..len` to each of `signed` integers, as int32.
pub(crate) fn nearest(signed: &Array, len: i32) -> Result<Array> {
    let at_least_zero = maximum(signed, Array::from_int(0))?;
    Ok(minimum(at_least_zero, Array::from_int(len - 1))?.as_dtype(Dtype::Int32)?)
}

/// Indices of which each rank has a part.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The nearest index of this rank, counted from its first, int32.
    pub(crate) nearest: Array,
    /// Whether the index is of this rank.
    pub(crate) is_here: Array,
}

/// Which of `signed` integers are indices of this rank, if each of a group has `len` of them, one rank after the
/// other. What is beyond all of them is the nearest that there is.
pub(crate) fn part(signed: &Array, len: i32, group: &Group) -> Result<Part> {
    let [rank, num_ranks] = [group.rank(), group.world_size()].map(|it| it as i32);
    let local = nearest(signed, len * num_ranks)?.subtract(Array::from_int(rank * len))?;
    let nearest = nearest(&local, len)?;
    Ok(Part { is_here: nearest.eq(&local)?, nearest })
}
