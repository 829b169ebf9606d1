//! Runs that are killed, interrupted and resumed, as real processes, one or several ranks: nothing is lost, to the
//! last bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use mlx_train::store::{ArrayFile, Check, Checkpoints};
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

/// Two ranks of `mlx-train` with these arguments, in a shell that runs `before`.
fn ranks<'a>(before: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    let launch = [
        "launch",
        "-n",
        "2",
        "--limit",
        "2",
        "--",
        "sh",
        "-c",
        before,
        env!("CARGO_BIN_EXE_mlx-train"),
    ];
    [&launch[..], args].concat()
}

/// What a shell does that becomes the rank.
const AS_IT_IS: &str = "exec \"$0\" \"$@\"";

/// The losses of all steps, and of the evaluations.
fn losses(results: &Results) -> Vec<f64> {
    let numbers = results.metrics.iter().filter_map(|line| line.as_object());
    numbers
        .flat_map(|line| [line.get("loss"), line.get("held_out_loss")])
        .filter_map(|loss| loss?.as_f64())
        .collect()
}

/// A few steps that are all told, with checkpoints in between.
const FEW_STEPS: &[&str] = &[
    "--set=train.steps=12",
    "--set=train.log_every=1",
    "--set=train.eval_every=5",
    "--set=train.checkpoint.every_steps=4",
];

#[test]
fn ranks_train_as_one_process_and_what_they_save_is_one_model() {
    let args = [TINY, FEW_STEPS, &["--set=model.dropout=0"]].concat();
    let (one, two) = (Place::new(), Place::new());
    one.run(&args);
    let stdout = two.run(&ranks(AS_IT_IS, &args));
    assert!(stdout.contains("[0] Trained transformer") && !stdout.contains("[1]"), "{stdout}");
    let [one_losses, two_losses] = [&one, &two].map(|place| losses(&place.results()));
    assert_eq!(one_losses.len(), 12 + 3);
    for (one, two) in one_losses.iter().zip(&two_losses) {
        assert!((one - two).abs() < 1e-5 * one, "{one} of one process, {two} of two");
    }
    assert_eq!(one_losses.len(), two_losses.len());

    let verified = two.run(&["checkpoint", "verify", "run"]);
    assert_eq!(verified.lines().filter(|line| line.contains("ok")).count(), 3, "{verified}");
    two.run(&["checkpoint", "export", "run", "--output=exported"]);
    let exported = fs::read(two.0.path().join("exported/model.safetensors")).unwrap();
    assert!(exported == two.results().weights, "the export is another model");
    // As greedy as can be, a checkpoint of ranks says what the finished run says.
    let say =
        |what| two.run(&["generate", what, "--prompt=the", "--temperature=0", "--max-tokens=4"]);
    assert_eq!(say("run/checkpoints"), say("run"));

    // One process goes on from what two ranks have saved, and they from what it has saved.
    one.run(&["train", "--resume=run/checkpoints/step-00000008"]);
    two.run(&["train", "--resume=run/checkpoints/step-00000008"]);
    two.run(&ranks(
        AS_IT_IS,
        &["train", "--resume=run/checkpoints/step-00000012", "--set=train.steps=14"],
    ));
    let went_on = losses(&two.results());
    for (one, two) in one_losses.iter().zip(&went_on) {
        assert!((one - two).abs() < 1e-5 * one, "{one} of one process, {two} of one after two");
    }
    assert_eq!(went_on.len(), 12 + 3 + 2 + 1);
}

#[test]
fn every_layout_goes_on_from_what_every_other_has_saved_and_ends_in_one_model() {
    let settings =
        ["--set=model.dropout=0", "--set=train.ema_decay=0.9", "--set=model.num_layers=2"];
    let args = [TINY, FEW_STEPS, &settings].concat();
    let (one, many) = (Place::new(), Place::new());
    one.run(&args);
    // No layout has more steps than three, and each begins where the one before has ended.
    many.run(&[&args[..], &["--set=train.max_minutes=0"]].concat());
    let layouts = ["tp=2", "fsdp=2", "pp=2", "dp=2", "pp=2", "tp=2"];
    for layout in layouts {
        let parallel = format!("--parallel={layout}");
        let go_on = ["train", "--resume=run", "--set=train.max_minutes=0", &parallel];
        many.run(&ranks(AS_IT_IS, &go_on));
    }
    let resume = ["train", "--resume=run", "--set=train.max_minutes=null", "--parallel=fsdp=2"];
    many.run(&ranks(AS_IT_IS, &resume));
    let [one_losses, many_losses] = [&one, &many].map(|place| losses(&place.results()));
    assert_eq!(one_losses.len(), many_losses.len());
    for (one, many) in one_losses.iter().zip(&many_losses) {
        assert!((one - many).abs() < 1e-5 * one, "{one} of one process, {many} of ranks");
    }
    // A checkpoint says what the finished run says, with the averaged weights.
    let say =
        |what| many.run(&["generate", what, "--prompt=the", "--temperature=0", "--max-tokens=8"]);
    assert_eq!(say("run/checkpoints"), say("run"));
    // Each rank had a part of the weights, which are one file now: the averaged ones.
    let stored = |place: &Place| {
        let mut file = ArrayFile::open(place.0.path().join("run/weights.safetensors")).unwrap();
        let names = file.names();
        names.into_iter().map(|name| (file.read(&name).unwrap(), name)).collect::<Vec<_>>()
    };
    for ((one, name), (many, other)) in stored(&one).into_iter().zip(stored(&many)) {
        assert_eq!(name, other);
        let close = one.all_close(&many, 1e-4, 1e-5, None).unwrap();
        assert!(close, "{name}");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_others_and_the_run_goes_on_to_the_same_bits() {
    let settings =
        ["--set=train.steps=60", "--set=train.log_every=1", "--set=train.checkpoint.every_steps=7"];
    let args = [TINY, &settings].concat();
    let (calm, hard) = (Place::new(), Place::new());
    calm.run(&ranks(AS_IT_IS, &args));

    let mut process =
        hard.start(&ranks("echo rank $MLX_RANK is $$ >&2; exec \"$0\" \"$@\"", &args));
    let mut killed = None;
    while killed.is_none() {
        let line = process.next_line().expect("rank 1 tells who it is");
        killed = line.split_once("rank 1 is ").map(|(_, id)| id.to_owned());
    }
    process.wait_for(" 20/60 ");
    let id = killed.unwrap_or_default();
    assert!(Command::new("kill").args(["-s", "KILL", &id]).status().unwrap().success());
    let Ended { code, stderr, .. } = process.end();
    assert_ne!(code, Some(0), "{stderr}");
    hard.verify_checkpoints();
    let step = hard.checkpoints().unwrap().latest().unwrap().expect("it has saved").step;
    assert!((14..60).contains(&step), "{step}: {stderr}");
    hard.run(&ranks(AS_IT_IS, &["train", "--resume=run"]));
    assert_eq!(hard.results(), calm.results());
}

#[test]
fn ranks_that_are_asked_to_stop_save_once_and_say_how_to_go_on() {
    let place = Place::new();
    let settings = ["--set=train.steps=10000000", "--set=train.log_every=1"];
    let mut process = place.start(&ranks(AS_IT_IS, &[TINY, &settings].concat()));
    process.wait_for("step ");
    process.signal("INT");
    let Ended { code, stdout, stderr } = process.end();
    assert_eq!(code, Some(0), "{stderr}");
    place.verify_checkpoints();
    let checkpoints = place.checkpoints().unwrap().list().unwrap();
    assert_eq!(checkpoints.len(), 1, "{stderr}");
    assert!(stdout.contains(&format!("after step {} ", checkpoints[0].step)), "{stdout}");
    let command = "mlx-train launch -n 2 --limit 2 -- mlx-train train --resume run";
    assert!(stdout.contains(command), "{stdout}");
}

#[test]
fn a_rank_that_cannot_write_makes_the_save_fail_on_all_and_leaves_nothing() {
    let place = Place::new();
    // Files of rank 1 have 512 bytes at most.
    let before = "if [ $MLX_RANK = 1 ]; then trap '' XFSZ; ulimit -f 1; fi; exec \"$0\" \"$@\"";
    let Ended { code, stderr, .. } = place.start(&ranks(before, &[TINY, FEW_STEPS].concat())).end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("rank 1 failed"), "{stderr}");
    let folder = place.0.path().join("run/checkpoints");
    let left = fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name());
    let left: Vec<_> =
        left.filter(|name| ![".lock", "run.json"].map(Into::into).contains(name)).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    assert!(!place.results().weights.is_empty());
}

#[test]
fn ranks_that_do_not_fit_the_layout_are_refused_before_anything_is_there() {
    let place = Place::new();
    let args = |layout: &'static str| [TINY, &["--parallel", layout]].concat();
    for (command, said) in [
        (args("dp=2"), "mlx-train launch -n 2 -- mlx-train train"),
        (ranks(AS_IT_IS, &args("dp=3")), "dp=3"),
        (ranks(AS_IT_IS, &args("dp=2,tp=2")), "dp=2,tp=2"),
        (args("ddp=2"), "there is no way `ddp`"),
        (ranks(AS_IT_IS, &[TINY, &["--set=train.batch_size=3"]].concat()), "multiple of 2"),
    ] {
        let Ended { code, stderr, .. } = place.start(&command).end();
        assert_ne!(code, Some(0), "{stderr}");
        assert!(stderr.contains(said), "`{said}` is not in: {stderr}");
        assert!(!place.has_checkpoint());
    }
}
