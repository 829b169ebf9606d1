//! A program that starts itself anew so that MLX sees its variables, as a real process.

use mlx_train_core::profile::MlxEnvironment;
use std::{
    collections::HashMap,
    env,
    io::{Read, Write, stdin, stdout},
    process::{Child, Command, Stdio, exit},
};

const ROLE: &str = "MLX_TRAIN_TEST_ROLE";
const MEGABYTES: &str = "MLX_MAX_MB_PER_BUFFER";
const OPERATIONS: &str = "MLX_MAX_OPS_PER_BUFFER";
const NAME: &str = "environment::program";

/// The program: it asks for its variables, and tells what it has and is. Without a role it is no test.
#[test]
fn program() {
    let Ok(role) = env::var(ROLE) else { return };
    let wanted = MlxEnvironment {
        max_mb_per_buffer: (role != "asks for nothing").then_some(77),
        ..MlxEnvironment::default()
    };
    wanted.enter().unwrap();
    // Nothing was read before, so the process that it became has it all.
    let mut input = String::new();
    stdin().read_to_string(&mut input).unwrap();
    let variable = |name| (name, env::var(name).unwrap_or_else(|_| "none".into()));
    let mut told = vec![("pid", std::process::id().to_string()), ("input", input)];
    told.extend([MEGABYTES, OPERATIONS].map(variable));
    let arguments: Vec<_> = env::args().collect();
    told.push(("arguments", arguments.join(" ")));
    let mut told: Vec<_> = told.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if role == "starts another" {
        let child = start(&[(ROLE, "asks for nothing")]);
        told.extend(told_by(child).1.iter().map(|(name, value)| format!("child {name}={value}")));
    }
    // A line of its own: the test harness has begun one.
    stdout().write_all(format!("\n{}\n", told.join("\n")).as_bytes()).unwrap();
    exit(7);
}

fn start(variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([NAME, "--exact", "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// The exit code of a program and what it tells.
fn told_by(mut child: Child) -> (Option<i32>, HashMap<String, String>) {
    child.stdin.take().unwrap().write_all(b"words").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = text.lines().filter_map(|line| line.split_once('='));
    let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (output.status.code(), told)
}

fn run(variables: &[(&str, &str)]) -> HashMap<String, String> {
    let (code, told) = told_by(start(variables));
    assert_eq!(code, Some(7), "{told:?}");
    told
}

#[test]
fn a_program_gets_its_variables_and_stays_the_same_process() {
    let child = start(&[(ROLE, "asks")]);
    let pid = child.id().to_string();
    let (code, told) = told_by(child);
    assert_eq!(code, Some(7));
    assert_eq!((told[MEGABYTES].as_str(), told[OPERATIONS].as_str()), ("77", "none"));
    assert_eq!((told["pid"].as_str(), told["input"].as_str()), (pid.as_str(), "words"));
    let own = env::current_exe().unwrap();
    let arguments = format!("{} {NAME} --exact --nocapture --test-threads=1", own.display());
    assert_eq!(told["arguments"], arguments);
}

#[test]
fn a_variable_of_the_user_stays_as_it_is() {
    let told = run(&[(ROLE, "asks"), (MEGABYTES, "5")]);
    assert_eq!(told[MEGABYTES], "5");
}

#[test]
fn what_a_program_has_chosen_is_not_chosen_for_the_programs_that_it_starts() {
    let told = run(&[(ROLE, "starts another"), (OPERATIONS, "9")]);
    assert_eq!((told[MEGABYTES].as_str(), told[OPERATIONS].as_str()), ("77", "9"));
    assert_eq!(told[&format!("child {MEGABYTES}")], "none");
    assert_eq!(told[&format!("child {OPERATIONS}")], "9", "the user's, for both");
}
