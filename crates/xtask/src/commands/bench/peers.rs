//! The frameworks that `bench --peers` compares with, built and installed below `target/peers`.
//!
//! They are not of the workspace, whose lock file stays free of them. One that cannot be had is left out, and
//! the benchmark says so.

use crate::error::Result;
use crate::shell;
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates, and the variables by which the benchmark finds their programs.
const CRATES: [(&str, &str); 2] =
    [("burn", "MLX_TRAIN_BENCH_BURN"), ("candle", "MLX_TRAIN_BENCH_CANDLE")];

/// Prepares all that can be had, and tells `command` where they are.
pub fn prepare(workspace: &Workspace, command: &mut Command) {
    let target = workspace.path("target/peers");
    for (name, variable) in CRATES {
        tell(&format!("builds {name}, some minutes the first time"));
        match build(workspace, name, &target) {
            Ok(program) => _ = command.env(variable, program),
            Err(error) => tell(&format!("goes on without {name}: {error}")),
        }
    }
    tell("installs PyTorch, some gigabytes the first time");
    match install_pytorch(workspace, &target.join("pytorch")) {
        Ok(python) => _ = command.env("MLX_TRAIN_BENCH_PYTORCH", python),
        Err(error) => tell(&format!("goes on without PyTorch: {error}")),
    }
}

/// Beside the figures, which go to the standard output.
fn tell(what: &str) {
    eprintln!("{what}");
}

fn build(workspace: &Workspace, name: &str, target: &Path) -> Result<PathBuf> {
    let manifest = workspace.path(format!("crates/bench/peers/{name}/Cargo.toml"));
    let mut command = workspace.cargo();
    command.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(target);
    shell::stream(&mut command)?;
    Ok(target.join(format!("release/mlx-train-bench-{name}")))
}

/// Where wheels are that hold no CUDA, which has several gigabytes.
const WITHOUT_CUDA: &str = "https://download.pytorch.org/whl/cpu";

/// The Python of an environment that has PyTorch.
fn install_pytorch(workspace: &Workspace, environment: &Path) -> Result<PathBuf> {
    let python = environment.join("bin/python");
    if !python.exists() {
        let mut venv = Command::new("python3");
        // What was left of an interrupted one is of no use.
        shell::capture(venv.args(["-m", "venv", "--clear"]).arg(environment))?;
    }
    let requirements = workspace.path("crates/bench/peers/pytorch.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    pip.arg(requirements);
    if cfg!(target_os = "linux") && shell::find("nvidia-smi").is_none() {
        // Of the same version that one counts as newer; where it cannot be reached, the one from PyPI is taken.
        pip.args(["--retries", "1", "--extra-index-url", WITHOUT_CUDA]);
    }
    shell::capture(&mut pip)?;
    shell::capture(Command::new(&python).args(["-c", "import torch"]))?;
    Ok(python)
}
