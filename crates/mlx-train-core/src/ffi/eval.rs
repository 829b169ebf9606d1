//! Making MLX compute.

use crate::{Array, Result};

/// Computes `arrays` and waits until they are there.
///
/// # Errors
/// When MLX fails, be it in an operation that was recorded long before.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::eval(arrays)?)
}

/// Starts to compute `arrays` and returns at once; reading one waits for it.
///
/// # Errors
/// When MLX fails before the computation starts. A later failure appears where an array is read.
pub fn async_eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::async_eval(arrays)?)
}
