//! Shape assertions with named axes.

mod assertion;
mod error;
#[doc(hidden)]
pub mod pattern;

pub use crate::{assert_dtype, assert_same_shape};
pub use error::ShapeError;
/// Checks the shapes of arrays, and binds the names of their axes to variables.
///
/// If a shape does not fit, the surrounding function returns a [`ShapeError`] as its own error, which
/// [`crate::Error`], mlx-rs's `Exception` and `Box<dyn Error>` can be. The check reads no data and
/// waits for none; where it holds it takes a few nanoseconds, most of them to ask MLX for the shape, and
/// allocates nothing. `cargo xtask bench micro -- shape` measures it.
///
/// `assert_shape!(x, [axes]);` checks one array, `assert_shape!(x: [axes], y: [axes]);` several at
/// once. An axis is
///
/// | written | the axis |
/// | --- | --- |
/// | `batch` | has any size, the same wherever the name stands in this assertion; afterwards `batch` is a variable, an `i32` |
/// | `{batch}` | has the value of the variable, or of any expression in the braces |
/// | `64`, `WIDTH`, `self.width`, `config.width()` | has this value; fields, calls and constants need no braces |
/// | `heads*{head_dim}` | is this product; one name that is known from nowhere else is found by division |
/// | `_` | has any size |
/// | `..` | stands for any number of axes, none included; once in a pattern |
///
/// Values may be of any common integer type. A name that is bound twice in one block does not
/// compile, as the second binding would hide the first one where a comparison is meant.
///
/// ```
/// use mlx_train_core::{Array, Result, assert_shape};
///
/// /// `(B, T, C)` and a mask `(B, T)`, for `num_heads` heads.
/// fn attention(x: &Array, mask: &Array, num_heads: i32) -> Result<Array> {
///     assert_shape!(x: [batch, seq, {num_heads}*head_dim], mask: [batch, seq]);
///     let q = x.reshape(&[batch, seq, num_heads, head_dim])?.transpose_axes(&[0, 2, 1, 3])?;
///     assert_shape!(q, [{batch}, {num_heads}, {seq}, {head_dim}]);
///     Ok(q)
/// }
///
/// let x = mlx_rs::ops::zeros::<f32>(&[2, 5, 12])?;
/// let mask = mlx_rs::ops::zeros::<f32>(&[2, 4])?;
/// let error = attention(&x, &mask, 3).map_err(|error| error.to_string());
/// assert!(error.is_err_and(|text| text.ends_with(
///     "`mask` has shape [2, 4], expected [batch, seq]: axis 1 is 4, not 5 \
///      (batch = 2, seq = 5, num_heads = 3, head_dim = 4)"
/// )));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// ```compile_fail,E0428
/// # use mlx_train_core::{Array, Result, assert_shape};
/// fn forward(x: &Array, y: &Array) -> Result<()> {
///     assert_shape!(x, [batch, _]);
///     assert_shape!(y, [batch]); // [{batch}]
///     Ok(())
/// }
/// ```
pub use mlx_train_derive::assert_shape;

use mlx_rs::Dtype;

/// Whether a dtype holds integers; `Bool` does not.
pub(crate) fn is_integer(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Int8
            | Dtype::Int16
            | Dtype::Int32
            | Dtype::Int64
            | Dtype::Uint8
            | Dtype::Uint16
            | Dtype::Uint32
            | Dtype::Uint64
    )
}
