//! Norms: mlx-rs's, with gradients that a GPU computes in one pass.

use crate::{
    Array, Result,
    distributed::{Sharding, SplitBy, way::Alternating},
    kernels::norm::Rows,
};
use mlx_rs::{
    builder::{Buildable, Builder},
    error::Exception,
    fast,
    module::{Module, Param},
    nn,
};
use mlx_train_derive::ModuleParameters;

/// `w x / sqrt(mean(x^2) + epsilon)` with means over the last axis, taken in f32: `x` `(..., C)` and a weight `(C,)`;
/// the result has the shape of `x` and the wider dtype of both.
///
/// Source: Zhang and Sennrich, arXiv:1910.07467, equation 4.
///
/// # Errors
/// When the weight has another size, or MLX fails.
pub fn rms_norm(x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
    match Rows::of(x, weight, epsilon)? {
        Some(rows) => rows.rms_norm(x, weight),
        None => Ok(fast::rms_norm(x, Some(weight), epsilon)?),
    }
}

/// `w (x - mean(x)) / sqrt(var(x) + epsilon) + b` over the last axis, in f32 inside: `x` `(..., C)`, a weight and a bias
/// `(C,)`; the result has the shape of `x` and the widest dtype of the three.
///
/// Source: Ba et al., arXiv:1607.06450, section 3.
///
/// # Errors
/// When weight or bias have another size, or MLX fails.
pub fn layer_norm(x: &Array, weight: &Array, bias: &Array, epsilon: f32) -> Result<Array> {
    let fits = bias.shape() == weight.shape() && bias.dtype() == weight.dtype();
    let rows = if fits { Rows::of(x, weight, epsilon)? } else { None };
    match rows {
        Some(rows) => rows.layer_norm(x, weight, bias),
        None => Ok(fast::layer_norm(x, weight, bias, epsilon)?),
    }
}

/// Scales the features of each token to a mean square of one: [`rms_norm`] with a weight.
///
/// It is mlx-rs's, which agrees with Python MLX; the gradient of its weight takes a GPU less time.
///
/// ```
/// use mlx_rs::module::Module;
/// use mlx_train_core::{Array, nn::RmsNorm};
/// let y = RmsNorm::new(2)?.forward(&Array::from_slice(&[3.0_f32, 4.0], &[1, 2]))?;
/// assert!((y.square()?.mean(None)?.try_item_exact::<f32>()? - 1.0).abs() < 1e-5);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, ModuleParameters)]
pub struct RmsNorm {
    /// w, `(C,)`.
    #[param]
    pub weight: Param<Array>,
    /// What is added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// A norm over `dimensions` features whose weight is one, f32, with mlx-rs's epsilon of 1e-5.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn new(dimensions: i32) -> Result<Self, Exception> {
        RmsNormBuilder::new(dimensions).build()
    }

    /// `x` `(..., C)` as it goes on, and normalised for what is added to it: the two sides of a residual connection.
    ///
    /// What comes back from both sides is added up where a GPU takes the gradient of the norm, without a pass of its own.
    ///
    /// # Errors
    /// When the weight has another size, or MLX fails.
    pub fn branch(&self, x: &Array) -> Result<(Array, Array)> {
        match Rows::of(x, &self.weight, self.eps)? {
            Some(rows) => rows.rms_norm_branch(x, &self.weight),
            None => Ok((x.clone(), fast::rms_norm(x, Some(&self.weight.value), self.eps)?)),
        }
    }
}

impl Module<&Array> for RmsNorm {
    type Error = Exception;
    type Output = Array;

    /// Normalises `x` `(..., C)`, in the wider of its and the weight's dtypes.
    fn forward(&mut self, x: &Array) -> Result<Array, Exception> {
        Ok(rms_norm(x, &self.weight, self.eps)?)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl SplitBy<Alternating> for RmsNorm {
    // It divides by a mean over all features.
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}

/// Builds an [`RmsNorm`].
#[derive(Debug, Clone)]
pub struct RmsNormBuilder(nn::RmsNormBuilder);

impl RmsNormBuilder {
    /// A norm over `dimensions` features.
    pub fn new(dimensions: i32) -> Self {
        Self(nn::RmsNormBuilder::new(dimensions))
    }

    /// What is added to the mean square.
    #[must_use]
    pub fn eps(self, eps: f32) -> Self {
        Self(self.0.eps(eps))
    }
}

impl Buildable for RmsNorm {
    type Builder = RmsNormBuilder;
}

impl Builder<RmsNorm> for RmsNormBuilder {
    type Error = Exception;

    fn build(self) -> Result<RmsNorm, Exception> {
        let nn::RmsNorm { weight, eps } = self.0.build()?;
        Ok(RmsNorm { weight, eps })
    }
}

/// Moves and scales the features of each token to a mean of zero and a variance of one: [`layer_norm`] with a weight and a
/// bias, or without both.
///
/// It is mlx-rs's, which agrees with Python MLX; the gradients of its parameters take a GPU less time.
#[derive(Debug, Clone, ModuleParameters)]
pub struct LayerNorm {
    /// How many features it normalises.
    pub dimensions: i32,
    /// What is added to the variance.
    pub eps: f32,
    /// w, `(C,)`, if there is one.
    #[param]
    pub weight: Param<Option<Array>>,
    /// b, `(C,)`, if there is one.
    #[param]
    pub bias: Param<Option<Array>>,
}

impl LayerNorm {
    /// A norm over `dimensions` features whose weight is one and whose bias is zero, f32, with mlx-rs's epsilon of 1e-5.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn new(dimensions: i32) -> Result<Self, Exception> {
        LayerNormBuilder::new(dimensions).build()
    }
}

impl Module<&Array> for LayerNorm {
    type Error = Exception;
    type Output = Array;

    /// Normalises `x` `(..., C)`, in the widest of its and the parameters' dtypes.
    fn forward(&mut self, x: &Array) -> Result<Array, Exception> {
        match (self.weight.as_ref(), self.bias.as_ref()) {
            (Some(weight), Some(bias)) => Ok(layer_norm(x, weight, bias, self.eps)?),
            (weight, bias) => fast::layer_norm(x, weight, bias, self.eps),
        }
    }

    fn training_mode(&mut self, _: bool) {}
}

impl SplitBy<Alternating> for LayerNorm {
    // It divides by a mean over all features.
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}

/// Builds a [`LayerNorm`].
#[derive(Debug, Clone)]
pub struct LayerNormBuilder(nn::LayerNormBuilder);

impl LayerNormBuilder {
    /// A norm over `dimensions` features.
    pub fn new(dimensions: i32) -> Self {
        Self(nn::LayerNormBuilder::new(dimensions))
    }

    /// What is added to the variance.
    #[must_use]
    pub fn eps(self, eps: f32) -> Self {
        Self(self.0.eps(eps))
    }

    /// Whether it has a weight and a bias.
    #[must_use]
    pub fn affine(self, affine: bool) -> Self {
        Self(self.0.affine(affine))
    }
}

impl Buildable for LayerNorm {
    type Builder = LayerNormBuilder;
}

impl Builder<LayerNorm> for LayerNormBuilder {
    type Error = Exception;

    fn build(self) -> Result<LayerNorm, Exception> {
        let nn::LayerNorm { dimensions, eps, weight, bias } = self.0.build()?;
        Ok(LayerNorm { dimensions, eps, weight, bias })
    }
}
