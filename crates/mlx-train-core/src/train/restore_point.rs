//! Where a run can go back to.

use super::{
    StateArrays, TrainError,
    feed::FeedPosition,
    progress::{Progress, SavedRun},
};
use crate::{Result, store::Loaded};
use std::path::{Path, PathBuf};

/// A state of the run, to which it goes back when a step fails.
#[derive(Debug)]
pub(super) struct RestorePoint {
    at: Place,
    /// How many times the run went back to it.
    num_used: u32,
}

#[derive(Debug)]
enum Place {
    /// Where no checkpoints are kept; the arrays are a second copy of the state.
    Memory(Box<RunState>),
    /// The folder of a checkpoint.
    Disk(PathBuf),
}

/// All that a run consists of, but its place in the data.
#[derive(Debug, Clone)]
pub(super) struct RunState {
    pub(super) step: u64,
    pub(super) arrays: StateArrays,
    pub(super) progress: Progress,
}

impl RestorePoint {
    /// More than that, and going back does not help.
    const MAX_USES: u32 = 3;

    pub(super) fn in_memory(state: RunState) -> Self {
        Self { at: Place::Memory(Box::new(state)), num_used: 0 }
    }

    pub(super) fn on_disk(checkpoint: PathBuf) -> Self {
        Self { at: Place::Disk(checkpoint), num_used: 0 }
    }

    /// The state to go back to, which `load` loads if it is on disk.
    ///
    /// # Errors
    /// [`TrainError::TooManyRollbacks`] when the run went back here too often; when a checkpoint cannot be
    /// loaded.
    pub(super) fn take(
        &mut self,
        step: u64,
        reason: &str,
        load: impl FnOnce(&Path) -> Result<Loaded>,
    ) -> Result<RunState> {
        if self.num_used >= Self::MAX_USES {
            let (rollbacks, reason) = (self.num_used, reason.to_owned());
            return Err(TrainError::TooManyRollbacks { step, rollbacks, reason }.into());
        }
        self.num_used += 1;
        match &self.at {
            Place::Memory(state) => Ok((**state).clone()),
            Place::Disk(path) => Ok(RunState::of(load(path)?)?.0),
        }
    }
}

impl RunState {
    /// The state of a checkpoint with its place in the data.
    ///
    /// # Errors
    /// [`TrainError::NoProgress`] when another program saved it.
    pub(super) fn of(loaded: Loaded) -> Result<(Self, FeedPosition)> {
        let Loaded { path, manifest, weights, training, progress, .. } = loaded;
        let SavedRun { data, progress, .. } =
            serde_json::from_value(progress).map_err(|error| TrainError::NoProgress {
                checkpoint: path,
                problem: error.to_string(),
            })?;
        let arrays = StateArrays { weights, training };
        Ok((Self { step: manifest.step, arrays, progress }, data))
    }
}
