//! What a run tells while it goes on. The engine prints nothing.

use super::{Evaluation, History, TrainConfig};
use crate::profile::Memory;

/// Something that happened in a training run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run begins.
    Started(Started<'a>),
    /// `log_every` steps are over, or the last one.
    Step(StepReport),
    /// The held-out data was evaluated.
    Evaluated {
        /// How many steps were taken before.
        step: u64,
        /// The result.
        evaluation: &'a Evaluation,
        /// How long it took.
        seconds: f64,
    },
    /// The run is over.
    Finished(Finished<'a>),
}

/// The beginning of a run.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// How many numbers the model has.
    pub num_parameters: u64,
    /// How many of them are trained.
    pub num_trainable: u64,
    /// How many rows the training data has.
    pub num_rows: usize,
}

/// The steps since the last report.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// How many steps were taken.
    pub step: u64,
    /// How many the run has.
    pub steps: u64,
    /// How many times the training data was seen.
    pub epochs: f64,
    /// The mean training loss over the targets of these steps.
    pub loss: f64,
    /// The learning rate of the last of them.
    pub learning_rate: f64,
    /// The global gradient norm of the last of them, before clipping.
    pub grad_norm: f64,
    /// How many targets were trained on in a second: tokens of a language model, rows of a classifier.
    pub tokens_per_second: f64,
    /// Time since the run began.
    pub elapsed_seconds: f64,
    /// The memory of this moment.
    pub memory: Memory,
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// How many steps were taken.
    pub step: u64,
    /// How many targets were trained on.
    pub num_targets: f64,
    /// Time since the run began.
    pub elapsed_seconds: f64,
    /// What was measured.
    pub history: &'a History,
}
