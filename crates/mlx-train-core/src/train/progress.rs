//! What a run has counted and noticed so far: with the arrays and the place in the data it is all that a
//! checkpoint holds.

use super::{
    History, StepReport, StepSeconds,
    early_stopping::EarlyStopping,
    evaluate::{Mean, number},
    feed::FeedPosition,
    spike::SpikeDetector,
    step::StepOutput,
};
use crate::{Result, profile::Memory};
use serde::{Deserialize, Serialize};
use std::{mem, time::Duration};

/// The JSON of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedRun {
    pub(super) data: FeedPosition,
    pub(super) progress: Progress,
    /// How many blocks each stage has, where the run has decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pipeline_blocks: Option<Vec<usize>>,
}

/// What was counted since the first step, in this process and those before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) history: History,
    /// The steps that are not reported yet.
    window: Window,
    pub(super) num_targets: f64,
    pub(super) num_skipped: u64,
    pub(super) skipped_in_a_row: u64,
    pub(super) early_stopping: EarlyStopping,
    pub(super) spikes: SpikeDetector,
    /// The best value of the metric of the checkpoints.
    pub(super) best: Option<f64>,
}

/// The steps since the last report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    num_steps: u64,
    loss: Mean,
    seconds: StepSeconds,
}

/// The numbers of one step, read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepNumbers {
    pub(super) step: u64,
    pub(super) learning_rate: f64,
    pub(super) loss: f64,
    pub(super) num_targets: f64,
    pub(super) grad_norm: f64,
    pub(super) num_traces: usize,
    pub(super) is_finite: bool,
}

impl StepNumbers {
    /// Reads what is computed already, which costs little.
    pub(super) fn read(step: u64, learning_rate: f64, output: &StepOutput) -> Result<Self> {
        Ok(Self {
            step,
            learning_rate,
            loss: number(&output.loss.value)?,
            num_targets: number(&output.loss.weight)?,
            grad_norm: number(&output.grad_norm)?,
            num_traces: output.traces,
            is_finite: output.finite.try_item_exact::<bool>()?,
        })
    }
}

impl Progress {
    /// Counts a step that was applied.
    pub(super) fn count(&mut self, numbers: &StepNumbers) {
        self.window.loss.add_number(numbers.loss, numbers.num_targets);
        self.num_targets += numbers.num_targets;
        self.skipped_in_a_row = 0;
    }

    /// Counts a step that was not.
    pub(super) fn count_skipped(&mut self) {
        self.num_skipped += 1;
        self.skipped_in_a_row += 1;
    }

    /// Counts the time of a step, whatever became of it.
    pub(super) fn count_time(&mut self, data: f64, compute: f64) {
        self.window.num_steps += 1;
        self.window.seconds.data += data;
        self.window.seconds.compute += compute;
    }

    /// Counts the time for which a checkpoint held the run up.
    pub(super) fn count_saving(&mut self, seconds: f64) {
        self.window.seconds.save += seconds;
    }

    /// What is to be told about the steps since the last report, the last of which has these numbers.
    pub(super) fn report(
        &mut self,
        numbers: &StepNumbers,
        steps: u64,
        epochs: f64,
        elapsed: Duration,
    ) -> Result<StepReport> {
        let Window { num_steps, loss, seconds } = mem::take(&mut self.window);
        let total = seconds.total();
        let report = StepReport {
            step: numbers.step,
            steps,
            epochs,
            num_steps,
            num_targets: loss.weight,
            loss: loss.value(),
            learning_rate: numbers.learning_rate,
            grad_norm: numbers.grad_norm,
            tokens_per_second: if total > 0.0 { loss.weight / total } else { 0.0 },
            seconds,
            num_skipped: self.num_skipped,
            num_traces: numbers.num_traces,
            elapsed_seconds: elapsed.as_secs_f64(),
            memory: Memory::now()?,
        };
        self.history.push_report(&report);
        Ok(report)
    }
}
