//! What batches are taken from.

use crate::{Result, batch::Batch};
use std::{fmt::Debug, sync::Arc};

/// Rows of data, in any order and as often as asked for.
///
/// A dataset has no position; [`super::DataLoader`] has one, and calls [`Dataset::batch`] on threads
/// of its own. So a dataset holds numbers, files and tokenizers, not arrays (an [`crate::Array`] cannot
/// be shared between threads), and makes the arrays of each batch anew. One that is large is shared, in
/// an [`Arc`], rather than copied.
pub trait Dataset: Debug + Send + Sync {
    /// How many rows there are.
    fn len(&self) -> usize;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of these indices, in their order; an index may come more than once.
    ///
    /// The same rows give the same batch, whatever was asked for before and on whichever thread. What
    /// is drawn at random here (an augmentation, say) follows from the row's index.
    ///
    /// # Errors
    /// When an index is not below [`Dataset::len`], the data cannot be read, or MLX fails.
    fn batch(&self, rows: &[usize]) -> Result<Batch>;
}

macro_rules! forward_dataset {
    ($($pointer:ty),*) => {$(
        impl<D: Dataset + ?Sized> Dataset for $pointer {
            fn len(&self) -> usize {
                (**self).len()
            }

            fn batch(&self, rows: &[usize]) -> Result<Batch> {
                (**self).batch(rows)
            }
        }
    )*};
}

forward_dataset!(&D, Box<D>, Arc<D>);

/// Fails on the first row that a dataset of `len` rows does not have, and on no row at all.
pub(super) fn check_rows(rows: &[usize], len: usize) -> Result<()> {
    let problem = match (rows, rows.iter().find(|&&row| row >= len)) {
        ([], _) => "a batch needs at least one row: ask for more than 0".to_owned(),
        (_, Some(row)) => {
            format!("there is no row {row} in a dataset of {len} rows (the first is row 0)")
        }
        (_, None) => return Ok(()),
    };
    Err(super::DataError::Invalid(problem).into())
}
