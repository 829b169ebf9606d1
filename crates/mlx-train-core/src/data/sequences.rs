//! Documents of any length, to be padded or packed into rows of one length.

use super::{DataError, Packed, Packing, Padded, Padding, Tokens, values::array};
use crate::{
    Result,
    batch::{Batch, IGNORED_TARGET},
};
use std::{ops::Range, sync::Arc};

/// Documents, and which of their tokens a model learns to predict; a clone shares them.
///
/// A document of `n` tokens has `n - 1` predictions: each token but the last is an input, each but the
/// first a target. The documents are those of [`Tokens`], so they may lie in files larger than memory.
///
/// ```
/// # use mlx_train_core::data::{Packing, Padding, Sequences};
/// let answers = Sequences::from_vecs(&[vec![5, 6, 7], vec![8, 9]], 10, "two answers")?;
/// let padded = answers.padded(Padding::Multiple(64))?;
/// let packed = answers.packed(1024, Packing::BestFit)?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sequences {
    tokens: Tokens,
    /// Whether each token counts as a target; all do when there is none.
    loss_mask: Option<Arc<[bool]>>,
    max_tokens: usize,
}

impl Sequences {
    /// The documents of `tokens`.
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, loss_mask: None, max_tokens: usize::MAX }
    }

    /// Documents from memory, one vector each; `origin` says in errors where they came from.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when a document is empty, or a token is not below `vocab_size`.
    pub fn from_vecs(documents: &[Vec<u32>], vocab_size: u32, origin: &str) -> Result<Self> {
        let mut ends = Vec::with_capacity(documents.len());
        for document in documents {
            ends.push(ends.last().unwrap_or(&0) + document.len());
        }
        Ok(Self::new(Tokens::new(documents.concat(), ends, vocab_size, origin)?))
    }

    /// Learns only the tokens that are true here, one for each token of all documents: the answers of a
    /// conversation without its questions, say.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when there are not as many as tokens.
    pub fn with_loss_mask(self, mask: impl Into<Arc<[bool]>>) -> Result<Self> {
        let mask = mask.into();
        if mask.len() != self.tokens.len() {
            let problem = format!(
                "a loss mask of {} tokens does not fit the {} tokens of {}: give one value for each token",
                mask.len(),
                self.tokens.len(),
                self.tokens.origin()
            );
            return Err(DataError::Invalid(problem).into());
        }
        Ok(Self { loss_mask: Some(mask), ..self })
    }

    /// Cuts each document off after so many tokens.
    #[must_use]
    pub fn truncated(self, max_tokens: usize) -> Self {
        Self { max_tokens, ..self }
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.tokens.num_documents()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are tokens that are not learned.
    pub fn has_loss_mask(&self) -> bool {
        self.loss_mask.is_some()
    }

    /// Splits off the last documents as held out, as [`Tokens::split`] does.
    ///
    /// # Errors
    /// As [`Tokens::split`].
    pub fn split(&self, held_out_fraction: f64) -> Result<(Self, Self)> {
        let (training, held_out) = self.tokens.split(held_out_fraction)?;
        let middle = training.len();
        let part = |tokens, mask: fn(&[bool], usize) -> &[bool]| {
            let loss_mask = self.loss_mask.as_deref().map(|all| Arc::from(mask(all, middle)));
            Self { tokens, loss_mask, max_tokens: self.max_tokens }
        };
        Ok((
            part(training, |mask, middle| &mask[..middle]),
            part(held_out, |mask, middle| &mask[middle..]),
        ))
    }

    /// The tokens of the documents.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// One document a row, filled up to the length of its batch.
    ///
    /// # Errors
    /// As [`Padded::new`].
    pub fn padded(&self, padding: Padding) -> Result<Padded> {
        Padded::new(self.clone(), padding)
    }

    /// Several documents a row of `seq_len` predictions, which must not see each other.
    ///
    /// # Errors
    /// As [`Packed::new`].
    pub fn packed(&self, seq_len: usize, packing: Packing) -> Result<Packed> {
        Packed::new(self.clone(), seq_len, packing)
    }

    /// The predictions of one document.
    pub(super) fn predictions(&self, document: usize) -> Result<Predictions> {
        Ok(self.predictions_of(self.tokens.document(document)?))
    }

    /// The predictions of every document, in order; only the ends of documents are read.
    pub(super) fn all_predictions(&self) -> Result<impl Iterator<Item = Predictions>> {
        let documents = self.tokens.documents(0..self.len())?;
        Ok(documents.into_iter().map(|tokens| self.predictions_of(tokens)))
    }

    fn predictions_of(&self, tokens: Range<usize>) -> Predictions {
        Predictions {
            start: tokens.start,
            len: tokens.len().min(self.max_tokens).saturating_sub(1),
        }
    }

    /// Appends inputs to `x` and targets to `y`: as many of both as there are predictions.
    pub(super) fn copy(
        &self,
        predictions: Predictions,
        x: &mut Vec<i32>,
        y: &mut Vec<i32>,
    ) -> Result<()> {
        let Predictions { start, len } = predictions;
        if len == 0 {
            return Ok(());
        }
        self.tokens.copy(start..start + len, x)?;
        let first = y.len();
        self.tokens.copy(start + 1..start + 1 + len, y)?;
        if let Some(mask) = &self.loss_mask {
            let counts = &mask[start + 1..start + 1 + len];
            for (target, _) in y[first..].iter_mut().zip(counts).filter(|(_, counts)| !**counts) {
                *target = IGNORED_TARGET;
            }
        }
        Ok(())
    }
}

/// Predictions that follow each other in one document: from its token `start + i` its token
/// `start + i + 1`, for each `i` below `len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predictions {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Rows of one length that are filled from the left.
pub(super) struct Rows {
    seq_len: usize,
    len: usize,
    x: Vec<i32>,
    y: Vec<i32>,
}

impl Rows {
    /// No row yet; `num_rows` rows of `seq_len` predictions will come.
    pub(super) fn new(num_rows: usize, seq_len: usize) -> Self {
        let [x, y] = [(); 2].map(|()| Vec::with_capacity(num_rows.saturating_mul(seq_len)));
        Self { seq_len, len: 0, x, y }
    }

    /// Adds a row of these predictions, at most `seq_len` in all. The rest of it is padding: a token that
    /// no earlier one sees, as attention is causal, with a target that does not count.
    pub(super) fn push(
        &mut self,
        sequences: &Sequences,
        predictions: impl IntoIterator<Item = Predictions>,
    ) -> Result<()> {
        for predictions in predictions {
            sequences.copy(predictions, &mut self.x, &mut self.y)?;
        }
        self.len += 1;
        self.x.resize(self.len * self.seq_len, PADDING);
        self.y.resize(self.len * self.seq_len, IGNORED_TARGET);
        Ok(())
    }

    /// Inputs and targets `(B, T)` int32.
    pub(super) fn into_batch(self) -> Result<Batch> {
        let shape = [self.len as i32, self.seq_len as i32];
        Ok(Batch::new(array(&self.x, &shape)?, array(&self.y, &shape)?))
    }
}

/// The input of padding: any token does, and every vocabulary has this one.
const PADDING: i32 = 0;
