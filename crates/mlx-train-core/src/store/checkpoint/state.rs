//! `state.json`: what resuming needs beside arrays.

use super::Snapshot;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A position in data and schedule takes kilobytes.
pub(super) const MAX_BYTES: u64 = 8 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// As in the manifest, so that the two cannot be mixed up.
    pub(super) run_id: String,
    pub(super) step: u64,
    pub(super) progress: Value,
}

impl State {
    pub(super) fn of(snapshot: &Snapshot, run_id: &str) -> Self {
        let (run_id, progress) = (run_id.to_owned(), snapshot.progress.clone());
        Self { run_id, step: snapshot.step, progress }
    }
}
