//! How a run ended.

use super::History;
use std::{fmt, path::PathBuf};

/// What a run leaves besides the trained model.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// What was measured.
    pub history: History,
    /// How many steps the model was trained for, those before a resume included.
    pub step: u64,
    /// How the run ended.
    pub outcome: Outcome,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All its steps were taken.
    Completed,
    /// It stopped before.
    Stopped {
        /// Why.
        reason: StopReason,
        /// The checkpoint from which it can go on, where checkpoints are kept.
        checkpoint: Option<PathBuf>,
    },
}

/// Why a run stopped before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// A [`super::StopSignal`] was given.
    Signal,
    /// `max_minutes` are over.
    MaxMinutes,
    /// The metric of `early_stopping` got no better.
    EarlyStopping,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "it was asked to stop",
            Self::MaxMinutes => "max_minutes are over",
            Self::EarlyStopping => "the metric of early_stopping got no better",
        })
    }
}
