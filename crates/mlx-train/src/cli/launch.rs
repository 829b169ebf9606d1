//! `mlx-train launch`.

use super::{Failure, args::LaunchArgs, signals};
use crate::launch::Launch;
use std::{
    io::{Write, stderr},
    process::exit,
    time::Duration,
};

/// Runs a command as ranks, and exits as the first of them that fails.
pub(super) fn run(args: &LaunchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let launch = Launch::new(args.command.clone(), args.num_ranks).map_err(Failure::Refused)?;
    let launch = launch.backend(args.backend).map_err(Failure::Refused)?;
    let mut launch = launch.limit(Duration::from_secs(args.limit));
    if let Some(port) = args.port {
        launch = launch.first_port(port);
    }
    let stop = signals::pass_signals_on().map_err(Failure::Failed)?;
    let ended = launch.run(&stop, out, &mut stderr()).map_err(Failure::Refused)?;
    if ended.exit_code != 0 {
        // What failed has been told; the ranks have ended.
        exit(ended.exit_code);
    }
    Ok(())
}
