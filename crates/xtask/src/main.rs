//! Repeated commands of the workspace: `cargo xtask --help`.

// Talking to a person is what these commands are for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod error;
mod native;
mod platform;
mod progress;
mod shell;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Repeated commands of mlx-train.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "\
New here? `cargo xtask demo` and `cargo xtask test` set up what they need by themselves."
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make MLX available to Cargo on this machine (two minutes once, then nothing to do)
    Setup(commands::setup::SetupArgs),
    /// Train both reference models on real data
    Demo(commands::demo::DemoArgs),
    /// Run every test, documentation examples included
    Test(commands::test::TestArgs),
    /// Measure mlx-train on this machine, one JSON line a run
    Bench(commands::bench::BenchArgs),
    /// Type-check the workspace for Apple silicon, on a Mac or on Debian
    CheckMacos(commands::check_macos::CheckMacosArgs),
    /// Build the documentation with warnings denied, and check the book
    Docs(commands::docs::DocsArgs),
    /// Show what is found: MLX, backend, memory, BLAS and its speed, GPU, compilers
    Doctor,
    #[command(name = native::bindings::SUBCOMMAND, hide = true)]
    GenerateBindings(native::bindings::BindgenArgs),
}

fn main() -> ExitCode {
    let workspace = workspace::Workspace::find();
    let result = match Cli::parse().command {
        Task::Setup(args) => commands::setup::run(&workspace, &args),
        Task::Demo(args) => commands::demo::run(&workspace, &args),
        Task::Test(args) => commands::test::run(&workspace, &args),
        Task::Bench(args) => commands::bench::run(&workspace, &args),
        Task::CheckMacos(args) => commands::check_macos::run(&workspace, &args),
        Task::Docs(args) => commands::docs::run(&workspace, &args),
        Task::Doctor => {
            commands::doctor::run(&workspace);
            Ok(())
        }
        Task::GenerateBindings(args) => native::bindings::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each on a line.
fn report(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_subcommand_parses_and_explains_itself() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        for name in ["setup", "demo", "test", "bench", "check-macos", "docs", "doctor"] {
            assert!(help.contains(name), "{help}");
        }
        assert!(!help.contains("generate-bindings"));
    }
}
