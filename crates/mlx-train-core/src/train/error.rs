//! Why a training run cannot start, or stops.

use super::Difference;
use crate::{
    bytes::Bytes,
    distributed::Parallelism,
    store::{Mismatch, mismatch_lines},
};
use std::path::PathBuf;

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
    /// A decay of averaged weights that is none.
    #[error("the decay of averaged weights is {decay}; it has to be at least 0 and below 1")]
    EmaDecay {
        /// The setting.
        decay: f64,
    },
    /// Batches of so many kinds that compiling costs more than it gains.
    #[error(
        "the step is compiled for {limit} kinds of batches (max_traces), and another came: `{input}` was {}; \
         pad sequences to a few lengths and leave out the incomplete batch at the end, or raise max_traces, \
         or do not compile (compile = \"off\")", .shapes.join(", ")
    )]
    TooManyTraces {
        /// The setting.
        limit: usize,
        /// The input that has changed most often: `batch.x`, `batch.y` or `batch.segments`.
        input: String,
        /// Its dtypes and shapes, in the order in which they came.
        shapes: Vec<String>,
    },
    /// An optimizer that has to see a whole parameter, of which each rank holds a part.
    #[error(
        "each of {parts} ranks holds a part of `{name}`, which its optimizer cannot update in parts ({optimizer}): \
         train with AdamW, Lion or SGD, whose state is not int8, or without dividing parameters (dp)"
    )]
    NeedsWhole {
        /// The first such parameter.
        name: String,
        /// Among how many ranks it is divided.
        parts: usize,
        /// The optimizer.
        optimizer: String,
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
    /// A run that should go on under another config than it was saved with.
    #[error(
        "the checkpoint `{}` was saved under another config, so the run would not go on as it would have:\n\
         {}\ngive these fields the values that were saved, or allow them to differ with {}",
        checkpoint.display(), listed(differences), allow(differences)
    )]
    ConfigChanged {
        /// The folder of the checkpoint.
        checkpoint: PathBuf,
        /// Every field that differs and is not allowed to.
        differences: Vec<Difference>,
    },
    /// A run that should go on from a checkpoint, and has no folder of them.
    #[error(
        "there is no folder to resume from: give the trainer its `checkpoints`, or the path of a checkpoint"
    )]
    NoCheckpoints,
    /// A checkpoint that another program has saved.
    #[error("the checkpoint `{}` has no progress of a run that can go on ({problem}): resume one that this trainer saved", checkpoint.display())]
    NoProgress {
        /// The folder of the checkpoint.
        checkpoint: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A step without data.
    #[error("a training step got no micro-batch: give it at least one")]
    NoBatch,
    /// The numbers are no longer numbers.
    #[error(
        "training diverged: step {step} has loss {loss} and gradient norm {grad_norm} at learning rate \
         {learning_rate:e} ({gradients}); lower the learning rate, use a longer warm-up or clip gradients, and \
         check the data: one target out of the vocabulary or classes makes the loss NaN; with non_finite = \
         \"skip\" such steps are left out"
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
        /// Which gradients are not finite.
        gradients: String,
    },
    /// Steps that are not finite, one after the other.
    #[error(
        "{in_a_row} steps in a row were skipped because their numbers are not finite, the last of them step \
         {step} with loss {loss} at learning rate {learning_rate:e} ({gradients}): this does not pass by itself; \
         resume from a checkpoint with a lower learning rate, and check the data"
    )]
    TooManySkipped {
        /// The last of them, counted from 1.
        step: u64,
        /// How many.
        in_a_row: u64,
        /// The loss of the last.
        loss: f64,
        /// The learning rate of the last.
        learning_rate: f64,
        /// Which gradients are not finite.
        gradients: String,
    },
    /// Going back does not help.
    #[error(
        "step {step} failed ({reason}), and the run went back to the same state {rollbacks} times already: this \
         does not pass with other data; lower the learning rate, use a longer warm-up or clip gradients"
    )]
    TooManyRollbacks {
        /// The step, counted from 1.
        step: u64,
        /// How many times the run went back.
        rollbacks: u32,
        /// What was wrong with the step.
        reason: String,
    },
    /// A `fast_dev_run` that could not do all that a run does.
    #[error("fast_dev_run could not save a checkpoint: see the event that says why")]
    NoCheckpointSaved,
    /// A config that asks for another layout than that of the ranks.
    #[error(
        "train.parallel is `{asked}`, and the mesh of this run is `{mesh}`: give the trainer the mesh of that \
         layout (`Trainer::mesh`), or leave parallel out"
    )]
    OtherMesh {
        /// The setting.
        asked: Parallelism,
        /// The layout of the mesh.
        mesh: Parallelism,
    },
    /// The ranks do not see the same files.
    #[error(
        "`{}` of rank 0 is another folder on this rank ({problem}): put the run on a file system that all ranks share",
        .path.display()
    )]
    NotShared {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What this rank finds there.
        problem: String,
    },
    /// A step needs more memory than there is.
    #[error(
        "a step needs about {needed}, and {source_of_limit} is {limit}; near to the settings of this run, \
         these fit:{nearest}"
    )]
    DoesNotFit {
        /// What a step needs at its most, estimated.
        needed: Bytes,
        /// What there is.
        limit: Bytes,
        /// Whose memory that is.
        source_of_limit: &'static str,
        /// Settings that fit, one a line.
        nearest: String,
    },
    /// An evaluation over no target.
    #[error(
        "the held-out data has no target that counts: give data whose targets are not all masked"
    )]
    NothingEvaluated,
}

impl TrainError {
    /// A setting that names a metric which is none of those that are measured.
    pub(super) fn unknown_metric(setting: &str, name: &str, known: &[&str]) -> Self {
        let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
        let (setting, name) = (setting.to_owned(), name.to_owned());
        Self::UnknownMetric { setting, name, known: known.join(", ") }
    }
}

/// Differences one a line.
fn listed(differences: &[Difference]) -> String {
    let lines: Vec<_> = differences.iter().map(|difference| format!("  {difference}")).collect();
    lines.join("\n")
}

/// The flags that allow these differences.
fn allow(differences: &[Difference]) -> String {
    let flags: Vec<_> =
        differences.iter().map(|difference| format!("`--allow {}`", difference.field)).collect();
    flags.join(" ")
}
