//! The order in which rows become batches.

use super::{Batch, DataError, Dataset, Permutation};
use crate::Result;

/// An endless stream of batches: every epoch has each row once, in an order of its own.
///
/// A batch that reaches the end of an epoch goes on into the next, so that all batches have the
/// same size. The position is the number of rows that were taken.
#[derive(Debug, Clone)]
pub struct Stream<D> {
    dataset: D,
    seed: u64,
    position: u64,
}

impl<D: Dataset> Stream<D> {
    /// A stream from the start of the first epoch, in the orders that belong to `seed`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the dataset has no row.
    pub fn new(dataset: D, seed: u64) -> Result<Self> {
        if dataset.is_empty() {
            return Err(
                DataError::Invalid("the training data has no row to train on".into()).into()
            );
        }
        Ok(Self { dataset, seed, position: 0 })
    }

    /// The dataset that the rows come from.
    pub fn dataset(&self) -> &D {
        &self.dataset
    }

    /// How many rows were taken since the start of the first epoch.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to a position that [`Stream::position`] gave, at once.
    #[must_use]
    pub fn resume_at(self, position: u64) -> Self {
        Self { position, ..self }
    }

    /// How many epochs were taken, as a fraction.
    pub fn epochs(&self) -> f64 {
        self.position as f64 / self.dataset.len() as f64
    }

    /// The next `size` rows.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when MLX could not count them; when the dataset cannot give them.
    pub fn next_batch(&mut self, size: usize) -> Result<Batch> {
        if i32::try_from(size).is_err() {
            let message = format!(
                "a batch of {size} rows has more than the 2^31 - 1 that an axis can; use a smaller one"
            );
            return Err(DataError::Invalid(message).into());
        }
        let len = self.dataset.len() as u64;
        let mut rows = Vec::with_capacity(size);
        let mut position = self.position;
        while rows.len() < size {
            let order = Permutation::new(self.dataset.len(), self.seed, position / len);
            let start = (position % len) as usize;
            let end = self.dataset.len().min(start + size - rows.len());
            rows.extend((start..end).map(|index| order.at(index)));
            position += (end - start) as u64;
        }
        let batch = self.dataset.batch(&rows)?;
        self.position = position;
        Ok(batch)
    }
}

/// Every row once, in order, in batches of `size`; the last may be smaller.
pub fn batches<D: Dataset + ?Sized>(
    dataset: &D,
    size: usize,
) -> impl ExactSizeIterator<Item = Result<Batch>> {
    let (len, size) = (dataset.len(), size.max(1));
    (0..len.div_ceil(size)).map(move |index| {
        let rows: Vec<usize> = (index * size..len.min((index + 1) * size)).collect();
        dataset.batch(&rows)
    })
}
