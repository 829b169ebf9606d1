//! What a path that a person typed stands for.

use super::{Checkpoints, Entry, names::step_of};
use crate::Result;
use std::path::Path;

/// Checkpoints that a path stands for.
#[derive(Debug)]
pub enum Location {
    /// All of a run.
    Run(Checkpoints),
    /// One.
    Step(Box<Entry>),
}

impl Location {
    /// Looks at a path: the folder of a run, its `checkpoints`, or the folder of a step.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`](super::CheckpointError::NotFound) when it is none of them.
    pub fn find(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if is_step(path) {
            return Ok(Self::Step(Box::new(Entry::open(path)?)));
        }
        let inner = path.join("checkpoints");
        Ok(Self::Run(Checkpoints::open(if inner.is_dir() { &inner } else { path })?))
    }

    /// The one checkpoint, or the latest of the run.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`](super::CheckpointError::NotFound) when the run has none yet.
    pub fn entry(self) -> Result<Entry> {
        match self {
            Self::Step(entry) => Ok(*entry),
            Self::Run(checkpoints) => checkpoints.latest_or_not_found(),
        }
    }
}

/// Whether a folder is that of a checkpoint, be it damaged.
pub(in crate::store) fn is_step(path: &Path) -> bool {
    let named = path.file_name().and_then(|name| step_of(name.to_str()?)).is_some();
    let has = |name: &str| path.join(name).symlink_metadata().is_ok();
    path.is_dir() && (named || (has(super::names::MANIFEST) && has(super::names::STATE)))
}
