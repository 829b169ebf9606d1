//! When a run saves checkpoints, and where the newest one is.

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
    saver: Saver,
    config: CheckpointConfig,
    saved_at: Instant,
    saved_step: Option<u64>,
    newest: Option<PathBuf>,
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
        let saver = Saver::new(checkpoints, config)?;
        let (saved_step, newest) = resumed_from.unzip();
        Ok(Self { saver, config: config.clone(), saved_at: Instant::now(), saved_step, newest })
    }

    /// Whether this step is saved: its turn has come, it is the last or the best one.
    pub(super) fn is_due(&self, step: u64, is_last: bool, is_best: bool) -> bool {
        let is_kept = is_best && self.config.keep_best > 0;
        let is_due = is_last || is_kept || self.config.is_due(step, self.saved_at.elapsed());
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
        self.saver.save(take)?;
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
        let outcomes = self.saver.finished();
        self.note(&outcomes);
        outcomes
    }

    /// Waits until all is on disk; the newest checkpoint is there then.
    pub(super) fn finish(self) -> (Vec<SaveOutcome>, Option<PathBuf>) {
        let outcomes = self.saver.finish();
        let saved = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok());
        let newest = saved.map(|saved| saved.path.clone()).next_back().or(self.newest);
        (outcomes, newest)
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
        let due = |saving: &Checkpointing| [3, 4, 5].map(|step| saving.is_due(step, false, false));
        assert_eq!(due(&saving), [false, true, false]);
        saving.save(4, || Snapshot::take::<String>(4, [], []))?;
        assert_eq!(due(&saving), [false, false, false]);
        assert!(!saving.is_due(4, true, true) && saving.is_due(5, true, false));
        saving.went_back();
        assert_eq!(due(&saving), [false, true, false]);
        Ok(())
    }
}
