//! `cargo xtask test`: every test of the workspace, from a clean machine.

use super::setup;
use crate::error::Result;
use crate::shell;
use crate::workspace::Workspace;

/// Options of `test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                                 everything
  cargo xtask test -p mlx-train-core               one package
  cargo xtask test -p mlx-train-core -- cross_entropy --nocapture
                                                   what comes after -- goes to the test programs")]
pub struct TestArgs {
    /// Test this package only (may be repeated)
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,

    /// Build with optimisation
    #[arg(long)]
    release: bool,

    /// Go on after a test program fails
    #[arg(long)]
    no_fail_fast: bool,

    /// Arguments for the test programs: a filter, --nocapture, …
    #[arg(last = true)]
    rest: Vec<String>,
}

/// The subcommand.
///
/// # Errors
/// When set-up fails or a test does.
pub fn run(workspace: &Workspace, args: &TestArgs) -> Result<()> {
    setup::ensure(workspace)?;
    // `--all-targets` leaves documentation examples out, and `--doc` takes nothing else.
    for targets in ["--all-targets", "--doc"] {
        let mut command = workspace.cargo();
        command.args(arguments(args, targets));
        println!("{}", shell::describe(&command));
        shell::stream(&mut command)?;
    }
    Ok(())
}

fn arguments<'a>(args: &'a TestArgs, targets: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["test", targets];
    for package in &args.package {
        arguments.extend(["--package", package]);
    }
    if args.package.is_empty() {
        arguments.push("--workspace");
    }
    if args.release {
        arguments.push("--release");
    }
    if args.no_fail_fast {
        arguments.push("--no-fail-fast");
    }
    if !args.rest.is_empty() {
        arguments.push("--");
        arguments.extend(args.rest.iter().map(String::as_str));
    }
    arguments
}
