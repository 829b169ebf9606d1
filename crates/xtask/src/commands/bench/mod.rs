//! `cargo xtask bench`: what this machine does in a second, one JSON line a run.

mod peers;

use super::setup;
use crate::error::Result;
use crate::shell;
use crate::workspace::Workspace;
use std::process::Command;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                              everything, some minutes on two cores
  cargo xtask bench step-overhead checkpoint     these two
  cargo xtask bench memory                       a table of gradient-checkpointing policies
  cargo xtask bench training --peers             against Python MLX, PyTorch, burn and candle
  cargo xtask bench growth -- --plot growth.svg  how the time of a step grows with its sizes
  cargo xtask bench step-overhead -- --steps 50  what comes after -- goes to the benchmarks (--help tells)
  cargo xtask bench | tee -a figures.jsonl       one JSON line a run, with commit, versions and device")]
pub struct BenchArgs {
    /// What to measure [default: all]
    names: Vec<String>,

    /// Build or install the frameworks that `training` is compared with, and measure them beside
    #[arg(long)]
    peers: bool,

    /// Arguments for the program with the benchmarks
    #[arg(last = true)]
    rest: Vec<String>,
}

/// The subcommand.
///
/// # Errors
/// When set-up or the build fails, or a benchmark does.
pub fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    setup::ensure(workspace)?;
    let mut command = workspace.cargo();
    command.args(["run", "--release", "--package", "mlx-train-bench", "--"]);
    command.args(&args.names).args(&args.rest);
    if args.peers {
        command.arg("--peers");
        peers::prepare(workspace, &mut command);
    }
    // A part of the program, which may be carried to a machine without the repository.
    command.env("MLX_TRAIN_COMMIT", commit(workspace));
    shell::stream(&mut command)
}

/// The commit that is checked out, with a `+` when files differ from it.
fn commit(workspace: &Workspace) -> String {
    let git = |args: &[&str]| {
        shell::capture(Command::new("git").arg("-C").arg(workspace.path("")).args(args))
    };
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let is_changed = git(&["status", "--porcelain"]).is_ok_and(|changes| !changes.is_empty());
    format!("{}{}", commit.trim(), if is_changed { "+" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_one_word_with_or_without_a_repository() {
        let commit = commit(&Workspace::find());
        assert!(!commit.is_empty() && !commit.contains(char::is_whitespace), "{commit}");
    }
}
