//! What happened in a run besides its numbers, one line an event: `events.jsonl`.
//!
//! Nothing is taken out of it: a resume that goes back to an earlier step is one more event.

use super::lines;
use crate::{
    Result, clock,
    profile::Bytes,
    progress::grouped,
    train::{Best, Event, Finished, Outcome, SkippedStep, Spike},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in seconds since 1970.
    pub time: f64,
    /// How many steps were taken, where that is known.
    #[serde(default)]
    pub step: Option<u64>,
    /// What kind of event it is.
    pub kind: EventKind,
    /// What happened, in words.
    #[serde(default)]
    pub text: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A run began.
    Started,
    /// A run went on from a checkpoint.
    Resumed,
    /// A checkpoint was written.
    Saved,
    /// A checkpoint could not be written.
    SaveFailed,
    /// A step was not applied.
    Skipped,
    /// A loss jumped.
    Spike,
    /// The run went back to an earlier step.
    RolledBack,
    /// What early stopping watches got no better.
    NoProgress,
    /// The run ended before its last step, as it was told.
    Stopped,
    /// All steps were taken.
    Finished,
    /// The run ended with an error.
    Failed,
    /// Some steps were recorded.
    Profiled,
    /// Memory grew from step to step.
    SuspectedLeak,
    /// The blocks were divided among the stages of a pipeline.
    PipelineCut,
    /// Something that a person should know.
    Warning,
    /// What a later version of mlx-train wrote.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Resumed => "resumed",
            Self::Saved => "saved",
            Self::SaveFailed => "save failed",
            Self::Skipped => "step skipped",
            Self::Spike => "loss spike",
            Self::RolledBack => "rolled back",
            Self::NoProgress => "no progress",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Profiled => "profiled",
            Self::SuspectedLeak => "suspected leak",
            Self::PipelineCut => "pipeline",
            Self::Warning => "warning",
            Self::Unknown => "event",
        }
    }

    /// Whether something went wrong.
    pub fn is_trouble(self) -> bool {
        use EventKind::{Failed, RolledBack, SaveFailed, Skipped, Spike, SuspectedLeak, Warning};
        matches!(self, Failed | RolledBack | SaveFailed | Skipped | Spike | SuspectedLeak | Warning)
    }
}

/// How a run stands, by its last events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All steps were taken.
    Finished,
    /// It ended before its last step, as it was told, and can be resumed.
    Stopped,
    /// It ended with an error.
    Failed,
    /// It has no end: it still runs, or was killed.
    Open,
}

impl Entry {
    /// An event of a trainer in words; `None` for reports and evaluations, which are numbers.
    ///
    /// It has a step where the event tells one.
    pub(crate) fn of(event: &Event<'_>) -> Option<Self> {
        use EventKind as Kind;
        let (kind, step, text) = match event {
            Event::Started(started) => {
                let numbers =
                    [started.num_trainable, started.num_parameters, started.num_rows as u64];
                let [trainable, parameters, rows] = numbers.map(grouped);
                let (steps, of) = (grouped(started.steps), "parameters on");
                let text =
                    format!("{trainable} of {parameters} {of} {rows} rows for {steps} steps");
                (Kind::Started, None, text)
            }
            Event::Resumed { step, checkpoint } => {
                (Kind::Resumed, Some(*step), format!("from {}", checkpoint.display()))
            }
            Event::PipelineCut { blocks, seconds } => {
                let why = match seconds {
                    Some(seconds) => format!("by times that took {seconds:.1} s to measure"),
                    None => "as before".to_owned(),
                };
                (Kind::PipelineCut, None, format!("stages of {blocks:?} blocks, {why}"))
            }
            Event::Skipped(skipped) => {
                let SkippedStep { step, loss, grad_norm, learning_rate, in_a_row } = skipped;
                let numbers =
                    format!("loss {loss}, gradient norm {grad_norm}, lr {learning_rate:.2e}");
                (Kind::Skipped, Some(*step), format!("{numbers}; {in_a_row} in a row"))
            }
            Event::Spike(Spike { step, loss, median, .. }) => {
                (Kind::Spike, Some(*step), format!("{loss:.4}, where {median:.4} is typical"))
            }
            Event::RolledBack { from, to, reason } => {
                (Kind::RolledBack, Some(*from), format!("to step {to}: {reason}"))
            }
            Event::CheckpointSaved { step, path, bytes, seconds } => {
                let size = Bytes(*bytes);
                let text = format!("{} ({size} in {seconds:.1} s)", path.display());
                (Kind::Saved, Some(*step), text)
            }
            Event::CheckpointFailed { step, error } => {
                (Kind::SaveFailed, Some(*step), (*error).to_owned())
            }
            Event::StoppedEarly { step, metric, best } => {
                let Best { step: best_step, value, .. } = best;
                let text = format!("{metric} is no better than {value:.4} of step {best_step}");
                (Kind::NoProgress, Some(*step), text)
            }
            Event::Profiled { step, trace, .. } => {
                let text = format!("{}; open it in https://ui.perfetto.dev", trace.display());
                (Kind::Profiled, Some(*step), text)
            }
            Event::SuspectedLeak(leak) => (Kind::SuspectedLeak, Some(leak.step), leak.to_string()),
            Event::Warning(text) => (Kind::Warning, None, (*text).to_owned()),
            Event::Finished(Finished { step, outcome, .. }) => match outcome {
                Outcome::Completed => (Kind::Finished, Some(*step), String::new()),
                Outcome::Stopped { reason, checkpoint } => {
                    let next = checkpoint.as_ref();
                    let next = next.map(|path| format!("; it goes on from {}", path.display()));
                    let text = format!("{reason}{}", next.unwrap_or_default());
                    (Kind::Stopped, Some(*step), text)
                }
            },
            _ => return None,
        };
        Some(Self::now(kind, step, text))
    }

    /// An event of this moment.
    pub(super) fn now(kind: EventKind, step: Option<u64>, text: impl Into<String>) -> Self {
        Self { time: clock::now(), step, kind, text: text.into() }
    }
}

/// Reads the events of a run, in the order of time; a file that is not there has none.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    lines::read(path, |line| entries.extend(serde_json::from_value::<Entry>(line.into()).ok()))?;
    Ok(entries)
}

/// How the run of these events stands.
pub(super) fn status(entries: &[Entry]) -> Status {
    let ends = entries.iter().rev().find_map(|entry| match entry.kind {
        EventKind::Finished => Some(Status::Finished),
        EventKind::Stopped => Some(Status::Stopped),
        EventKind::Failed => Some(Status::Failed),
        EventKind::Started | EventKind::Resumed => Some(Status::Open),
        _ => None,
    });
    ends.unwrap_or(Status::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_resumed_after_a_failure_is_open_again() {
        use EventKind::{Failed, Finished, Resumed, Saved, Started, Stopped, Warning};
        let entries = |kinds: &[EventKind]| -> Vec<_> {
            kinds.iter().map(|kind| Entry::now(*kind, None, "")).collect()
        };
        assert_eq!(status(&[]), Status::Open);
        assert_eq!(status(&entries(&[Started, Saved, Failed, Saved])), Status::Failed);
        assert_eq!(status(&entries(&[Started, Failed, Started, Resumed])), Status::Open);
        assert_eq!(
            status(&entries(&[Started, Stopped, Resumed, Finished, Warning])),
            Status::Finished
        );
    }

    #[test]
    fn events_of_a_later_version_are_read_too() {
        let entry: Entry = serde_json::from_str(r#"{"time": 1.5, "kind": "danced", "more": 1}"#)
            .unwrap_or_else(|_| Entry::now(EventKind::Failed, None, ""));
        assert_eq!((entry.kind, entry.step), (EventKind::Unknown, None));
    }
}
