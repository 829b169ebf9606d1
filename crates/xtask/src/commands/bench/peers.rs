//! The frameworks that `bench --peers` compares with, built and installed below `target/peers`.
//!
//! They are not of the workspace, whose lock file stays free of them. One that cannot be had is left out, and
//! the benchmark says so.

use crate::error::Result;
use crate::progress::Progress;
use crate::shell;
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates, and the variables by which the benchmark finds their programs.
const CRATES: [(&str, &str); 2] =
    [("burn", "MLX_TRAIN_BENCH_BURN"), ("candle", "MLX_TRAIN_BENCH_CANDLE")];

/// Prepares all that can be had, and tells `command` where they are.
pub fn prepare(workspace: &Workspace, command: &mut Command) {
    let progress = Progress::start();
    let target = workspace.path("target/peers");
    for (name, variable) in CRATES {
        progress.step(format_args!("builds {name}, some minutes the first time"));
        match build(workspace, name, &target) {
            Ok(program) => _ = command.env(variable, program),
            Err(error) => progress.step(format_args!("goes on without {name}: {error}")),
        }
    }
    progress.step("installs PyTorch, some gigabytes the first time");
    match install_pytorch(workspace, &target.join("pytorch")) {
        Ok(python) => _ = command.env("MLX_TRAIN_BENCH_PYTORCH", python),
        Err(error) => progress.step(format_args!("goes on without PyTorch: {error}")),
    }
}

fn build(workspace: &Workspace, name: &str, target: &Path) -> Result<PathBuf> {
    let manifest = workspace.path(format!("crates/bench/peers/{name}/Cargo.toml"));
    let mut command = workspace.cargo();
    command.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(target);
    shell::stream(&mut command)?;
    Ok(target.join(format!("release/mlx-train-bench-{name}")))
}

/// The Python of an environment that has PyTorch.
fn install_pytorch(workspace: &Workspace, environment: &Path) -> Result<PathBuf> {
    let python = environment.join("bin/python");
    if !python.exists() {
        shell::capture(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    }
    let requirements = workspace.path("crates/bench/peers/pytorch.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    shell::capture(pip.arg(requirements))?;
    Ok(python)
}
