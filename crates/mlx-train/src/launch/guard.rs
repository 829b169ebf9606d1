//! Processes that are out of reach of a signal: on another machine, or started by `mpirun`.
//!
//! A shell script there runs the command, and takes orders on its standard input. When they stop, because the
//! launcher or the connection to it is gone, it ends the command.

use super::environment::{MeetingFile, Seat};
use crate::{Error, Result, run::quoted};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
    process::{ChildStdin, Command},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, sleep},
    time::Duration,
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
    stdin: Arc<Mutex<ChildStdin>>,
    signals: Signals,
}

impl Orders {
    /// Gives orders there, and says every second that the launcher is there, until this is dropped: also while the
    /// launcher waits for somebody to read what ranks write.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub(super) fn new(stdin: ChildStdin, signals: Signals) -> io::Result<Self> {
        let stdin = Arc::new(Mutex::new(stdin));
        let there = Arc::downgrade(&stdin);
        let beat = move || {
            while let Some(stdin) = there.upgrade() {
                say(&stdin, "");
                drop(stdin);
                sleep(BEAT);
            }
        };
        thread::Builder::new().name("signs of life".into()).spawn(beat)?;
        Ok(Self { stdin, signals })
    }

    pub(super) fn ask(&self) {
        say(&self.stdin, self.signals.ask);
    }

    pub(super) fn kill(&self) {
        say(&self.stdin, self.signals.kill);
    }

    /// What no command survives.
    pub(super) fn kill_at_once(&self) {
        say(&self.stdin, "KILL");
    }
}

fn say(stdin: &Mutex<ChildStdin>, order: &str) {
    let mut stdin = stdin.lock().unwrap_or_else(PoisonError::into_inner);
    // A script that has ended needs no order.
    _ = stdin.write_all(format!("{order}\n").as_bytes());
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
    [limit.as_secs().to_string(), limit.saturating_add(SILENCE).as_secs().to_string()]
}

fn text(word: &OsStr) -> Result<&str> {
    word.to_str().filter(|word| !word.contains('\0')).ok_or_else(|| {
        Error::message(format!(
            "`{}` is no UTF-8, and cannot be passed on to another machine; rename it",
            word.display()
        ))
    })
}
