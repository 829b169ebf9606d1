//! When checkpoints are saved, and which of them stay.

use crate::config::ModelConfig;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a run saves checkpoints, and which it keeps.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct CheckpointConfig {
    /// After how many steps a checkpoint is saved; 0 is never because of the steps.
    #[config(default = 1000)]
    pub every_steps: u64,
    /// After how many minutes since the last checkpoint another is saved; null is never.
    #[config(range = 0.0..)]
    pub every_minutes: Option<f64>,
    /// How many of the last checkpoints stay; 0 keeps all.
    #[config(default = 3)]
    pub keep_last: usize,
    /// How many of the best stay beside them; the very best always does.
    #[config(default = 1)]
    pub keep_best: usize,
    /// The number that says which is best.
    #[config(default = "loss")]
    pub metric: String,
    /// Which side of that number is good.
    pub mode: BestMode,
    /// Files larger than this many gigabytes (10^9 bytes) are split.
    #[config(default = 5.0, range = 1e-6..)]
    pub max_shard_gigabytes: f64,
}

impl CheckpointConfig {
    /// Whether `step` is saved, `since_last` after the last save or the start.
    pub fn is_due(&self, step: u64, since_last: Duration) -> bool {
        let by_steps = self.every_steps > 0 && step.is_multiple_of(self.every_steps);
        by_steps || self.is_late(since_last)
    }

    /// Whether it is time for another one, `since_last` after the last save or the start.
    pub fn is_late(&self, since_last: Duration) -> bool {
        self.every_minutes.is_some_and(|every| since_last.as_secs_f64() >= 60.0 * every)
    }

    /// The size in bytes over which a file is split.
    pub(super) fn max_shard_bytes(&self) -> u64 {
        (self.max_shard_gigabytes * 1e9) as u64
    }
}

/// Whether a lower or a higher metric is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BestMode {
    /// Lower is better, as of a loss.
    #[default]
    Min,
    /// Higher is better, as of an accuracy.
    Max,
}

impl BestMode {
    /// Whether `new` is better than `old`.
    pub fn is_better(self, new: f64, old: f64) -> bool {
        match self {
            Self::Min => new < old,
            Self::Max => new > old,
        }
    }
}
