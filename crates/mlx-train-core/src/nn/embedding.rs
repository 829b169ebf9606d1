//! A table of vectors.

use super::{Head, NnError, init};
use crate::{
    Array, Result,
    distributed::{Group, Sharding, SplitBy, way::Vocabulary},
    integers,
    shape::is_integer,
};
use mlx_rs::{module::Param, ops::select};
use mlx_train_derive::ModuleParameters;

/// Looks up a vector for each integer, for example for each token id.
///
/// The parameter `weight` is `(num_embeddings, dimensions)`. To check ids here would stall a GPU: one
/// that is out of range reads the nearest vector instead, the first or the last. Data loading and
/// [`generate`](crate::generate::generate) refuse such ids, and as a target one makes the loss NaN.
///
/// With `#[shard(vocabulary)]` each rank has the vectors of a part of the ids, and looks up nothing for others.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// The vectors, `(num_embeddings, dimensions)`; of a rank `(num_embeddings / ranks, dimensions)`.
    #[param]
    pub weight: Param<Array>,
    group: Option<Group>,
}

impl Embedding {
    /// Draws `num_embeddings` vectors of width `dimensions`, f32, from a normal distribution with a
    /// standard deviation of `1/sqrt(dimensions)`, as Python MLX does.
    ///
    /// # Errors
    /// When a size is not positive, or MLX fails.
    pub fn new(num_embeddings: i32, dimensions: i32) -> Result<Self> {
        let std = (dimensions as f32).sqrt().recip();
        Ok(Self::of_weight(init::normal(&[num_embeddings, dimensions], std)?))
    }

    /// A table of vectors `(num_embeddings, dimensions)`.
    pub fn of_weight(weight: Array) -> Self {
        Self { weight: Param::new(weight), group: None }
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
        let (ids, num_embeddings) = (integers::signed(ids)?, self.num_embeddings());
        let Some(group) = &self.group else {
            let ids = integers::nearest(&ids, num_embeddings)?;
            return Ok(self.weight.take_axis(ids, 0)?);
        };
        let part = integers::part(&ids, num_embeddings, group)?;
        let vectors = self.weight.take_axis(part.nearest, 0)?;
        let nothing = Array::from_f32(0.0).as_dtype(vectors.dtype())?;
        let own = select(part.is_here.expand_dims(-1)?, vectors, nothing)?;
        group.reduce_from_parallel(&own)
    }

    /// Scores `(..., num_embeddings)` of vectors `(..., dimensions)`: the output layer of a model
    /// whose input and output weights are tied.
    ///
    /// # Errors
    /// When `x` is of another width, or MLX fails.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        self.head().logits(x)
    }

    /// The table as the output layer of a model whose input and output weights are tied, with losses that do without
    /// whole logits.
    pub fn head(&self) -> Head<'_> {
        Head::new(&self.weight, None, self.group.as_ref())
    }

    /// How many vectors there are here.
    fn num_embeddings(&self) -> i32 {
        self.weight.shape().first().copied().unwrap_or(0)
    }
}

impl SplitBy<Vocabulary> for Embedding {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.split("weight", 0, self.num_embeddings());
        sharding.keep(&mut self.group);
    }
}
