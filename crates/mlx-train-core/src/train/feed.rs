//! The micro-batches of a run: which come next, and when there are no more.

use super::TrainConfig;
use crate::{
    Result,
    batch::Batch,
    data::{DataLoader, Position},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A loader that ends with the last epoch, or begins again after `overfit_batches`.
#[derive(Debug)]
pub(super) struct Feed {
    loader: DataLoader,
    start: Position,
    num_taken: u64,
    epochs: Option<u64>,
    overfit_batches: u64,
}

/// How far a run has come through its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedPosition {
    loader: Position,
    num_taken: u64,
}

impl Feed {
    pub(super) fn new(loader: DataLoader, config: &TrainConfig) -> Self {
        let (start, epochs) = (loader.position(), config.epochs);
        Self { loader, start, num_taken: 0, epochs, overfit_batches: config.overfit_batches }
    }

    /// The next micro-batch, or `None` after the last epoch.
    pub(super) fn next(&mut self) -> Option<Result<Batch>> {
        (!self.is_over()).then(|| self.next_of_any())
    }

    fn next_of_any(&mut self) -> Result<Batch> {
        if self.overfit_batches > 0 && self.num_taken.is_multiple_of(self.overfit_batches) {
            self.loader.resume_at(&self.start)?;
        }
        let batch = self.loader.next_batch()?;
        self.num_taken += 1;
        Ok(batch)
    }

    /// Whether the last epoch is over.
    pub(super) fn is_over(&self) -> bool {
        let Some(epochs) = self.epochs else { return false };
        if self.overfit_batches > 0 {
            return self.num_taken >= epochs.saturating_mul(self.overfit_batches);
        }
        // In rows: a run may be resumed with batches of another size.
        let rows = epochs.saturating_mul(self.loader.rows_per_epoch() as u64);
        self.loader.position().rows_taken() >= rows
    }

    /// How many micro-batches the epochs have, if epochs end the run.
    pub(super) fn num_batches(&self) -> Option<u64> {
        self.epochs.map(|epochs| match self.overfit_batches {
            0 => self.loader.batches_in(epochs),
            batches => epochs.saturating_mul(batches),
        })
    }

    /// How many epochs were taken, as a fraction.
    pub(super) fn epochs(&self) -> f64 {
        match self.overfit_batches {
            0 => self.loader.epochs(),
            batches => self.num_taken as f64 / batches as f64,
        }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.loader.num_rows()
    }

    /// How long all waiting for batches took together.
    pub(super) fn waited(&self) -> Duration {
        self.loader.waited()
    }

    pub(super) fn position(&self) -> FeedPosition {
        FeedPosition { loader: self.loader.position(), num_taken: self.num_taken }
    }

    /// Goes to a position that [`Feed::position`] gave.
    ///
    /// # Errors
    /// [`crate::data::DataError::Position`] when it belongs to other data.
    pub(super) fn resume_at(&mut self, position: &FeedPosition) -> Result<()> {
        self.loader.resume_at(&position.loader)?;
        self.num_taken = position.num_taken;
        Ok(())
    }
}
