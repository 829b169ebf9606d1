//! Going on from a checkpoint, under the config that it was saved with.

use super::TrainError;
use crate::{
    Error, Result,
    store::{CheckpointError, Checkpoints, Entry},
};
use globset::GlobBuilder;
use serde_json::{Map, Value};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// From which checkpoint a run goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The one that was saved last.
    Latest,
    /// The one with the best metric, which is that of `checkpoint.metric` when it was saved.
    Best,
    /// The one of this step.
    Step(u64),
    /// The folder of a checkpoint, of this run or of another one.
    Path(PathBuf),
}

/// What a run trains, for its checkpoints: they say which model and data they are of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunDescription {
    /// The name of the model in the registry, or any other.
    pub model: String,
    /// The resolved config of everything but the training: an object with a section `model`, `data`
    /// and whatever else decides the run.
    pub config: Value,
}

impl RunDescription {
    /// A run of the model `model` with these sections of config, such as `json!({ "data": … })`.
    pub fn new(model: impl Into<String>, config: Value) -> Self {
        Self { model: model.into(), config }
    }

    /// The config of the run with its section `train`.
    pub(super) fn with_train(&self, train: Value) -> Value {
        let mut sections = match &self.config {
            Value::Object(sections) => sections.clone(),
            _ => Map::new(),
        };
        sections.insert("train".to_owned(), train);
        Value::Object(sections)
    }
}

/// Fields that may differ from those of the checkpoint.
///
/// How long a run is and when it looks, logs and saves is for its user to change at any time; threads
/// that load data never change what is in a batch, nor gradient checkpointing, limits of memory and the ranks that
/// share the work what a step computes. With another number of steps the schedule is that of the new number from there on.
const ALWAYS_ALLOWED: [&str; 19] = [
    "train.steps",
    "train.epochs",
    "train.max_minutes",
    "train.max_traces",
    "train.run_ahead",
    "train.log_every",
    "train.eval_every",
    "train.sanity_batches",
    "train.num_workers",
    "train.prefetch",
    "train.early_stopping",
    "train.early_stopping.*",
    "train.checkpoint.*",
    "train.gradient_checkpointing",
    "train.parallel",
    "train.pipeline_blocks",
    "train.pipeline_schedule",
    "train.memory.*",
    "train.fast_dev_run",
];

/// A field of the config that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its section and name, as in `train.learning_rate`.
    pub field: String,
    /// The value in the checkpoint, as JSON; `None` where it had no such field.
    pub saved: Option<String>,
    /// The value now.
    pub now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".into());
        write!(f, "{}: {} → {}", self.field, shown(&self.saved), shown(&self.now))
    }
}

impl Resume {
    /// The checkpoint that is meant; nothing of it but its manifest is read.
    pub(super) fn find(&self, checkpoints: Option<&Checkpoints>) -> Result<Entry> {
        let there = || checkpoints.ok_or(TrainError::NoCheckpoints);
        let not_found = |problem: String| -> Result<Entry> {
            let path = there()?.folder().to_owned();
            Err(CheckpointError::NotFound { path, problem }.into())
        };
        match self {
            Self::Latest => there()?.latest_or_not_found(),
            Self::Best => match there()?.best()? {
                Some(best) => Ok(best),
                None => {
                    not_found("holds no checkpoint with a metric; resume the latest one".into())
                }
            },
            Self::Step(step) => there()?.entry(*step),
            Self::Path(path) => Ok(Entry::open(path)?),
        }
    }

    /// An error about that checkpoint, with another one to go on from if it was to be the latest.
    pub(super) fn blame(
        &self,
        checkpoints: Option<&Checkpoints>,
        step: u64,
        error: Error,
    ) -> Error {
        match (self, checkpoints) {
            (Self::Latest, Some(checkpoints)) => checkpoints.with_older(step, error),
            _ => error,
        }
    }
}

/// A run as its checkpoints describe it: the name of its model, and its whole config.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described<'a> {
    pub(super) model: &'a str,
    pub(super) config: &'a Value,
}

/// Compares the config of a checkpoint with that of now, and refuses what is not allowed to differ.
///
/// `allowed` are globs of fields, such as `train.learning_rate` or `data.*`. What is returned differs
/// and is allowed to.
pub(super) fn compare(
    saved: &Described<'_>,
    now: &Described<'_>,
    allowed: &[String],
    checkpoint: &Path,
) -> Result<Vec<Difference>> {
    let mut globs = Vec::new();
    for glob in ALWAYS_ALLOWED.into_iter().chain(allowed.iter().map(String::as_str)) {
        let compiled = GlobBuilder::new(glob).build().map_err(|error| {
            Error::message(format!("`{glob}` is no pattern of fields to allow: {error}"))
        })?;
        globs.push(compiled.compile_matcher());
    }
    let may_differ = |field: &str| globs.iter().any(|glob| glob.is_match(field));
    let (allowed, refused): (Vec<_>, Vec<_>) =
        differences(saved, now).into_iter().partition(|it| may_differ(&it.field));
    if refused.is_empty() {
        return Ok(allowed);
    }
    Err(TrainError::ConfigChanged { checkpoint: checkpoint.to_owned(), differences: refused }
        .into())
}

/// Every leaf that differs, in the order of the saved config, then what is new.
fn differences(saved: &Described<'_>, now: &Described<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    if saved.model != now.model {
        let quoted = |name: &str| Some(format!("{name:?}"));
        let (saved, now) = (quoted(saved.model), quoted(now.model));
        found.push(Difference { field: "model.name".to_owned(), saved, now });
    }
    collect("", Some(saved.config), Some(now.config), &mut found);
    found
}

fn collect(field: &str, saved: Option<&Value>, now: Option<&Value>, found: &mut Vec<Difference>) {
    let below =
        |name: &str| if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
    match (saved, now) {
        (Some(Value::Object(saved)), Some(Value::Object(now))) if kind(saved) == kind(now) => {
            for (name, value) in saved {
                collect(&below(name), Some(value), now.get(name), found);
            }
            for (name, value) in now.iter().filter(|(name, _)| !saved.contains_key(*name)) {
                collect(&below(name), None, Some(value), found);
            }
        }
        (saved, now) if saved == now => {}
        (saved, now) => {
            let field = field.to_owned();
            found.push(Difference { field, saved: saved.map(shown), now: now.map(shown) });
        }
    }
}

/// A value in a line: of a variant its name alone, since another one has other fields.
fn shown(value: &Value) -> String {
    let kind = value.as_object().and_then(kind);
    kind.unwrap_or(value).to_string()
}

/// The variant of an enum with fields.
fn kind(table: &Map<String, Value>) -> Option<&Value> {
    table.get("kind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(saved: &Value, now: &Value, allowed: &[&str]) -> String {
        let allowed: Vec<String> = allowed.iter().map(|&glob| glob.to_owned()).collect();
        let described = |config| Described { model: "mlp", config };
        match compare(
            &described(saved),
            &described(now),
            &allowed,
            Path::new("runs/a/checkpoints/step-00000100"),
        ) {
            Ok(differences) => {
                let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
                format!("allowed:\n{}", lines.join("\n"))
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_field_that_differs_is_named_with_both_values() {
        let saved = json!({
            "model": { "name": "mlp", "hidden_sizes": [64, 64], "norm": "none" },
            "train": { "learning_rate": 0.001, "optimizer": { "kind": "adamw", "beta1": 0.9 } },
        });
        let now = json!({
            "model": { "name": "mlp", "hidden_sizes": [64, 32], "dropout": 0.1 },
            "train": { "learning_rate": 0.002, "optimizer": { "kind": "sgd", "momentum": 0.9 } },
        });
        insta::assert_snapshot!(told(&saved, &now, &[]));
    }

    #[test]
    fn fields_of_one_variant_are_compared_one_by_one() {
        let optimizer =
            |beta1: f64| json!({ "train": { "optimizer": { "kind": "adamw", "beta1": beta1 } } });
        let message = told(&optimizer(0.9), &optimizer(0.8), &["model.*"]);
        assert!(message.contains("\n  train.optimizer.beta1: 0.9 → 0.8\n"), "{message}");
    }

    #[test]
    fn what_is_allowed_is_told_and_not_refused() {
        let config = |steps: u64, rate: f64, every: u64| {
            json!({ "train": {
                "steps": steps, "learning_rate": rate, "checkpoint": { "every_steps": every }
            } })
        };
        let (saved, now) = (config(100, 0.1, 10), config(200, 0.2, 20));
        assert!(told(&saved, &now, &[]).contains("learning_rate"));
        assert!(!told(&saved, &now, &[]).contains("steps: 100"));
        for glob in ["train.learning_rate", "train.*", "*"] {
            assert_eq!(
                told(&saved, &now, &[glob]),
                "allowed:\ntrain.steps: 100 → 200\ntrain.learning_rate: 0.1 → 0.2\n\
                 train.checkpoint.every_steps: 10 → 20"
            );
        }
        assert!(told(&saved, &now, &["train.{"]).contains("`train.{` is no pattern"));
    }

    #[test]
    fn what_changes_memory_alone_may_always_differ() {
        let config = |policy: &str, limit: &str| json!({ "train": { "gradient_checkpointing": policy, "memory": { "limit": limit } } });
        let told = told(&config("none", "8 GiB"), &config("full", "6 GiB"), &[]);
        assert!(told.starts_with("allowed:\ntrain.gradient_checkpointing: "), "{told}");
    }

    #[test]
    fn equal_configs_differ_in_nothing() {
        let config = json!({ "train": { "seed": 1, "spike": { "window": 5 } } });
        assert_eq!(told(&config, &config, &[]), "allowed:\n");
    }
}
