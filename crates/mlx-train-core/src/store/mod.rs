//! Weights on disk: safetensors files in Hugging Face's layout.
//!
//! [`save_weights`] writes a model's parameters, whole or not at all; [`load_weights`] reads them
//! back and refuses a file that does not fit the model exactly, before it changes anything.
//! Beneath them, [`save_arrays`] and [`ArrayFile`] do the same for any named arrays, and
//! [`write_whole`] and [`write_whole_with`] for any file.
//!
//! A file is not trusted: its header is bounded by the file's own size before it is read, and
//! every offset, shape and dtype is checked before an array is made. Format:
//! <https://github.com/huggingface/safetensors>, section "Format".

mod array_file;
mod array_set;
mod checkpoint;
mod checksums;
mod error;
mod layout;
mod slices;
mod weights;

pub use crate::file::{write_whole, write_whole_with};
pub use array_file::{ArrayFile, save_arrays};
pub use array_set::ArraySet;
#[doc(hidden)]
pub use checkpoint::untrusted;
pub use checkpoint::{
    BestMode, Check, CheckpointConfig, CheckpointError, Checkpoints, Entry, ExportOptions,
    Exported, FileEntry, HostArray, Keep, Loaded, Location, Manifest, Metric, SaveOutcome,
    SaveTiming, Saved, Saver, Snapshot,
};
pub(crate) use checkpoint::{
    Files, FolderLock, Holding, Opened, Part, SharedFolder, divide, panic_message,
};
pub use checksums::Checksums;
pub(crate) use error::lines as mismatch_lines;
pub use error::{Mismatch, StoreError};
pub(crate) use slices::Slices;
pub use weights::{IsOptional, LoadOptions, Rename, StoredWeights, load_weights, save_weights};
