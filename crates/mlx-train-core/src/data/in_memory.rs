//! Rows that are numbers in memory already.

use super::{
    Batch, DataError, Dataset, Permutation,
    dataset::check_rows,
    split::num_training,
    values::{Number, Values},
};
use crate::{Array, Result};

/// Features and targets in memory, one row each; a clone shares them.
#[derive(Debug, Clone)]
pub struct InMemory {
    features: Values,
    targets: Values,
}

impl InMemory {
    /// Features `(N, ...)` with targets `(N, ...)`, of any dtypes but f64.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless both have the same number of rows, at least one, and a dtype that
    /// GPUs have; when MLX fails.
    #[allow(clippy::needless_pass_by_value)] // they are copied: kept, they would take the memory twice
    pub fn new(features: Array, targets: Array) -> Result<Self> {
        Self::of(Values::of(&features)?, Values::of(&targets)?)
    }

    /// Numbers in row-major order, with the shape of one row each: `&[28, 28]` for images, `&[]` for
    /// one number.
    ///
    /// ```
    /// # use mlx_train_core::data::{Dataset, InMemory};
    /// let points = InMemory::from_vecs(vec![0.0_f32, 1.0, 2.0, 3.0], &[2], vec![0, 1], &[])?;
    /// assert_eq!(points.len(), 2);
    /// # Ok::<(), mlx_train_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`InMemory::new`]; when the numbers are no whole number of rows.
    pub fn from_vecs<X: Number, Y: Number>(
        features: Vec<X>,
        feature_shape: &[i32],
        targets: Vec<Y>,
        target_shape: &[i32],
    ) -> Result<Self> {
        Self::of(
            Values::from_vec(features, feature_shape)?,
            Values::from_vec(targets, target_shape)?,
        )
    }

    /// Features `(N, ...)` with one class of `0..num_classes` for each row; `origin` says in errors
    /// where the labels came from.
    ///
    /// # Errors
    /// [`DataError::Label`] for the first label that is no class; as [`InMemory::new`].
    #[allow(clippy::needless_pass_by_value)] // as in `new`
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
        Self::of(Values::of(&features)?, Values::from_vec(labels.to_vec(), &[])?)
    }

    fn of(features: Values, targets: Values) -> Result<Self> {
        if features.num_rows() == targets.num_rows() && features.num_rows() > 0 {
            return Ok(Self { features, targets });
        }
        let shape = |values: &Values| {
            let axes = values.row_shape().iter().map(i32::to_string);
            let axes: Vec<_> = [values.num_rows().to_string()].into_iter().chain(axes).collect();
            axes.join(", ")
        };
        Err(DataError::Invalid(format!(
            "features of shape [{}] and targets of shape [{}] do not belong together: both need the \
             same number of rows, at least one",
            shape(&features),
            shape(&targets)
        ))
        .into())
    }

    /// The axes of one row's features: `[28, 28]` for images, empty for one number.
    pub fn feature_shape(&self) -> &[i32] {
        self.features.row_shape()
    }

    /// All features `(N, ...)`, copied.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when they are too many for one array.
    pub fn features(&self) -> Result<Array> {
        self.features.rows(&self.all())
    }

    /// All targets `(N, ...)`, copied.
    ///
    /// # Errors
    /// As [`InMemory::features`].
    pub fn targets(&self) -> Result<Array> {
        self.targets.rows(&self.all())
    }

    fn all(&self) -> Vec<usize> {
        (0..self.len()).collect()
    }

    /// Splits rows into training and held-out ones, at random; one seed gives one split.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when one part would be empty.
    pub fn split(&self, held_out_fraction: f64, seed: u64) -> Result<(Self, Self)> {
        let num_training = num_training(self.len(), held_out_fraction, "rows")?;
        // The orders of a loader start at epoch 0, and no run gets to this one.
        let order = Permutation::new(self.len(), seed, u64::MAX);
        let part = |positions: std::ops::Range<usize>| {
            let rows: Vec<usize> = positions.map(|position| order.at(position)).collect();
            Self { features: self.features.take(&rows), targets: self.targets.take(&rows) }
        };
        Ok((part(0..num_training), part(num_training..self.len())))
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.features.num_rows()
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        check_rows(rows, self.len())?;
        Ok(Batch::new(self.features.rows(rows)?, self.targets.rows(rows)?))
    }
}
