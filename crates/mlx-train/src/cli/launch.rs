//! `mlx-train launch`.

use super::{
    Failure,
    args::{self, Cli, Command, LaunchArgs, TrainArgs},
    origin::{LAUNCHED_BY, Origin},
    program_name, signals, train,
};
use crate::{
    Error, Result,
    launch::{Hostfile, Launch},
    run::quoted,
    store::Checkpoints,
};
use clap::FromArgMatches;
use std::{
    env,
    ffi::OsString,
    io::{Write, stderr},
    path::PathBuf,
    process::exit,
    time::Duration,
};

/// Runs a command as ranks, and exits as the first of them that fails.
pub(super) fn run(args: &LaunchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let launch = launch(args).map_err(Failure::Refused)?;
    let stop = signals::pass_signals_on().map_err(Failure::Failed)?;
    let ended = launch.run(&stop, out, &mut stderr()).map_err(Failure::Refused)?;
    if let Some(failure) = ended.failure {
        // If standard error is closed, the exit code is all that is left to say it.
        _ = writeln!(stderr(), "launch: {failure}");
        if let Some(command) = resume_command(args) {
            _ = writeln!(stderr(), "launch: go on with\n  {command}");
        }
        exit(ended.exit_code);
    }
    Ok(())
}

fn launch(args: &LaunchArgs) -> Result<Launch> {
    let command = args.command.clone();
    let mut launch = match (&args.hostfile, args.num_ranks) {
        (None, num_ranks) => Launch::new(command, num_ranks.unwrap_or(1))?,
        (Some(path), num_ranks) => {
            let hostfile = Hostfile::read(path)?;
            let has = hostfile.num_ranks();
            if let Some(asked) = num_ranks.filter(|asked| *asked != has) {
                return Err(Error::message(format!(
                    "-n asks for {asked} ranks, and `{}` has {has} hosts; each host is one rank, so list one as often \
                     as it has ranks, and leave -n out",
                    path.display()
                )));
            }
            Launch::on_hosts(command, hostfile)?
        }
    };
    launch = launch.limit(Duration::from_secs(args.limit));
    if let Some(backend) = args.backend {
        launch = launch.backend(backend);
    }
    if let Some(port) = args.port {
        launch = launch.first_port(port);
    }
    if let Some(folder) = &args.cwd {
        launch = launch.folder(folder);
    }
    launch = launch.variable(&format!("{LAUNCHED_BY}={}", line([program_name().into()], [])))?;
    args.variables.iter().try_fold(launch, |launch, variable| launch.variable(variable))
}

/// What goes on with the run that the ranks have trained, if that is what they did and it has a checkpoint.
fn resume_command(args: &LaunchArgs) -> Option<String> {
    let train = train_args(&args.command)?;
    let run = run_folder(&train)?;
    let there = args.cwd.clone().unwrap_or_default().join(&run);
    Checkpoints::open(there.join("checkpoints")).ok()?.latest().ok()??;
    let words =
        ["--".into(), args.command[0].clone(), "train".into(), "--resume".into(), run.into()];
    Some(line(env::args_os().take(1), words))
}

/// The launch of this process by a program, and what comes after it, as a shell takes it.
fn line(
    program: impl IntoIterator<Item = OsString>,
    after: impl IntoIterator<Item = OsString>,
) -> String {
    let arguments = env::args_os().skip(1).take_while(|word| word != "--");
    let words = program.into_iter().chain(arguments).chain(after);
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// What `train` was asked for, if the command is one of a program with this command line.
fn train_args(command: &[OsString]) -> Option<TrainArgs> {
    let name = command.first()?.to_string_lossy().into_owned();
    let matches = args::command(&name).try_get_matches_from(command).ok()?;
    match Cli::from_arg_matches(&matches).ok()?.command {
        Command::Train(args) => Some(args),
        _ => None,
    }
}

/// The folder of a run.
fn run_folder(args: &TrainArgs) -> Option<PathBuf> {
    match Origin::of(args).ok()? {
        Some(origin) => Some(origin.folder.path().to_owned()),
        None => args
            .output
            .clone()
            .or_else(|| Some(train::default_folder(&train::settings(args).ok()?))),
    }
}
