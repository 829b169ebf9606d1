//! One document a row, filled up to the length of its batch.

use super::{
    Batch, DataError, Dataset, Sequences,
    dataset::check_rows,
    sequences::{Predictions, Rows},
};
use crate::Result;

/// To which length the rows of a batch are filled up.
///
/// A compiled step is compiled once for each length, so few lengths are better than short rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// To the longest row of the batch: the shortest there is.
    Longest,
    /// To the next multiple of this at or above the longest row of the batch.
    Multiple(usize),
    /// To the smallest of these lengths that is enough for the batch.
    Buckets(Vec<usize>),
}

impl Padding {
    /// The length of a batch whose longest row has this many predictions.
    fn length(&self, longest: usize) -> Option<usize> {
        // A batch of documents of one token has nothing to predict, and a model wants an axis.
        let longest = longest.max(1);
        match self {
            Self::Longest => Some(longest),
            Self::Multiple(multiple) => longest.checked_next_multiple_of(*multiple),
            Self::Buckets(lengths) => {
                lengths.iter().copied().filter(|&length| length >= longest).min()
            }
        }
    }
}

/// A dataset of documents, one a row: inputs and targets `(B, T)` int32 with padding on the right.
///
/// T is the number of predictions, one less than of tokens, of the batch's longest document, filled up
/// as [`Padding`] says. Padding has the target -100, and no token sees it: attention is causal, and
/// padding comes last.
#[derive(Debug, Clone)]
pub struct Padded {
    sequences: Sequences,
    padding: Padding,
}

impl Padded {
    /// Fills the rows of `sequences` up as `padding` says.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when a document is longer than the largest bucket, or a length is 0; what
    /// reading the documents' ends returns.
    pub fn new(sequences: Sequences, padding: Padding) -> Result<Self> {
        let invalid = |problem: String| Err(DataError::Invalid(problem).into());
        match &padding {
            Padding::Multiple(0) => {
                return invalid(
                    "rows are padded to a multiple of at least 1: raise it from 0".into(),
                );
            }
            Padding::Buckets(lengths) => {
                let largest = lengths.iter().copied().max().unwrap_or(0);
                let longest = sequences
                    .all_predictions()?
                    .map(|row| row.len)
                    .enumerate()
                    .max_by_key(|row| row.1);
                if let Some((document, len)) = longest.filter(|(_, len)| *len > largest) {
                    return invalid(format!(
                        "document {document} has {len} predictions, and the largest bucket is {largest}: \
                         add a larger one, or truncate documents to {} tokens",
                        largest.saturating_add(1)
                    ));
                }
            }
            Padding::Longest | Padding::Multiple(_) => {}
        }
        Ok(Self { sequences, padding })
    }
}

impl Dataset for Padded {
    fn len(&self) -> usize {
        self.sequences.len()
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        check_rows(rows, self.len())?;
        let documents: Vec<Predictions> =
            rows.iter().map(|&row| self.sequences.predictions(row)).collect::<Result<_>>()?;
        let longest = documents.iter().map(|document| document.len).max().unwrap_or(0);
        let seq_len = self.padding.length(longest).ok_or_else(|| {
            DataError::Invalid(format!(
                "no padding of {:?} is enough for {longest} predictions",
                self.padding
            ))
        })?;
        let mut batch = Rows::new(rows.len(), seq_len);
        for document in documents {
            batch.push(&self.sequences, [document])?;
        }
        batch.into_batch()
    }
}
