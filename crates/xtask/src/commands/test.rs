//! `cargo xtask test`: every test of the workspace, from a clean machine.

use super::setup;
use crate::error::Result;
use crate::shell;
use crate::workspace::Workspace;

/// How many threads each process may use for one matrix product.
///
/// Several tests run at once, and some start processes that each want every core. The tests' products are small: with one thread each
/// program takes as long as with two, and up to half of the processor time.
const BLAS_THREADS: &str = "OPENBLAS_NUM_THREADS";

/// Parts of the library that are left out of a plain build, and are tested with everything.
///
/// One build with them costs a third of what a second build of all tests would.
const FEATURES: [&str; 2] = ["--features", "mlx-train/parquet"];

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
    let mut failure = None;
    for arguments in invocations(args) {
        let mut command = workspace.cargo();
        command.args(arguments);
        if std::env::var_os(BLAS_THREADS).is_none() {
            command.env(BLAS_THREADS, "1");
        }
        println!("{}", shell::describe(&command));
        if let Err(error) = shell::stream(&mut command) {
            failure.get_or_insert(error);
            if !args.no_fail_fast {
                break;
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The arguments of each `cargo` to run.
///
/// `--all-targets` leaves documentation examples out, and `--doc` takes nothing else, nor a package
/// that is only a program. So the whole workspace takes two runs; a named package gets what plain
/// `cargo test` does, which is both but for benchmarks.
fn invocations(args: &TestArgs) -> Vec<Vec<&str>> {
    if args.package.is_empty() {
        return ["--doc", "--all-targets"]
            .map(|targets| arguments(args, &[&["--workspace", targets], &FEATURES[..]].concat()))
            .into();
    }
    let named = args.package.iter().flat_map(|package| ["--package", package]);
    vec![arguments(args, &named.collect::<Vec<_>>())]
}

fn arguments<'a>(args: &'a TestArgs, what: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["test"];
    arguments.extend(what);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(package: &[&str], rest: &[&str]) -> TestArgs {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let (package, rest) = (owned(package), owned(rest));
        TestArgs { package, release: false, no_fail_fast: true, rest }
    }

    #[test]
    fn everything_is_tested_unless_packages_are_named() {
        let expected = [
            ["test", "--workspace", "--doc", "--features", "mlx-train/parquet", "--no-fail-fast"],
            [
                "test",
                "--workspace",
                "--all-targets",
                "--features",
                "mlx-train/parquet",
                "--no-fail-fast",
            ],
        ];
        assert_eq!(invocations(&options(&[], &[])), expected);
    }

    #[test]
    fn a_package_and_a_filter_reach_cargo() {
        let some = options(&["xtask"], &["elf", "--nocapture"]);
        let expected = ["test", "--package", "xtask", "--no-fail-fast", "--", "elf", "--nocapture"];
        assert_eq!(invocations(&some), [expected]);
    }
}
