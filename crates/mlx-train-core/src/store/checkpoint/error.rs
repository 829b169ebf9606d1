//! Why a checkpoint is not saved or not loaded.

use mlx_rs::Dtype;
use std::path::{Path, PathBuf};

/// What can be wrong with checkpoints, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A checkpoint is not what was saved, so none of it is loaded.
    #[error("the checkpoint `{}` is damaged: `{file}` {problem}; {}", .path.display(), way_out(.older.as_deref()))]
    Damaged {
        /// The folder of the step.
        path: PathBuf,
        /// The file in it, with what a terminal would obey escaped.
        file: String,
        /// What is wrong with the file.
        problem: String,
        /// The newest checkpoint before it that is whole, when it was looked for and found.
        older: Option<PathBuf>,
    },
    /// There is no checkpoint where one was looked for.
    #[error("`{}` {problem}", .path.display())]
    NotFound {
        /// The path that was looked at.
        path: PathBuf,
        /// What it is instead, and what to do.
        problem: String,
    },
    /// A later mlx-train has saved it.
    #[error("the checkpoint `{}` has format {found}, this program reads {known}; update mlx-train", .path.display())]
    Format {
        /// The folder of the step.
        path: PathBuf,
        /// The format that it is in.
        found: u64,
        /// The newest format that can be read.
        known: u64,
    },
    /// A new run was to begin where another has saved.
    #[error("`{}` holds the checkpoints of a run; resume it, or name another folder for a new run", .path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Another process saves there.
    #[error("`{}` is in use: {owner} saves checkpoints there; stop it, or name another folder", .path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// The process.
        owner: String,
    },
    /// Its weights cannot be exported as they were asked for.
    #[error("the checkpoint `{}` {problem}", .path.display())]
    Unexportable {
        /// The folder of the step.
        path: PathBuf,
        /// What is in the way, and what to do.
        problem: String,
    },
    /// Bytes are not those of the array that they were given for.
    #[error(
        "{num_bytes} bytes are no {dtype:?} array of shape {shape:?}; pass those of its elements, row-major"
    )]
    HostArray {
        /// The dtype.
        dtype: Dtype,
        /// The shape.
        shape: Vec<i32>,
        /// How many bytes there are.
        num_bytes: usize,
    },
    /// The thread that saves ended before the checkpoint was whole.
    #[error(
        "the thread that saves step {step} {problem}; the checkpoints before it are as they were"
    )]
    Thread {
        /// The step.
        step: u64,
        /// What happened.
        problem: String,
    },
}

impl CheckpointError {
    /// Blames a file of the checkpoint in `path`; its name may come from a hostile file.
    pub(super) fn damaged(path: &Path, file: &str, problem: impl Into<String>) -> Self {
        let file = crate::store::error::shown(file);
        Self::Damaged { path: path.to_owned(), file, problem: problem.into(), older: None }
    }
}

fn way_out(older: Option<&Path>) -> String {
    match older {
        Some(older) => format!(
            "the newest whole one before it is `{0}`; go on from there with `--resume {0}`",
            older.display()
        ),
        None => "copy it again or go on from another one; `checkpoint list` shows which there are"
            .to_owned(),
    }
}
