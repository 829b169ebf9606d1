//! The numbers of a run, for curves and tables.

use super::{Evaluation, StepReport};

/// What was measured in a run, in the order of the steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// One point for each report.
    pub training: Vec<TrainingPoint>,
    /// One point for each evaluation.
    pub held_out: Vec<HeldOutPoint>,
}

/// The training at one report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingPoint {
    /// How many steps were taken.
    pub step: u64,
    /// The mean loss since the report before.
    pub loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The global gradient norm of this step, before clipping.
    pub grad_norm: f64,
    /// Targets in a second since the report before.
    pub tokens_per_second: f64,
}

/// The held-out data at one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOutPoint {
    /// How many steps were taken.
    pub step: u64,
    /// The result.
    pub evaluation: Evaluation,
}

impl History {
    /// The last evaluation.
    pub fn last_held_out(&self) -> Option<&Evaluation> {
        self.held_out.last().map(|point| &point.evaluation)
    }

    pub(super) fn push(&mut self, report: &StepReport) {
        let &StepReport { step, loss, learning_rate, grad_norm, tokens_per_second, .. } = report;
        self.training.push(TrainingPoint {
            step,
            loss,
            learning_rate,
            grad_norm,
            tokens_per_second,
        });
    }
}
