//! The small pieces that updates are made of.

use super::Parameter;
use crate::{Result, ffi, kernels::squares::Squares, loss::sum_f32};
use mlx_rs::{Array, Dtype, ops::zeros_dtype};

/// The dtype that state and arithmetic of a parameter have: f32, or f64 for f64.
pub(super) fn working_dtype(parameter: &Array) -> Dtype {
    if parameter.dtype() == Dtype::Float64 { Dtype::Float64 } else { Dtype::Float32 }
}

/// An f32 scalar.
pub(super) fn scalar(value: f64) -> Array {
    Array::from_f32(value as f32)
}

/// Zeros of these shapes in the working dtype of a parameter.
pub(super) fn zero_state(parameter: Parameter<'_>, shapes: &[&[i32]]) -> Result<Vec<Array>> {
    let dtype = working_dtype(parameter.value);
    shapes.iter().map(|shape| Ok(zeros_dtype(shape, dtype)?)).collect()
}

/// How much a moving average keeps and how much it takes in, scalars `()` f32: `kept` and `1 - kept`.
pub(super) fn shares(kept: f64) -> [Array; 2] {
    [scalar(kept), scalar(1.0 - kept)]
}

/// `kept * mean + added * x`, with the [`shares`] of the average.
pub(super) fn moving_average(mean: &Array, x: &Array, [kept, added]: [&Array; 2]) -> Result<Array> {
    Ok(mean.multiply(kept)?.add(x.multiply(added)?)?)
}

/// Rows up to this long are added up as they lie; an f32 sum loses digits with its length.
const LONGEST_ROW: i32 = 4096;

/// The sum `()` of squares of an array of any shape, f32.
pub(super) fn sum_of_squares(x: &Array) -> Result<Array> {
    if let Some(kernel) = Squares::of(x.dtype())? {
        return kernel.sum(x);
    }
    let mut sums = x.as_dtype(Dtype::Float32)?.square()?;
    // A GPU adds all up in the order in which they lie there; along an axis of a transposed view it takes long.
    if ffi::is_on_cpu()? {
        // Gradients of a weight are often transposed views: rows first, so that little is copied.
        while sums.ndim() > 1 && sums.dim(-1) <= LONGEST_ROW {
            sums = sums.sum_axis(-1, false)?;
        }
    }
    sum_f32(&sums)
}
