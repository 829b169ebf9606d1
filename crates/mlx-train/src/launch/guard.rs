//! Processes that are out of reach of a signal: on another machine, or started by `mpirun`.
//!
//! A shell script there runs the command, and takes orders on its standard input. When they stop, because the
//! launcher or the connection to it is gone, it ends the command.

use super::environment::{MeetingFile, Seat};
use crate::{Error, Result, run::quoted};
use std::{
    ffi::OsString,
    io::Write,
    path::Path,
    process::{ChildStdin, Command},
    time::{Duration, Instant},
};

/// The script: `bash -c SCRIPT NAME LIMIT SILENCE COMMAND`.
const SCRIPT: &str = include_str!("guard.sh");

/// What the script calls itself in its messages.
const NAME: &str = "launch";

/// How often it hears that the launcher is there.
const BEAT: Duration = Duration::from_secs(1);

/// After how long without hearing it the command is ended: a network that is gone says nothing. A launcher that is
/// gone is noticed at once.
const SILENCE: Duration = Duration::from_mins(1);

/// How long a process has to end when it was told to be killed, until something stronger is tried.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The signals that ask a command to end, and make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signals {
    pub(super) ask: &'static str,
    pub(super) kill: &'static str,
}

/// The standard input of a script.
#[derive(Debug)]
pub(super) struct Orders {
    stdin: ChildStdin,
    signals: Signals,
    /// The last sign of life.
    last: Instant,
}

impl Orders {
    pub(super) fn new(stdin: ChildStdin, signals: Signals) -> Self {
        Self { stdin, signals, last: Instant::now() }
    }

    pub(super) fn ask(&mut self) {
        self.say(self.signals.ask);
    }

    pub(super) fn kill(&mut self) {
        self.say(self.signals.kill);
    }

    /// What no command survives.
    pub(super) fn kill_at_once(&mut self) {
        self.say("KILL");
    }

    /// Says that the launcher is there, where it has not just done so.
    pub(super) fn beat(&mut self) {
        if self.last.elapsed() >= BEAT {
            self.say("");
        }
    }

    fn say(&mut self, order: &str) {
        self.last = Instant::now();
        // A script that has ended needs no order.
        _ = writeln!(self.stdin, "{order}").and_then(|()| self.stdin.flush());
    }
}

/// Runs a program on this machine under the script.
pub(super) fn here(limit: Duration, program: &Path, arguments: Vec<OsString>) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, NAME]).args(seconds(limit)).arg(program).args(arguments);
    command
}

/// What runs where, for [`over_ssh`].
#[derive(Debug)]
pub(super) struct Remote<'a> {
    pub(super) host: &'a str,
    pub(super) seat: &'a Seat,
    pub(super) file: Option<&'a MeetingFile>,
    /// Where it runs.
    pub(super) folder: &'a Path,
    /// Whether it is to fail without that folder, or to run in another.
    pub(super) is_folder_needed: bool,
    pub(super) command: &'a [OsString],
    pub(super) limit: Duration,
}

/// Runs a command on another machine, under the script.
///
/// # Errors
/// When the command is not of words that a shell takes.
pub(super) fn over_ssh(remote: &Remote<'_>) -> Result<Command> {
    let Remote { host, limit, .. } = *remote;
    let mut ssh = Command::new("ssh");
    // Nobody answers questions, and a connection that is gone is one that is noticed.
    let options = ["BatchMode=yes", "ServerAliveInterval=10", "ServerAliveCountMax=3"];
    let timeout = format!("ConnectTimeout={}", limit.as_secs().max(1));
    for option in options.into_iter().chain([timeout.as_str()]) {
        ssh.args(["-o", option]);
    }
    ssh.args(["-T", "--", host]).arg(remote.line()?);
    Ok(ssh)
}

impl Remote<'_> {
    /// What the shell there runs, whatever shell it is.
    fn line(&self) -> Result<String> {
        let script = format!("{}{SCRIPT}", self.preparation()?);
        let mut words = vec!["exec".into(), "bash".into(), "-c".into(), script, NAME.into()];
        words.extend(seconds(self.limit));
        for word in self.command {
            words.push(text(word)?.to_owned());
        }
        Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
    }

    /// Folder, variables and file, as the commands of a shell.
    fn preparation(&self) -> Result<String> {
        let folder = quoted(text(self.folder.as_os_str())?);
        let otherwise = if self.is_folder_needed {
            format!(
                "{{ echo {NAME}: no folder {folder} here, name another with --cwd >&2; exit 2; }}"
            )
        } else {
            format!("echo {NAME}: no folder {folder} here, running in \"$PWD\" >&2")
        };
        let mut lines = vec![format!("cd -- {folder} 2>/dev/null || {otherwise}")];
        if self.seat.neighbours > 1 {
            let cores =
                format!("cores=$(($(getconf _NPROCESSORS_ONLN) / {}))", self.seat.neighbours);
            let threads = "${OPENBLAS_NUM_THREADS:-$((cores > 1 ? cores : 1))}";
            lines.extend([cores, format!("export OPENBLAS_NUM_THREADS={threads}")]);
        }
        for (name, value) in &self.seat.variables {
            lines.push(format!("export {name}={}", quoted(value)));
        }
        if let Some(MeetingFile { variable, text }) = self.file {
            let write = format!("files=$(mktemp) && printf %s {} >\"$files\"", quoted(text));
            lines.push(format!("{write} && export {variable}=\"$files\" || exit 1"));
        }
        Ok(lines.join("\n") + "\n")
    }
}

fn seconds(limit: Duration) -> [String; 2] {
    [limit.as_secs().to_string(), (limit + SILENCE).as_secs().to_string()]
}

fn text(word: &std::ffi::OsStr) -> Result<&str> {
    word.to_str().filter(|word| !word.contains('\0')).ok_or_else(|| {
        Error::message(format!(
            "`{}` is no UTF-8, and cannot be passed on to another machine; rename it",
            word.display()
        ))
    })
}
