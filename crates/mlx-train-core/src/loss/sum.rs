//! A sum that is right to the last digits of f32.

use crate::{Array, Result, ffi};
use mlx_rs::{Dtype, ops::indexing::TryIndexOp};

/// How many elements are added up at once, at most.
const LONGEST: i32 = 512;

/// The fewest that are worth a row of their own.
const SHORTEST: i32 = 32;

/// The sum `()` of all elements of `x`, of any shape, f32.
///
/// On a CPU, MLX adds up a whole array one element after the other, so that 2^20 elements have a
/// relative error of 5e-4. There this adds rows of up to 512, then rows of their sums: 1e-6. A GPU's own sum is one of
/// thousands of parts.
/// Source: Higham, SIAM J. Sci. Comput. 14 (1993), section 3, pairwise summation in blocks.
///
/// # Errors
/// When MLX fails.
pub fn sum_f32(x: &Array) -> Result<Array> {
    let mut x = x.as_dtype(Dtype::Float32)?;
    if !ffi::is_on_cpu()? {
        return Ok(x.sum(None)?);
    }
    if x.ndim() != 1 {
        x = x.reshape(&[-1])?;
    }
    let mut rest: Option<Array> = None;
    while x.dim(0) > LONGEST {
        let size = x.dim(0);
        // A size that can be divided is not cut, which would be one more operation.
        let divisor = (SHORTEST..=LONGEST).rev().find(|row| size % row == 0);
        let row = divisor.unwrap_or(LONGEST);
        let whole = size / row * row;
        if whole < size {
            let cut = x.try_index(whole..)?.sum(None)?;
            rest = Some(rest.map_or_else(|| Ok(cut.clone()), |rest| rest.add(&cut))?);
            x = x.try_index(..whole)?;
        }
        x = x.reshape(&[-1, row])?.sum_axis(-1, None)?;
    }
    let sum = x.sum(None)?;
    Ok(rest.map_or_else(|| Ok(sum.clone()), |rest| sum.add(rest))?)
}
