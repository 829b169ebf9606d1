//! Processes that live and die together.

use super::{
    Stop,
    guard::{Orders, PATIENCE, Signals},
    lines::{self, Line},
    mpi,
};
use crate::{
    Error, Result,
    distributed::{DEADLINE_EXIT_STATUS, FOLLOWER_EXIT_STATUS},
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    collections::BTreeMap,
    fmt,
    io::Write,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::sleep,
    time::{Duration, Instant},
};

/// How often the ranks are looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// What a signal adds to the status with which a shell tells of it.
const SIGNAL: i32 = 128;

/// What `ssh` exits with when it has no connection.
const NO_CONNECTION: i32 = 255;

/// What a shell exits with when it finds no such program.
const NO_PROGRAM: i32 = 127;

/// How many lines wait to be passed on; a rank that writes more waits, too.
const LINES: usize = 1000;

/// After how many lines the reason of a failure may have left the screen, and is told again.
const SCREEN: u64 = 20;

/// How long ranks may take to end with one that fails before anything is said of it; and how long one that only
/// follows another waits for that to be known.
const TOGETHER: Duration = Duration::from_secs(1);

/// How many letters of the last line of a rank are told again.
const LAST_WORDS: usize = 300;

/// How a launch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What the launch exits with: 0, or the status of the first rank that failed, 128 and the signal for one that
    /// a signal has killed.
    pub exit_code: i32,
    /// Which rank failed first and how; where other lines have come since, also the last one that it wrote to
    /// standard error.
    pub failure: Option<String>,
}

/// A process to start.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) source: Source,
    pub(super) command: Command,
    /// The signals that a guard passes on; without one, the process is in reach.
    pub(super) signals: Option<Signals>,
}

/// What a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A rank, here or on another host.
    Rank { rank: usize, host: Option<String> },
    /// All ranks.
    Mpirun,
}

/// The processes of a launch; those that still run are killed when this is dropped.
pub(super) struct Ranks {
    processes: Vec<Running>,
    lines: Receiver<Line>,
    /// The last line of each rank on standard error, and how many lines of all had come by then.
    last_errors: BTreeMap<usize, (String, u64)>,
    num_lines: u64,
    failure: Option<Failure>,
}

struct Running {
    source: Source,
    child: Child,
    /// To the guard of the process, if it has one.
    orders: Option<Orders>,
    status: Option<ExitStatus>,
    stopped_at: Option<Instant>,
    killed_at: Option<Instant>,
}

/// Why the others have to end.
struct Failure {
    rank: Option<usize>,
    exit_code: i32,
    text: String,
    at: Instant,
    /// Whether another rank has failed before, which is not known yet.
    follows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    End,
    Kill,
}

impl Ranks {
    /// Starts all of them, or none.
    pub(super) fn start(processes: Vec<Process>) -> Result<Self> {
        let (sender, lines) = mpsc::sync_channel(LINES);
        let (running, last_errors) = (Vec::new(), BTreeMap::new());
        let mut this = Self { processes: running, lines, last_errors, num_lines: 0, failure: None };
        for Process { source, mut command, signals } in processes {
            command.stdin(if signals.is_some() { Stdio::piped() } else { Stdio::null() });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            // Ctrl-C comes from here alone: a rank that had it from the terminal, too, would end at once.
            command.process_group(0);
            let program = command.get_program().display().to_string();
            let failed = |error| {
                Error::message(format!(
                    "{source} cannot run `{program}`: {error}; check its name and path"
                ))
            };
            let mut child = command.spawn().map_err(failed)?;
            let (stdin, stdout, stderr) =
                (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let process = this.processes.len();
            this.processes.push(Running {
                source: source.clone(),
                child,
                orders: None,
                status: None,
                stopped_at: None,
                killed_at: None,
            });
            if let Some((signals, stdin)) = signals.zip(stdin) {
                let orders = Orders::new(stdin, signals).map_err(failed)?;
                this.processes[process].orders = Some(orders);
            }
            if let Some(stdout) = stdout {
                lines::read(process, false, stdout, sender.clone()).map_err(failed)?;
            }
            if let Some(stderr) = stderr {
                lines::read(process, true, stderr, sender.clone()).map_err(failed)?;
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
        let mut num_requests = 0;
        let (mut is_ending, mut is_told) = (false, false);
        let mut ended_at: Option<Instant> = None;
        loop {
            let is_over = match self.lines.recv_timeout(INTERVAL) {
                Ok(line) => {
                    self.pass_on(&line, out, err);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                // Nobody has anything to write with.
                Err(RecvTimeoutError::Disconnected) => true,
            };
            // Whatever they write, somebody looks after them.
            for _ in 0..LINES {
                let Ok(line) = self.lines.try_recv() else { break };
                self.pass_on(&line, out, err);
            }
            self.look(limit);
            if let Some(first) = &self.failure {
                let waited = first.at.elapsed() > TOGETHER;
                if waited && !is_told && self.processes.iter().any(|it| it.status.is_none()) {
                    is_told = true;
                    _ = writeln!(err, "launch: {}; ending the other ranks", first.text);
                }
                if !is_ending && (waited || !first.follows) {
                    is_ending = true;
                    self.order(Order::End);
                }
            }
            if num_requests < stop.num_requests() {
                self.order(if num_requests == 0 { Order::End } else { Order::Kill });
                num_requests += 1;
            }
            if self.failure.as_ref().is_some_and(|failure| failure.at.elapsed() > limit) {
                self.order(Order::Kill);
            }
            self.processes.iter_mut().for_each(Running::tend);
            if self.processes.iter().all(|process| process.status.is_some()) {
                // Something that a rank has left behind may hold its output for ever.
                let ended_at = *ended_at.get_or_insert_with(Instant::now);
                if is_over || ended_at.elapsed() > limit {
                    break;
                }
            }
            if is_over {
                sleep(INTERVAL);
            }
        }
        let Some(Failure { rank, exit_code, text, .. }) = &self.failure else {
            return Ended { exit_code: 0, failure: None };
        };
        let said = rank.and_then(|rank| self.last_errors.get(&rank));
        let said = said.filter(|(_, at)| self.num_lines - at > SCREEN);
        let said = said.map(|(line, _)| format!("; its last words: {line}")).unwrap_or_default();
        Ended { exit_code: *exit_code, failure: Some(format!("{text}{said}")) }
    }

    /// Notes which ranks have ended or are stopped.
    fn look(&mut self, limit: Duration) {
        for process in &mut self.processes {
            if process.status.is_some() {
                continue;
            }
            process.status = process.child.try_wait().ok().flatten();
            let found = match process.status {
                Some(status) if status.success() => None,
                Some(status) => Some(process.source.ended(exit_code(status))),
                None => process.stopped_for().filter(|time| *time > limit).map(|time| {
                    let seconds = time.as_secs_f64();
                    (SIGNAL + Signal::STOP.as_raw(), format!("has been stopped for {seconds:.0} s"))
                }),
            };
            if let Some((exit_code, what)) = found {
                let (rank, text) = (process.source.rank(), format!("{} {what}", process.source));
                note(&mut self.failure, rank, exit_code, text);
            }
        }
    }

    /// Writes a line behind the number of its rank. A reader that has gone away loses lines, and the ranks go on.
    fn pass_on(&mut self, line: &Line, out: &mut dyn Write, err: &mut dyn Write) {
        let (rank, text) = match &self.processes[line.process].source {
            Source::Rank { rank, .. } => (Some(*rank), line.text.as_slice()),
            Source::Mpirun => match mpi::untagged(&line.text) {
                Some((rank, text)) => (Some(rank), text),
                None => (None, line.text.as_slice()),
            },
        };
        if let (Some(rank), true) = (rank, line.is_error) {
            if let (Source::Mpirun, Some(status)) =
                (&self.processes[line.process].source, mpi::failure(text))
            {
                let source = Source::Rank { rank, host: None };
                let (exit_code, what) = source.ended(status);
                return note(&mut self.failure, Some(rank), exit_code, format!("{source} {what}"));
            }
            let said: String =
                String::from_utf8_lossy(text).trim().chars().take(LAST_WORDS).collect();
            let before = self.last_errors.get(&rank).map(|(before, _)| before);
            if said.starts_with("[ring] ") && before == Some(&said) {
                // MLX says of every attempt anew that a neighbour has gone.
                return;
            }
            if !said.is_empty() {
                self.last_errors.insert(rank, (said, self.num_lines + 1));
            }
        }
        self.num_lines += 1;
        let name = rank.map_or_else(|| "mpirun".to_owned(), |rank| rank.to_string());
        let text = [format!("[{name}] ").as_bytes(), text].concat();
        _ = if line.is_error {
            err.write_all(&text).and_then(|()| err.flush())
        } else {
            out.write_all(&text).and_then(|()| out.flush())
        };
    }

    /// Gives an order to all that still run, and to what they have started.
    fn order(&mut self, order: Order) {
        self.processes.iter_mut().filter(|it| it.status.is_none()).for_each(|it| it.order(order));
    }
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn order(&mut self, order: Order) {
        // Told once: a guard reads its orders one after the other.
        let is_told = order == Order::Kill && self.killed_at.is_some();
        match &self.orders {
            None => self.signal(if order == Order::End { Signal::TERM } else { Signal::KILL }),
            Some(_) if is_told => {}
            Some(orders) if order == Order::End => orders.ask(),
            Some(orders) => orders.kill(),
        }
        if order == Order::Kill {
            self.killed_at.get_or_insert_with(Instant::now);
        }
    }

    /// Takes stronger means where a guard does not hear.
    fn tend(&mut self) {
        if self.status.is_some() {
            return;
        }
        let Some(orders) = &self.orders else { return };
        let waited = self.killed_at.map(|at| at.elapsed()).unwrap_or_default();
        if waited > PATIENCE {
            orders.kill_at_once();
        }
        if waited > 2 * PATIENCE {
            self.signal(Signal::KILL);
        }
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

    fn is_running(&mut self) -> bool {
        self.status.is_none() && {
            self.status = self.child.try_wait().ok().flatten();
            self.status.is_none()
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.order(Order::Kill);
        while self.processes.iter_mut().any(Running::is_running) {
            // Each ends within three times the patience with it.
            self.processes.iter_mut().for_each(Running::tend);
            sleep(INTERVAL);
        }
    }
}

impl Source {
    fn rank(&self) -> Option<usize> {
        match self {
            Self::Rank { rank, .. } => Some(*rank),
            Self::Mpirun => None,
        }
    }

    /// What a launch exits with for one that ended so, and how it is told.
    fn ended(&self, status: i32) -> (i32, String) {
        let is_remote = matches!(self, Self::Rank { host: Some(_), .. });
        let hint = match status {
            DEADLINE_EXIT_STATUS => " (it waited too long for another rank)",
            FOLLOWER_EXIT_STATUS => " (another rank has failed, or is out of reach)",
            NO_CONNECTION if is_remote => {
                " (that of ssh without a connection; `ssh -o BatchMode=yes HOST true` has to work)"
            }
            NO_PROGRAM if is_remote => " (no such program there; give its whole path)",
            _ => "",
        };
        let signal = status - SIGNAL;
        let what = match signal_hook::low_level::signal_name(signal) {
            Some("SIGSTOP") => "has been stopped for too long".into(),
            Some(name) => format!("was killed by {name}"),
            None => format!("failed with status {status}{hint}"),
        };
        (status, what)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank { rank, host: None } => write!(f, "rank {rank}"),
            Self::Rank { rank, host: Some(host) } => write!(f, "rank {rank} on {host}"),
            Self::Mpirun => write!(f, "mpirun"),
        }
    }
}

/// Keeps the first failure, or the first that follows from no other.
fn note(failure: &mut Option<Failure>, rank: Option<usize>, exit_code: i32, text: String) {
    let follows = exit_code == FOLLOWER_EXIT_STATUS;
    let at = match failure {
        None => Instant::now(),
        Some(known) if known.follows && !follows => known.at,
        Some(_) => return,
    };
    *failure = Some(Failure { rank, exit_code, text, at, follows });
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| SIGNAL + status.signal().unwrap_or(0))
}
