//! Open MPI, which the set-up installs beside Python MLX.

use crate::PYTHON;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// `mpirun` of so many ranks, before the program and its arguments.
///
/// More ranks than cores, each of which goes where it likes, also in a container whose one user is root. They say who
/// they are before each line.
///
/// # Panics
/// When it is not set up.
#[track_caller]
pub fn mpirun(num_ranks: usize) -> Command {
    let mut command = Command::new(folder().join("mpirun"));
    command.args(["--oversubscribe", "--bind-to", "none", "--tag-output", "-n"]);
    command.arg(num_ranks.to_string());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

/// The folder with `mpirun`.
///
/// # Panics
/// When it is not set up.
#[track_caller]
pub fn folder() -> PathBuf {
    let python = env::var_os(PYTHON).map(PathBuf::from).unwrap_or_default();
    let folder = python.parent().unwrap_or(Path::new("")).to_owned();
    assert!(
        folder.join("mpirun").exists(),
        "tests of ranks over MPI need `mpirun` beside the Python that {PYTHON} names: run `cargo xtask setup`"
    );
    folder
}
