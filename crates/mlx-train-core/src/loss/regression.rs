//! Losses between numbers.

use super::{Loss, LossError, cross_entropy::masked_mean};
use crate::{Array, Result};
use mlx_rs::{Dtype, ops::select};

/// The mean squared error of predictions `(...)` against targets `(...)`.
///
/// # Errors
/// [`LossError::Shapes`] when the shapes differ; or when MLX fails.
pub fn mse(predictions: &Array, targets: &Array) -> Result<Loss> {
    masked_mean(&difference("mse", predictions, targets)?.square()?, None)
}

/// The mean absolute error of predictions `(...)` against targets `(...)`.
///
/// # Errors
/// [`LossError::Shapes`] when the shapes differ; or when MLX fails.
pub fn l1(predictions: &Array, targets: &Array) -> Result<Loss> {
    masked_mean(&difference("l1", predictions, targets)?.abs()?, None)
}

/// The mean Huber loss of predictions `(...)` against targets `(...)`: `d^2 / 2` up to
/// `|d| = delta`, from there `delta * (|d| - delta / 2)`.
///
/// Source: Huber, Ann. Math. Statist. 35 (1964), section 4.
///
/// # Errors
/// [`LossError`] when the shapes differ or `delta` is not positive and finite; or when MLX fails.
pub fn huber(predictions: &Array, targets: &Array, delta: f32) -> Result<Loss> {
    check_positive("huber", "delta", delta)?;
    let difference = difference("huber", predictions, targets)?;
    let distance = difference.abs()?;
    let inside = difference.square()?.multiply(Array::from_f32(0.5))?;
    let outside =
        distance.subtract(Array::from_f32(0.5 * delta))?.multiply(Array::from_f32(delta))?;
    let is_inside = distance.le(Array::from_f32(delta))?;
    masked_mean(&select(is_inside, inside, outside)?, None)
}

/// The mean smooth L1 loss of predictions `(...)` against targets `(...)`: `d^2 / (2 * beta)` below
/// `|d| = beta`, from there `|d| - beta / 2`. It is [`huber`] divided by `beta`.
///
/// Source: Girshick, arXiv:1504.08083, equation 3, where `beta` is 1.
///
/// # Errors
/// [`LossError`] when the shapes differ or `beta` is not positive and finite; or when MLX fails.
pub fn smooth_l1(predictions: &Array, targets: &Array, beta: f32) -> Result<Loss> {
    check_positive("smooth_l1", "beta", beta)?;
    let difference = difference("smooth_l1", predictions, targets)?;
    let distance = difference.abs()?;
    let inside = difference.square()?.multiply(Array::from_f32(0.5 / beta))?;
    let outside = distance.subtract(Array::from_f32(0.5 * beta))?;
    let is_inside = distance.lt(Array::from_f32(beta))?;
    masked_mean(&select(is_inside, inside, outside)?, None)
}

fn difference(name: &'static str, predictions: &Array, targets: &Array) -> Result<Array> {
    check_same_shape(name, predictions, targets)?;
    let predictions = predictions.as_dtype(Dtype::Float32)?;
    Ok(predictions.subtract(targets.as_dtype(Dtype::Float32)?)?)
}

pub(super) fn check_same_shape(
    name: &'static str,
    predictions: &Array,
    targets: &Array,
) -> Result<()> {
    if predictions.shape() == targets.shape() {
        return Ok(());
    }
    let (predictions, targets) = (predictions.shape().to_vec(), targets.shape().to_vec());
    Err(LossError::Shapes { name, predictions, targets }.into())
}

fn check_positive(name: &'static str, option: &'static str, value: f32) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(LossError::Option { name, option, value, range: "positive and finite" }.into())
}
