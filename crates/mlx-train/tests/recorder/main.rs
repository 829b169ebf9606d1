//! What a run leaves in its folder, from the events of a trainer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tensorboard;

use mlx_train::{
    data::InMemory,
    prelude::*,
    profile::Memory,
    run::{Metrics, RunFolder, RunRecorder},
    store::{CheckpointConfig, Checkpoints, Saver, Snapshot},
    train::{
        Evaluation, Event, Finished, History, Outcome, Resume, Spike, Started, StepReport,
        StepSeconds, StopSignal, Trained,
    },
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

const MEMORY: Memory = Memory {
    active_bytes: 3 << 20,
    peak_bytes: 5 << 20,
    cache_bytes: 1 << 20,
    resident_bytes: Some(9 << 20),
    anonymous_bytes: Some(8 << 20),
    swap_bytes: Some(2 << 20),
};

fn report(step: u64) -> StepReport {
    StepReport {
        step,
        steps: 40,
        epochs: step as f64 / 40.0,
        num_steps: 2,
        num_targets: 64.0,
        loss: 5.0 - step as f64 / 10.0,
        learning_rate: 1e-3,
        grad_norm: 0.5,
        tokens_per_second: 1000.0,
        seconds: StepSeconds { data: 0.01, compute: 0.2, save: 0.0 },
        num_skipped: 0,
        num_traces: 1,
        elapsed_seconds: step as f64 / 10.0,
        memory: MEMORY,
    }
}

/// Records the beginning of a process that works on a run.
fn begin(recorder: &RunRecorder, resumed: Option<u64>) {
    let config = TrainConfig::default();
    let started = Started {
        config: &config,
        steps: 40,
        num_parameters: 1234,
        num_trainable: 1200,
        num_rows: 100,
    };
    recorder.record(&Event::Started(started));
    if let Some(step) = resumed {
        recorder.record(&Event::Resumed { step, checkpoint: Path::new("checkpoints/a") });
    }
}

fn steps(recorder: &RunRecorder, steps: std::ops::RangeInclusive<u64>) {
    for step in steps.filter(|step| step % 2 == 0) {
        recorder.record(&Event::Step(report(step)));
    }
}

fn finish(recorder: &RunRecorder, step: u64) {
    let (history, outcome) = (History::default(), Outcome::Completed);
    recorder.record(&Event::Finished(Finished {
        step,
        num_targets: 1.0,
        elapsed_seconds: 4.0,
        history: &history,
        outcome: &outcome,
    }));
}

/// Ends like a process that is killed: nothing is dropped, no page or plot is written.
fn kill(recorder: RunRecorder) {
    std::mem::forget(recorder);
}

fn recorder(folder: &RunFolder) -> RunRecorder {
    RunRecorder::new(folder.clone()).title("small <model>").unit("tokens").perplexity().quiet()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn recorded_steps(folder: &RunFolder) -> Vec<u64> {
    lines(&folder.metrics()).iter().map(|line| line["step"].as_u64().unwrap()).collect()
}

fn kinds(folder: &RunFolder) -> Vec<String> {
    let events = lines(&folder.events());
    events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn numbers_are_on_disk_as_soon_as_they_are_told() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let recorder = recorder(&folder).flops_per_token(6e9).peak_flops(1e14);
    begin(&recorder, None);
    steps(&recorder, 1..=2);
    let line = &lines(&folder.metrics())[0];
    for (name, expected) in [
        ("loss", 4.8),
        ("perplexity", 4.8_f64.exp()),
        ("learning_rate", 1e-3),
        ("grad_norm", 0.5),
        ("tokens_per_second", 1000.0),
        ("data_seconds", 0.005),
        ("compute_seconds", 0.1),
        ("save_seconds", 0.0),
        ("active_bytes", 3_145_728.0),
        ("peak_bytes", 5_242_880.0),
        ("cache_bytes", 1_048_576.0),
        ("resident_bytes", 9_437_184.0),
        ("swap_bytes", 2_097_152.0),
        ("model_flops_utilization", 0.06),
    ] {
        let value = line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"));
        assert!((value - expected).abs() < 1e-12, "{name}: {value}");
    }
    assert!(folder.report().is_file(), "there is a page from the beginning");
    let evaluation =
        Evaluation { loss: 2.0, num_targets: 5.0, metrics: vec![("accuracy".into(), 0.25)] };
    recorder.record(&Event::Evaluated { step: 2, evaluation: &evaluation, seconds: 0.5 });
    let metrics = Metrics::read(folder.metrics()).unwrap();
    assert_eq!(metrics.series("held_out_accuracy"), [(2, 0.25)]);
    assert_eq!(metrics.last("held_out_loss"), Some(2.0));
    assert_eq!(metrics.last("held_out_perplexity"), Some(2.0_f64.exp()));
}

#[test]
fn a_number_that_is_none_is_null_and_no_point_of_a_curve() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let recorder = recorder(&folder);
    begin(&recorder, None);
    recorder.record(&Event::Step(StepReport { grad_norm: f64::NAN, ..report(2) }));
    assert_eq!(lines(&folder.metrics())[0]["grad_norm"], Value::Null);
    assert_eq!(Metrics::read(folder.metrics()).unwrap().series("grad_norm"), []);
}

#[test]
fn a_resumed_run_cuts_later_steps_and_the_line_that_a_kill_tore() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let killed = recorder(&folder);
    begin(&killed, None);
    steps(&killed, 1..=20);
    kill(killed);
    let torn = fs::read_to_string(folder.metrics()).unwrap() + "{\"step\":22,\"lo";
    fs::write(folder.metrics(), torn).unwrap();

    let folder = RunFolder::find(at.path()).unwrap();
    let resumed = recorder(&folder);
    begin(&resumed, Some(10));
    steps(&resumed, 11..=40);
    finish(&resumed, 40);
    assert_eq!(recorded_steps(&folder), (1..=20).map(|i| i * 2).collect::<Vec<_>>());
    assert_eq!(kinds(&folder), ["started", "started", "resumed", "finished"]);
    let about: Value = serde_json::from_slice(&fs::read(folder.about()).unwrap()).unwrap();
    let first_steps = ["/sessions/0/first_step", "/sessions/1/first_step"];
    assert_eq!(first_steps.map(|at| about.pointer(at).unwrap().as_u64()), [Some(0), Some(10)]);
}

#[test]
fn a_new_run_in_the_folder_of_another_keeps_nothing_of_its_records() {
    let at = tempfile::tempdir().unwrap();
    let first = RunFolder::create(at.path(), false).unwrap();
    let first_recorder = recorder(&first);
    begin(&first_recorder, None);
    steps(&first_recorder, 1..=20);
    kill(first_recorder);
    let refused = RunFolder::create(at.path(), false).unwrap_err().to_string();
    assert!(refused.contains("has not finished") && refused.contains("--force"), "{refused}");

    let second = RunFolder::create(at.path(), true).unwrap();
    let second_recorder = recorder(&second);
    begin(&second_recorder, None);
    steps(&second_recorder, 1..=4);
    assert_eq!(recorded_steps(&second), [2, 4]);
    let event_files = fs::read_dir(at.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tfevents"));
    assert_eq!(event_files.count(), 1);
    kill(second_recorder);
}

#[test]
fn a_new_run_in_the_folder_of_another_keeps_none_of_its_checkpoints_and_weights() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let mut saver =
        Saver::new(folder.new_checkpoints().unwrap(), &CheckpointConfig::default()).unwrap();
    saver.save(|| Snapshot::take(3, [("w", &Array::from_f32(1.0))], [])).unwrap();
    fs::write(folder.weights(), "of the run before").unwrap();
    let busy = folder.new_checkpoints().unwrap_err().to_string();
    assert!(busy.contains("in use") && folder.weights().exists(), "{busy}");
    saver.finish();
    let checkpoints = folder.new_checkpoints().unwrap();
    assert!(checkpoints.list().unwrap().is_empty() && !folder.weights().exists());
}

#[test]
fn a_run_that_rolls_back_never_goes_backwards_in_its_metrics() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let recorder = recorder(&folder);
    begin(&recorder, None);
    steps(&recorder, 1..=20);
    recorder.record(&Event::RolledBack { from: 21, to: 8, reason: "the loss is NaN" });
    steps(&recorder, 9..=12);
    assert_eq!(recorded_steps(&folder), [2, 4, 6, 8, 10, 12]);
    kill(recorder);
}

#[test]
fn a_failed_run_leaves_its_numbers_plots_and_a_page_that_says_why() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let recorder = recorder(&folder);
    begin(&recorder, None);
    steps(&recorder, 1..=6);
    let failed: Result<()> = Err(Error::message("training diverged at step 7"));
    assert!(recorder.end(failed).is_err(), "the result is passed on");
    assert_eq!(recorded_steps(&folder), [2, 4, 6]);
    assert_eq!(kinds(&folder).last().unwrap(), "failed");
    assert!(folder.plots().join("loss.png").is_file());
    let page = fs::read_to_string(folder.report()).unwrap();
    assert!(page.contains("training diverged at step 7"));
    assert!(page.contains("class=\"status failed\""));
    assert!(page.contains("loss (nats)"));
}

#[test]
fn a_recorder_that_is_dropped_in_the_middle_says_so() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let forgotten = recorder(&folder);
    begin(&forgotten, None);
    steps(&forgotten, 1..=6);
    drop(forgotten);
    assert_eq!(kinds(&folder), ["started", "failed"]);
    assert!(fs::read_to_string(folder.report()).unwrap().contains("RunRecorder::end"));
}

#[test]
fn trouble_with_writing_does_not_end_a_run_and_may_pass() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path().join("run"), false).unwrap();
    // A folder where the numbers would go.
    fs::create_dir_all(folder.metrics().join("x")).unwrap();
    let recorder = recorder(&folder);
    begin(&recorder, None);
    steps(&recorder, 1..=6);
    fs::remove_dir_all(folder.metrics()).unwrap();
    steps(&recorder, 7..=10);
    assert_eq!(recorded_steps(&folder), [8, 10]);
    assert_eq!(recorder.end(Ok(7)).unwrap(), 7);
}

#[cfg(unix)]
#[test]
fn a_resume_that_cannot_write_at_first_still_keeps_what_was_there() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let killed = recorder(&folder);
    begin(&killed, None);
    steps(&killed, 1..=6);
    kill(killed);
    // A circle of links where the events would go, so that the files cannot be opened.
    let events = fs::read(folder.events()).unwrap();
    fs::remove_file(folder.events()).unwrap();
    std::os::unix::fs::symlink(folder.events(), folder.events()).unwrap();
    let resumed = recorder(&folder);
    begin(&resumed, Some(4));
    fs::remove_file(folder.events()).unwrap();
    fs::write(folder.events(), events).unwrap();
    steps(&resumed, 5..=8);
    assert_eq!(recorded_steps(&folder), [2, 4, 6, 8]);
    kill(resumed);
}

#[test]
fn the_page_is_whole_by_itself_and_escapes_what_comes_from_outside() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    let hostile = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>";
    folder.write_config(&format!("# {hostile}\n[train]\nsteps = 1\n")).unwrap();
    // The text of a damaged manifest may end up in a message.
    let damaged = folder.checkpoints().join("step-00000002");
    fs::create_dir_all(&damaged).unwrap();
    fs::write(damaged.join("manifest.json"), hostile).unwrap();
    fs::write(folder.checkpoints().join("run.json"), hostile).unwrap();
    let recorder = RunRecorder::new(folder.clone())
        .title(hostile)
        .unit(hostile)
        .reference(hostile, 4.0)
        .quiet();
    begin(&recorder, None);
    steps(&recorder, 1..=6);
    let evaluation =
        Evaluation { loss: 2.0, num_targets: 5.0, metrics: vec![(hostile.to_owned(), 0.25)] };
    for step in [2, 4] {
        recorder.record(&Event::Evaluated { step, evaluation: &evaluation, seconds: 0.5 });
    }
    recorder.record(&Event::Warning(hostile));
    _ = recorder.end::<()>(Err(Error::message(hostile)));

    let page = fs::read_to_string(folder.report()).unwrap();
    for forbidden in ["<script", "<img", "<b>", "onerror=alert(2)>", "<link", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // The namespace of SVG is a name and no address that is fetched.
    let outside: BTreeSet<_> =
        page.match_indices("://").map(|(i, _)| &page[i - 4..i + 20]).collect();
    assert_eq!(outside, BTreeSet::from(["http://www.w3.org/2000/s"]));
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
    for tag in ["table", "section", "figure", "div", "dl", "main", "tr", "td"] {
        let (open, closed) = (format!("<{tag}"), format!("</{tag}>"));
        let opened = page.matches(&open).filter(|_| true).count();
        let longer = page.matches(&format!("<{tag}ead")).count();
        assert_eq!(opened - longer, page.matches(&closed).count(), "{tag}");
    }
}

#[test]
fn the_page_of_a_run_tells_how_it_went() {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false).unwrap();
    folder.write_config("[train]\nsteps = 40\n").unwrap();
    let recorder = recorder(&folder).reference("bigram entropy", 2.5);
    begin(&recorder, None);
    steps(&recorder, 1..=20);
    let spike = Spike { step: 13, loss: 9.0, median: 3.5, threshold: 6.0 };
    recorder.record(&Event::Spike(spike));
    recorder.record(&Event::CheckpointFailed { step: 20, error: "the disk is full" });
    for (step, loss) in [(20, 3.0), (40, 3.5)] {
        let evaluation = Evaluation { loss, num_targets: 5.0, metrics: vec![] };
        recorder.record(&Event::Evaluated { step, evaluation: &evaluation, seconds: 0.5 });
    }
    steps(&recorder, 21..=40);
    finish(&recorder, 40);
    let page = fs::read_to_string(folder.report()).unwrap();
    insta::with_settings!({filters => vec![
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[time]"),
    ]}, {
        insta::assert_snapshot!(text_of(&page));
    });
}

/// What a person reads on a page, without the pictures and the environment.
fn text_of(page: &str) -> String {
    let body = page.split("</head>").nth(1).unwrap();
    let before = body.split("<h2>Environment</h2>").next().unwrap();
    let after = body.split("<h2>Settings</h2>").nth(1).unwrap();
    let mut text = String::new();
    for part in format!("{before}<h2>Settings</h2>{after}").split("<svg ").enumerate() {
        let shown = match part {
            (0, first) => first,
            (_, picture) => picture.split("</svg>").nth(1).unwrap(),
        };
        text += shown;
    }
    let words = text.split('<').filter_map(|piece| piece.split_once('>'));
    words
        .map(|(_, word)| word.trim())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Trains six steps into a folder, or until `stop_at`; goes on from a checkpoint if there is one.
fn train(folder: &RunFolder, stop_at: Option<u64>) -> Result<Trained> {
    let x = Array::from_slice(&[0.0_f32, 1.0, 2.0, 3.0], &[2, 2]);
    let y = Array::from_slice(&[0_i32, 1], &[2]);
    let mut model = ModelRegistry::get_model("mlp")?.build([
        "input_size=2",
        "hidden_sizes=[4]",
        "output_size=2",
    ])?;
    let config = TrainConfig { steps: 6, batch_size: 2, log_every: 2, ..TrainConfig::default() };
    let stop = StopSignal::new();
    let recorder = RunRecorder::new(folder.clone()).quiet();
    let mut trainer = Trainer::new(&mut model, config)?.stop_on(stop.clone()).on_event(|event| {
        recorder.record(event);
        if matches!(event, Event::Step(report) if Some(report.step) == stop_at) {
            stop.request();
        }
    });
    trainer = match Checkpoints::open(folder.checkpoints()) {
        Ok(checkpoints) => trainer.checkpoints(checkpoints).resume(Resume::Latest),
        Err(_) => trainer.checkpoints(Checkpoints::create(folder.checkpoints())?),
    };
    recorder.end(trainer.run(InMemory::new(x, y)?))
}

#[test]
fn a_run_that_is_stopped_and_resumed_is_one_run_in_its_folder() -> Result<()> {
    let at = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(at.path(), false)?;
    train(&folder, Some(2))?;
    let page = fs::read_to_string(folder.report()).unwrap();
    assert!(page.contains("stopped before its last step") && page.contains("latest"), "{page}");
    assert!(recorded_steps(&folder).last() < Some(&6), "it stopped before");

    assert_eq!(train(&folder, None)?.step, 6);
    let steps = recorded_steps(&folder);
    assert!(steps.is_sorted() && steps.last() == Some(&6), "{steps:?}");
    let kinds = kinds(&folder);
    for kind in ["started", "stopped", "resumed", "saved", "finished"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} in {kinds:?}");
    }
    let page = fs::read_to_string(folder.report()).unwrap();
    assert!(page.contains("status finished"));
    assert!(!page.contains("nats"), "nobody said what the unit is");
    Ok(())
}
