//! Which parameters shrink in each step, and how much.

use super::{Parameter, error::check_rate};
use crate::Result;

/// Weight decay: of matrices alone, unless vectors are asked for too.
///
/// A vector is a parameter with fewer than two axes: a norm's weight or a bias, whose size carries
/// meaning and which only loses by decay. What the rate does is in the formula of each optimizer.
///
/// ```
/// use mlx_train_core::optim::{AdamW, WeightDecay};
/// let optimizer = AdamW::default().weight_decay(WeightDecay::matrices(0.1)?);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WeightDecay {
    rate: f64,
    vectors: bool,
}

impl WeightDecay {
    /// No decay.
    pub const NONE: Self = Self { rate: 0.0, vectors: false };

    /// What Python MLX's AdamW and Muon have unless told otherwise, of matrices.
    pub(super) const HUNDREDTH: Self = Self { rate: 0.01, vectors: false };

    /// Decay of parameters with at least two axes.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless `rate` is finite and at least 0.
    pub fn matrices(rate: f64) -> Result<Self> {
        Ok(Self { rate: check_rate("the weight decay", rate)?, vectors: false })
    }

    /// Decay of every parameter, as in Python MLX.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless `rate` is finite and at least 0.
    pub fn everything(rate: f64) -> Result<Self> {
        Ok(Self { vectors: true, ..Self::matrices(rate)? })
    }

    pub(super) fn rate(self) -> f64 {
        self.rate
    }

    /// The rate, where a parameter decays.
    pub(super) fn of(self, parameter: Parameter<'_>) -> Option<f64> {
        let acts = self.rate > 0.0 && (self.vectors || parameter.value.ndim() >= 2);
        acts.then_some(self.rate)
    }
}
