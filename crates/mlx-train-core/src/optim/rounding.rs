//! Rounding f32 to bf16 so that the mean stays.

use crate::{Result, assert_dtype};
use mlx_rs::{Array, Dtype, ops::select, random::randint};

/// Rounds `x`, f32 of any shape, to bf16: up or down by chance, so that the mean over draws is `x`.
///
/// A number between two neighbours in bf16 goes to each with the probability of its nearness. One
/// that is a bf16 stays, and so do infinities and NaNs; a finite number never becomes infinite.
/// Small updates of a bf16 weight, which rounding to the nearest would lose, then add up.
///
/// The draws come from `key` `(2,)` uint32 alone: one key, one result. Nothing is read back, so the
/// function can be traced. Source: Gupta et al., arXiv:1502.02551, section 3.1.
///
/// # Errors
/// When `x` is not f32 or `key` is not a key, or MLX fails.
pub fn round_stochastically(x: &Array, key: &Array) -> Result<Array> {
    assert_dtype!(x, Float32);
    // A bf16 is the upper half of an f32. What is added to the lower half carries into the upper
    // with the probability that the lower half is of the whole; the sign is a bit of its own.
    let bits = x.view_dtype(Dtype::Uint32)?;
    let draws = randint::<_, u32>(0, 1 << 16, x.shape(), key)?;
    let rounded = upper_half(&bits.add(draws)?)?;
    let truncated = upper_half(&bits)?;
    let rounded = select(rounded.is_finite()?, rounded, truncated)?;
    // The lower half of a NaN may be all that makes it one, so the cast takes care of it.
    Ok(select(x.is_finite()?, rounded, x)?.as_dtype(Dtype::Bfloat16)?)
}

/// The f32 whose upper half is that of these bits, and whose lower half is 0.
fn upper_half(bits: &Array) -> Result<Array> {
    let lower = bits.remainder(Array::from_slice(&[1_u32 << 16], &[]))?;
    Ok(bits.subtract(lower)?.view_dtype(Dtype::Float32)?)
}
