//! A benchmark of several ranks: this program again, once for each of them, on this machine.

use mlx_train::{
    Error, Result,
    distributed::Backend,
    launch::{Launch, Stop},
};
use std::{
    env,
    io::{Write, stderr, stdout},
};

/// What ranks of this machine talk over: NCCL where there are NVIDIA GPUs, else a ring.
pub fn backend() -> Backend {
    if Backend::Nccl.is_available() { Backend::Nccl } else { Backend::Ring }
}

/// Runs this program with `arguments` as `count` ranks, and prints the lines that they print.
///
/// # Errors
/// When they cannot be started, or one of them fails.
pub fn launch(arguments: &[&str], count: u32, backend: Backend) -> Result<()> {
    let program = env::current_exe()
        .map_err(|error| Error::message(format!("cannot tell where this program is: {error}")))?;
    let command = [program.into_os_string()].into_iter();
    let command = command.chain(arguments.iter().map(Into::into)).collect();
    let launch = Launch::new(command, count as usize)?.backend(backend);
    let mut lines = Vec::new();
    let ended = launch.run(&Stop::default(), &mut lines, &mut stderr())?;
    if let Some(failure) = ended.failure {
        return Err(Error::message(format!("a rank has failed: {failure}")));
    }
    // A line begins with the rank that has written it.
    for line in String::from_utf8_lossy(&lines).lines() {
        let record = line.find('{').map_or(line, |start| &line[start..]);
        let written = writeln!(stdout(), "{record}");
        written.map_err(|error| Error::message(format!("cannot write the output: {error}")))?;
    }
    Ok(())
}
