//! Numbers in host memory that threads can share, and arrays of some of their rows.

use super::DataError;
use crate::{Array, Result, ffi};
use half::{bf16, f16};
use mlx_rs::{ArrayElement, Dtype, complex64, ops::zeros_dtype};
use std::{fmt, sync::Arc};

/// Rows of numbers of one dtype, `(N, ...)`; a clone shares them.
#[derive(Debug, Clone)]
pub(super) struct Values {
    numbers: Arc<dyn Numbers>,
    num_rows: usize,
    /// The axes after the first.
    row_shape: Vec<i32>,
}

impl Values {
    /// The numbers of an array `(N, ...)`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for a scalar and for f64, which no GPU has; when MLX fails.
    pub(super) fn of(array: &Array) -> Result<Self> {
        let Some((&num_rows, row_shape)) = array.shape().split_first() else {
            let problem = "a scalar array has no rows: give one with at least one axis";
            return Err(DataError::Invalid(problem.into()).into());
        };
        let row_len = row_shape.iter().map(|&axis| axis as usize).product();
        let numbers = match array.dtype() {
            Dtype::Bool => copied::<bool>(array, row_len),
            Dtype::Uint8 => copied::<u8>(array, row_len),
            Dtype::Uint16 => copied::<u16>(array, row_len),
            Dtype::Uint32 => copied::<u32>(array, row_len),
            Dtype::Uint64 => copied::<u64>(array, row_len),
            Dtype::Int8 => copied::<i8>(array, row_len),
            Dtype::Int16 => copied::<i16>(array, row_len),
            Dtype::Int32 => copied::<i32>(array, row_len),
            Dtype::Int64 => copied::<i64>(array, row_len),
            Dtype::Float16 => copied::<f16>(array, row_len),
            Dtype::Bfloat16 => copied::<bf16>(array, row_len),
            Dtype::Float32 => copied::<f32>(array, row_len),
            Dtype::Complex64 => copied::<complex64>(array, row_len),
            Dtype::Float64 => {
                let problem = "f64 numbers exist on no GPU: give them as f32";
                Err(DataError::Invalid(problem.into()).into())
            }
        }?;
        Ok(Self { numbers, num_rows: num_rows as usize, row_shape: row_shape.to_vec() })
    }

    /// Numbers in row-major order, in rows of a shape.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when they are no whole number of rows, or a row has no number.
    pub(super) fn from_vec<T: Number>(numbers: Vec<T>, row_shape: &[i32]) -> Result<Self> {
        let axes = row_shape.iter().map(|&axis| usize::try_from(axis).ok());
        let row_len =
            axes.reduce(|a, b| a?.checked_mul(b?)).unwrap_or(Some(1)).filter(|&len| len > 0);
        match row_len {
            Some(row_len) if numbers.len().is_multiple_of(row_len) => Ok(Self {
                num_rows: numbers.len() / row_len,
                row_shape: row_shape.to_vec(),
                numbers: Arc::new(Typed { numbers, row_len }),
            }),
            _ => Err(DataError::Invalid(format!(
                "{} numbers are no whole number of rows of shape {row_shape:?}: give the shape of one row",
                numbers.len()
            ))
            .into()),
        }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub(super) fn row_shape(&self) -> &[i32] {
        &self.row_shape
    }

    /// An array `(rows, ...)` of these rows, which exist.
    pub(super) fn rows(&self, rows: &[usize]) -> Result<Array> {
        self.numbers.rows(rows, &self.row_shape)
    }

    /// These rows, which exist, in memory of their own.
    pub(super) fn take(&self, rows: &[usize]) -> Self {
        Self {
            numbers: self.numbers.take(rows),
            num_rows: rows.len(),
            row_shape: self.row_shape.clone(),
        }
    }
}

/// An array `shape` of as many numbers.
///
/// # Errors
/// [`DataError::Invalid`] when there are more than MLX copies into an array at once, 2^31 - 1.
pub(super) fn array<T: Number>(numbers: &[T], shape: &[i32]) -> Result<Array> {
    if i32::try_from(numbers.len()).is_err() {
        let problem = format!(
            "an array of shape {shape:?} has more than 2^31 - 1 numbers: use smaller batches"
        );
        return Err(DataError::Invalid(problem).into());
    }
    if numbers.is_empty() {
        // An empty slice has no address for MLX to copy from.
        let empty = zeros_dtype(shape, T::DTYPE)?;
        ffi::eval([&empty])?;
        return Ok(empty);
    }
    Ok(T::array(numbers, shape))
}

/// A number that arrays and threads can hold: the types of MLX's dtypes but f64, which no GPU has.
pub trait Number: ArrayElement + Copy + Send + Sync + 'static {
    /// An array of this shape, which has as many elements as there are numbers.
    #[doc(hidden)]
    fn array(numbers: &[Self], shape: &[i32]) -> Array;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn array(numbers: &[Self], shape: &[i32]) -> Array {
                Array::from_slice(numbers, shape)
            }
        }
    )*};
}

// mlx-rs keeps the trait that they have in common, `FromSliceElement`, to itself.
numbers!(bool, u8, u16, u32, u64, i8, i16, i32, i64, f16, bf16, f32, complex64);

/// [`Values`] whatever their dtype is.
trait Numbers: fmt::Debug + Send + Sync {
    fn rows(&self, rows: &[usize], row_shape: &[i32]) -> Result<Array>;
    fn take(&self, rows: &[usize]) -> Arc<dyn Numbers>;
}

struct Typed<T> {
    numbers: Vec<T>,
    row_len: usize,
}

impl<T: Number> Typed<T> {
    fn gather(&self, rows: &[usize]) -> Vec<T> {
        let len = self.row_len;
        rows.iter().flat_map(|row| &self.numbers[row * len..(row + 1) * len]).copied().collect()
    }
}

impl<T: Number> Numbers for Typed<T> {
    fn rows(&self, rows: &[usize], row_shape: &[i32]) -> Result<Array> {
        let shape: Vec<i32> =
            [rows.len() as i32].into_iter().chain(row_shape.iter().copied()).collect();
        array(&self.gather(rows), &shape)
    }

    fn take(&self, rows: &[usize]) -> Arc<dyn Numbers> {
        Arc::new(Self { numbers: self.gather(rows), row_len: self.row_len })
    }
}

impl<T: Number> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} numbers of {:?}", self.numbers.len(), T::DTYPE)
    }
}

fn copied<T: Number>(array: &Array, row_len: usize) -> Result<Arc<dyn Numbers>> {
    let numbers = if array.size() == 0 {
        Vec::new()
    } else {
        array.contiguous()?.try_as_slice::<T>()?.to_vec()
    };
    Ok(Arc::new(Typed { numbers, row_len }))
}
