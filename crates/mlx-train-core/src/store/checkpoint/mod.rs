//! Checkpoints: everything that a run needs to go on, in one folder a step.
//!
//! ```text
//! checkpoints/
//!   run.json                     which run this is
//!   latest, best                 the name of a step's folder
//!   step-00001000/
//!     model.safetensors          weights; over 5 GB in shards with an index, as Hugging Face has it
//!     training.safetensors       optimizer state, random state, averaged weights
//!     state.json                 step, position in the data and whatever the caller gave
//!     config.json                the resolved config
//!     manifest.json              run, model, versions, the size of each file and the checksum of each array
//! ```
//!
//! Several ranks write one such folder together: `model.rank-00001-of-00004.safetensors` and so on, with whole arrays
//! and parts of arrays, whose files tell where they lie in the whole. Any number of ranks loads it, and one process.
//!
//! A step's folder appears whole or not at all, and nothing of it is loaded unless all of it is what
//! was saved. [`Checkpoints`] is the folder of a run, [`Saver`] writes to it from a thread of its own,
//! [`Snapshot`] is what it writes, [`Loaded`] is what comes back.

mod config;
mod entry;
mod error;
mod export;
mod fault;
mod folder;
mod hash;
mod host_array;
mod locate;
mod lock;
mod manifest;
mod names;
mod read;
mod retention;
mod run;
mod saver;
mod sealed;
mod shared;
mod snapshot;
mod state;
#[doc(hidden)]
pub mod untrusted;
mod write;
mod write_file;

pub use config::{BestMode, CheckpointConfig};
pub(crate) use entry::Opened;
pub use entry::{Check, Entry, Loaded};
pub use error::CheckpointError;
pub use export::{ExportOptions, Exported};
pub use folder::Checkpoints;
pub use host_array::HostArray;
pub use locate::Location;
pub(super) use locate::is_step;
pub(crate) use lock::FolderLock;
pub use manifest::{FileEntry, Manifest, Metric};
pub use retention::Keep;
pub(crate) use saver::panic_message;
pub use saver::{SaveOutcome, SaveTiming, Saved, Saver};
pub(crate) use shared::{Holding, SharedFolder, divide};
pub use snapshot::Snapshot;
pub(crate) use write::{Files, Part};
