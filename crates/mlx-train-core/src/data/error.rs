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
    /// A batch that a dataset could not make.
    #[error("no batch could be made of {} of the data", some(rows))]
    Batch {
        /// The rows that it was asked for.
        rows: Vec<usize>,
        /// What it returned.
        source: Box<crate::Error>,
    },
    /// A loader whose last epoch is over.
    #[error(
        "the last epoch is over after {rows_taken} rows: ask for more epochs, or for fewer batches"
    )]
    Ended {
        /// How many rows it has handed out.
        rows_taken: u64,
    },
    /// A dataset that panicked, with what it said.
    #[error("the dataset panicked: {0}")]
    Panic(String),
    /// A position that belongs to other data or another order.
    #[error(
        "the saved position does not belong to this data ({differences}): resume with the data and the \
         order of the run that saved it, or start anew"
    )]
    Position {
        /// Each thing that differs, as it was and as it is.
        differences: String,
    },
    /// The system does not start the threads of a loader.
    #[error("the data loader cannot start {num_workers} threads: lower num_workers")]
    Thread {
        /// How many there should be.
        num_workers: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A dataset that does not fit together, or a request that it cannot fulfil.
    #[error("{0}")]
    Invalid(String),
}

/// Row numbers for a message: all of a few, the first of many.
fn some(rows: &[usize]) -> String {
    const SHOWN: usize = 8;
    let list = |rows: &[usize]| rows.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match rows {
        [row] => format!("row {row}"),
        rows if rows.len() <= SHOWN => format!("rows {}", list(rows)),
        rows => format!("rows {}, … ({} rows)", list(&rows[..SHOWN]), rows.len()),
    }
}
