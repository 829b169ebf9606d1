//! Activation functions of plain operations, in the dtype of their input.
//!
//! mlx-rs's own compile themselves at each call: on a CPU that starts a C++ compiler. Here they are
//! ordinary graph nodes, which a surrounding [`compile`](crate::ffi::compile) fuses.

use crate::{Array, Result, exponential, kernels::swiglu::Swiglu};
use mlx_rs::ops::{erf, maximum, tanh};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// A scalar `()` in the dtype of `x`: an f32 one would promote the result to f32.
pub(super) fn scalar_like(value: f32, x: &Array) -> Result<Array> {
    Ok(Array::from_f32(value).as_dtype(x.dtype())?)
}

/// `max(x, 0)`; shape and dtype stay.
///
/// # Errors
/// When MLX fails.
pub fn relu(x: &Array) -> Result<Array> {
    Ok(maximum(x, scalar_like(0.0, x)?)?)
}

/// `x * sigmoid(x)`; shape and dtype stay. Also known as Swish.
///
/// Source: Elfwing et al., arXiv:1702.03118, section 2.
///
/// # Errors
/// When MLX fails.
pub fn silu(x: &Array) -> Result<Array> {
    exponential::silu(x)
}

/// `silu(gate) * up`, the gate of a feed-forward part: two arrays of one shape, whose dtype stays.
///
/// Source: Shazeer, arXiv:2002.05202, section 2.
///
/// # Errors
/// When the shapes do not fit, or MLX fails.
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    match Swiglu::of(gate, up)? {
        Some(kernels) => kernels.apply(gate, up),
        None => Ok(silu(gate)?.multiply(up)?),
    }
}

/// `x * (1 + erf(x / sqrt(2))) / 2`; shape and dtype stay.
///
/// Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2.
///
/// # Errors
/// When MLX fails.
pub fn gelu(x: &Array) -> Result<Array> {
    let phi = erf(x.multiply(scalar_like(FRAC_1_SQRT_2, x)?)?)?.add(scalar_like(1.0, x)?)?;
    Ok(x.multiply(phi)?.multiply(scalar_like(0.5, x)?)?)
}

/// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`; shape and dtype stay.
///
/// Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2; GPT-2's variant.
///
/// # Errors
/// When MLX fails.
pub fn gelu_approximate(x: &Array) -> Result<Array> {
    let cubed = x.square()?.multiply(x)?.multiply(scalar_like(0.044_715, x)?)?;
    let inner = x.add(cubed)?.multiply(scalar_like((2.0 / PI).sqrt(), x)?)?;
    let phi = tanh(inner)?.add(scalar_like(1.0, x)?)?;
    Ok(x.multiply(phi)?.multiply(scalar_like(0.5, x)?)?)
}
