//! Datasets and the order in which their rows become batches.
//!
//! A [`Dataset`] answers for any rows at any time; a [`Sampler`] says which row stands at which position
//! of a run; a [`DataLoader`] makes the batches, ahead and in order. The order of a whole run follows from
//! a seed, and one number says how far the run has come, so a position is saved and restored without
//! reading the data again.
//!
//! Rows come from memory ([`InMemory`]), [`Text`], [`TokenFiles`] that [`Prepare`] made of any texts,
//! [`read_documents`], and the files of [`csv`], [`idx`] and, behind a feature, Parquet.

mod alias;
pub mod csv;
mod dataset;
mod documents;
mod error;
mod files;
pub mod idx;
mod in_memory;
mod jsonl;
mod lines;
mod loader;
mod packing;
mod padding;
#[cfg(feature = "parquet")]
pub mod parquet;
mod permutation;
mod plan;
mod position;
mod prepare;
mod random;
mod sampler;
mod sequences;
mod split;
mod table;
mod text;
mod tokenizer;
mod tokens;
mod values;
mod windows;
mod workers;

pub use crate::batch::{Batch, IGNORED_TARGET};
pub use dataset::Dataset;
pub use documents::{DocumentFormat, read_documents};
pub use error::DataError;
pub use in_memory::InMemory;
pub use jsonl::{Example, JsonLines};
pub(crate) use loader::parts_of_batches;
pub use loader::{DataLoader, LoaderOptions, batches};
pub use packing::{Packed, Packing};
pub use padding::{Padded, Padding};
pub use permutation::Permutation;
pub use plan::EpochEnd;
pub use position::Position;
pub use prepare::{Preparation, Prepare, PrepareProgress};
pub use sampler::{Order, Remainder, Sampler};
pub use sequences::Sequences;
pub use table::Columns;
pub use text::{Text, bigram_entropy};
pub use tokenizer::{Decoder, Tokenizer};
pub use tokens::{ShardInfo, TokenFiles, TokenIndex, TokenWriter, Tokens, Width};
pub use values::Number;
pub use windows::Windows;
