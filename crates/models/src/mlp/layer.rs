//! A hidden layer: linear, norm, activation, dropout.

use super::{Activation, MlpConfig, Norm, linear};
use mlx_rs::{
    Array,
    module::{Module, Param},
    ops::{ones, zeros},
};
use mlx_train_core::{
    Result,
    distributed::{Sharding, SplitBy, way::Alternating},
    nn::{Dropout, Linear, init::kaiming_normal, layer_norm, rms_norm},
};
use mlx_train_derive::{ModuleParameters, Shard};

/// Added to the variance or mean square of a norm, as in Python MLX.
const EPSILON: f32 = 1e-5;

/// Linear, norm, activation, dropout: `(B, in)` to `(B, W)`, in the wider of the input's and
/// weights' dtypes.
#[derive(Debug, Clone, ModuleParameters, Shard)]
pub struct HiddenLayer {
    #[param]
    #[shard(alternating)]
    linear: Linear,
    #[param]
    #[shard(alternating)]
    norm: Option<NormLayer>,
    activation: Activation,
    #[shard(alternating)]
    dropout: Dropout,
}

impl HiddenLayer {
    /// Draws f32 weights, normal with a variance of `gain^2 / input_size`; biases are zero.
    ///
    /// He et al., arXiv:1502.01852, equation 10; the gain is the activation's.
    ///
    /// # Errors
    /// When a size is not positive, the dropout is no probability, or MLX fails.
    pub fn new(input_size: i32, width: i32, config: &MlpConfig) -> Result<Self> {
        let weight = kaiming_normal(&[width, input_size], config.activation.gain())?;
        Ok(Self {
            linear: linear(weight, config.bias)?,
            norm: NormLayer::new(config.norm, width)?,
            activation: config.activation,
            dropout: Dropout::new(config.dropout)?,
        })
    }

    /// Maps `x` `(B, in)` to `(B, W)`.
    ///
    /// # Errors
    /// When `x` has another size than the weights, or MLX fails.
    pub fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.linear.forward(x)?; // (B, W)
        let x = match &self.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        self.dropout.forward(&self.activation.apply(&x)?)
    }
}

/// Layer norm, with a bias, or RMS norm, without: `(..., W)` in and out.
#[derive(Debug, Clone, ModuleParameters)]
pub struct NormLayer {
    #[param]
    weight: Param<Array>,
    #[param]
    bias: Param<Option<Array>>,
}

impl NormLayer {
    /// A norm over `width` features that starts at scale one and shift zero, or none.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn new(norm: Norm, width: i32) -> Result<Option<Self>> {
        let bias = match norm {
            Norm::None => return Ok(None),
            Norm::LayerNorm => Some(zeros::<f32>(&[width])?),
            Norm::RmsNorm => None,
        };
        let weight = Param::new(ones::<f32>(&[width])?);
        Ok(Some(Self { weight, bias: Param::new(bias) }))
    }

    /// Normalises the last axis of `x` `(..., W)`, in f32 inside.
    ///
    /// # Errors
    /// When `x` has another width, or MLX fails.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        Ok(match &self.bias.value {
            Some(bias) => layer_norm(x, &self.weight, bias, EPSILON)?,
            None => rms_norm(x, &self.weight, EPSILON)?,
        })
    }
}

impl SplitBy<Alternating> for NormLayer {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}
