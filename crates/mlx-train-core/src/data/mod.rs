//! Datasets and the order in which their rows become batches.
//!
//! A [`Dataset`] answers for any rows at any time; a [`Stream`] decides which rows come next. The
//! order of a whole run follows from a seed, and one number says how far the run has come, so a
//! position is saved and restored without reading the data again.

mod dataset;
mod error;
mod files;
pub mod idx;
mod in_memory;
mod permutation;
mod split;
mod stream;
mod text;
mod tokenizer;
mod tokens;
mod windows;

pub use crate::batch::Batch;
pub use dataset::Dataset;
pub use error::DataError;
pub use in_memory::InMemory;
pub use permutation::Permutation;
pub use stream::{Stream, batches};
pub use text::{Text, bigram_entropy};
pub use tokenizer::{Decoder, Tokenizer};
pub use tokens::{ShardInfo, TokenFiles, TokenIndex, TokenWriter, Tokens, Width};
pub use windows::Windows;
