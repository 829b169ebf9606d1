//! What a batch is without its values.

use crate::{Array, Result, batch::Batch};
use mlx_rs::{Dtype, ops::zeros_dtype};

/// Shapes and dtypes of one row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    x: Part,
    y: Part,
    segments: Option<Part>,
}

/// One array of a batch, without the axis of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    shape: Vec<i32>,
    dtype: Dtype,
}

impl Rows {
    /// Rows of inputs and targets of these shapes and dtypes.
    pub fn new(x: (&[i32], Dtype), y: (&[i32], Dtype)) -> Self {
        let part = |(shape, dtype): (&[i32], Dtype)| Part { shape: shape.to_vec(), dtype };
        Self { x: part(x), y: part(y), segments: None }
    }

    /// Rows of so many tokens, each of which predicts the next one.
    pub fn tokens(seq_len: i32) -> Self {
        let tokens = (&[seq_len][..], Dtype::Int32);
        Self::new(tokens, tokens)
    }

    /// Rows like those of this batch.
    pub fn of(batch: &Batch) -> Self {
        let part = |array: &Array| Part {
            shape: array.shape().get(1..).unwrap_or_default().to_vec(),
            dtype: array.dtype(),
        };
        let segments = batch.segments.as_ref().map(part);
        Self { x: part(&batch.x), y: part(&batch.y), segments }
    }

    /// A batch of so many rows, all zeros, which are not computed.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn batch(&self, num_rows: usize) -> Result<Batch> {
        let zeros = |part: &Part| -> Result<Array> {
            let rows = i32::try_from(num_rows).unwrap_or(i32::MAX);
            Ok(zeros_dtype(&[&[rows][..], &part.shape].concat(), part.dtype)?)
        };
        let batch = Batch::new(zeros(&self.x)?, zeros(&self.y)?);
        match &self.segments {
            Some(segments) => Ok(batch.with_segments(zeros(segments)?)),
            None => Ok(batch),
        }
    }
}
