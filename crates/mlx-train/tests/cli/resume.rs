//! `train --resume` and what else `train` does with checkpoints.

use super::{TINY, folder_with_text, refusal, run, stderr, stdout, train};
use serde_json::Value;
use std::{fs, path::Path, thread::sleep, time::Duration};
use tempfile::TempDir;

/// A run of four steps that are all saved.
fn folder_with_run() -> TempDir {
    let folder = folder_with_text();
    let saves = ["--set=train.checkpoint.every_steps=1", "--set=train.checkpoint.keep_last=0"];
    stdout(&train(folder.path(), "run", &saves));
    folder
}

/// The steps with a training loss.
fn steps(run: &Path) -> Vec<u64> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line.get("loss").is_some())
        .map(|line| line["step"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_run_goes_on_with_more_steps_and_with_settings_that_are_allowed_to_differ() {
    let folder = folder_with_run();
    let path = folder.path().join("run");
    let resume =
        |further: &[&str]| run(folder.path(), &[&["train", "--resume=run"], further].concat());
    assert!(stdout(&resume(&["--set=train.steps=6"])).contains("Trained transformer"));
    assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6]);

    let kept = |name: &str| fs::read(path.join(name)).unwrap();
    let before = (kept("config.toml"), kept("metrics.jsonl"), kept("weights.safetensors"));
    let rate = ["--set=train.steps=8", "--set=train.learning_rate=0.25"];
    let message = refusal(&resume(&rate), 2);
    assert!(message.contains("train.learning_rate: 0.001 → 0.25"), "{message}");
    assert!(message.contains("--allow train.learning_rate"), "{message}");
    assert!(!message.contains("train.steps"), "{message}");
    assert_eq!((kept("config.toml"), kept("metrics.jsonl"), kept("weights.safetensors")), before);

    stdout(&resume(&[&rate[..], &["--allow=train.learning_rate"]].concat()));
    assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6, 7, 8]);
    let config = fs::read_to_string(path.join("config.toml")).unwrap();
    assert!(config.contains("learning_rate = 0.25") && config.contains("steps = 8"), "{config}");
    // It has the settings that it went on with.
    stdout(&resume(&["--set=train.steps=9"]));

    stdout(&run(
        folder.path(),
        &["train", "--resume", "run/checkpoints/step-00000002", "--set=train.steps=3"],
    ));
    assert_eq!(steps(&path), [1, 2, 3]);
}

#[test]
fn without_a_name_the_run_that_saved_last_goes_on() {
    let folder = folder_with_text();
    let message = refusal(&run(folder.path(), &["train", "--resume"]), 2);
    assert!(
        message.contains("no run below `runs`") && message.contains("--resume RUN"),
        "{message}"
    );
    stdout(&train(folder.path(), "runs/z", &[]));
    // Checkpoints know the second in which they were saved.
    sleep(Duration::from_millis(1100));
    stdout(&train(folder.path(), "runs/a", &[]));
    for latest in [&["train", "--resume"][..], &["train", "--resume", "latest"]] {
        let summary = stdout(&run(folder.path(), &[latest, &["--set=train.steps=5"]].concat()));
        assert!(summary.contains("runs/a"), "{summary}");
    }
    let summary = stdout(&run(folder.path(), &["train", "--resume", "--output=runs/z"]));
    assert!(summary.contains("runs/z"), "{summary}");
}

#[test]
fn what_cannot_go_on_is_refused_and_left_alone() {
    let folder = folder_with_run();
    for (args, expected) in [
        (&["--resume=nowhere"][..], "nowhere"),
        (&["--resume=text.txt"], "text.txt"),
        (&["--resume=run", "--output=other"], "leave one of them out"),
        (&["--resume=run", "--force"], "cannot be used with"),
        (&["--allow=train.seed"], "--resume"),
        (&["--resume=run", "--fast-dev-run"], "cannot be used with"),
        (&["--resume=run", "--set=data.seq_len=8"], "data.seq_len: 16 → 8"),
        (&["--resume=run", "--set=model.hidden_size=32"], "model.hidden_size: 16 → 32"),
        (
            &["--resume=run", "--set=model.hidden_size=32", "--allow=model.*"],
            "[256, 16] in the file, [256, 32]",
        ),
    ] {
        let output = run(folder.path(), &[&["train"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
    assert!(!folder.path().join("other").exists());

    let newest = folder.path().join("run/checkpoints/step-00000004/model.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let message = refusal(&run(folder.path(), &["train", "--resume=run"]), 2);
    assert!(
        message.contains("step-00000004") && message.contains("model.safetensors"),
        "{message}"
    );
    let way_out = "--resume run/checkpoints/step-00000003";
    assert!(message.contains(way_out), "{message}");
    stdout(&run(
        folder.path(),
        &[&["train"], &way_out.split(' ').collect::<Vec<_>>()[..]].concat(),
    ));
}

#[test]
fn a_run_that_can_go_on_is_not_replaced_by_accident() {
    let folder = folder_with_run();
    // As a run that was interrupted.
    fs::remove_file(folder.path().join("run/weights.safetensors")).unwrap();
    let message = refusal(&train(folder.path(), "run", &[]), 2);
    assert!(
        message.contains("saved step 4") && message.contains("train --resume run"),
        "{message}"
    );
    assert!(message.contains("--force"), "{message}");
    stdout(&train(folder.path(), "run", &["--force", "--set=train.steps=2"]));
    assert_eq!(steps(&folder.path().join("run")), [1, 2]);
    let list = stdout(&run(folder.path(), &["checkpoint", "list", "run", "--json"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
}

#[test]
fn a_trial_keeps_nothing_and_a_few_batches_can_come_again_and_again() {
    let folder = folder_with_text();
    let summary = stdout(&run(folder.path(), &[TINY, &["--fast-dev-run"]].concat()));
    assert!(summary.contains("nothing of the trial was kept"), "{summary}");
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["text.txt"]);

    let overfit = ["--overfit-batches=1", "--set=train.steps=60", "--set=train.learning_rate=0.05"];
    stdout(&train(folder.path(), "run", &overfit));
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let mut losses = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64());
    assert!(losses.next_back().unwrap() < 0.5, "{metrics}");
}

#[test]
fn text_is_generated_from_checkpoints_too() {
    let folder = folder_with_run();
    let generate = |run_folder: &str| {
        let output =
            run(folder.path(), &["generate", run_folder, "--prompt=the ", "--max-tokens=8"]);
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let finished = generate("run");
    assert_eq!(generate("run/checkpoints/step-00000004"), finished);
    assert_ne!(generate("run/checkpoints/step-00000001"), finished);
    fs::remove_file(folder.path().join("run/weights.safetensors")).unwrap();
    assert_eq!(generate("run"), finished, "the latest checkpoint of a run that has not finished");
}
