//! Ranks on the hosts of a file, over an `ssh` that runs them on this machine, as another one would.

use super::{Launched, ROLE, a_rank_command, for_ever, launch, path_with, text, told};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    ffi::OsString,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

/// It takes what `ssh` takes, and runs the command with an environment of its own, in a process group of its own,
/// whose input ends when this `ssh` does. It notes its process id under the name of the host.
const SSH: &str = r#"#!/bin/bash
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
echo $$ >"$(dirname "$0")/$host"
if [ "$host" = nowhere ]; then
  echo "ssh: Could not resolve hostname $host" >&2
  exit 255
fi
exec 3<&0 4< <(exec cat <&3)
set -m
env -i HOME="$HOME" PATH="$PATH" HOST="$host" sh -c "cd / && $*" <&4 3<&- 4<&- &
child=$!
exec 3<&- 4<&-
wait "$child"
"#;

/// A folder with an `ssh` and a hostfile.
struct Network {
    folder: TempDir,
}

impl Network {
    fn new(hostfile: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ssh = folder.path().join("ssh");
        fs::write(&ssh, SSH).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("hosts.json"), hostfile).unwrap();
        Self { folder }
    }

    /// One with these hosts, all of them at 127.0.0.1.
    fn of(hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts
            .iter()
            .map(|host| format!(r#"{{"ssh": "{host}", "ips": ["127.0.0.1"]}}"#))
            .collect();
        Self::new(&format!("[{}]", hosts.join(", ")))
    }

    /// A launch on all hosts.
    fn launch(&self, args: &[&str]) -> Command {
        let hostfile = self.folder.path().join("hosts.json");
        let hostfile = ["--hostfile", hostfile.to_str().unwrap(), "--limit", "1"];
        let mut command = launch(&[&hostfile[..], args].concat());
        command.env("PATH", self.path());
        command
    }

    /// Where a program is looked for: this `ssh` comes first.
    fn path(&self) -> OsString {
        path_with(self.folder.path())
    }

    /// Runs a shell script on all hosts, to the end.
    fn run(&self, script: &str) -> Output {
        self.launch(&["--", "sh", "-c", script]).output().unwrap()
    }

    /// Starts ranks that go on for ever.
    fn start(&self, ranks: usize, after: &str) -> Launched {
        Launched::of(self.launch(&["--", "sh", "-c", &for_ever(after)]), ranks)
    }

    /// The process that is the connection to a host.
    fn ssh(&self, host: &str) -> Pid {
        let pid = fs::read_to_string(self.folder.path().join(host)).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    fn has_connected(&self, host: &str) -> bool {
        self.folder.path().join(host).exists()
    }
}

/// The first of ports that nobody used a moment ago.
fn port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[test]
fn ranks_on_several_hosts_join_one_group() {
    let network = Network::of(&["localhost", "me@a", "b"]);
    let (program, port) = (a_rank_command(), port());
    let mut args = vec!["--env", "MLX_TRAIN_TEST_ROLE=rank", "--port", &port, "--"];
    assert!(args[1].starts_with(ROLE));
    args.extend(program.iter().map(String::as_str));
    let ended = network.launch(&args).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    let expected = [0, 1, 2].map(|rank| format!("[{rank}] rank {rank} of 3 over ring: 7"));
    assert_eq!(told(&text(&ended.stdout)), expected);
    assert!(!network.has_connected("localhost") && network.has_connected("me@a"));
}

#[test]
fn a_rank_elsewhere_finds_its_folder_variables_and_file_and_leaves_nothing() {
    let hosts = r#"{"envs": ["B=from 'the' file"], "hosts": [
        {"ssh": "a", "ips": ["127.0.0.1"]}, {"ssh": "a", "ips": ["127.0.0.1"]}]}"#;
    let network = Network::new(hosts);
    let folder = network.folder.path().canonicalize().unwrap().display().to_string();
    let script = r#"echo "$HOST $PWD $A $B $CARGO_PKG_NAME."; echo file $MLX_HOSTFILE; cat $MLX_HOSTFILE; echo"#;
    let args =
        ["--cwd", &folder, "--env", "A=\"$HOME\" `x`", "--port", "40", "--", "sh", "-c", script];
    let ended = network.launch(&args).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    let stdout = text(&ended.stdout);
    for rank in 0..2 {
        let found = format!("[{rank}] a {folder} \"$HOME\" `x` from 'the' file .\n");
        assert!(stdout.contains(&found), "{stdout}\nlacks {found}");
        let addresses = format!("[{rank}] [[\"127.0.0.1:40\"],[\"127.0.0.1:41\"]]\n");
        assert!(stdout.contains(&addresses), "{stdout}\nlacks {addresses}");
    }
    let files: Vec<&str> = stdout.lines().filter_map(|line| line.split("] file ").nth(1)).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| !Path::new(file).exists()), "{files:?}");
}

#[test]
fn without_its_folder_a_rank_elsewhere_fails_only_where_it_was_asked_for() {
    let network = Network::of(&["a"]);
    let asked = network.launch(&["--cwd", "/no/such", "--", "sh", "-c", "pwd"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(2));
    let stderr = text(&asked.stderr);
    assert!(
        stderr.contains("[0] launch: no folder /no/such here, name another with --cwd"),
        "{stderr}"
    );

    // The launcher's own folder is gone, which the other host cannot have, either.
    let gone = network.folder.path().join("gone");
    fs::create_dir(&gone).unwrap();
    let mut shell = Command::new("sh");
    let launch = network.launch(&["--", "sh", "-c", "echo in $PWD"]);
    shell.args(["-c", "cd \"$1\"; shift; rmdir \"$PWD\"; exec \"$@\"", "sh"]).arg(&gone);
    shell.arg(launch.get_program()).args(launch.get_args()).env("PATH", network.path());
    let ended = shell.output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), "[0] in /\n");
}

#[test]
fn a_failure_elsewhere_names_the_host_and_ends_all() {
    let network = Network::of(&["localhost", "a", "b"]);
    let script = "if [ $MLX_RANK = 1 ]; then sleep 0.2; echo no memory >&2; exit 7; fi; \
                  while true; do sleep 0.05; done";
    let ended = network.run(script);
    let stderr = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(7), "{stderr}");
    assert_eq!(stderr, "[1] no memory\nlaunch: rank 1 on a failed with status 7\n");

    let launched = network.start(3, "");
    kill_process(launched.pids[2], Signal::KILL).unwrap();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + 9), "{stderr}");
    assert!(stderr.contains("rank 2 on b was killed by SIGKILL"), "{stderr}");
}

#[test]
fn a_host_that_does_not_answer_and_a_program_that_is_not_there_are_told() {
    let network = Network::of(&["localhost", "nowhere"]);
    let ended = network.run("while true; do sleep 0.05; done");
    let stderr = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(255), "{stderr}");
    assert!(stderr.contains("rank 1 on nowhere failed with status 255 (that of ssh"), "{stderr}");
    assert!(stderr.contains("[1] ssh: Could not resolve hostname nowhere"), "{stderr}");

    let network = Network::of(&["a"]);
    let ended = network.launch(&["--", "no-such-program"]).output().unwrap();
    let stderr = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(127), "{stderr}");
    assert!(stderr.contains("rank 0 on a failed with status 127 (no such program"), "{stderr}");
}

#[test]
fn a_rank_elsewhere_that_is_stopped_takes_the_group_down() {
    let launched = Network::of(&["localhost", "a"]).start(2, "");
    kill_process(launched.pids[1], Signal::STOP).unwrap();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + Signal::STOP.as_raw()), "{stderr}");
    assert!(stderr.contains("rank 1 on a has been stopped for too long"), "{stderr}");
}

#[test]
fn a_signal_reaches_ranks_elsewhere_once_and_a_second_one_kills_them() {
    let network = Network::of(&["a", "b"]);
    let launched = network.start(2, "trap 'echo asked; exit 0' TERM;");
    launched.signal(Signal::INT);
    assert_eq!(launched.next_lines(), ["[0] asked", "[1] asked"]);
    assert_eq!(launched.end().0, Some(0));

    let deaf = network.start(2, "trap 'echo asked' TERM;");
    deaf.signal(Signal::INT);
    deaf.next_lines();
    deaf.signal(Signal::INT);
    assert_eq!(deaf.end().0, Some(128 + 9));
}

#[test]
fn ranks_elsewhere_end_when_the_launcher_or_the_connection_is_gone() {
    let network = Network::of(&["a", "b"]);
    let mut launched = network.start(2, "trap '' TERM;");
    launched.signal(Signal::KILL);
    launched.child.wait().unwrap();
    launched.ranks_end();

    let launched = network.start(2, "");
    kill_process_group(network.ssh("b"), Signal::KILL).unwrap();
    launched.ranks_end();
    let (code, stderr) = launched.end();
    assert_eq!(code, Some(128 + 9), "{stderr}");
    assert!(stderr.contains("rank 1 on b was killed by SIGKILL"), "{stderr}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_starts() {
    let network = Network::of(&["a", "b"]);
    let wrong = Network::new(r#"[{"ssh": "a", "ips": ["10.0.0.1"]}, {"ssh": "b"}]"#);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let local = Network::of(&["localhost", "a"]);
    for (network, args, said) in [
        (&network, &["-n", "4"][..], "-n asks for 4 ranks, and `"),
        (&network, &["--backend", "jaccl"], "host 0: jaccl needs the device"),
        (&network, &["--port", "65535"], "go over 65535"),
        (&network, &["--env", "A-B=1"], "write NAME=VALUE"),
        (&wrong, &[], "host 1: ring needs its address; write `ips`"),
        (&local, &["--port", &taken], "since a program uses it; choose another with --port"),
    ] {
        let ended = network.launch(&[args, &["--", "true"]].concat()).output().unwrap();
        let stderr = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}\nlacks {said}");
        assert!(!network.has_connected("a") && ended.stdout.is_empty());
    }
}
