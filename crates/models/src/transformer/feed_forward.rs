//! The gated feed-forward part of a block, SwiGLU.
//!
//! `down(silu(gate(x)) * up(x))` with `silu(x) = x * sigmoid(x)`: Shazeer, arXiv:2002.05202, section 2.
//! Shape letters as in the [module above](super).

use super::{TransformerConfig, init};
use mlx_rs::Array;
use mlx_train_core::{Result, nn::LoraLinear};
use mlx_train_derive::{ModuleParameters, Shard};

/// SwiGLU: `(B, T, C)` in and out through width F, in the wider of the input's and weights' dtypes.
///
/// F can be divided among ranks.
#[derive(Debug, Clone, ModuleParameters, Shard)]
#[allow(clippy::struct_field_names)] // they are checkpoint keys
pub struct FeedForward {
    #[param]
    #[shard(columns)]
    gate_proj: LoraLinear,
    #[param]
    #[shard(columns)]
    up_proj: LoraLinear,
    #[param]
    #[shard(rows)]
    down_proj: LoraLinear,
}

impl FeedForward {
    /// Draws f32 weights, normal with standard deviation 0.02, smaller in `down_proj`.
    ///
    /// # Errors
    /// When the config's sizes are out of range, or MLX fails.
    pub fn new(config: &TransformerConfig) -> Result<Self> {
        let (hidden_size, intermediate_size) = (config.hidden_size, config.intermediate_size()?);
        Ok(Self {
            gate_proj: init::linear(hidden_size, intermediate_size)?.into(),
            up_proj: init::linear(hidden_size, intermediate_size)?.into(),
            down_proj: init::residual_linear(intermediate_size, hidden_size, config.num_layers)?
                .into(),
        })
    }

    /// Mixes the features of each token of `x` `(B, T, C)`, and adds what it makes to `stream` `(B, T, C)`, if there is one.
    ///
    /// # Errors
    /// When an array has another size than the weights, or MLX fails.
    pub fn forward(&mut self, x: &Array, stream: Option<&Array>) -> Result<Array> {
        let gated = LoraLinear::forward_all([&self.gate_proj, &self.up_proj], x)?; // (B, T, F) each
        self.down_proj.forward_swiglu(&gated, stream)
    }

    /// The projections by name.
    pub(super) fn projections(&mut self) -> [(&'static str, &mut LoraLinear); 3] {
        let Self { gate_proj, up_proj, down_proj } = self;
        [("gate_proj", gate_proj), ("up_proj", up_proj), ("down_proj", down_proj)]
    }
}
