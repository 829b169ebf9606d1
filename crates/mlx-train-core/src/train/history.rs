//! The numbers of a run, for curves and tables.

use super::{Evaluation, StepReport, saved_number::SavedNumber};
use serde::{Deserialize, Serialize};

/// What was measured in a run, in the order of the steps; a run that is resumed goes on with it.
///
/// It holds at most 32,768 reports and 8,192 evaluations: where there would be more, every second one
/// so far is left out. That is more than a picture shows, and a run of any length has room for it in its
/// memory and its checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// One point for each report.
    pub training: Vec<TrainingPoint>,
    /// One point for each evaluation.
    pub held_out: Vec<HeldOutPoint>,
}

const MAX_TRAINING: usize = 32_768;
const MAX_HELD_OUT: usize = 8_192;

/// The training at one report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "SavedTrainingPoint", from = "SavedTrainingPoint")]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "SavedHeldOutPoint", from = "SavedHeldOutPoint")]
pub struct HeldOutPoint {
    /// How many steps were taken.
    pub step: u64,
    /// The result.
    pub evaluation: Evaluation,
}

/// A training point in the order of its fields: without their names it takes half of the room.
type SavedTrainingPoint = (u64, SavedNumber, SavedNumber, SavedNumber, SavedNumber);

/// Step, loss, number of targets, metrics.
type SavedHeldOutPoint = (u64, SavedNumber, SavedNumber, Vec<(String, SavedNumber)>);

impl History {
    /// The last evaluation.
    pub fn last_held_out(&self) -> Option<&Evaluation> {
        self.held_out.last().map(|point| &point.evaluation)
    }

    pub(super) fn push_report(&mut self, report: &StepReport) {
        let &StepReport { step, loss, learning_rate, grad_norm, tokens_per_second, .. } = report;
        let point = TrainingPoint { step, loss, learning_rate, grad_norm, tokens_per_second };
        push_bounded(&mut self.training, point, MAX_TRAINING);
    }

    pub(super) fn push_evaluation(&mut self, step: u64, evaluation: Evaluation) {
        push_bounded(&mut self.held_out, HeldOutPoint { step, evaluation }, MAX_HELD_OUT);
    }
}

/// Appends a point; when there are `max` already, every second of them goes.
fn push_bounded<T>(points: &mut Vec<T>, point: T, max: usize) {
    if points.len() >= max {
        let mut stays = false;
        points.retain(|_| {
            stays = !stays;
            stays
        });
    }
    points.push(point);
}

impl From<TrainingPoint> for SavedTrainingPoint {
    fn from(point: TrainingPoint) -> Self {
        let TrainingPoint { step, loss, learning_rate, grad_norm, tokens_per_second } = point;
        (step, loss.into(), learning_rate.into(), grad_norm.into(), tokens_per_second.into())
    }
}

impl From<SavedTrainingPoint> for TrainingPoint {
    fn from((step, loss, learning_rate, grad_norm, rate): SavedTrainingPoint) -> Self {
        Self {
            step,
            loss: loss.into(),
            learning_rate: learning_rate.into(),
            grad_norm: grad_norm.into(),
            tokens_per_second: rate.into(),
        }
    }
}

impl From<HeldOutPoint> for SavedHeldOutPoint {
    fn from(HeldOutPoint { step, evaluation }: HeldOutPoint) -> Self {
        let Evaluation { loss, num_targets, metrics } = evaluation;
        let metrics = metrics.into_iter().map(|(name, value)| (name, value.into()));
        (step, loss.into(), num_targets.into(), metrics.collect())
    }
}

impl From<SavedHeldOutPoint> for HeldOutPoint {
    fn from((step, loss, num_targets, metrics): SavedHeldOutPoint) -> Self {
        let metrics = metrics.into_iter().map(|(name, value)| (name, value.into())).collect();
        let evaluation = Evaluation { loss: loss.into(), num_targets: num_targets.into(), metrics };
        Self { step, evaluation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_comes_back_from_json_as_it_was() {
        let point = |step: u64, loss| TrainingPoint {
            step,
            loss,
            learning_rate: 0.1 + 0.2,
            grad_norm: 1.0 / 3.0,
            tokens_per_second: 1e300,
        };
        let metrics = vec![("accuracy".to_owned(), 2.0 / 3.0)];
        let evaluation = Evaluation { loss: f64::INFINITY, num_targets: 17.0, metrics };
        let history = History {
            training: vec![point(1, 0.1), point(2, f64::NEG_INFINITY)],
            held_out: vec![HeldOutPoint { step: 2, evaluation }],
        };
        let text = serde_json::to_string(&history).unwrap_or_default();
        assert_eq!(serde_json::from_str::<History>(&text).ok(), Some(history), "{text}");
    }

    #[test]
    fn a_history_that_is_full_thins_out_and_keeps_the_newest() {
        let mut points = Vec::new();
        for step in 1..=20 {
            push_bounded(&mut points, step, 8);
            assert!(points.len() <= 8 && points.last() == Some(&step));
        }
        assert_eq!(points, [1, 9, 13, 15, 17, 18, 19, 20]);
    }
}
