//! `cargo xtask bench`: what this machine does in a second, one JSON line a run.

mod peers;

use super::setup;
use crate::error::Result;
use crate::shell;
use crate::workspace::Workspace;
use std::process::Command;

const PACKAGE: &str = "mlx-train-bench";

/// What Criterion measures, in a program of its own.
const MICRO: &str = "micro";

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                              everything, some minutes on two cores
  cargo xtask bench step-overhead checkpoint     these two
  cargo xtask bench memory                       a table of gradient-checkpointing policies
  cargo xtask bench training --peers             against Python MLX, PyTorch, burn and candle
  cargo xtask bench growth -- --plot growth.svg  how the time of a step grows with its sizes
  cargo xtask bench micro                        parts of the engine, by Criterion
  cargo xtask bench micro -- registry            those with this in their names
  cargo xtask bench step-overhead -- --steps 50  what comes after -- goes to the benchmarks (--help tells), to
                                                 Criterion if they are micro alone
  cargo xtask bench | tee -a figures.jsonl       one JSON line a run, with commit, versions and device")]
pub struct BenchArgs {
    /// What to measure, `micro` or what the program offers [default: all]
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
    for arguments in invocations(args) {
        let mut command = workspace.cargo();
        command.args(&arguments);
        if arguments.contains(&"--peers") {
            peers::prepare(workspace, &mut command);
        }
        // A part of the program, which may be carried to a machine without the repository.
        command.env("MLX_TRAIN_COMMIT", commit(workspace));
        shell::stream(&mut command)?;
    }
    Ok(())
}

/// The arguments of each `cargo` to run: the program that trains models, and the micro-benchmarks.
fn invocations(args: &BenchArgs) -> Vec<Vec<&str>> {
    let names = args.names.iter().map(String::as_str);
    let (micro, names): (Vec<_>, Vec<_>) = names.partition(|&name| name == MICRO);
    let rest: Vec<_> = args.rest.iter().map(String::as_str).collect();
    let is_all = args.names.is_empty();
    let mut invocations = Vec::new();
    let has_program = is_all || !names.is_empty();
    if has_program {
        let peers = if args.peers { &["--peers"][..] } else { &[] };
        let program = ["run", "--release", "--package", PACKAGE, "--"];
        invocations.push([&program[..], &names, &rest, peers].concat());
    }
    if is_all || !micro.is_empty() {
        let criterion = ["bench", "--package", PACKAGE, "--bench", MICRO, "--"];
        let rest = if has_program { &[] } else { &rest[..] };
        invocations.push([&criterion[..], rest].concat());
    }
    invocations
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

    fn invocations_of(names: &[&str], rest: &[&str], peers: bool) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let args = BenchArgs { names: owned(names), peers, rest: owned(rest) };
        invocations(&args).iter().map(|arguments| arguments.join(" ")).collect()
    }

    #[test]
    fn micro_benchmarks_run_when_they_are_named_or_nothing_is() {
        let program = "run --release --package mlx-train-bench --";
        let micro = "bench --package mlx-train-bench --bench micro --";
        assert_eq!(invocations_of(&[], &[], false), [program, micro]);
        assert_eq!(invocations_of(&["loader"], &[], false), [format!("{program} loader")]);
        assert_eq!(invocations_of(&["micro"], &[], true), [micro]);
        let both = [format!("{program} loader"), micro.into()];
        assert_eq!(invocations_of(&["micro", "loader"], &[], false), both);
    }

    #[test]
    fn options_reach_the_program_or_criterion_if_that_runs_alone() {
        let program = "run --release --package mlx-train-bench --";
        let micro = "bench --package mlx-train-bench --bench micro --";
        let steps = ["--steps", "50"];
        let both = [format!("{program} --steps 50 --peers"), micro.into()];
        assert_eq!(invocations_of(&[], &steps, true), both);
        assert_eq!(invocations_of(&["micro"], &["shape"], false), [format!("{micro} shape")]);
    }

    #[test]
    fn the_commit_is_one_word_with_or_without_a_repository() {
        let commit = commit(&Workspace::find());
        assert!(!commit.is_empty() && !commit.contains(char::is_whitespace), "{commit}");
    }
}
