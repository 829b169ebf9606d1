//! When a run saves checkpoints, and where the newest one is.

use super::shared_saving::{Share, SharedSaver};
use crate::{
    Result,
    store::{CheckpointConfig, Checkpoints, SaveOutcome, Saver, Snapshot},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Saves checkpoints in the background, as the config says.
#[derive(Debug)]
pub(super) struct Checkpointing {
    saver: AnySaver,
    config: CheckpointConfig,
    saved_at: Instant,
    saved_step: Option<u64>,
    newest: Option<PathBuf>,
}

/// Who writes.
#[derive(Debug)]
enum AnySaver {
    /// A process alone.
    Alone(Box<Saver>),
    /// All ranks.
    Shared(Box<SharedSaver>),
}

impl Checkpointing {
    /// Saves to this folder; `resumed_from` is a checkpoint that needs no saving again.
    ///
    /// # Errors
    /// As [`Saver::new`].
    pub(super) fn new(
        checkpoints: Checkpoints,
        config: &CheckpointConfig,
        resumed_from: Option<(u64, PathBuf)>,
    ) -> Result<Self> {
        let saver = AnySaver::Alone(Box::new(Saver::new(checkpoints, config)?));
        Ok(Self::with(saver, config, resumed_from))
    }

    /// As [`Checkpointing::new`], of all ranks.
    pub(super) fn shared(
        saver: SharedSaver,
        config: &CheckpointConfig,
        resumed_from: Option<(u64, PathBuf)>,
    ) -> Self {
        Self::with(AnySaver::Shared(Box::new(saver)), config, resumed_from)
    }

    fn with(
        saver: AnySaver,
        config: &CheckpointConfig,
        resumed_from: Option<(u64, PathBuf)>,
    ) -> Self {
        let (saved_step, newest) = resumed_from.unzip();
        Self { saver, config: config.clone(), saved_at: Instant::now(), saved_step, newest }
    }

    /// Which arrays this rank writes, if there are others.
    pub(super) fn share(&self) -> Option<&Share> {
        match &self.saver {
            AnySaver::Alone(_) => None,
            AnySaver::Shared(saver) => Some(saver.share()),
        }
    }

    /// Whether `every_minutes` are over since the last checkpoint, by the clock of this rank.
    pub(super) fn is_late(&self) -> bool {
        self.config.is_late(self.saved_at.elapsed())
    }

    /// Whether this rank has something to write that the others may wait for.
    pub(super) fn is_busy(&self) -> bool {
        match &self.saver {
            AnySaver::Alone(_) => false,
            AnySaver::Shared(saver) => saver.is_busy(),
        }
    }

    /// No rank is busy any more, which all have agreed on.
    ///
    /// # Errors
    /// When MLX fails in a collective.
    pub(super) fn advance(&mut self) -> Result<()> {
        match &mut self.saver {
            AnySaver::Alone(_) => Ok(()),
            AnySaver::Shared(saver) => saver.advance(),
        }
    }

    /// Whether this step is saved: its turn has come, by steps or time, it is the last or the best one.
    pub(super) fn is_due(&self, step: u64, is_last: bool, is_best: bool, is_late: bool) -> bool {
        let is_kept = is_best && self.config.keep_best > 0;
        let is_due = is_last || is_kept || is_late || self.config.is_due(step, Duration::ZERO);
        is_due && self.saved_step != Some(step)
    }

    /// Saves a snapshot of this step, and returns for how long that held the run up.
    ///
    /// # Errors
    /// What `take` returns; when the system has no thread to spare.
    pub(super) fn save(
        &mut self,
        step: u64,
        take: impl FnOnce() -> Result<Snapshot>,
    ) -> Result<Duration> {
        let began = Instant::now();
        match &mut self.saver {
            AnySaver::Alone(saver) => saver.save(take)?,
            AnySaver::Shared(saver) => saver.save(step, take)?,
        }
        self.saved_at = Instant::now();
        self.saved_step = Some(step);
        Ok(began.elapsed())
    }

    /// Forgets which step was saved last: what comes now is another one of that number.
    pub(super) fn went_back(&mut self) {
        self.saved_step = None;
    }

    /// The saves that have ended since this was last asked.
    pub(super) fn finished(&mut self) -> Vec<SaveOutcome> {
        let outcomes = match &mut self.saver {
            AnySaver::Alone(saver) => saver.finished(),
            AnySaver::Shared(saver) => saver.finished(),
        };
        self.note(&outcomes);
        outcomes
    }

    /// Waits until all is on disk, and tells of the saves that have ended since that was last asked.
    ///
    /// # Errors
    /// When MLX fails in a collective.
    pub(super) fn settle(&mut self) -> Result<Vec<SaveOutcome>> {
        let outcomes = match &mut self.saver {
            AnySaver::Alone(saver) => saver.settle(),
            AnySaver::Shared(saver) => {
                saver.settle()?;
                saver.finished()
            }
        };
        self.note(&outcomes);
        Ok(outcomes)
    }

    /// The newest checkpoint that is on disk.
    pub(super) fn newest(&self) -> Option<&PathBuf> {
        self.newest.as_ref()
    }

    fn note(&mut self, outcomes: &[SaveOutcome]) {
        for outcome in outcomes {
            match &outcome.result {
                Ok(saved) => self.newest = Some(saved.path.clone()),
                // It is due again, when its turn has come again or the run ends.
                Err(_) if self.saved_step == Some(outcome.step) => self.saved_step = None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_saved_once_unless_the_run_went_back_to_it() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| crate::Error::message(e.to_string()))?;
        let checkpoints = Checkpoints::create(folder.path().join("checkpoints"))?;
        let config = CheckpointConfig { every_steps: 4, ..Default::default() };
        let mut saving = Checkpointing::new(checkpoints, &config, None)?;
        let due =
            |saving: &Checkpointing| [3, 4, 5].map(|step| saving.is_due(step, false, false, false));
        assert_eq!(due(&saving), [false, true, false]);
        saving.save(4, || Snapshot::take::<String>(4, [], []))?;
        assert_eq!(due(&saving), [false, false, false]);
        assert!(!saving.is_due(4, true, true, false) && saving.is_due(5, true, false, false));
        saving.went_back();
        assert_eq!(due(&saving), [false, true, false]);
        Ok(())
    }
}
