//! The assertions that need no names.

/// Checks that an array has one of some dtypes: `assert_dtype!(x, Float32 | Bfloat16);`.
///
/// Returns [`ShapeError::Dtype`](crate::shape::ShapeError::Dtype) from the surrounding function if
/// not, as [`assert_shape!`](crate::shape::assert_shape) does. It reads no data and waits for none.
///
/// ```
/// use mlx_train_core::{Array, Result, shape::assert_dtype};
/// fn look_up(ids: &Array) -> Result<()> {
///     assert_dtype!(ids, Int32 | Uint32);
///     Ok(())
/// }
/// assert!(look_up(&Array::from_int(3)).is_ok());
/// let refused = look_up(&Array::from_f32(3.0)).map_err(|error| error.to_string());
/// assert!(refused.is_err_and(|text| text.ends_with("`ids` is Float32, expected Int32 | Uint32")));
/// ```
#[macro_export]
macro_rules! assert_dtype {
    ($array:expr, $($dtype:ident)|+ $(,)?) => {
        let actual = $array.dtype();
        if !matches!(actual, $($crate::__private::mlx_rs::Dtype::$dtype)|+) {
            return ::core::result::Result::Err(::core::convert::From::from(
                $crate::shape::ShapeError::Dtype {
                    array: ::core::stringify!($array),
                    actual,
                    expected: ::core::stringify!($($dtype)|+),
                    location: ::core::concat!(::core::file!(), ":", ::core::line!()),
                },
            ));
        }
    };
}

/// Checks that two arrays have the same shape: `assert_same_shape!(prediction, target);`.
///
/// Returns [`ShapeError::Different`](crate::shape::ShapeError::Different) from the surrounding
/// function if not, as [`assert_shape!`](crate::shape::assert_shape) does.
///
/// ```
/// use mlx_train_core::{Array, Result, shape::assert_same_shape};
/// fn add(x: &Array, y: &Array) -> Result<Array> {
///     assert_same_shape!(x, y);
///     Ok(x.add(y)?)
/// }
/// assert!(add(&Array::from_int(3), &Array::from_slice(&[1, 2], &[2])).is_err());
/// ```
#[macro_export]
macro_rules! assert_same_shape {
    ($array:expr, $other:expr $(,)?) => {
        match ($array.shape(), $other.shape()) {
            (actual, expected) => {
                if actual != expected {
                    return ::core::result::Result::Err(::core::convert::From::from(
                        $crate::shape::ShapeError::Different {
                            array: ::core::stringify!($array),
                            actual: ::core::convert::From::from(actual),
                            other: ::core::stringify!($other),
                            expected: ::core::convert::From::from(expected),
                            location: ::core::concat!(::core::file!(), ":", ::core::line!()),
                        },
                    ));
                }
            }
        }
    };
}
