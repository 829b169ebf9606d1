//! Ranks that `mpirun` starts.

use super::{Launched, ROLE, a_rank_command, for_ever, launch, path_with, text, tiny_run, told};
use mlx_train::distributed::MPI_LIBRARY;
use parity::mpi;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

fn over_mpi(ranks: &str, args: &[&str]) -> Command {
    let mut command = launch(&[&["-n", ranks, "--backend", "mpi", "--limit", "1"], args].concat());
    command.env("PATH", path_with(&mpi::folder()));
    command
}

fn run(ranks: &str, script: &str) -> Output {
    over_mpi(ranks, &["--", "sh", "-c", script]).output().unwrap()
}

#[test]
fn ranks_of_mpirun_join_one_group_with_the_launcher_and_without() {
    let program = a_rank_command();
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let args = [&["--env", "MLX_TRAIN_TEST_ROLE=rank", "--"], &program[..]].concat();
    // What another launch around it has set is none of its ranks'.
    let mut launched = over_mpi("3", &args);
    let ended = launched.env("MLX_RANK", "7").env("MLX_HOSTFILE", "/no/such").output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    let expected = [0, 1, 2].map(|rank| format!("[{rank}] rank {rank} of 3 over mpi: 7"));
    assert_eq!(told(&text(&ended.stdout)), expected);

    let mut plain = mpi::mpirun(2);
    let ended =
        plain.args(&program).env(ROLE, "rank").env(MPI_LIBRARY.0, MPI_LIBRARY.1).output().unwrap();
    let stdout = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    for rank in 0..2 {
        assert!(stdout.contains(&format!("rank {rank} of 2 over mpi: 3")), "{stdout}");
    }
}

#[test]
fn a_rank_of_mpirun_that_fails_is_named_and_its_status_is_the_exit_code() {
    let script = "echo out; echo err >&2; if [ $OMPI_COMM_WORLD_RANK = 1 ]; then exit 7; fi; \
                  while true; do sleep 0.05; done";
    let ended = run("2", script);
    let (stdout, stderr) = (text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("launch: rank 1 failed with status 7"), "{stderr}");
    assert!(stdout.contains("[1] out\n") && stderr.contains("[1] err\n"), "{stdout}{stderr}");
    assert!(!stderr.contains("ended with status"), "{stderr}");
}

#[test]
fn a_run_of_mpirun_that_stops_is_told_with_what_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let train = tiny_run(folder.path());
    let stops = ["--set=train.steps=1000", "--set=train.max_minutes=0"];
    let train: Vec<&str> = train.iter().map(String::as_str).chain(stops).collect();
    let run = folder.path().join("my run");
    let goes_on = |by: &str| format!("go on with {by}mlx-train train --resume '{}'", run.display());

    let mut launched = over_mpi("2", &[&["--"], &train[..]].concat());
    let ended = launched.output().unwrap();
    let stdout = text(&ended.stdout);
    let by = goes_on("mlx-train launch -n 2 --backend mpi --limit 1 -- ");
    assert!(stdout.contains(&by), "{stdout}{}", text(&ended.stderr));

    let mut plain = mpi::mpirun(2);
    let plain = plain.args(&train).arg("--force").env(MPI_LIBRARY.0, MPI_LIBRARY.1);
    let ended = plain.output().unwrap();
    let stdout = text(&ended.stdout);
    assert!(stdout.contains(&goes_on("mpirun -n 2 ")), "{stdout}{}", text(&ended.stderr));
}

#[test]
fn a_killed_rank_of_mpirun_takes_the_others_down() {
    let script = for_ever("");
    let launched = Launched::of(over_mpi("2", &["--", "sh", "-c", &script]), 2);
    kill_process(launched.pids[0], Signal::KILL).unwrap();
    launched.ranks_end();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + 9), "{stderr}");
    assert!(stderr.contains("rank 0 was killed by SIGKILL"), "{stderr}");
}

#[test]
fn a_signal_asks_the_ranks_of_mpirun_and_leaves_them_time_and_a_second_one_kills_them() {
    let start = |after: &str| Launched::of(over_mpi("2", &["--", "sh", "-c", &for_ever(after)]), 2);
    // Longer than mpirun itself would leave them.
    let launched = start("trap 'echo asked; sleep 0.7; echo saved; exit 0' TERM;");
    launched.signal(Signal::INT);
    let mut lines = [launched.next_lines(), launched.next_lines()].concat();
    lines.sort();
    assert_eq!(lines, ["[0] asked", "[0] saved", "[1] asked", "[1] saved"]);
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(0), "{stderr}");

    let deaf = start("trap 'echo asked' TERM;");
    deaf.signal(Signal::INT);
    deaf.next_lines();
    deaf.signal(Signal::INT);
    deaf.ranks_end();
    let (code, stderr) = deaf.end();
    assert_ne!(code, Some(0), "{stderr}");
}

#[test]
fn ranks_of_mpirun_end_when_the_launcher_is_gone() {
    let script = for_ever("");
    let mut launched = Launched::of(over_mpi("2", &["--", "sh", "-c", &script]), 2);
    kill_process(Pid::from_child(&launched.child), Signal::KILL).unwrap();
    launched.child.wait().unwrap();
    launched.ranks_end();
}

#[test]
fn another_mpi_and_none_at_all_are_refused_with_what_to_install() {
    let other = tempfile::tempdir().unwrap();
    let mpirun = other.path().join("mpirun");
    fs::write(&mpirun, "#!/bin/sh\necho HYDRA build details:\n").unwrap();
    fs::set_permissions(&mpirun, fs::Permissions::from_mode(0o755)).unwrap();
    let none = tempfile::tempdir().unwrap();
    for (path, said) in [
        (other.path().as_os_str(), "is no Open MPI, which MLX needs (it says \"HYDRA"),
        (none.path().as_os_str(), "there is no `mpirun` on PATH"),
    ] {
        let ended = over_mpi("2", &["--", "true"]).env("PATH", path).output().unwrap();
        let stderr = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}
