//! What can be wrong with data.

use std::path::PathBuf;

/// A dataset that cannot be read, or not used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file that is not what it should be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A sequence of tokens that has no window to train on.
    #[error(
        "{origin} has {tokens} tokens, and a window of sequence length {seq_len} needs {}: use a longer text or a \
         shorter sequence",
        seq_len.saturating_add(1)
    )]
    TooShort {
        /// Where the tokens came from.
        origin: String,
        /// How many there are; those of a text are its bytes.
        tokens: usize,
        /// How many tokens a window predicts.
        seq_len: usize,
    },
    /// A label that is no class.
    #[error(
        "{origin}: label {label} of row {row} is not one of {num_classes} classes (0 to {}): check the labels, or \
         raise the number of classes",
        num_classes.saturating_sub(1)
    )]
    Label {
        /// Where the labels came from.
        origin: String,
        /// The first row with a wrong label.
        row: usize,
        /// Its label.
        label: i64,
        /// How many classes there are.
        num_classes: usize,
    },
    /// A dataset that does not fit together, or a request that it cannot fulfil.
    #[error("{0}")]
    Invalid(String),
}
