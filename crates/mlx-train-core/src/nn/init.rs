//! Initial values of parameters, f32.
//!
//! Draws come from the key of the surrounding [`rng::scope`], so that one seed gives one
//! model; outside of one they come from mlx-rs's global random state.
//!
//! Fans are those of MLX's layout `(out, ..., in)`: `fan_in` is the last axis and `fan_out` the
//! first, both times the axes in between, which are those of a convolution's kernel.

use super::NnError;
use crate::{Array, Result, rng};
use mlx_rs::random;

/// Normal with mean 0 and standard deviation `std`.
///
/// # Errors
/// When `std` is negative or not finite, a size is not positive, or MLX fails.
pub fn normal(shape: &[i32], std: f32) -> Result<Array> {
    check("normal", shape, "std", std)?;
    let key = rng::next_key()?;
    Ok(random::normal::<f32>(shape, 0.0, std, key.as_ref())?)
}

/// Normal with mean 0 and standard deviation `std` before all beyond two `std` is drawn again, which
/// leaves 0.88 `std`; as in PyTorch's `trunc_normal_` and GPT-NeoX.
///
/// # Errors
/// When `std` is negative or not finite, a size is not positive, or MLX fails.
pub fn truncated_normal(shape: &[i32], std: f32) -> Result<Array> {
    check("truncated_normal", shape, "std", std)?;
    let key = rng::next_key()?;
    let standard = random::truncated_normal::<_, f32>(-2.0_f32, 2.0, shape, key.as_ref())?;
    Ok(standard.multiply(Array::from_f32(std))?)
}

/// Uniform in `[-bound, bound)`.
///
/// # Errors
/// When `bound` is negative or not finite, a size is not positive, or MLX fails.
pub fn uniform(shape: &[i32], bound: f32) -> Result<Array> {
    check("uniform", shape, "bound", bound)?;
    let key = rng::next_key()?;
    Ok(random::uniform::<_, f32>(-bound, bound, shape, key.as_ref())?)
}

/// Normal with `std = gain * sqrt(2 / (fan_in + fan_out))`.
///
/// Source: Glorot and Bengio, AISTATS 2010, equation 12; `gain` is 1 there.
///
/// # Errors
/// As [`normal`], and when `shape` has fewer than two axes.
pub fn xavier_normal(shape: &[i32], gain: f32) -> Result<Array> {
    let (fan_in, fan_out) = fans("xavier_normal", shape)?;
    normal(shape, gain * (2.0 / (fan_in + fan_out)).sqrt())
}

/// Uniform with `bound = gain * sqrt(6 / (fan_in + fan_out))`.
///
/// Source: Glorot and Bengio, AISTATS 2010, equation 16; `gain` is 1 there.
///
/// # Errors
/// As [`uniform`], and when `shape` has fewer than two axes.
pub fn xavier_uniform(shape: &[i32], gain: f32) -> Result<Array> {
    let (fan_in, fan_out) = fans("xavier_uniform", shape)?;
    uniform(shape, gain * (6.0 / (fan_in + fan_out)).sqrt())
}

/// Normal with `std = gain / sqrt(fan_in)`; `gain` is `sqrt(2)` before a ReLU.
///
/// Source: He et al., arXiv:1502.01852, equation 10.
///
/// # Errors
/// As [`normal`], and when `shape` has fewer than two axes.
pub fn kaiming_normal(shape: &[i32], gain: f32) -> Result<Array> {
    let (fan_in, _) = fans("kaiming_normal", shape)?;
    normal(shape, gain / fan_in.sqrt())
}

/// Uniform with `bound = gain * sqrt(3 / fan_in)`; `gain` is `sqrt(2)` before a ReLU, and
/// `sqrt(1/3)` is what [`Linear`](super::Linear) starts from.
///
/// Source: He et al., arXiv:1502.01852, equation 10, with a uniform distribution of that variance.
///
/// # Errors
/// As [`uniform`], and when `shape` has fewer than two axes.
pub fn kaiming_uniform(shape: &[i32], gain: f32) -> Result<Array> {
    let (fan_in, _) = fans("kaiming_uniform", shape)?;
    uniform(shape, gain * (3.0 / fan_in).sqrt())
}

fn fans(name: &'static str, shape: &[i32]) -> Result<(f32, f32)> {
    let &[fan_out, ref kernel @ .., fan_in] = shape else {
        let reason = format!("shape {shape:?} has no fans; it needs two axes, (out, ..., in)");
        return Err(NnError::Init { name, reason }.into());
    };
    let kernel: f32 = kernel.iter().map(|&size| size as f32).product();
    Ok((fan_in as f32 * kernel, fan_out as f32 * kernel))
}

fn check(name: &'static str, shape: &[i32], parameter: &str, value: f32) -> Result<()> {
    let reason = if let Some(size) = shape.iter().find(|&&size| size <= 0) {
        format!("shape {shape:?} has a size of {size}; sizes are positive")
    } else if !(0.0..f32::INFINITY).contains(&value) {
        format!("`{parameter}` is {value}; it is finite and not negative")
    } else {
        return Ok(());
    };
    Err(NnError::Init { name, reason }.into())
}
