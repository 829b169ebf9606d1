//! Which dtype is used where.

use crate::{Result, batch::Batch, config::ModelConfig, optim::round_stochastically, rng};
use mlx_rs::{Array, Dtype};

/// The dtypes of a training step. Loss and norms are f32 in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum Precision {
    /// The dtypes of the model, which are f32 unless it was built or loaded otherwise.
    #[default]
    F32,
    /// Computes in bf16 from f32 parameters, which are updated in f32, as is the optimizer's state.
    /// Source: Micikevicius et al., arXiv:1710.03740, section 3.1; bf16 needs no loss scale.
    Mixed,
    /// Keeps parameters, gradients and the optimizer's state in bf16, half of the memory of f32; the
    /// arithmetic of the update is f32.
    Bf16 {
        /// Rounds up or down by chance, so that updates smaller than a bf16 digit are not lost.
        #[config(default = true)]
        stochastic_rounding: bool,
    },
}

impl Precision {
    /// The array in the dtype that the model computes in; integers stay as they are.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn to_compute(self, array: &Array) -> Result<Array> {
        match self {
            Self::F32 => Ok(array.clone()),
            Self::Mixed | Self::Bf16 { .. } => cast_floats(array, Dtype::Bfloat16),
        }
    }

    /// A batch whose inputs `x` have the dtype that the model computes in. Targets stay as they are, because
    /// losses are computed in f32.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn batch_to_compute(self, batch: Batch) -> Result<Batch> {
        Ok(Batch { x: self.to_compute(&batch.x)?, ..batch })
    }

    /// A trained parameter in the dtype that it is kept in.
    pub(super) fn to_parameter(self, array: &Array) -> Result<Array> {
        match self {
            Self::F32 => Ok(array.clone()),
            Self::Mixed => cast_floats(array, Dtype::Float32),
            Self::Bf16 { .. } => cast_floats(array, Dtype::Bfloat16),
        }
    }

    /// An array of the optimizer, f32, in the dtype that it is kept in.
    pub(super) fn to_state(self, array: &Array) -> Result<Array> {
        match self {
            Self::F32 | Self::Mixed => Ok(array.clone()),
            Self::Bf16 { .. } => cast_floats(array, Dtype::Bfloat16),
        }
    }

    /// A parameter or an array of the optimizer in the dtype that it is updated in.
    pub(super) fn to_update(self, array: &Array) -> Result<Array> {
        match self {
            Self::F32 | Self::Mixed => Ok(array.clone()),
            Self::Bf16 { .. } => cast_floats(array, Dtype::Float32),
        }
    }

    /// A gradient in the dtype that it is clipped in: as f32 it is rounded no second time.
    pub(super) fn to_gradient(self, array: &Array) -> Result<Array> {
        match self {
            Self::F32 | Self::Bf16 { .. } => Ok(array.clone()),
            Self::Mixed => cast_floats(array, Dtype::Float32),
        }
    }

    /// How updated arrays become what they are kept as, with a source of draws if chance decides.
    ///
    /// Returns the key of the next step too.
    pub(super) fn rounding(self, key: &Array) -> Result<(Rounding, Array)> {
        match self {
            Self::Bf16 { stochastic_rounding: true } => {
                let (next, draws) = rng::split(key)?;
                Ok((Rounding { draws: Some(draws) }, next))
            }
            _ => Ok((Rounding { draws: None }, key.clone())),
        }
    }
}

/// Rounds f32 arrays to the dtypes that they are kept in.
pub(super) struct Rounding {
    draws: Option<Array>,
}

impl Rounding {
    /// `updated` in the dtype of what it replaces.
    pub(super) fn apply(&mut self, updated: &Array, like: &Array) -> Result<Array> {
        let loses = updated.dtype() == Dtype::Float32 && like.dtype() == Dtype::Bfloat16;
        match self.draws.take() {
            Some(key) if loses => {
                let (next, draws) = rng::split(&key)?;
                self.draws = Some(next);
                round_stochastically(updated, &draws)
            }
            draws => {
                self.draws = draws;
                Ok(updated.as_dtype(like.dtype())?)
            }
        }
    }
}

fn cast_floats(array: &Array, dtype: Dtype) -> Result<Array> {
    if array.dtype().is_float() && array.dtype() != dtype {
        return Ok(array.as_dtype(dtype)?);
    }
    Ok(array.clone())
}
