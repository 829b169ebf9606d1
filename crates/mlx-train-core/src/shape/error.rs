//! What shape assertions report.

use mlx_rs::{Dtype, error::Exception};

/// An array that is not what an assertion says.
///
/// Boxed texts keep it small: every function with an assertion returns it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// From [`assert_shape!`](crate::shape::assert_shape).
    #[error("{location}: `{array}` has shape {actual:?}, expected {expected}: {reason}")]
    Shape {
        /// The array, as it is written in the source.
        array: &'static str,
        /// Its shape.
        actual: Box<[i32]>,
        /// The axes as they are written in the source.
        expected: Box<str>,
        /// The first difference, and the sizes of all names and values.
        reason: Box<str>,
        /// File and line of the assertion.
        location: &'static str,
    },
    /// From [`assert_dtype!`](crate::shape::assert_dtype).
    #[error("{location}: `{array}` is {actual:?}, expected {expected}")]
    Dtype {
        /// The array, as it is written in the source.
        array: &'static str,
        /// Its dtype.
        actual: Dtype,
        /// The dtypes as they are written in the source.
        expected: &'static str,
        /// File and line of the assertion.
        location: &'static str,
    },
    /// From [`assert_same_shape!`](crate::shape::assert_same_shape).
    #[error("{location}: `{array}` has shape {actual:?}, but `{other}` has shape {expected:?}")]
    Different {
        /// The array, as it is written in the source.
        array: &'static str,
        /// Its shape.
        actual: Box<[i32]>,
        /// The array that it is compared with.
        other: &'static str,
        /// The shape of that.
        expected: Box<[i32]>,
        /// File and line of the assertion.
        location: &'static str,
    },
}

// Lets an assertion stand in a `forward` of mlx-rs's `Module`, whose error is `Exception`.
impl From<ShapeError> for Exception {
    #[track_caller]
    fn from(error: ShapeError) -> Self {
        Self::custom(error.to_string())
    }
}
