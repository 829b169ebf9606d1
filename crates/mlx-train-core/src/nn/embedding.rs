//! A table of vectors.

use super::{NnError, init};
use crate::{Array, Result, shape::is_integer};
use mlx_rs::{module::Param, ops::matmul};
use mlx_train_derive::ModuleParameters;

/// Looks up a vector for each integer, for example for each token id.
///
/// The parameter `weight` is `(num_embeddings, dimensions)`. MLX does not check ids: one at or above
/// `num_embeddings` reads memory of something else, and a negative one counts from the last vector, so
/// check data when it is loaded.
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

    /// The vectors `(..., dimensions)` of integers `(...)`, in the dtype of the weight.
    ///
    /// # Errors
    /// [`NnError::EmbeddingDtype`] when `ids` are not integers, or when MLX fails.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        if !is_integer(ids.dtype()) {
            return Err(NnError::EmbeddingDtype(ids.dtype()).into());
        }
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
