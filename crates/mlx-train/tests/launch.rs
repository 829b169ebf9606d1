//! `mlx-train launch`, with real processes: ranks end together, whatever happens to one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

/// A hundred times what it takes on a free machine.
const DEADLINE: Duration = Duration::from_mins(2);

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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A launch whose ranks have told their process ids.
struct Launched {
    child: Child,
    pids: Vec<Pid>,
    lines: Receiver<String>,
}

impl Launched {
    /// Starts ranks that tell who they are and go on for ever, unless a signal ends them.
    fn start(ranks: usize, after: &str) -> Self {
        let script = format!("echo $MLX_RANK $$; {after} while true; do sleep 0.05; done");
        let count = ranks.to_string();
        let args = ["-n", count.as_str(), "--limit", "1", "--", "sh", "-c", script.as_str()];
        let mut child = launch(&args).spawn().unwrap();
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

    /// The exit code and what stood on standard error; no rank is left.
    fn end(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < DEADLINE, "the launch goes on");
            sleep(Duration::from_millis(10));
        };
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        for pid in &self.pids {
            assert!(test_kill_process(*pid).is_err(), "{pid:?} still runs");
        }
        (status.code(), stderr)
    }
}

#[test]
fn ranks_know_who_they_are_and_their_lines_have_their_numbers() {
    let ended =
        run("3", "echo rank $MLX_RANK; echo \"of $(wc -c < $MLX_HOSTFILE)\" >&2; printf end");
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    let mut lines: Vec<String> = text(&ended.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["[0] end", "[0] rank 0", "[1] end", "[1] rank 1", "[2] end", "[2] rank 2"]);
    assert_eq!(text(&ended.stderr).lines().count(), 3);
}

#[test]
fn the_first_failure_is_told_ends_the_others_and_is_the_exit_code() {
    let script =
        "if [ $MLX_RANK = 1 ]; then sleep 0.2; exit 7; fi; while true; do sleep 0.05; done";
    let ended = run("3", script);
    assert_eq!(ended.status.code(), Some(7));
    let stderr = text(&ended.stderr);
    assert!(
        stderr.contains("launch: rank 1 failed with status 7; ending the other ranks"),
        "{stderr}"
    );
}

#[test]
fn what_ranks_have_started_ends_with_them_and_what_they_leave_behind_holds_nobody_up() {
    // Rank 0 waits for another process; rank 1 fails, and leaves one behind that keeps its output open.
    let script = "if [ $MLX_RANK = 0 ]; then \
                  (trap 'echo ended; exit' TERM; echo ready; while true; do sleep 0.05; done) & wait; \
                  else sleep 60 & echo $!; sleep 1; exit 3; fi";
    let began = Instant::now();
    let ended = run("2", script);
    assert_eq!(ended.status.code(), Some(3));
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    let stdout = text(&ended.stdout);
    assert!(stdout.contains("[0] ready\n") && stdout.contains("[0] ended\n"), "{stdout}");
    let left = stdout.lines().find_map(|line| line.strip_prefix("[1] ")).unwrap();
    kill_process(Pid::from_raw(left.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_killed_rank_takes_the_group_down() {
    let launched = Launched::start(3, "");
    kill_process(launched.pids[2], Signal::KILL).unwrap();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + 9));
    assert!(stderr.contains("rank 2 was killed by SIGKILL"), "{stderr}");
}

#[test]
fn a_stopped_rank_takes_the_group_down_also_where_ranks_do_not_hear() {
    let launched = Launched::start(2, "trap '' TERM;");
    kill_process(launched.pids[0], Signal::STOP).unwrap();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + Signal::STOP.as_raw()));
    assert!(stderr.contains("rank 0 has been stopped for"), "{stderr}");
}

#[test]
fn a_signal_to_the_launcher_reaches_the_ranks_once_and_a_second_one_kills_them() {
    let launched = Launched::start(2, "trap 'echo asked; exit 0' TERM;");
    let parent = Pid::from_child(&launched.child);
    kill_process(parent, Signal::INT).unwrap();
    let mut asked: Vec<String> =
        (0..2).map(|_| launched.lines.recv_timeout(DEADLINE).unwrap()).collect();
    asked.sort();
    assert_eq!(asked, ["[0] asked", "[1] asked"]);
    assert_eq!(launched.end().0, Some(0));

    let deaf = Launched::start(2, "trap 'echo asked' TERM;");
    let parent = Pid::from_child(&deaf.child);
    kill_process(parent, Signal::TERM).unwrap();
    deaf.lines.recv_timeout(DEADLINE).unwrap();
    kill_process(parent, Signal::TERM).unwrap();
    assert_eq!(deaf.end().0, Some(128 + 9));
}

#[test]
fn ranks_do_not_train_the_same_run_over_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let program = env!("CARGO_BIN_EXE_mlx-train");
    let output_flag = format!("--output={}", output.display());
    let train = [program, "train", "--model=mlp", &output_flag];
    let ended = launch(&[&["-n", "2", "--"], &train[..]].concat()).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(text(&ended.stderr).contains("does not split a run over ranks yet"));
    assert!(!output.exists());
}

#[test]
fn what_cannot_be_launched_is_refused_with_the_fix() {
    for (args, code, said) in [
        (&["-n", "0", "--", "true"][..], 2, "ask for 1 to"),
        (&["-n", "5000", "--", "true"], 2, "ask for 1 to"),
        (&["-n", "2", "--", "/no/such/program"], 2, "check its name and path"),
        (&["-n", "2", "--backend", "mpi", "--", "true"], 2, "mpirun -n"),
        (&["-n", "2", "--backend", "tcp", "--", "true"], 2, "ring, mpi, nccl and jaccl"),
        (&["-n", "2", "--port", "65535", "--", "true"], 2, "65535"),
        (&["-n", "2"], 2, "COMMAND"),
    ] {
        let ended = launch(args).output().unwrap();
        let stderr = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
        assert!(ended.stdout.is_empty());
    }
}
