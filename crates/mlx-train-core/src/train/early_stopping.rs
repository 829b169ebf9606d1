//! Stopping when a metric gets no better.

use super::Evaluation;
use crate::{Result, config::ModelConfig, store::BestMode};
use serde::{Deserialize, Serialize};

/// When a run stops before its last step: the section `[train.early_stopping]`.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct EarlyStoppingConfig {
    /// What is watched: `loss`, or the name of a metric of the evaluation.
    #[config(default = "loss")]
    pub metric: String,
    /// Which side of the metric is good.
    pub mode: BestMode,
    /// How many evaluations in a row may be no better before the run stops.
    #[config(default = 5, range = 1..)]
    pub patience: u64,
    /// By how much an evaluation has to beat the best one, in the units of the metric.
    #[config(default = 0.0, range = 0.0..)]
    pub min_delta: f64,
}

/// The best value of a metric, and since how many evaluations it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step of the best evaluation.
    pub step: u64,
    /// Its value.
    pub value: f64,
    /// How many evaluations came after it.
    pub evaluations_since: u64,
}

/// Watches the evaluations of a run; it is part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlyStopping {
    best: Option<Best>,
}

impl EarlyStopping {
    /// Takes an evaluation into account, and returns the best one when the run should stop.
    ///
    /// # Errors
    /// The names that the evaluation has, when the metric is none of them.
    pub(super) fn observe(
        &mut self,
        config: &EarlyStoppingConfig,
        step: u64,
        evaluation: &Evaluation,
    ) -> Result<Option<Best>> {
        let EarlyStoppingConfig { metric, mode, patience, min_delta } = config;
        let value = evaluation.named("early_stopping.metric", metric)?;
        let to_beat = |best: f64| match mode {
            BestMode::Min => best - min_delta,
            BestMode::Max => best + min_delta,
        };
        let best = match self.best {
            Some(best) if !mode.is_better(value, to_beat(best.value)) => {
                Best { evaluations_since: best.evaluations_since + 1, ..best }
            }
            // Nothing would ever beat it.
            _ if !value.is_finite() => return Ok(None),
            _ => Best { step, value, evaluations_since: 0 },
        };
        self.best = Some(best);
        Ok((best.evaluations_since >= *patience).then_some(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(config: &EarlyStoppingConfig, values: &[f64]) -> Vec<bool> {
        let mut stopping = EarlyStopping::default();
        let evaluation = |&loss| Evaluation { loss, num_targets: 1.0, metrics: vec![] };
        let mut observe =
            |(step, value)| Ok(stopping.observe(config, step, &evaluation(value))?.is_some());
        (1..).zip(values).map(&mut observe).collect::<Result<_>>().unwrap_or_default()
    }

    #[test]
    fn it_stops_after_patience_evaluations_that_are_no_better() {
        let config = EarlyStoppingConfig { patience: 2, ..Default::default() };
        let losses = [3.0, 2.0, 2.5, 1.0, 1.0, 1.5];
        assert_eq!(verdicts(&config, &losses), [false, false, false, false, false, true]);
    }

    #[test]
    fn an_improvement_below_min_delta_is_none() {
        let config = EarlyStoppingConfig { patience: 1, min_delta: 0.5, ..Default::default() };
        assert_eq!(verdicts(&config, &[3.0, 2.4, 2.0]), [false, false, true]);
    }

    #[test]
    fn a_metric_that_should_rise_may_not_fall() {
        let config = EarlyStoppingConfig { patience: 1, mode: BestMode::Max, ..Default::default() };
        assert_eq!(verdicts(&config, &[0.5, 0.6, 0.4]), [false, false, true]);
    }

    #[test]
    fn nan_is_never_the_best() {
        let config = EarlyStoppingConfig { patience: 2, ..Default::default() };
        assert_eq!(
            verdicts(&config, &[f64::NAN, 2.0, f64::NAN, f64::NAN]),
            [false, false, false, true]
        );
    }

    #[test]
    fn a_metric_that_is_not_measured_is_named_with_those_that_are() {
        let config = EarlyStoppingConfig { metric: "acuracy".into(), ..Default::default() };
        let metrics = vec![("accuracy".into(), 0.5)];
        let evaluation = Evaluation { loss: 1.0, num_targets: 1.0, metrics };
        let refused = EarlyStopping::default().observe(&config, 1, &evaluation);
        let message = refused.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(message.contains("`acuracy`"), "{message}");
        assert!(message.contains("`loss`, `accuracy`"), "{message}");
    }
}
