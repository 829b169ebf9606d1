//! What cannot be planned.

use crate::{bytes::Bytes, distributed::Parallelism, file::FileError};
use std::path::PathBuf;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No layout fits the devices.
    #[error(
        "no layout of {devices} devices fits: the least is `{layout}` with gradient_checkpointing = \"{policy}\", \
         {needed} on a device that may use {available}; {nearest}",
        needed = Bytes(*.needed), available = Bytes(*.available)
    )]
    DoesNotFit {
        /// How many devices there are.
        devices: usize,
        /// What needs the least.
        layout: Parallelism,
        /// The checkpoint policy that it needs it with.
        policy: String,
        /// What a device then needs, in bytes.
        needed: u64,
        /// What it may use, in bytes.
        available: u64,
        /// What would fit.
        nearest: String,
    },
    /// No layout takes these devices, whatever memory they have.
    #[error("no layout takes {devices} devices: {reasons}")]
    NoLayout {
        /// How many devices there are.
        devices: usize,
        /// What is in the way.
        reasons: String,
    },
    /// A step without rows.
    #[error("a step of {model} has no rows; set train.batch_size to 1 or more")]
    NoRows {
        /// The model.
        model: String,
    },
    /// A file that is no plan.
    #[error("{} is no plan of `mlx-train plan --output`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A plan that cannot be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
}
