//! `mlx-train launch`, with real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod here;
mod hosts;
mod mpi;

use mlx_train::distributed::Group;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write, stdout},
    path::Path,
    process::{Child, Command, Output, Stdio, exit},
    sync::mpsc::{self, Receiver},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

/// A hundred times what it takes on a free machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// Tells a process that it is the program of [`a_rank`].
const ROLE: &str = "MLX_TRAIN_TEST_ROLE";

/// A program that joins its group and tells what the ranks add up to. Where it has no such role, it is no test.
#[test]
fn a_rank() {
    if env::var_os(ROLE).is_none() {
        return;
    }
    let group = Group::of_environment().unwrap();
    let sum = group.all_sum(&mlx_train::Array::from_int(1 << group.rank())).unwrap();
    group.eval("the test", [&sum]).unwrap();
    let sum = sum.try_item_exact::<i32>().unwrap();
    let (rank, size, backend) = (group.rank(), group.world_size(), group.backend());
    let backend = backend.map_or("nothing", |backend| backend.name());
    // A line of its own: the test harness has begun one.
    writeln!(stdout(), "\nrank {rank} of {size} over {backend}: {sum}").unwrap();
    group.barrier().unwrap();
    // MPI ends with the last group.
    drop(group);
    exit(0);
}

/// The command that runs [`a_rank`]; the ranks are to have [`ROLE`].
fn a_rank_command() -> Vec<String> {
    let program = env::current_exe().unwrap().display().to_string();
    let args = ["a_rank", "--exact", "--nocapture", "--test-threads=1"];
    [program].into_iter().chain(args.map(str::to_owned)).collect()
}

/// What the ranks of [`a_rank`] tell, in the order of their numbers.
fn told(stdout: &str) -> Vec<&str> {
    let mut told: Vec<&str> = stdout.lines().filter(|line| line.contains("] rank ")).collect();
    told.sort_unstable();
    told
}

fn launch(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-train"));
    command.arg("launch").args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a shell script as ranks, to the end.
fn run(ranks: &str, script: &str) -> Output {
    launch(&["-n", ranks, "--limit", "1", "--", "sh", "-c", script]).output().unwrap()
}

/// `train` of a few words for one step, into the folder `my run` of this folder.
fn tiny_run(folder: &Path) -> Vec<String> {
    let data = folder.join("text.txt");
    fs::write(&data, "a text of a few words; ".repeat(40)).unwrap();
    let mut words = vec![env!("CARGO_BIN_EXE_mlx-train").to_owned(), "train".into()];
    words.push("--model=transformer".into());
    words.push(format!("--output={}", folder.join("my run").display()));
    words.push(format!("--set=data.path={}", data.display()));
    let settings = ["model.preset=tiny", "model.vocab_size=256", "data.seq_len=8"];
    let settings = settings.into_iter().chain(["train.steps=1", "train.batch_size=2"]);
    words.extend(settings.map(|setting| format!("--set={setting}")));
    words
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a program is looked for: in this folder first.
fn path_with(folder: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap();
    env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path))).unwrap()
}

/// A script that tells which rank and process it is, and goes on for ever, unless a signal ends it.
fn for_ever(after: &str) -> String {
    format!("echo ${{OMPI_COMM_WORLD_RANK:-$MLX_RANK}} $$; {after} while true; do sleep 0.05; done")
}

/// A launch whose ranks have told their process ids.
struct Launched {
    child: Child,
    pids: Vec<Pid>,
    lines: Receiver<String>,
}

impl Launched {
    /// Starts ranks on this machine that go on for ever.
    fn start(ranks: usize, after: &str) -> Self {
        let (count, script) = (ranks.to_string(), for_ever(after));
        let args = ["-n", count.as_str(), "--limit", "1", "--", "sh", "-c", script.as_str()];
        Self::of(launch(&args), ranks)
    }

    /// Starts a launch of so many ranks of [`for_ever`].
    fn of(mut command: Command, ranks: usize) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut pids = vec![Pid::INIT; ranks];
        for _ in 0..ranks {
            let line = lines.recv_timeout(DEADLINE).unwrap();
            let (prefix, rest) = line.split_once("] ").unwrap();
            let (rank, pid) = rest.split_once(' ').unwrap();
            assert_eq!(prefix, format!("[{rank}"));
            pids[rank.parse::<usize>().unwrap()] = Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
        Self { child, pids, lines }
    }

    /// Sends a signal to the launcher.
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What all ranks say next.
    fn next_lines(&self) -> Vec<String> {
        let next = self.pids.iter().map(|_| self.lines.recv_timeout(DEADLINE).unwrap());
        let mut next: Vec<String> = next.collect();
        next.sort();
        next
    }

    /// The exit code and what stood on standard error; no rank is left.
    fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        until("the launch has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        for pid in &self.pids {
            assert!(test_kill_process(*pid).is_err(), "{pid:?} still runs\n{stderr}");
        }
        (status.and_then(|status| status.code()), stderr)
    }

    /// Waits until no rank is left.
    fn ranks_end(&self) {
        for pid in &self.pids {
            until("a rank has ended", || test_kill_process(*pid).is_err());
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "never: {what}");
        sleep(Duration::from_millis(10));
    }
}
