//! Why a training run cannot start, or stops.

use crate::store::{Mismatch, mismatch_lines};

/// A training run that cannot start or go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// There is nothing to update.
    #[error("the model has no parameter that is trainable: unfreeze what should learn")]
    NothingToTrain,
    /// A parameter of the run is not in the model.
    #[error(
        "the model has no parameter `{name}`, which this run trains: use the model that the run was started with, \
         and freeze nothing while it runs"
    )]
    MissingParameter {
        /// The name in weight files.
        name: String,
    },
    /// A learning rate that never arrives at its peak.
    #[error(
        "warmup_steps is {warmup_steps} and the run has {total_steps} steps, so the learning rate never \
         arrives: lower warmup_steps, or train for more epochs"
    )]
    LongWarmup {
        /// The setting.
        warmup_steps: u64,
        /// How many steps the epochs have.
        total_steps: u64,
    },
    /// A setting names a metric that is not measured.
    #[error("`{setting}` is `{name}`, which no evaluation measures; it measures {known}")]
    UnknownMetric {
        /// The setting.
        setting: String,
        /// Its value.
        name: String,
        /// What it could be.
        known: String,
    },
    /// A setting that needs held-out data, and there is none.
    #[error("`{setting}` watches the held-out data, and there is none: give some, or remove it")]
    NoHeldOut {
        /// The setting.
        setting: String,
    },
    /// A snapshot of another model, optimizer or precision; model and state are as they were.
    #[error(
        "the saved state does not fit this run, which is left as it was:{}\nresume with the model, optimizer \
         and precision that it was saved with", mismatch_lines(.problems)
    )]
    StateMismatch {
        /// Every difference, in natural order of names.
        problems: Vec<Mismatch>,
    },
    /// A step without data.
    #[error("a training step got no micro-batch: give it at least one")]
    NoBatch,
    /// The numbers are no longer numbers.
    #[error(
        "training diverged: step {step} has loss {loss} and gradient norm {grad_norm} at learning rate \
         {learning_rate:e}; lower the learning rate, use a longer warm-up or clip gradients, and check the \
         data: one target out of the vocabulary or classes makes the loss NaN"
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The norm of its gradients before clipping.
        grad_norm: f64,
        /// Its learning rate.
        learning_rate: f64,
    },
    /// An evaluation over no target.
    #[error(
        "the held-out data has no target that counts: give data whose targets are not all masked"
    )]
    NothingEvaluated,
}
