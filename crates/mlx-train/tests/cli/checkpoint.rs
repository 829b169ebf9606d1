//! `checkpoint`, as a person uses it: transcripts of the binary, and its exit codes.

use super::{folder, refusal, run, stdout};
use mlx_train::{
    mlx_rs::Dtype,
    store::{ArraySet, CheckpointConfig, Checkpoints, HostArray, Saver, Snapshot},
};
use serde_json::{Value, json};
use std::{fmt::Write, fs, path::Path};
use tempfile::TempDir;

fn snapshot(step: u64, metric: Option<f64>) -> Snapshot {
    let array =
        |value: f32| HostArray::new(Dtype::Float32, &[64], value.to_le_bytes().repeat(64)).unwrap();
    Snapshot {
        step,
        model: "mlp".into(),
        weights: vec![("weight".into(), array(step as f32)), ("bias".into(), array(0.0))],
        training: vec![
            ("ema.weight".into(), array(0.5)),
            ("optimizer.weight.m".into(), array(1.0)),
        ],
        progress: json!({ "rows": 640 }),
        config: json!({ "model": { "hidden_size": 64 } }),
        metric,
    }
}

/// `runs/first` with checkpoints of steps 10, 20 and 30, of which 20 is the best.
fn folder_with_run() -> TempDir {
    let folder = folder();
    let checkpoints = Checkpoints::create(folder.path().join("runs/first/checkpoints")).unwrap();
    let config = CheckpointConfig { keep_last: 0, ..CheckpointConfig::default() };
    let mut saver = Saver::new(checkpoints, &config).unwrap();
    for (step, metric) in [(10, Some(2.5)), (20, Some(1.25)), (30, None)] {
        saver.save(|| Ok(snapshot(step, metric))).unwrap();
    }
    for outcome in saver.finish() {
        assert_eq!(outcome.result.unwrap().warning, None);
    }
    folder
}

fn flip_last_byte(path: impl AsRef<Path>) {
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Runs commands one after the other, and shows what a person would see.
fn transcript(folder: &Path, commands: &[&str]) -> String {
    let mut shown = String::new();
    for command in commands {
        let output = run(folder, &command.split(' ').collect::<Vec<_>>());
        let text = [output.stdout, output.stderr].concat();
        writeln!(shown, "$ mlx-train {command}\n{}", String::from_utf8(text).unwrap()).unwrap();
        if let Some(code) = output.status.code().filter(|&code| code != 0) {
            writeln!(shown, "[exit code {code}]\n").unwrap();
        }
    }
    shown
}

/// Asserts that a transcript is as it was, but for the time of day.
macro_rules! assert_transcript {
    ($name:literal, $folder:expr, $commands:expr) => {
        insta::with_settings!({ filters => vec![(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<saved at, in UTC> ")] }, {
            insta::assert_snapshot!($name, transcript($folder, $commands));
        })
    };
}

#[test]
fn help_of_checkpoint_is_as_it_was() {
    let folder = folder();
    for (name, args) in [
        ("help_checkpoint", &["checkpoint", "--help"][..]),
        ("help_checkpoint_prune", &["checkpoint", "prune", "--help"]),
        ("help_checkpoint_export", &["checkpoint", "export", "--help"]),
    ] {
        insta::assert_snapshot!(name, stdout(&run(folder.path(), args)));
    }
}

#[test]
fn checkpoints_are_listed_verified_and_pruned() {
    let folder = folder_with_run();
    assert_transcript!(
        "checkpoint_transcript",
        folder.path(),
        &[
            "checkpoint list runs/first",
            "checkpoint verify runs/first",
            "checkpoint prune runs/first --keep-last 1 --dry-run",
            "checkpoint prune runs/first/checkpoints --keep-last 1",
            "checkpoint prune runs/first --keep-last 1",
            "checkpoint list runs/first",
        ]
    );
}

#[test]
fn damage_is_told_with_the_checkpoint_to_go_on_from() {
    let folder = folder_with_run();
    let steps = folder.path().join("runs/first/checkpoints");
    flip_last_byte(steps.join("step-00000030/training.safetensors"));
    flip_last_byte(steps.join("step-00000010/manifest.json"));
    assert_transcript!(
        "checkpoint_damaged_transcript",
        folder.path(),
        &[
            "checkpoint list runs/first",
            "checkpoint verify runs/first",
            "checkpoint verify runs/first --quick",
            "checkpoint verify runs/first/checkpoints/step-00000020",
            "checkpoint verify runs/first/checkpoints/step-00000030",
            "checkpoint export runs/first --output out",
        ]
    );
    assert!(!folder.path().join("out/model.safetensors").exists());
}

#[test]
fn the_list_is_json_for_programs() {
    let folder = folder_with_run();
    let text = stdout(&run(folder.path(), &["checkpoint", "list", "runs/first", "--json"]));
    let rows: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[1]["metric"], json!({ "name": "loss", "value": 1.25, "mode": "min" }));
    let marks = |row: &Value| (row["latest"] == true, row["best"] == true);
    assert_eq!(
        [0, 1, 2].map(|row| marks(&rows[row])),
        [(false, false), (false, true), (true, false)]
    );
    assert!(rows[0]["path"].as_str().unwrap().ends_with("step-00000010"));
    assert!(rows[0]["bytes"].as_u64().unwrap() > 1024 && rows[0]["problem"].is_null());
}

#[test]
fn weights_are_exported_for_other_tools() {
    let folder = folder_with_run();
    assert_transcript!(
        "checkpoint_export_transcript",
        folder.path(),
        &[
            "checkpoint export runs/first --output out",
            "checkpoint export runs/first/checkpoints/step-00000010 --output out --dtype bf16",
            "checkpoint export runs/first/checkpoints/step-00000010 --output out --dtype bf16 --force --ema",
        ]
    );
    let out = folder.path().join("out");
    let mut set = ArraySet::open(&out).unwrap();
    let weight = set.read("weight").unwrap();
    assert_eq!(weight.dtype(), Dtype::Bfloat16);
    let weight = weight.as_dtype(Dtype::Float32).unwrap();
    assert!(weight.try_as_slice::<f32>().unwrap().iter().all(|&it| (it - 0.5).abs() < 1e-9));
    let config: Value =
        serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "mlp");
}

#[test]
fn what_is_no_checkpoint_is_refused_with_exit_code_2() {
    let folder = folder_with_run();
    let step = "runs/first/checkpoints/step-00000010";
    for (args, part) in [
        (&["list", "nowhere"][..], "nowhere"),
        (&["list", "runs"], "holds no checkpoints"),
        (&["verify", "runs/first/checkpoints/step-00000099"], "does not exist"),
        (&["list", step], "is one checkpoint"),
        (&["verify", "nowhere"], "nowhere"),
        (&["prune", "runs/first", "--keep-last", "0"], "at least 1"),
        (&["prune", step, "--keep-last", "1"], "is one checkpoint"),
        (&["export", "nowhere", "--output", "out"], "nowhere"),
    ] {
        let output = run(folder.path(), &[&["checkpoint"], args].concat());
        let message = refusal(&output, 2);
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}
