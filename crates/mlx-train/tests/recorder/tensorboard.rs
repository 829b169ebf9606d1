//! TensorBoard's own reader loads what a recorder wrote, and finds the numbers of `metrics.jsonl`.

use super::{begin, kill, lines, recorder, report, steps};
use mlx_train::{
    run::RunFolder,
    tensorboard::EventFile,
    train::{Evaluation, Event, StepReport},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, env, path::Path, process::Command};

/// What the reader finds in a folder.
fn read(folder: &Path) -> Value {
    let python = env::var_os("MLX_TRAIN_PYTHON")
        .expect("MLX_TRAIN_PYTHON names the Python with TensorBoard: run `cargo xtask setup`");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorder/read_events.py");
    let output = Command::new(python).arg(script).arg(folder).output().expect("Python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "run `cargo xtask setup` if a module is missing:\n{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The points of every scalar, by tag.
fn scalars(found: &Value) -> BTreeMap<String, Vec<(u64, f64)>> {
    serde_json::from_value(found["scalars"].clone()).unwrap()
}

#[test]
fn the_reader_finds_every_number_of_a_run_that_was_resumed_and_rolled_back() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    folder.write_config("[train]\nsteps = 40\n").unwrap();
    let killed = recorder(&folder);
    begin(&killed, None);
    steps(&killed, 1..=20);
    kill(killed);
    let resumed = recorder(&folder);
    begin(&resumed, Some(10));
    steps(&resumed, 11..=18);
    resumed.record(&Event::RolledBack { from: 19, to: 14, reason: "the loss is NaN" });
    steps(&resumed, 15..=40);
    let metrics = vec![("accuracy".to_owned(), 0.1)];
    let evaluation = Evaluation { loss: 2.5, num_targets: 5.0, metrics };
    resumed.record(&Event::Evaluated { step: 40, evaluation: &evaluation, seconds: 0.5 });
    kill(resumed);

    let mut expected: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    for line in lines(&folder.metrics()) {
        for (name, value) in line.as_object().unwrap() {
            let point = (line["step"].as_u64().unwrap(), f64::from(value.as_f64().unwrap() as f32));
            expected.entry(name.clone()).or_default().push(point);
        }
    }
    let found = read(at.path());
    let scalars = scalars(&found);
    for (name, points) in
        expected.iter().filter(|(name, _)| !["step", "time"].contains(&name.as_str()))
    {
        let name =
            name.strip_prefix("held_out_").map_or(name.clone(), |rest| format!("held_out/{rest}"));
        let (tag, found) = scalars
            .iter()
            .find(|(tag, _)| {
                **tag == name || tag.ends_with(&format!("/{name}")) && !tag.starts_with("held_out/")
            })
            .unwrap_or_else(|| panic!("{name} in {:?}", scalars.keys()));
        assert_eq!(found, points, "{tag}");
    }
    assert_eq!(scalars.len(), expected.len() - 2, "step and time are no scalars of their own");
    assert_eq!(scalars["train/loss"].len(), 20);
    assert_eq!(scalars["held_out/accuracy"], [(40, f64::from(0.1_f32))]);
    let tensor = 2;
    assert_eq!(found["kinds"]["config"], json!(["text", tensor]));
    assert_eq!(found["texts"]["config"][0], "```toml\n[train]\nsteps = 40\n\n```");
}

#[test]
fn the_reader_takes_numbers_that_are_none_and_texts_that_are_long() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let recorder = recorder(&folder);
    begin(&recorder, None);
    recorder.record(&Event::Step(StepReport { loss: f64::INFINITY, ..report(2) }));
    let mut events = EventFile::create(at.path()).unwrap();
    let long = "é".repeat(100_000);
    events.text(3, "long", &long).unwrap();
    events.scalars(u64::from(u32::MAX) * 2, [("late", -0.0)]).unwrap();
    let found = read(at.path());
    assert_eq!(found["texts"]["long"][0], long);
    assert_eq!(found["scalars"]["train/loss"][0][1], "inf");
    let late = found["scalars"]["late"][0].as_array().unwrap();
    assert_eq!((late[0].as_u64(), late[1].as_f64()), (Some(8_589_934_590), Some(0.0)));
}
