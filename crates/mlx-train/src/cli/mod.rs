//! A command line over every model that is linked into a program.
//!
//! A program whose `main` is `mlx_train::cli::main()` can list and describe its models, write and
//! check config files, train, look after checkpoints, and generate text. Errors go to standard error; the exit code is 2 for
//! a command line, config or model name that was refused, and 1 for work that failed.

mod args;
mod batch_size;
mod checkpoint;
mod config;
mod data;
mod environment;
mod estimate;
mod generate;
mod launch;
mod models;
mod origin;
mod plan;
mod plot;
mod prepare;
mod profile;
mod report;
mod schedule;
mod settings;
mod signals;
mod train;

use crate::{
    Error, Result,
    distributed::{Backend, DistributedError, FOLLOWER_EXIT_STATUS},
};
use args::{Cli, Command};
use clap::FromArgMatches;
use signal_hook::low_level;
use std::{
    io::{self, Write, stderr, stdout},
    process::exit,
};

/// Runs the command line of this process.
///
/// # Errors
/// None is returned: an error is printed, and the process exits with its code.
pub fn main() -> Result<()> {
    let arguments = args::command(&program_name()).get_matches();
    let command = match Cli::from_arg_matches(&arguments) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    if let Err(error) = environment::enter(&command) {
        _ = writeln!(stderr(), "warning: {error}");
    }
    let failure = match run(command, &mut stdout().lock()) {
        // Whoever read the output has seen enough, as in `models list | head -1`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Ok(()) => return Ok(()),
        Err(failure) => failure,
    };
    // If standard error is closed too, the exit code is all that is left to say it.
    _ = writeln!(stderr(), "{}", failure.report());
    if Backend::of_environment().is_some() {
        // A rank that ended in an orderly way would wait for the others, which wait for it.
        _ = stdout().flush();
        low_level::exit(failure.exit_code());
    }
    exit(failure.exit_code())
}

fn run(command: Command, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        Command::Models(command) => models::run(command, out),
        Command::Config(command) => config::run(command, out),
        Command::Data(command) => prepare::run(command, out),
        Command::Train(args) => train::run(&args, out),
        Command::Profile(args) => profile::run(&args, out),
        Command::Estimate(args) => estimate::run(&args, out),
        Command::Plan(args) => plan::run(&args, out),
        Command::Schedule(args) => schedule::run(&args, out),
        Command::Generate(args) => generate::run(&args, out),
        Command::Launch(args) => launch::run(&args, out),
        Command::Plot(args) => plot::run(&args, out),
        Command::Report(args) => report::run(&args, out),
        Command::Checkpoint(command) => checkpoint::run(command, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let name = program_name();
            clap_complete::generate(shell, &mut args::command(&name), &name, &mut script);
            Ok(out.write_all(&script)?)
        }
    }
}

/// What this program is called, for the examples in its messages.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Why a command ended without success.
#[derive(Debug)]
enum Failure {
    /// It was asked for something that cannot be done, and did nothing.
    Refused(Error),
    /// It tried and failed.
    Failed(Error),
    /// Standard output took no more.
    Output(io::Error),
}

impl Failure {
    fn report(&self) -> String {
        if let Some(what) = self.of_another_rank() {
            return format!("stopped: {what}");
        }
        match self {
            Self::Refused(error) | Self::Failed(error) => format!("error: {error:?}"),
            Self::Output(error) => format!("error: cannot write the output: {error}"),
        }
    }

    fn exit_code(&self) -> i32 {
        match self {
            _ if self.of_another_rank().is_some() => FOLLOWER_EXIT_STATUS,
            Self::Refused(_) => 2,
            Self::Failed(_) | Self::Output(_) => 1,
        }
    }

    /// What has become of another rank, where this one ends for that alone; the other says why itself.
    fn of_another_rank(&self) -> Option<String> {
        match self {
            Self::Refused(error) | Self::Failed(error) => match error {
                Error::Distributed(DistributedError::Rank { rank, .. }) => {
                    Some(format!("rank {rank} failed"))
                }
                // MLX's ring has no other name for it.
                error if error.to_string().contains("[ring] connection to a peer was lost") => {
                    Some("the connection to another rank was lost".into())
                }
                _ => None,
            },
            Self::Output(_) => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
