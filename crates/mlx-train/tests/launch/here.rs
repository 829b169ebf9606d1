//! Ranks on this machine end together, whatever happens to one of them.

use super::{Launched, ROLE, a_rank_command, launch, run, text, tiny_run, told};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    process::Command,
    time::{Duration, Instant},
};

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
    assert_eq!(stderr, "launch: rank 1 failed with status 7\n");
    // Ranks that take their time are told of.
    let script = "if [ $MLX_RANK = 1 ]; then sleep 0.2; exit 7; fi; trap '' TERM; exec sleep 60";
    let stderr = text(&run("2", script).stderr);
    assert!(
        stderr.starts_with("launch: rank 1 failed with status 7; ending the other"),
        "{stderr}"
    );
}

#[test]
fn ranks_that_fail_for_one_reason_tell_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let train = tiny_run(folder.path());
    for (setting, said, code) in [
        ("--set=train.batch_size=3", "error: a batch of 3 rows", 1),
        ("--parallel=tp=3", "error: ", 2),
    ] {
        let train = train.iter().map(String::as_str).chain([setting]);
        let args: Vec<&str> = ["-n", "2", "--"].into_iter().chain(train).collect();
        let ended = launch(&args).output().unwrap();
        let stderr = text(&ended.stderr);
        let mut lines: Vec<&str> = stderr.lines().collect();
        lines.sort_unstable();
        assert_eq!(ended.status.code(), Some(code), "{stderr}");
        let [reason, follows, last] = lines[..] else { panic!("{stderr}") };
        assert!(reason.starts_with(&format!("[0] {said}")), "{stderr}");
        assert_eq!(follows, "[1] stopped: rank 0 failed");
        assert_eq!(last, format!("launch: rank 0 failed with status {code}"));
    }
}

#[test]
fn a_rank_that_follows_another_is_not_blamed_though_it_ends_first() {
    let script = "if [ $MLX_RANK = 0 ]; then exit 76; fi; sleep 0.3; echo 'error: no' >&2; exit 5";
    let ended = run("2", script);
    assert_eq!(ended.status.code(), Some(5));
    assert_eq!(text(&ended.stderr), "[1] error: no\nlaunch: rank 1 failed with status 5\n");
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
    launched.signal(Signal::INT);
    assert_eq!(launched.next_lines(), ["[0] asked", "[1] asked"]);
    assert_eq!(launched.end().0, Some(0));

    let deaf = Launched::start(2, "trap 'echo asked' TERM;");
    deaf.signal(Signal::TERM);
    deaf.next_lines();
    deaf.signal(Signal::TERM);
    assert_eq!(deaf.end().0, Some(128 + 9));
}

#[test]
fn the_last_words_of_the_rank_that_failed_come_last() {
    let script = "if [ $MLX_RANK = 0 ]; then sleep 0.3; echo 'error: the disk is full' >&2; exit 4; fi; \
                  trap 'seq 100; exit 0' TERM; while true; do sleep 0.05; done";
    let ended = run("2", script);
    let stderr = text(&ended.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    let expected = "launch: rank 0 failed with status 4; its last words: error: the disk is full";
    assert_eq!(last, expected, "{stderr}");
}

#[test]
fn ranks_on_this_machine_join_one_group_and_one_rank_is_alone() {
    let program = a_rank_command();
    let words = |args: &[&'static str]| [args.to_vec(), vec!["--"]].concat();
    for (args, expected) in [
        (&["-n", "2"][..], &["[0] rank 0 of 2 over ring: 3", "[1] rank 1 of 2 over ring: 3"][..]),
        (&["-n", "1"], &["[0] rank 0 of 1 over nothing: 1"]),
    ] {
        let program = program.iter().map(String::as_str);
        let args: Vec<&str> = words(args).into_iter().chain(program).collect();
        // What another launch around it has set is none of its ranks'.
        let mut launched = launch(&args);
        launched.env("MLX_JACCL_COORDINATOR", "x:1").env("MLX_IBV_DEVICES", "/no/such");
        let ended = launched.env(ROLE, "rank").output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
        assert_eq!(told(&text(&ended.stdout)), expected);
    }
}

#[test]
fn ranks_run_in_the_folder_and_with_the_variables_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().display().to_string();
    let args = ["-n", "1", "--cwd", &path, "--env", "A=1 = 2", "--env", "MLX_RANK_OF=x"];
    let script = ["--", "sh", "-c", "echo \"$PWD\" \"$A\" $MLX_RANK_OF"];
    let ended = launch(&[&args[..], &script].concat()).output().unwrap();
    assert_eq!(text(&ended.stdout), format!("[0] {path} 1 = 2 x\n"));
}

#[test]
fn a_run_that_failed_is_told_with_what_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("my run");
    let train = tiny_run(folder.path());
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let program = train[0];
    let trained = Command::new(train[0]).args(&train[1..]).output().unwrap();
    assert_eq!(trained.status.code(), Some(0), "{}", text(&trained.stderr));
    // The folder holds a run, so the ranks fail, whatever happens to them first.
    let ended = launch(&[&["-n", "2", "--"], &train[..]].concat()).output().unwrap();
    assert_ne!(ended.status.code(), Some(0));
    let stderr = text(&ended.stderr);
    let expected = format!(
        "launch: go on with\n  {program} launch -n 2 -- {program} train --resume '{}'\n",
        run.display()
    );
    assert!(stderr.ends_with(&expected), "{stderr}\nends not in {expected}");
}

#[test]
fn a_rank_that_never_stops_writing_is_looked_after() {
    let script = "if [ $MLX_RANK = 1 ]; then sleep 0.5; exit 3; fi; exec yes";
    let mut launched =
        launch(&["-n", "2", "--limit", "1", "--", "sh", "-c", script]).spawn().unwrap();
    let mut stdout = launched.stdout.take().unwrap();
    // Somebody reads it all, and keeps nothing.
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let ended = launched.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", text(&ended.stderr));
    assert!(reader.join().unwrap().unwrap() > 0);
}

#[test]
fn what_cannot_be_launched_is_refused_with_the_fix() {
    for (args, code, said) in [
        (&["-n", "0", "--", "true"][..], 2, "ask for 1 to"),
        (&["-n", "5000", "--", "true"], 2, "ask for 1 to"),
        (&["-n", "2", "--", "/no/such/program"], 2, "check its name and path"),
        (&["-n", "2", "--backend", "jaccl", "--", "true"], 2, "name the Macs with --hostfile"),
        (&["-n", "2", "--env", "1=2", "--", "true"], 2, "write NAME=VALUE"),
        (&["-n", "2", "--cwd", "/no/such/folder", "--", "true"], 2, "no folder here"),
        (&["-n", "2", "--backend", "tcp", "--", "true"], 2, "ring, mpi, nccl and jaccl"),
        (
            &["-n", "2", "--limit", "18446744073709551615", "--", "/no/such/program"],
            2,
            "check its name",
        ),
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
