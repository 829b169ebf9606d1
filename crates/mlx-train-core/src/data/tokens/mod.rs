//! A sequence of tokens with the documents in it, in memory or in files.

mod folder;
mod index;
mod shard;
mod writer;

pub use folder::TokenFiles;
pub use index::{ShardInfo, TokenIndex};
pub use shard::Width;
pub use writer::TokenWriter;

use super::{DataError, Windows, split::num_training};
use crate::Result;
use shard::Shard;
use std::{fmt, ops::Range, sync::Arc};

/// A sequence of tokens, or a part of one, and where documents end in it.
///
/// A clone or a part shares the memory and the files. Those of files are read when they are asked
/// for, so a sequence may be larger than memory.
///
/// ```
/// use mlx_train_core::data::Tokens;
/// let tokens = Tokens::new(vec![5, 6, 0, 7, 0], vec![3, 5], 8, "two documents")?;
/// assert_eq!(tokens.document(1)?, 3..5);
/// assert_eq!(tokens.get(3..5)?, [7, 0]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokens {
    parts: Arc<[Placed]>,
    range: Range<usize>,
    /// The documents of the parts that have a token in the range.
    documents: Range<usize>,
    vocab_size: u32,
    origin: Arc<str>,
}

/// A part and what comes before it.
struct Placed {
    tokens: Range<usize>,
    documents: Range<usize>,
    part: Part,
}

enum Part {
    /// A text that is one document.
    Bytes(Arc<[u8]>),
    Memory {
        tokens: Vec<u32>,
        ends: Vec<usize>,
    },
    File(Shard),
}

impl Part {
    fn num_tokens(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Memory { tokens, .. } => tokens.len(),
            Self::File(shard) => shard.header().num_tokens,
        }
    }

    fn num_documents(&self) -> usize {
        match self {
            Self::Bytes(_) => 1,
            Self::Memory { ends, .. } => ends.len(),
            Self::File(shard) => shard.header().num_documents,
        }
    }

    fn copy(&self, range: Range<usize>, out: &mut Vec<i32>) -> Result<()> {
        match self {
            Self::Bytes(bytes) => out.extend(bytes[range].iter().map(|&byte| i32::from(byte))),
            Self::Memory { tokens, .. } => {
                out.extend(tokens[range].iter().map(|&token| token as i32));
            }
            Self::File(shard) => shard.copy(range, out)?,
        }
        Ok(())
    }

    fn ends(&self, documents: Range<usize>) -> Result<Vec<usize>> {
        match self {
            Self::Bytes(bytes) => Ok(vec![bytes.len(); documents.len()]),
            Self::Memory { ends, .. } => Ok(ends[documents].to_vec()),
            Self::File(shard) => shard.ends(documents),
        }
    }
}

impl Tokens {
    /// Tokens from memory. `ends` says how many tokens come before the end of each document; `origin`
    /// says in errors where they came from.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when a token is not below `vocab_size`, or the ends do not increase to
    /// the number of tokens.
    pub fn new(tokens: Vec<u32>, ends: Vec<usize>, vocab_size: u32, origin: &str) -> Result<Self> {
        let invalid = |problem: String| Err(DataError::Invalid(problem).into());
        if let Some(index) = tokens.iter().position(|&token| token >= vocab_size) {
            return invalid(format!(
                "token {} of {origin}, at position {index}, is not below the vocabulary's size of \
                 {vocab_size}: name the tokenizer that the tokens are of",
                tokens[index]
            ));
        }
        let increase = ends.first() != Some(&0) && ends.is_sorted_by(|one, next| one < next);
        if !increase || ends.last().copied().unwrap_or(0) != tokens.len() {
            return invalid(format!(
                "the documents of {origin} do not end one after another up to its {} tokens: give where \
                 each of them ends, with at least one token in each",
                tokens.len()
            ));
        }
        Ok(Self::from_parts([Part::Memory { tokens, ends }], vocab_size, origin.into()))
    }

    /// A part of a text, which is one document.
    pub(super) fn from_bytes(bytes: Arc<[u8]>, range: Range<usize>, origin: Arc<str>) -> Self {
        Self { range, ..Self::from_parts([Part::Bytes(bytes)], 256, origin) }
    }

    fn from_parts(
        parts: impl IntoIterator<Item = Part>,
        vocab_size: u32,
        origin: Arc<str>,
    ) -> Self {
        let (mut num_tokens, mut num_documents) = (0, 0);
        let place = |part: Part| {
            let tokens = num_tokens..num_tokens + part.num_tokens();
            let documents = num_documents..num_documents + part.num_documents();
            (num_tokens, num_documents) = (tokens.end, documents.end);
            Placed { tokens, documents, part }
        };
        let parts: Arc<[Placed]> = parts.into_iter().map(place).collect();
        Self { parts, range: 0..num_tokens, documents: 0..num_documents, vocab_size, origin }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// How many tokens a model needs for them: every token is below this.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Where the tokens came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The tokens of a range, as MLX takes them.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the range leaves the sequence, [`DataError::Malformed`] when a
    /// file is damaged, [`FileError`](crate::file::FileError) when it cannot be read.
    pub fn get(&self, range: Range<usize>) -> Result<Vec<i32>> {
        let mut tokens = Vec::with_capacity(range.len().min(self.len()));
        self.copy(range, &mut tokens).map(|()| tokens)
    }

    /// Appends the tokens of a range to `out`, which makes no memory of its own.
    ///
    /// # Errors
    /// As [`Tokens::get`].
    pub fn copy(&self, range: Range<usize>, out: &mut Vec<i32>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(DataError::Invalid(format!(
                "tokens {range:?} of {}, which has {}, were asked for",
                self.origin,
                self.len()
            ))
            .into());
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        let first = self.parts.partition_point(|placed| placed.tokens.end <= range.start);
        for placed in &self.parts[first..] {
            let start = range.start.max(placed.tokens.start);
            let end = range.end.min(placed.tokens.end);
            if start >= end {
                break;
            }
            placed.part.copy(start - placed.tokens.start..end - placed.tokens.start, out)?;
        }
        Ok(())
    }

    /// How many documents there are, also such as a split has cut in two.
    pub fn num_documents(&self) -> usize {
        self.documents.len()
    }

    /// The tokens of one document, its end-of-text token included.
    ///
    /// # Errors
    /// As [`Tokens::documents`].
    pub fn document(&self, index: usize) -> Result<Range<usize>> {
        let found = self.documents(index..index.saturating_add(1))?;
        // One was asked for, so one came.
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// The tokens of several documents, whose ranges follow each other; reads only where they end.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when there are no such documents, [`DataError::Malformed`] when a file
    /// is damaged.
    pub fn documents(&self, documents: Range<usize>) -> Result<Vec<Range<usize>>> {
        if documents.start > documents.end || documents.end > self.num_documents() {
            return Err(DataError::Invalid(format!(
                "documents {documents:?} of {}, which has {}, were asked for",
                self.origin,
                self.num_documents()
            ))
            .into());
        }
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let (first, last) =
            (self.documents.start + documents.start, self.documents.start + documents.end);
        // A document starts where the one before it ends.
        let before = first.saturating_sub(1);
        let mut bounds = self.ends(before..last)?;
        if first == 0 {
            bounds.insert(0, 0);
        }
        let inside =
            |bound: &usize| bound.clamp(&self.range.start, &self.range.end) - self.range.start;
        Ok(bounds.windows(2).map(|pair| inside(&pair[0])..inside(&pair[1])).collect())
    }

    /// Where documents end, both counted from the first part on.
    fn ends(&self, documents: Range<usize>) -> Result<Vec<usize>> {
        let mut all = Vec::with_capacity(documents.len());
        let first = self.parts.partition_point(|part| part.documents.end <= documents.start);
        for Placed { tokens, documents: here, part } in &self.parts[first..] {
            let (start, end) = (documents.start.max(here.start), documents.end.min(here.end));
            if here.start >= documents.end {
                break;
            }
            if start < end {
                let ends = part.ends(start - here.start..end - here.start)?;
                all.extend(ends.into_iter().map(|end| tokens.start + end));
            }
        }
        Ok(all)
    }

    /// Splits off the end as held out, between two documents where that changes the fraction by half of
    /// it at most, else inside of one. Both parts share the memory and the files.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when one part would be empty; as [`Tokens::documents`].
    pub fn split(&self, held_out_fraction: f64) -> Result<(Self, Self)> {
        let what = format!("tokens of {}", self.origin);
        let wanted = num_training(self.len(), held_out_fraction, &what)?;
        // The document that has the wanted token, found in as many steps as its number has bits.
        let (mut document, mut end) = (0, self.num_documents());
        while end - document > 1 {
            let middle = document + (end - document) / 2;
            if self.document(middle)?.start <= wanted { document = middle } else { end = middle }
        }
        let cut = self.document(document)?;
        let most = (self.len() - wanted) / 2;
        let nearest = [cut.start, cut.end]
            .into_iter()
            .filter(|&bound| bound > 0 && bound < self.len() && bound.abs_diff(wanted) <= most)
            .min_by_key(|bound| bound.abs_diff(wanted));
        // Of a document that is cut inside, both parts have some.
        let middle = nearest.unwrap_or(wanted);
        let first_held_out = if middle == cut.end { document + 1 } else { document };
        let last_training = if middle == cut.start { document } else { document + 1 };
        let part = |name: &str, range: Range<usize>, documents: Range<usize>| Self {
            parts: Arc::clone(&self.parts),
            range: self.range.start + range.start..self.range.start + range.end,
            documents: self.documents.start + documents.start..self.documents.start + documents.end,
            vocab_size: self.vocab_size,
            origin: format!("{name} of {}", self.origin).into(),
        };
        Ok((
            part("the training part", 0..middle, 0..last_training),
            part("the held-out part", middle..self.len(), first_held_out..self.num_documents()),
        ))
    }

    /// Every window of `seq_len + 1` tokens, at every offset: what training draws from.
    ///
    /// # Errors
    /// [`DataError::TooShort`] when there is none; [`DataError::Invalid`] when `seq_len` is 0.
    pub fn windows(&self, seq_len: usize) -> Result<Windows> {
        Windows::new(self.clone(), seq_len, 1)
    }

    /// Windows that predict each token once, one after the other: what evaluation reads.
    ///
    /// Up to `seq_len - 1` tokens at the end are not predicted.
    ///
    /// # Errors
    /// As [`Tokens::windows`].
    pub fn chunks(&self, seq_len: usize) -> Result<Windows> {
        Windows::new(self.clone(), seq_len, seq_len)
    }

    /// The error for a sequence without a window.
    pub(super) fn too_short(&self, seq_len: usize) -> DataError {
        let origin = self.origin.to_string();
        DataError::TooShort { origin, tokens: self.len(), seq_len }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("origin", &self.origin)
            .field("range", &self.range)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}
