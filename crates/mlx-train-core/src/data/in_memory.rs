//! Rows that are arrays already.

use super::{Batch, DataError, Dataset, Permutation, dataset::check_rows, split::num_training};
use crate::Result;
use mlx_rs::Array;

/// Features and targets in memory, one row each.
#[derive(Debug, Clone)]
pub struct InMemory {
    features: Array,
    targets: Array,
}

impl InMemory {
    /// Features `(N, ...)` with targets `(N, ...)`, of any dtypes.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless both have the same number of rows, at least one.
    pub fn new(features: Array, targets: Array) -> Result<Self> {
        let rows = |array: &Array| array.shape().first().copied().unwrap_or(0);
        if rows(&features) == rows(&targets) && rows(&features) > 0 {
            return Ok(Self { features, targets });
        }
        Err(DataError::Invalid(format!(
            "features of shape {:?} and targets of shape {:?} do not belong together: both need the \
             same number of rows, at least one",
            features.shape(),
            targets.shape()
        ))
        .into())
    }

    /// Features `(N, ...)` with one class of `0..num_classes` for each row; `origin` says in errors
    /// where the labels came from.
    ///
    /// # Errors
    /// [`DataError::Label`] for the first label that is no class; as [`InMemory::new`].
    pub fn with_labels(
        features: Array,
        labels: &[i32],
        num_classes: usize,
        origin: &str,
    ) -> Result<Self> {
        let is_class = |label: i32| usize::try_from(label).is_ok_and(|label| label < num_classes);
        if let Some(row) = labels.iter().position(|&label| !is_class(label)) {
            let (origin, label) = (origin.to_owned(), i64::from(labels[row]));
            return Err(DataError::Label { origin, row, label, num_classes }.into());
        }
        // An empty slice has no address for MLX to copy from; `new` refuses zero rows by shape.
        let targets = match labels {
            [] => Array::zeros::<i32>(&[0])?,
            labels => Array::from_slice(labels, &[labels.len() as i32]),
        };
        Self::new(features, targets)
    }

    /// All features `(N, ...)`.
    pub fn features(&self) -> &Array {
        &self.features
    }

    /// All targets `(N, ...)`.
    pub fn targets(&self) -> &Array {
        &self.targets
    }

    /// Splits rows into training and held-out ones, at random; one seed gives one split.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when one part would be empty; when MLX fails.
    pub fn split(&self, held_out_fraction: f64, seed: u64) -> Result<(Self, Self)> {
        let num_training = num_training(self.len(), held_out_fraction, "rows")?;
        // The orders of a stream start at epoch 0, and no run gets to this one.
        let order = Permutation::new(self.len(), seed, u64::MAX);
        let part = |positions: std::ops::Range<usize>| -> Result<Self> {
            let rows: Vec<usize> = positions.map(|position| order.at(position)).collect();
            let Batch { x, y, .. } = self.batch(&rows)?;
            mlx_rs::transforms::eval([&x, &y])?;
            Self::new(x, y)
        };
        Ok((part(0..num_training)?, part(num_training..self.len())?))
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.features.shape().first().map_or(0, |&rows| rows as usize)
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        check_rows(rows, self.len())?;
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let rows = Array::from_slice(&rows, &[rows.len() as i32]);
        let (x, y) = (self.features.take_axis(&rows, 0)?, self.targets.take_axis(&rows, 0)?);
        Ok(Batch::new(x, y))
    }
}
