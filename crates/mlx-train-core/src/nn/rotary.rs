//! Rotary positions, in the form that the backend computes fastest.

use crate::{Array, Result, kernels::rotary::Rotation};
use mlx_rs::fast::rope;

/// Rotates features `i` and `i + D/2` of the heads of each token against each other, by its position times
/// `theta^(-2 i / D)`: `x` `(B, T, H, D)` to `(B, H, T, D)`, as attention reads it, in its dtype.
///
/// The first token has position `offset`. Source: Su et al., arXiv:2104.09864, section 3.4.2.
///
/// # Errors
/// When `x` has other axes or an odd D, or MLX fails.
pub fn rotary(x: &Array, theta: f32, offset: i32) -> Result<Array> {
    let rotation = if offset == 0 { Rotation::of(x, theta)? } else { None };
    if let Some(rotation) = rotation {
        // Another look at heads that lie behind each other: nothing moves.
        return Ok(rotation.apply(x)?.transpose_axes(&[0, 2, 1, 3])?);
    }
    let heads = x.transpose_axes(&[0, 2, 1, 3])?;
    Ok(rope(heads, x.dim(-1), false, theta, 1.0, offset, None)?)
}
