//! Processes that live and die together.

use super::{
    Stop,
    environment::Place,
    lines::{self, Line},
};
use crate::{Error, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    ffi::OsString,
    io::Write,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

/// How often the ranks are looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// How a launch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What the launch exits with: 0, or the status of the first rank that failed, 128 and the signal for one that
    /// a signal has killed.
    pub exit_code: i32,
    /// Which rank failed first, and how.
    pub failure: Option<String>,
}

/// The ranks of a launch; those that still run are killed when this is dropped.
pub(super) struct Ranks {
    ranks: Vec<Rank>,
    lines: Receiver<Line>,
}

struct Rank {
    child: Child,
    status: Option<ExitStatus>,
    stopped_at: Option<Instant>,
}

/// Why the others have to end.
struct Failure {
    exit_code: i32,
    text: String,
    at: Instant,
}

impl Ranks {
    /// Starts all of them, or none.
    pub(super) fn start(command: &[OsString], place: &Place) -> Result<Self> {
        let (sender, lines) = mpsc::channel();
        let mut this = Self { ranks: Vec::new(), lines };
        let [program, arguments @ ..] = command else {
            return Err(Error::message("there is no command to launch"));
        };
        for rank in 0..place.world_size {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            // Ctrl-C comes from here alone: a rank that had it from the terminal, too, would end at once.
            command.process_group(0);
            place.tell(rank, &mut command);
            let failed = |error| {
                let program = program.display();
                Error::message(format!(
                    "rank {rank} cannot run `{program}`: {error}; check its name and path"
                ))
            };
            let mut child = command.spawn().map_err(failed)?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            this.ranks.push(Rank { child, status: None, stopped_at: None });
            if let Some(stdout) = stdout {
                lines::read(rank, false, stdout, sender.clone()).map_err(failed)?;
            }
            if let Some(stderr) = stderr {
                lines::read(rank, true, stderr, sender.clone()).map_err(failed)?;
            }
        }
        Ok(this)
    }

    /// Passes on what they write until the last has ended, and ends all when one fails.
    pub(super) fn run(
        mut self,
        limit: Duration,
        stop: &Stop,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Ended {
        let mut failure: Option<Failure> = None;
        let mut num_requests = 0;
        let mut ended_at: Option<Instant> = None;
        loop {
            let is_over = match self.lines.recv_timeout(INTERVAL) {
                Ok(line) => {
                    pass_on(&line, out, err);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                // Nobody has anything to write with.
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while let Ok(line) = self.lines.try_recv() {
                pass_on(&line, out, err);
            }
            let was_fine = failure.is_none();
            self.look(limit, &mut failure);
            if let Some(first) = failure.as_ref().filter(|_| was_fine) {
                _ = writeln!(err, "launch: {}; ending the other ranks", first.text);
                self.signal(Signal::TERM);
            }
            if num_requests < stop.num_requests() {
                self.signal(if num_requests == 0 { Signal::TERM } else { Signal::KILL });
                num_requests += 1;
            }
            if failure.as_ref().is_some_and(|failure| failure.at.elapsed() > limit) {
                self.signal(Signal::KILL);
            }
            if self.ranks.iter().all(|rank| rank.status.is_some()) {
                // Something that a rank has left behind may hold its output for ever.
                let ended_at = *ended_at.get_or_insert_with(Instant::now);
                if is_over || ended_at.elapsed() > limit {
                    break;
                }
            }
            if is_over {
                std::thread::sleep(INTERVAL);
            }
        }
        match failure {
            None => Ended { exit_code: 0, failure: None },
            Some(Failure { exit_code, text, .. }) => Ended { exit_code, failure: Some(text) },
        }
    }

    /// Notes which ranks have ended or are stopped.
    fn look(&mut self, limit: Duration, failure: &mut Option<Failure>) {
        for (index, rank) in self.ranks.iter_mut().enumerate() {
            if rank.status.is_some() {
                continue;
            }
            rank.status = rank.child.try_wait().ok().flatten();
            let found = match rank.status {
                Some(status) if status.success() => None,
                Some(status) => Some((exit_code(status), described(status))),
                None => rank.stopped_for().filter(|time| *time > limit).map(|time| {
                    let seconds = time.as_secs_f64();
                    (128 + Signal::STOP.as_raw(), format!("has been stopped for {seconds:.0} s"))
                }),
            };
            if let Some((exit_code, what)) = found.filter(|_| failure.is_none()) {
                let text = format!("rank {index} {what}");
                *failure = Some(Failure { exit_code, text, at: Instant::now() });
            }
        }
    }

    /// Sends a signal to all that still run, and to what they have started.
    fn signal(&self, signal: Signal) {
        self.ranks.iter().filter(|rank| rank.status.is_none()).for_each(|rank| rank.signal(signal));
    }
}

impl Rank {
    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Sends a signal to its process group, which it leads: a script's own processes are in it.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // One that has just ended needs no signal.
            _ = kill_process_group(pid, signal);
        }
    }

    /// For how long it has been stopped, as far as it was seen.
    fn stopped_for(&mut self) -> Option<Duration> {
        // What this finds stays to be found again, so the end of the process is not missed.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let found = self.pid().and_then(|pid| waitid(WaitId::Pid(pid), options).ok().flatten());
        let is_stopped = found.is_some_and(|status| status.stopped());
        self.stopped_at = is_stopped.then(|| self.stopped_at.unwrap_or_else(Instant::now));
        self.stopped_at.map(|at| at.elapsed())
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for rank in self.ranks.iter_mut().filter(|rank| rank.status.is_none()) {
            _ = rank.child.wait();
        }
    }
}

/// A reader that has gone away loses lines, and the ranks go on.
fn pass_on(line: &Line, out: &mut dyn Write, err: &mut dyn Write) {
    let text = [format!("[{}] ", line.rank).as_bytes(), &line.text].concat();
    _ = if line.is_error {
        err.write_all(&text).and_then(|()| err.flush())
    } else {
        out.write_all(&text).and_then(|()| out.flush())
    };
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn described(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
        None => format!("failed with status {}", exit_code(status)),
    }
}
