//! What a run tells while it goes on. The engine prints nothing.

use super::{Best, Evaluation, History, Outcome, Spike, TrainConfig};
use crate::profile::{LayerProfile, Memory, SuspectedLeak};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Something that happened in a training run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run begins.
    Started(Started<'a>),
    /// The run goes on from a checkpoint; it comes after [`Event::Started`].
    Resumed {
        /// How many steps were taken before.
        step: u64,
        /// The folder of the checkpoint.
        checkpoint: &'a Path,
    },
    /// The blocks of the model are divided among the stages of a pipeline, by measured times or as before.
    PipelineCut {
        /// How many blocks each stage has.
        blocks: &'a [usize],
        /// How long it took to measure them; `None` where the cut is that of the checkpoint.
        seconds: Option<f64>,
    },
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
    /// A step was computed and not applied, because its numbers were not finite.
    Skipped(SkippedStep),
    /// The loss of a step is far above those before it.
    Spike(Spike),
    /// The run went back to an earlier step, and on with other data.
    RolledBack {
        /// The step that failed.
        from: u64,
        /// How many steps are taken now.
        to: u64,
        /// Why, for people.
        reason: &'a str,
    },
    /// A checkpoint is on disk, whole.
    CheckpointSaved {
        /// How many steps were taken before.
        step: u64,
        /// Its folder.
        path: &'a Path,
        /// How large it is.
        bytes: u64,
        /// How long it took to write, in the background.
        seconds: f64,
    },
    /// A checkpoint could not be written; the run goes on, and earlier ones are as they were.
    CheckpointFailed {
        /// How many steps were taken before.
        step: u64,
        /// What was wrong, where, and what to do.
        error: &'a str,
    },
    /// The metric of `early_stopping` got no better, and the run stops.
    StoppedEarly {
        /// How many steps were taken before.
        step: u64,
        /// What is watched.
        metric: &'a str,
        /// Its best value.
        best: Best,
    },
    /// The steps that were to be recorded are, and their trace is on disk.
    Profiled {
        /// How many steps were taken before.
        step: u64,
        /// The file.
        trace: &'a Path,
        /// What the layers cost, where that was measured.
        layers: Option<&'a LayerProfile>,
    },
    /// Memory grows from step to step, and goes on to.
    SuspectedLeak(SuspectedLeak),
    /// Something that is no error, and that a person should know.
    Warning(&'a str),
    /// The run is over.
    Finished(Finished<'a>),
}

/// The beginning of a run.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// How many steps the run has, those before a resume included.
    pub steps: u64,
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
    /// How many steps this report is about.
    pub num_steps: u64,
    /// How many targets they trained on: tokens of a language model, rows of a classifier.
    pub num_targets: f64,
    /// The mean training loss over these targets.
    pub loss: f64,
    /// The learning rate of the last of these steps.
    pub learning_rate: f64,
    /// The global gradient norm of the last of them, before clipping.
    pub grad_norm: f64,
    /// How many targets were trained on in a second.
    pub tokens_per_second: f64,
    /// Where the time of these steps went.
    pub seconds: StepSeconds,
    /// How many of the steps since the start were skipped, because their numbers were not finite.
    pub num_skipped: u64,
    /// How many times the step was traced since the start: once for each shape of its inputs.
    pub num_traces: usize,
    /// Time since the run began, in this process.
    pub elapsed_seconds: f64,
    /// The memory of this moment.
    pub memory: Memory,
}

/// Where the time of a few steps went, in seconds of all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSeconds {
    /// Waiting for batches.
    pub data: f64,
    /// The steps themselves.
    pub compute: f64,
    /// Copying states for checkpoints, and waiting for earlier ones to be written.
    pub save: f64,
}

impl StepSeconds {
    /// All of them.
    pub fn total(self) -> f64 {
        self.data + self.compute + self.save
    }
}

/// A step that was not applied.
#[derive(Debug, Clone, PartialEq)]
pub struct SkippedStep {
    /// The step, counted from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// The norm of its gradients before clipping.
    pub grad_norm: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// How many steps in a row were skipped, this one included.
    pub in_a_row: u64,
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// How many steps were taken.
    pub step: u64,
    /// How many targets were trained on, before a resume too.
    pub num_targets: f64,
    /// Time since the run began, in this process.
    pub elapsed_seconds: f64,
    /// What was measured.
    pub history: &'a History,
    /// How the run ended.
    pub outcome: &'a Outcome,
}
