//! Which positions make a batch, and what becomes of the end of an epoch.

use super::{DataError, Sampler};
use crate::Result;
use std::ops::Range;

/// What happens when an epoch does not end with a whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpochEnd {
    /// The batch goes on into the next epoch: all batches have the same size, and no row is left out.
    #[default]
    RunOn,
    /// The last batch of an epoch is smaller: no row is left out, and every epoch starts a batch.
    Smaller,
    /// The rows that fill no batch are left out; other ones in each shuffled epoch.
    Drop,
}

/// How the positions of a run are cut into batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    batch_size: u64,
    rows_per_epoch: u64,
    epoch_end: EpochEnd,
    /// The position after the last epoch; the largest number when there is no last one.
    end: u64,
}

/// The positions of one batch, and the position after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedBatch {
    pub(super) rows: Range<u64>,
    pub(super) next: u64,
}

impl Plan {
    /// # Errors
    /// [`DataError::Invalid`] when a batch has no row, more than an axis can have, or would never be full.
    pub(super) fn new(
        sampler: &Sampler,
        batch_size: usize,
        epoch_end: EpochEnd,
        epochs: Option<u64>,
    ) -> Result<Self> {
        let rows_per_epoch = sampler.rows_per_epoch();
        let problem = if batch_size == 0 {
            "a batch needs at least one row: raise the batch size from 0".to_owned()
        } else if i32::try_from(batch_size).is_err() {
            format!(
                "a batch of {batch_size} rows has more than the 2^31 - 1 that an axis can; use a smaller one"
            )
        } else if epoch_end == EpochEnd::Drop && rows_per_epoch < batch_size {
            format!(
                "an epoch of {rows_per_epoch} rows fills no batch of {batch_size}, and what fills none is \
                 dropped: use smaller batches, or keep the end of the epoch"
            )
        } else {
            let (batch_size, rows_per_epoch) = (batch_size as u64, rows_per_epoch as u64);
            let end = epochs.map_or(u64::MAX, |epochs| epochs.saturating_mul(rows_per_epoch));
            return Ok(Self { batch_size, rows_per_epoch, epoch_end, end });
        };
        Err(DataError::Invalid(problem).into())
    }

    /// The batch that comes at `position`; none when the last epoch is over.
    ///
    /// What [`EpochEnd::Drop`] leaves out is skipped as soon as the last batch of an epoch was taken.
    pub(super) fn batch(&self, position: u64) -> Option<PlannedBatch> {
        let start = self.skip_dropped(position);
        if start >= self.end {
            return None;
        }
        let room = match self.epoch_end {
            EpochEnd::RunOn | EpochEnd::Drop => self.end - start,
            EpochEnd::Smaller => self.left_in_epoch(start),
        };
        let end = start + self.batch_size.min(room);
        Some(PlannedBatch { rows: start..end, next: self.skip_dropped(end) })
    }

    /// The size of the batches, and of the last before the end if it is smaller.
    pub(super) fn sizes(&self) -> (u64, Option<u64>) {
        let (size, rows) = (self.batch_size, self.rows_per_epoch);
        let left = match self.epoch_end {
            EpochEnd::RunOn if self.end == u64::MAX => 0,
            EpochEnd::RunOn => self.end % size,
            EpochEnd::Smaller => rows % size,
            EpochEnd::Drop => 0,
        };
        (size, (left > 0).then_some(left))
    }

    /// All batches from a position on.
    pub(super) fn batches_from(self, position: u64) -> impl Iterator<Item = PlannedBatch> {
        std::iter::successors(self.batch(position), move |batch| self.batch(batch.next))
    }

    /// How many batches there are from the start of the first epoch to the end of the last of `epochs`.
    pub(super) fn batches_in(&self, epochs: u64) -> u64 {
        let (rows, size) = (self.rows_per_epoch, self.batch_size);
        match self.epoch_end {
            EpochEnd::RunOn => epochs.saturating_mul(rows).div_ceil(size),
            EpochEnd::Smaller => epochs.saturating_mul(rows.div_ceil(size)),
            EpochEnd::Drop => epochs.saturating_mul(rows / size),
        }
    }

    fn left_in_epoch(&self, position: u64) -> u64 {
        self.rows_per_epoch - position % self.rows_per_epoch
    }

    /// The next epoch, where the rest of this one fills no batch and is dropped.
    fn skip_dropped(&self, position: u64) -> u64 {
        let left = self.left_in_epoch(position);
        let drops = self.epoch_end == EpochEnd::Drop && left < self.batch_size;
        if drops { position + left } else { position }
    }
}
