//! A table of vectors.

use super::{NnError, init};
use crate::{Array, Result, integers, shape::is_integer};
use mlx_rs::{module::Param, ops::matmul};
use mlx_train_derive::ModuleParameters;

/// Looks up a vector for each integer, for example for each token id.
///
/// The parameter `weight` is `(num_embeddings, dimensions)`. To check ids here would stall a GPU: one
/// that is out of range reads the nearest vector instead, the first or the last. Data loading and
/// [`generate`](crate::generate::generate) refuse such ids, and as a target one makes the loss NaN.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// The vectors, `(num_embeddings, dimensions)`.
    #[param]
    pub weight: Param<Array>,
}

impl Embedding {
    /// Draws `num_embeddings` vectors of width `dimensions`, f32, from a normal distribution with a
    /// standard deviation of `1/sqrt(dimensions)`, as Python MLX does.
    ///
    /// # Errors
    /// When a size is not positive, or MLX fails.
    pub fn new(num_embeddings: i32, dimensions: i32) -> Result<Self> {
        let std = (dimensions as f32).sqrt().recip();
        Ok(Self { weight: Param::new(init::normal(&[num_embeddings, dimensions], std)?) })
    }

    /// The vectors `(..., dimensions)` of integers `(...)`, in the dtype of the weight; that of the
    /// nearest id for one out of range.
    ///
    /// # Errors
    /// [`NnError::EmbeddingDtype`] when `ids` are not integers, or when MLX fails.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        if !is_integer(ids.dtype()) {
            return Err(NnError::EmbeddingDtype(ids.dtype()).into());
        }
        let num_embeddings = self.weight.shape().first().copied().unwrap_or(0);
        let ids = integers::nearest(&integers::signed(ids)?, num_embeddings)?;
        Ok(self.weight.take_axis(ids, 0)?)
    }

    /// Scores `(..., num_embeddings)` of vectors `(..., dimensions)`: the output layer of a model
    /// whose input and output weights are tied.
    ///
    /// # Errors
    /// When `x` is of another width, or MLX fails.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        Ok(matmul(x, self.weight.transpose()?)?)
    }
}
