//! Text as a sequence of bytes, for language models with a vocabulary of 256.

use super::{DataError, Tokenizer, Tokens, Windows, split::num_training};
use crate::{Result, file::FileError};
use std::{fmt, fs, ops::Range, path::Path, sync::Arc};

/// A text, or a part of one; its tokens are its bytes, unless a [`Tokenizer`] makes others of it.
#[derive(Clone)]
pub struct Text {
    bytes: Arc<[u8]>,
    range: Range<usize>,
    origin: Arc<str>,
}

impl Text {
    /// Reads a file of any encoding, whole.
    ///
    /// # Errors
    /// [`FileError`] when it cannot be read, [`DataError::Malformed`] when it is empty.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(FileError::read(path))?;
        if bytes.is_empty() {
            let problem = "the text has zero bytes: name a file with text to train on".to_owned();
            return Err(DataError::Malformed { path: path.to_owned(), problem }.into());
        }
        Ok(Self::new(bytes, &path.display().to_string()))
    }

    /// A text from memory; `origin` says in errors where it came from.
    pub fn new(bytes: impl Into<Vec<u8>>, origin: &str) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self { range: 0..bytes.len(), bytes, origin: origin.into() }
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// Splits off the end of the text as held out; both parts share the memory.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when one part would be empty.
    pub fn split(&self, held_out_fraction: f64) -> Result<(Self, Self)> {
        let what = format!("bytes of {}", self.origin);
        let middle = self.range.start + num_training(self.range.len(), held_out_fraction, &what)?;
        let part = |range, name| Self {
            bytes: Arc::clone(&self.bytes),
            range,
            origin: format!("{name} of {}", self.origin).into(),
        };
        let training = part(self.range.start..middle, "the training part");
        Ok((training, part(middle..self.range.end, "the held-out part")))
    }

    /// The bytes as tokens, with a vocabulary of 256; the memory is shared.
    pub fn tokens(&self) -> Tokens {
        Tokens::from_bytes(Arc::clone(&self.bytes), self.range.clone(), Arc::clone(&self.origin))
    }

    /// The text as one document of another tokenizer's tokens, with its end-of-text token, if any,
    /// after it.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the text is no UTF-8, naming the first byte that is not, and the
    /// tokenizer needs it to be; when the tokenizer fails.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Tokens> {
        if tokenizer.is_bytes() {
            return Ok(self.tokens());
        }
        let text = std::str::from_utf8(self.as_bytes()).map_err(|error| {
            DataError::Invalid(format!(
                "{} is not UTF-8 from byte {} on, so only the tokenizer of bytes can read it: \
                 convert it to UTF-8",
                self.origin,
                error.valid_up_to()
            ))
        })?;
        let mut ids = tokenizer.encode(text)?;
        ids.extend(tokenizer.eos());
        let end = ids.len();
        Tokens::new(ids, vec![end], tokenizer.vocab_size(), &self.origin)
    }

    /// Every window of `seq_len + 1` bytes, at every offset: what training draws from.
    ///
    /// # Errors
    /// As [`Tokens::windows`].
    pub fn windows(&self, seq_len: usize) -> Result<Windows> {
        self.tokens().windows(seq_len)
    }

    /// Windows that predict each byte once, one after the other: what evaluation reads.
    ///
    /// # Errors
    /// As [`Tokens::chunks`].
    pub fn chunks(&self, seq_len: usize) -> Result<Windows> {
        self.tokens().chunks(seq_len)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text")
            .field("origin", &self.origin)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// The empirical conditional entropy of the next byte given the one before it, in nats per byte.
///
/// `H = -sum over pairs (a, b) of p(a, b) ln p(b | a)`, with the frequencies of this very text. No
/// bigram model, however it was fitted, has a lower cross-entropy on the text, so a model that does
/// has learned from more than one byte of context. (Gibbs' inequality; Cover and Thomas, "Elements
/// of Information Theory", section 2.6.)
///
/// # Errors
/// [`DataError::TooShort`] when there is no pair of bytes.
pub fn bigram_entropy(text: &Text) -> Result<f64> {
    let bytes = text.as_bytes();
    let Some(num_pairs @ 1..) = bytes.len().checked_sub(1) else {
        return Err(text.tokens().too_short(1).into());
    };
    let mut counts = vec![[0_u64; 256]; 256];
    for pair in bytes.windows(2) {
        counts[usize::from(pair[0])][usize::from(pair[1])] += 1;
    }
    let mut nats = 0.0;
    for following in &counts {
        let total = following.iter().sum::<u64>() as f64;
        for &count in following.iter().filter(|&&count| count > 0) {
            nats -= count as f64 * (count as f64 / total).ln();
        }
    }
    Ok(nats / num_pairs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy(text: &str) -> f64 {
        bigram_entropy(&Text::new(text, "a test")).expect("long enough")
    }

    #[test]
    fn a_byte_that_follows_from_the_one_before_it_has_no_entropy() {
        assert!(entropy("abcabcabcabc").abs() < 1e-12);
    }

    #[test]
    fn a_fair_coin_has_an_entropy_of_ln_2() {
        // Each of 0 and 1 is followed by 0 and 1 once: a de Bruijn cycle.
        assert!((entropy("00110") - 2.0_f64.ln()).abs() < 1e-12);
    }
}
