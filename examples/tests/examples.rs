//! The examples do what their headers say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_train::launch::{Launch, Stop};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Runs an example in `folder` and returns what it printed.
fn run(program: &str, folder: &Path, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        // Two processes that both use all cores slow each other down by far more than two.
        .env("OPENBLAS_NUM_THREADS", "1")
        .output()
        .expect("the example starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The number behind a label of the summary table.
fn number(summary: &str, label: &str) -> f64 {
    let line = summary.lines().find_map(|line| line.trim().strip_prefix(label));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("{label}\n{summary}"))
}

/// The losses and norms of a run, without times and memory, which differ from run to run.
fn losses(run: &Path) -> Vec<serde_json::Value> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<serde_json::Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        let is_number_of_the_run = |name: &str| {
            let measured = ["_bytes", "seconds", "_per_second", "_utilization"];
            name != "time" && !measured.iter().any(|end| name.ends_with(end))
        };
        line.as_object_mut().unwrap().retain(|name, _| is_number_of_the_run(name));
    }
    lines
}

#[test]
fn the_mlp_reaches_97_percent_on_held_out_digits() {
    let folder = folder();
    let summary = run(env!("CARGO_BIN_EXE_train_mlp"), folder.path(), &[]);
    assert!(number(&summary, "held-out accuracy") >= 0.97, "{summary}");
    for file in [
        "config.toml",
        "weights.safetensors",
        "metrics.jsonl",
        "plots/loss.png",
        "index.html",
        "checkpoints/step-00001000/model.safetensors",
    ] {
        assert!(folder.path().join("runs/mlp-digits").join(file).is_file(), "{file}");
    }
}

#[test]
fn two_runs_with_one_seed_have_the_same_numbers() {
    let folder = folder();
    let train = |output: &str, seed: &str| {
        let args = ["--steps=40", "--output", output, "--seed", seed];
        run(env!("CARGO_BIN_EXE_train_mlp"), folder.path(), &args);
        losses(&folder.path().join(output))
    };
    let first = train("first", "1");
    assert_eq!(first, train("second", "1"));
    assert_ne!(first, train("third", "2"));
}

#[test]
fn the_transformer_learns_more_than_pairs_of_bytes() {
    let folder = folder();
    // What a digit's square is, the byte before does not tell.
    let text: String =
        (0..1000).map(|n| n % 10).map(|n| format!("{n} squared is {}. ", n * n)).collect();
    fs::write(folder.path().join("text.txt"), text).unwrap();
    let args = ["--text=text.txt", "--steps=50", "--prompt=4 squared is ", "--output=run"];
    let summary = run(env!("CARGO_BIN_EXE_train_transformer"), folder.path(), &args);
    let loss = number(&summary, "held-out loss");
    let bigram_entropy = number(&summary, "bigram entropy");
    assert!(loss < 0.8 * bigram_entropy, "{summary}");
    let sample = summary.split("A sample:").nth(1).expect("a sample").trim();
    assert!(sample.starts_with("4 squared is ") && sample.len() > 100, "{sample}");
    // What `mlx-train generate run` reads: the model by name, and all of its settings.
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    for line in ["[model]\nname = \"transformer\"\n", "\nhidden_size = 128\n", "\nsteps = 50\n"] {
        assert!(config.contains(line), "{config}\nlacks {line}");
    }
}

#[test]
fn adapters_teach_a_model_another_text_and_merge_into_it() {
    let folder = folder();
    let text = run(env!("CARGO_BIN_EXE_lora"), folder.path(), &["."]);
    let loss = |label: &str| -> f64 {
        let rest = text.split(label).nth(1).unwrap_or_else(|| panic!("{text}"));
        rest.split([',', '\n']).next().and_then(|it| it.trim().parse().ok()).expect(label)
    };
    let adapted = loss("with adapters on cubes:");
    assert!(adapted < 0.5 * loss("on cubes: ") && loss("on squares:") < 0.5, "{text}");
    assert!((loss("merged, in a plain model:") - adapted).abs() < 0.011, "{text}");
    assert!(text.contains("training 8192 of "), "{text}");
}

#[test]
fn a_model_of_your_own_trains_in_a_program_of_your_own() {
    let text = run(env!("CARGO_BIN_EXE_custom_model"), folder().path(), &[]);
    let loss = text.trim().strip_prefix("final loss: ").and_then(|rest| rest.split(' ').next());
    let loss: f64 = loss.and_then(|loss| loss.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(loss < 3.0, "{text}");
}

/// The losses that `distributed` prints as the ranks of this layout.
fn losses_of(parallelism: &str, ranks: usize) -> Vec<f64> {
    let program = env!("CARGO_BIN_EXE_distributed");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let launch = Launch::new(vec![program.into(), parallelism.into()], ranks).unwrap();
    let ended = launch.run(&Stop::default(), &mut out, &mut err).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(ended.exit_code, 0, "{parallelism}: {text}{}", String::from_utf8_lossy(&err));
    losses_in(&text)
}

/// The losses in what the example has printed.
fn losses_in(text: &str) -> Vec<f64> {
    text.lines().filter_map(|line| line.split("loss ").nth(1)?.parse().ok()).collect()
}

/// Every way to share the work gives the losses of one process, and so do several at once, which are over MPI.
#[test]
fn ranks_train_as_one_process_does_in_every_way() {
    let alone = losses_of("none", 1);
    assert_eq!(alone.len(), 3);
    let is_as_alone = |parallelism: &str, together: &[f64]| {
        assert_eq!(together.len(), 3, "{parallelism}");
        for (alone, together) in alone.iter().zip(together) {
            let off = (alone - together).abs();
            assert!(off < 2e-3, "{alone} alone and {together} by {parallelism}");
        }
    };
    for parallelism in ["dp=2", "fsdp=2", "tp=2", "pp=2"] {
        is_as_alone(parallelism, &losses_of(parallelism, 2));
    }
    for parallelism in ["dp=2,tp=2", "fsdp=2,pp=2"] {
        let mut mpirun = parity::mpi::mpirun(4);
        mpirun.args([env!("CARGO_BIN_EXE_distributed"), parallelism]);
        let ended = mpirun.env("OPENBLAS_NUM_THREADS", "1").output().unwrap();
        let text = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{text}{}", String::from_utf8_lossy(&ended.stderr));
        is_as_alone(parallelism, &losses_in(&text));
    }
}

#[test]
fn a_loop_of_your_own_goes_on_where_it_was_interrupted() {
    let program = env!("CARGO_BIN_EXE_own_loop");
    let (whole, parts) = (folder(), folder());
    let expected = run(program, whole.path(), &[]);
    assert!(run(program, parts.path(), &["30"]).lines().count() == 1);
    let resumed = run(program, parts.path(), &[]);
    assert!(resumed.starts_with("going on after step 20\n"), "{resumed}");
    assert_eq!(resumed.lines().last(), expected.lines().last());
}
