//! From the state of a step to a checkpoint.

use super::StateArrays;
use crate::{Result, store::Snapshot};

impl StateArrays {
    /// Takes these arrays, those after `step` steps, for another thread to write: a checkpoint that lacks model, progress,
    /// config and metric.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn to_host(&self, step: u64) -> Result<Snapshot> {
        let weights = self.weights.iter().map(|(name, array)| (name, array));
        let training = self.training.iter().map(|(name, array)| (name, array));
        Snapshot::take(step, weights, training)
    }
}
