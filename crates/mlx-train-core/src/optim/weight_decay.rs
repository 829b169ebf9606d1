//! Which parameters shrink in each step, and how much.

use super::{OptimError, Parameter};
use crate::Result;

/// Weight decay: of matrices alone, unless vectors are asked for too.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct WeightDecay {
    pub(super) rate: f64,
    pub(super) vectors: bool,
}

impl WeightDecay {
    /// Sets the rate; `setting` is what errors call it.
    pub(super) fn with_rate(self, rate: f64, setting: &'static str) -> Result<Self> {
        if rate >= 0.0 && rate.is_finite() {
            return Ok(Self { rate, ..self });
        }
        Err(OptimError { setting, value: rate, expected: "finite and at least 0" }.into())
    }

    /// Whether a parameter decays: norms and biases, which have one axis, only lose by it.
    pub(super) fn acts_on(self, parameter: Parameter<'_>) -> bool {
        self.rate > 0.0 && (self.vectors || parameter.value.ndim() >= 2)
    }
}
