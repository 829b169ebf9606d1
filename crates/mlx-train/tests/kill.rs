//! Runs that are killed, interrupted and resumed, as real processes: nothing is lost, to the last bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use mlx_train::store::{Check, Checkpoints};
use serde_json::Value;
use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{sleep, spawn},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// The longest that a process may take for anything: a hundred times what it takes on a free machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// A transformer of 4 000 parameters with dropout, on batches that accumulate.
const TINY: &[&str] = &[
    "train",
    "--model=transformer",
    "--output=run",
    "--set=model.vocab_size=256",
    "--set=model.hidden_size=8",
    "--set=model.num_layers=1",
    "--set=model.num_heads=2",
    "--set=model.dropout=0.2",
    "--set=data.path=text.txt",
    "--set=data.seq_len=8",
    "--set=train.batch_size=2",
    "--set=train.accumulation=2",
    "--set=train.learning_rate=0.01",
    "--set=train.warmup_steps=3",
];

/// A folder with a text to learn, where `mlx-train` runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = "the quick brown fox jumps over the lazy dog; ".repeat(40);
        fs::write(folder.path().join("text.txt"), text).unwrap();
        Self(folder)
    }

    fn start(&self, args: &[&str]) -> Process {
        Process::start(self.0.path(), args)
    }

    /// Runs to the end, which has to be a good one; returns standard output.
    fn run(&self, args: &[&str]) -> String {
        let Ended { code, stdout, stderr } = self.start(args).end();
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        stdout
    }

    fn has_checkpoint(&self) -> bool {
        self.checkpoints().is_some_and(|checkpoints| checkpoints.latest().unwrap().is_some())
    }

    fn checkpoints(&self) -> Option<Checkpoints> {
        Checkpoints::open(self.0.path().join("run/checkpoints")).ok()
    }

    /// Asserts that every checkpoint that can be seen is whole.
    fn verify_checkpoints(&self) {
        for entry in self.checkpoints().iter().flat_map(|it| it.list().unwrap()) {
            entry.verify(Check::Hashes).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// What a run leaves that does not depend on the clock.
    fn results(&self) -> Results {
        let run = self.0.path().join("run");
        Results {
            weights: fs::read(run.join("weights.safetensors")).unwrap(),
            metrics: metrics(&run),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Results {
    weights: Vec<u8>,
    metrics: Vec<Value>,
}

/// The lines of `metrics.jsonl`, without times and memory.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let measured = |name: &str| {
            ["time", "second", "bytes", "utilization"].iter().any(|part| name.contains(part))
        };
        line.retain(|name, _| !measured(name));
        Value::from(line)
    };
    text.lines().map(line).collect()
}

/// A running `mlx-train`.
struct Process {
    child: Child,
    /// The lines of standard error; it closes when the process ends.
    lines: Receiver<String>,
    seen: String,
    deadline: Instant,
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Process {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-train"))
            .args(args)
            .current_dir(folder)
            // Two processes that both use all cores slow each other down by far more than two.
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, seen: String::new(), deadline: Instant::now() + DEADLINE }
    }

    /// The next line of standard error, or `None` when there are no more.
    fn next_line(&mut self) -> Option<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.seen = format!("{}{line}\n", self.seen);
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                _ = self.child.kill();
                panic!("it took more than {DEADLINE:?} and said:\n{}", self.seen);
            }
        }
    }

    /// Waits for a line with this in it.
    fn wait_for(&mut self, part: &str) {
        while let Some(line) = self.next_line() {
            if line.contains(part) {
                return;
            }
        }
        panic!("it never said `{part}`, but:\n{}", self.seen);
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success(), "kill -s {name} {id}");
    }

    fn end(mut self) -> Ended {
        while self.next_line().is_some() {}
        // It has closed standard error, so it is about to end.
        let code = self.child.wait().unwrap().code();
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        Ended { code, stdout, stderr: self.seen }
    }

    /// `kill -9`, unless it has ended by itself: whether it was killed.
    fn kill(mut self) -> bool {
        let lives = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        lives
    }
}

/// `SplitMix64`: Steele et al., "Fast Splittable Pseudorandom Number Generators", figure 17.
struct Random(u64);

impl Random {
    /// From `MLX_TRAIN_KILL_SEED`, or else from the clock; a test that fails shows it.
    fn new() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = env::var("MLX_TRAIN_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(clock);
        println!("MLX_TRAIN_KILL_SEED={seed}");
        Self(seed)
    }

    /// A number in 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_bits_of_one_that_is_not() {
    const NUM_KILLS: u32 = 20;
    let settings = [
        "--set=train.steps=300",
        "--set=train.log_every=3",
        "--set=train.eval_every=20",
        "--set=train.checkpoint.every_steps=7",
    ];
    let args = [TINY, &settings].concat();

    let calm = Place::new();
    let began = Instant::now();
    let mut process = calm.start(&args);
    process.wait_for("step ");
    let start_up = began.elapsed();
    assert_eq!(process.end().code, Some(0));
    let training = began.elapsed().saturating_sub(start_up);

    let (hard, mut random, mut num_killed) = (Place::new(), Random::new(), 0);
    for round in 0..NUM_KILLS {
        let process = if hard.has_checkpoint() {
            hard.start(&["train", "--resume=run"])
        } else {
            hard.start(&[&args[..], &["--force"]].concat())
        };
        // Every other time while it starts or opens the checkpoint, then while it trains and saves.
        sleep(match round % 2 {
            0 => start_up.mul_f64(random.next()),
            _ => start_up + (training / 8).mul_f64(random.next()),
        });
        num_killed += u32::from(process.kill());
        hard.verify_checkpoints();
    }
    assert!(
        num_killed > NUM_KILLS / 2,
        "{num_killed} of {NUM_KILLS} were alive when they were killed"
    );
    if hard.has_checkpoint() {
        hard.run(&["train", "--resume=run"]);
    } else {
        hard.run(&[&args[..], &["--force"]].concat());
    }
    assert_eq!(hard.results(), calm.results());
}

#[test]
fn another_process_goes_on_to_the_same_bits_with_every_optimizer() {
    for optimizer in ["adamw", "sgd", "lion", "adafactor", "muon"] {
        let optimizer = format!("--set=train.optimizer={optimizer}");
        let settings = [
            &optimizer,
            "--set=train.steps=13",
            "--set=train.log_every=4",
            "--set=train.eval_every=6",
            "--set=train.checkpoint.every_steps=5",
            "--set=train.checkpoint.keep_last=0",
        ];
        let place = Place::new();
        place.run(&[TINY, &settings].concat());
        let whole = place.results();
        // In the middle of an epoch, of the schedule and of a report.
        place.run(&["train", "--resume=run/checkpoints/step-00000005"]);
        assert_eq!(place.results(), whole, "{optimizer}");
    }
}

#[test]
fn sigint_and_sigterm_end_the_step_save_and_say_how_to_go_on() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let settings = ["--set=train.steps=10000000", "--set=train.log_every=1"];
        let mut process = place.start(&[TINY, &settings].concat());
        process.wait_for("step ");
        process.signal(signal);
        let Ended { code, stdout, stderr } = process.end();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("stopping after this step"), "{stderr}");
        place.verify_checkpoints();

        let step = place.checkpoints().unwrap().latest().unwrap().expect("it has saved").step;
        assert!(stdout.contains(&format!("after step {step} ")), "{stdout}");
        let command = stdout.lines().find_map(|line| line.trim().strip_prefix("mlx-train "));
        let words = command.unwrap_or_else(|| panic!("{stdout}")).split_whitespace();
        let steps = format!("--set=train.steps={}", step + 2);
        let stdout = place.run(&words.chain([steps.as_str()]).collect::<Vec<_>>());
        assert!(stdout.contains("Trained transformer"), "{stdout}");
        let trained = place.results().metrics;
        let steps: Vec<_> = trained
            .iter()
            .filter_map(|line| line["loss"].as_f64().and(line["step"].as_u64()))
            .collect();
        assert_eq!(steps, (1..=step + 2).collect::<Vec<_>>());
    }
}

#[test]
fn a_second_sigint_ends_the_process_at_once() {
    let place = Place::new();
    // A step that would take days.
    let settings = ["--set=train.accumulation=1000000000", "--set=train.sanity_batches=0"];
    let mut process = place.start(&[TINY, &settings].concat());
    process.wait_for("started: ");
    process.signal("INT");
    process.wait_for("again to stop at once");
    process.signal("INT");
    assert_eq!(process.end().code, Some(130));
    assert!(!place.has_checkpoint());
}
