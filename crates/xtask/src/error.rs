//! What can go wrong in a repeated command, in words that name the fix.

use std::path::{Path, PathBuf};

/// The result of everything in xtask.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed command: each message says what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be started at all.
    #[error("cannot start `{command}`; is `{program}` installed and on PATH?")]
    Start {
        /// The whole command line.
        command: String,
        /// Its first word.
        program: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },

    /// A program ran and reported failure.
    #[error("`{command}` failed ({status}){output}")]
    Failed {
        /// The whole command line.
        command: String,
        /// Exit code or signal.
        status: std::process::ExitStatus,
        /// The last lines that it printed, each indented on a line of its own, or nothing.
        output: String,
    },

    /// Programs that set-up calls are not on this machine.
    #[error(
        "set-up needs {missing}, which this machine lacks; install with:\n\n    {install}\n\nthen run the same command again"
    )]
    MissingPrograms {
        /// What is missing, with the reason.
        missing: String,
        /// The command of this machine's package manager.
        install: String,
    },

    /// No Python that MLX's wheels support.
    #[error(
        "set-up needs a CPython from 3.10 to 3.14 with its `venv` module; found: {found}; install with:\n\n    {install}\n\nthen run the same command again"
    )]
    NoPython {
        /// Every candidate, with why it will not do.
        found: String,
        /// The command of this machine's package manager.
        install: String,
    },

    /// The C library is older than MLX's wheels need.
    #[error(
        "MLX's wheels need glibc {needed} or newer (Debian 12, Ubuntu 22.04, Fedora 36, RHEL 10); this machine has {found}: set-up works on a newer system or in a container of one"
    )]
    OldGlibc {
        /// The wheels' tag.
        needed: String,
        /// What `getconf` says.
        found: String,
    },

    /// A processor or system that has no MLX wheel.
    #[error(
        "MLX {mlx_version} has no wheel for {system} on {arch}; mlx-train runs on Linux (x86-64, aarch64) and on macOS (aarch64)"
    )]
    UnsupportedMachine {
        /// `linux`, `macos`, …
        system: String,
        /// `x86_64`, `aarch64`, …
        arch: String,
        /// The version that mlx-sys pins.
        mlx_version: String,
    },

    /// pip could not bring the wheels.
    #[error(
        "pip could not fetch the wheels of {requirements} (its own words are above); check the network connection or proxy, then run the same command again; without a network, put the wheels into {wheels}"
    )]
    Download {
        /// The requirements file.
        requirements: PathBuf,
        /// Where wheels are kept.
        wheels: PathBuf,
        /// pip's failure.
        #[source]
        source: Box<Error>,
    },

    /// Something failed where next to no space is left.
    #[error(
        "the disk is full: {} MB are left for {path}; free some space (`cargo xtask doctor` shows builds that are not in use), or set MLX_TRAIN_HOME to a folder on another disk",
        free_bytes / 1_000_000
    )]
    FullDisk {
        /// The folder that was being made.
        path: PathBuf,
        /// What `df` says.
        free_bytes: u64,
        /// What failed.
        #[source]
        source: Box<Error>,
    },

    /// A folder whose name Cargo's settings cannot hold.
    #[error(
        "the cache folder `{path}` has {what} in its name, which Cargo's `rustc-flags` setting cannot hold; set MLX_TRAIN_HOME to a folder without it, say MLX_TRAIN_HOME=/var/tmp/mlx-train"
    )]
    UnusableHome {
        /// The folder.
        path: PathBuf,
        /// The offending character, in words.
        what: String,
    },

    /// Neither `MLX_TRAIN_HOME` nor `HOME` says where to build.
    #[error(
        "neither MLX_TRAIN_HOME nor HOME is set to an absolute folder; set MLX_TRAIN_HOME to where native MLX shall be kept (about 400 MB)"
    )]
    NoHome,

    /// Another set-up holds the lock for too long.
    #[error(
        "another set-up has held {path} for {minutes} minutes; wait until it ends or end it, then run the same command again"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long this one waited.
        minutes: u64,
    },

    /// mlx-sys moved to another MLX than the wheels.
    #[error(
        "mlx-sys {mlx_sys} is written for MLX {wanted}, but {requirements} pins {package} {pinned}; put the wheels of MLX {wanted} and their hashes into that file"
    )]
    VersionMismatch {
        /// mlx-sys's own version.
        mlx_sys: String,
        /// The MLX tag in its CMake file.
        wanted: String,
        /// The requirements file.
        requirements: PathBuf,
        /// The wheel.
        package: String,
        /// Its pinned version.
        pinned: String,
    },

    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },

    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },

    /// A check of several things failed; each is a line.
    #[error("{summary}:\n{}", problems.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
    Problems {
        /// What was checked.
        summary: String,
        /// Each finding, with its fix.
        problems: Vec<String>,
    },
}

impl Error {
    /// For `map_err`: names the file and what was being done to it.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A file that was read but does not make sense.
    pub fn malformed(path: impl AsRef<Path>, problem: impl std::fmt::Display) -> Self {
        Self::Malformed { path: path.as_ref().to_path_buf(), problem: problem.to_string() }
    }
}
