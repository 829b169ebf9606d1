//! The settings that a plan decides, as a file that training takes.

use super::{candidate::Candidate, error::PlanError, search::Plan, text};
use crate::{
    checkpoint::CheckpointPolicy, config::ConfigError, config::read_text, distributed::Parallelism,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The settings that a [`Plan`] has chosen: what `train --plan` takes from a file.
///
/// ```
/// use mlx_train_core::plan::Choice;
/// let choice: Choice = Choice::parse(r#"{"choice": {"model": "transformer", "parallel": "fsdp=4",
///     "gradient_checkpointing": "full", "batch_size": 8, "accumulation": 2, "blocks": [12],
///     "predicted_bytes": 1073741824, "predicted_seconds": 0.5}}"#)?;
/// assert_eq!(choice.rows(), 16);
/// assert_eq!(choice.overrides()[0], "train.parallel='fsdp=4'");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The name of the model that was planned for.
    pub model: String,
    /// Into how many parts the run is split.
    #[serde(with = "text")]
    pub parallel: Parallelism,
    /// Which blocks compute twice.
    #[serde(with = "text")]
    pub gradient_checkpointing: CheckpointPolicy,
    /// How many rows a micro-batch has, over all ranks.
    pub batch_size: usize,
    /// How many micro-batches a step has.
    pub accumulation: usize,
    /// How many blocks each stage of the pipeline has.
    pub blocks: Vec<usize>,
    /// The memory that a device is predicted to need, in bytes.
    pub predicted_bytes: u64,
    /// How long a step is predicted to take, in seconds.
    pub predicted_seconds: f64,
}

/// A file that has more than the choice: the candidates, for people.
#[derive(Deserialize)]
struct File {
    choice: Choice,
}

impl Choice {
    /// What one of the candidates of a plan decides.
    pub fn of(plan: &Plan, candidate: &Candidate) -> Self {
        Self {
            model: plan.model.clone(),
            parallel: candidate.layout,
            gradient_checkpointing: candidate.policy.clone(),
            batch_size: plan.rows / candidate.micro_batches,
            accumulation: candidate.micro_batches,
            blocks: candidate.blocks.clone(),
            predicted_bytes: candidate.memory.total(),
            predicted_seconds: candidate.seconds.total(),
        }
    }

    /// Reads the JSON that `mlx-train plan` writes.
    ///
    /// # Errors
    /// When it is no such JSON.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<File>(json).map(|file| file.choice)
    }

    /// Reads a file that `mlx-train plan --output` has written.
    ///
    /// # Errors
    /// [`PlanError::File`] when it is no such file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        let refused = |reason: String| PlanError::File { path: path.to_owned(), reason };
        let text = read_text(path).map_err(|error| match error {
            ConfigError::File(error) => PlanError::Io(error),
            other => refused(other.to_string()),
        })?;
        Self::parse(&text).map_err(|error| refused(error.to_string()))
    }

    /// How many rows a step has.
    pub fn rows(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulation)
    }

    /// The same as overrides of a config.
    pub fn overrides(&self) -> Vec<String> {
        // One stage has all of them, however many there are.
        let blocks = match &self.blocks[..] {
            [] | [_] => "even".to_owned(),
            blocks => format!("{blocks:?}"),
        };
        vec![
            format!("train.parallel='{}'", self.parallel),
            format!("train.gradient_checkpointing='{}'", self.gradient_checkpointing),
            format!("train.batch_size={}", self.batch_size),
            format!("train.accumulation={}", self.accumulation),
            format!("train.pipeline_blocks={blocks}"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        plan,
        samples::{cluster, workload},
    };

    #[test]
    fn what_was_chosen_is_read_from_the_json_that_it_was_written_to() {
        let plan = plan(&workload(), &cluster(8, 1 << 30), None).expect("it fits");
        let best = plan.candidates.iter().filter(|candidate| candidate.fits());
        for candidate in best {
            let choice = Choice::of(&plan, candidate);
            assert_eq!(choice.rows(), 32);
            let json = serde_json::json!({ "choice": choice, "candidates": [candidate] });
            assert_eq!(Choice::parse(&json.to_string()).expect("it was written so"), choice);
        }
    }

    #[test]
    fn a_file_that_is_no_plan_is_refused_with_its_name_and_what_is_wrong() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("plan.json");
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("a file is written");
            Choice::load(&path).expect_err("it is no plan").to_string()
        };
        for (text, reason) in [
            ("{", "EOF"),
            ("{}", "missing field `choice`"),
            (r#"{"choice": {"model": 3}}"#, "expected a string"),
            (r#"{"choice": {"model": "m", "parallel": "dp"}}"#, "`dp` has no `=`"),
            (r#"{"choice": {"models": "m"}}"#, "unknown field `models`"),
        ] {
            let message = refused(text);
            assert!(message.contains("plan.json") && message.contains(reason), "{message}");
        }
        let missing = Choice::load(folder.path().join("none.json")).expect_err("it is not there");
        assert!(missing.to_string().contains("none.json"), "{missing}");
    }
}
