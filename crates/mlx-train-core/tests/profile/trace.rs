//! The trace of a run: what is in it, and that it is one.

use super::models::{Marked, Watched, data};
use mlx_rs::{Array, module::ModuleParameters};
use mlx_train_core::{
    Result,
    profile::{Detail, Memory, MemoryCheck, Phase, Recording, span},
    store::{CheckpointConfig, Checkpoints},
    train::{Event, Precision, ProfileOptions, TrainConfig, Trainer},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

const STEPS: u64 = 3;

fn config() -> TrainConfig {
    let checkpoint = CheckpointConfig { every_steps: 4, ..CheckpointConfig::default() };
    TrainConfig { steps: 12, batch_size: 4, eval_every: 6, checkpoint, ..TrainConfig::default() }
}

/// Trains, with a profile or without, and returns the weights.
fn train(config: TrainConfig, folder: &Path, trace: Option<&Path>) -> BTreeMap<String, Vec<u32>> {
    let mut model = Marked::new().unwrap();
    let held_out = data().unwrap();
    let mut profiled = Vec::new();
    let checkpoints = Checkpoints::create(folder.join("checkpoints")).unwrap();
    let mut trainer = Trainer::new(&mut model, config)
        .unwrap()
        .evaluate_on(&held_out)
        .checkpoints(checkpoints)
        .on_event(|event| match event {
            Event::Profiled { step, layers, .. } => profiled.push((*step, layers.is_some())),
            Event::Warning(text) => panic!("{text}"),
            _ => {}
        });
    if let Some(trace) = trace {
        let options = ProfileOptions { steps: STEPS, trace: trace.to_owned(), metal_capture: None };
        trainer = trainer.profile(options);
    }
    trainer.run(data().unwrap()).unwrap();
    assert_eq!(profiled, trace.map(|_| (8, true)).into_iter().collect::<Vec<_>>());
    let bits = |array: &Array| {
        let values = array.try_as_slice::<f32>().unwrap();
        values.iter().map(|value| value.to_bits()).collect()
    };
    let parameters = model.parameters().flatten();
    parameters.iter().map(|(name, array)| (name.to_string(), bits(array))).collect()
}

/// A complete event.
#[derive(Debug, Clone)]
struct Complete {
    name: String,
    track: (u64, u64),
    begin: f64,
    end: f64,
    args: Value,
}

/// Reads a trace as strictly as its format is described, and checks that spans nest and times go forward.
fn read(path: &Path) -> (Vec<Complete>, Vec<Value>) {
    let trace: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let (mut spans, mut counters, mut names) = (Vec::new(), Vec::new(), BTreeMap::new());
    for event in events {
        let number = |key: &str| event[key].as_f64().filter(|number| *number >= 0.0);
        let ids = || (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        match event["ph"].as_str().unwrap() {
            "M" => {
                let name = event["args"]["name"].as_str().unwrap();
                names.insert((event["name"].as_str().unwrap(), ids()), name.to_owned());
            }
            "X" => {
                let (begin, took) = (number("ts").unwrap(), number("dur").unwrap());
                let (name, args) = (event["name"].as_str().unwrap().into(), event["args"].clone());
                spans.push(Complete { name, track: ids(), begin, end: begin + took, args });
            }
            "C" => {
                assert!(number("ts").is_some() && event["pid"].as_u64().is_some(), "{event}");
                assert!(event["args"].as_object().unwrap().values().all(Value::is_u64), "{event}");
                counters.push(event.clone());
            }
            other => panic!("an event of the kind {other}"),
        }
    }
    // Half a nanosecond: what a float of microseconds rounds to.
    let tolerance = 5e-4;
    let mut open: Vec<Complete> = Vec::new();
    for span in &spans {
        assert!(names.contains_key(&("thread_name", span.track)), "{span:?}");
        assert!(names.contains_key(&("process_name", (span.track.0, 0))), "{span:?}");
        open.retain(|outer| outer.track == span.track && outer.end > span.begin + tolerance);
        if let Some(outer) = open.last() {
            assert!(
                outer.begin <= span.begin && span.end <= outer.end + tolerance,
                "{outer:?} {span:?}"
            );
        }
        open.push(span.clone());
    }
    let in_order = |a: &Complete, b: &Complete| a.track != b.track || a.begin <= b.begin;
    assert!(spans.windows(2).all(|pair| in_order(&pair[0], &pair[1])), "spans are in order");
    assert!(counters.is_sorted_by(|a, b| a["ts"].as_f64() <= b["ts"].as_f64()));
    (spans, counters)
}

#[test]
fn the_trace_of_a_run_has_its_phases_its_memory_and_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    train(config(), folder.path(), Some(&path));
    let (spans, counters) = read(&path);
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count() as u64;
    for name in ["step", "data", "forward + backward", "optimizer"] {
        assert_eq!(count(name), STEPS, "{name}");
    }
    assert_eq!(count("compute"), 0, "the recorded steps are split");
    // Of the whole run: at the steps 6 and 12, and at 4, 6, which is the best, 8 and 12.
    assert_eq!((count("evaluation"), count("save"), count("write checkpoint")), (2, 4, 4));
    for name in ["model", "small", "large", "large/inside"] {
        assert_eq!(count(name), 2, "forward and backward of {name}");
    }
    let layers = |tid: u64| {
        let of_track = spans.iter().filter(move |span| span.track == (2, tid));
        of_track.map(|span| span.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(layers(1), ["model", "small", "large", "large/inside"]);
    assert_eq!(layers(2), ["model", "large", "large/inside", "small"], "the last one first");

    let steps: Vec<_> = spans.iter().filter(|span| span.name == "step").collect();
    let numbers: Vec<_> = steps.iter().map(|span| span.args["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [6, 7, 8], "after five that warm up");
    for step in steps {
        let inside: Vec<_> = spans
            .iter()
            .filter(|it| it.track == step.track && it.begin > step.begin && it.end <= step.end)
            .collect();
        let names: Vec<_> = inside.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["data", "forward + backward", "optimizer"]);
        let peak = |span: &Complete| span.args["peak_bytes"].as_u64().unwrap();
        assert!(inside.iter().all(|span| 0 < peak(span) && peak(span) <= peak(step)));
        let sum: f64 = inside.iter().map(|span| span.end - span.begin).sum();
        assert!(sum <= step.end - step.begin);
    }
    assert!(counters.len() as u64 >= 8 * STEPS);
    assert!(counters.iter().all(|counter| counter["args"]["active"].as_u64().unwrap() > 0));
    assert_eq!(
        counters.iter().any(|counter| counter["args"]["resident"].is_u64()),
        cfg!(target_os = "linux")
    );
}

#[test]
fn a_run_with_a_profile_computes_the_bits_of_one_without() {
    for precision in [Precision::F32, Precision::Mixed] {
        let config = TrainConfig { precision, ..config() };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let trace = folders[1].path().join("trace.json");
        let without = train(config.clone(), folders[0].path(), None);
        assert_eq!(train(config, folders[1].path(), Some(&trace)), without, "{precision:?}");
    }
}

#[test]
fn two_steps_before_the_recorded_ones_are_split_like_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Watched::new().unwrap();
    let trace = folder.path().join("trace.json");
    let options = ProfileOptions { steps: STEPS, trace, metal_capture: None };
    let mut config = TrainConfig { steps: 10, sanity_batches: 0, ..config() };
    // It runs the model, too, without a step.
    config.memory.memory_check = MemoryCheck::Off;
    Trainer::new(&mut model, config).unwrap().profile(options).run(data().unwrap()).unwrap();
    let (yes, no) = (true, false);
    assert_eq!(model.splits[..8], [no, no, no, yes, yes, yes, yes, yes]);
    assert_eq!(model.splits[model.splits.len() - 2..], [no, no]);
}

#[test]
fn a_run_that_is_shorter_than_its_profile_has_a_trace_of_what_there_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let mut model = Marked::new().unwrap();
    let options = ProfileOptions { steps: 10, trace: path.clone(), metal_capture: None };
    let trainer = Trainer::new(&mut model, TrainConfig { steps: 2, ..config() }).unwrap();
    trainer.profile(options).run(data().unwrap()).unwrap();
    let (spans, _) = read(&path);
    assert_eq!(spans.iter().filter(|span| span.name == "step").count(), 2);
}

#[test]
fn metal_is_refused_before_the_run_begins_where_there_is_none() {
    if mlx_train_core::ffi::has_metal() {
        return;
    }
    let mut model = Marked::new().unwrap();
    let metal_capture = Some("gpu.gputrace".into());
    let options = ProfileOptions { steps: 1, trace: "trace.json".into(), metal_capture };
    let mut num_events = 0;
    let trainer = Trainer::new(&mut model, config()).unwrap().on_event(|_| num_events += 1);
    let refused = trainer.profile(options).run(data().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("gpu.gputrace") && refused.contains("Metal"), "{refused}");
    assert_eq!(num_events, 0);
}

#[test]
fn spans_have_the_peak_within_and_the_peak_of_the_process_goes_on() -> Result<()> {
    // A span begins the count of the whole process anew, so this runs in a process of its own.
    if std::env::var_os("MEMORY_ALONE").is_none() {
        let name = "trace::spans_have_the_peak_within_and_the_peak_of_the_process_goes_on";
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("MEMORY_ALONE", "1")
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    let large = |kibibytes: i32| -> Result<()> {
        let array = mlx_rs::ops::ones::<f32>(&[kibibytes, 256])?;
        Ok(array.eval()?)
    };
    large(64 << 10)?;
    let before = Memory::now()?.peak_bytes;
    let recording = Recording::start(Detail::All);
    {
        let _outer = span(Phase::Step);
        large(16 << 10)?;
        {
            let _inner = span(Phase::ForwardBackward);
            large(8 << 10)?;
        }
        let _inner = span(Phase::Optimizer);
        large(1 << 10)?;
    }
    let trace = recording.trace();
    let peak = |name: &str| {
        let span = trace.spans().iter().find(|span| span.name == name).unwrap();
        let peak = span.args.iter().find(|(key, _)| *key == "peak_bytes").unwrap();
        peak.1.as_u64().unwrap()
    };
    assert!(peak("forward + backward") >= 8 << 20 && peak("step") >= peak("forward + backward"));
    assert!(peak("step") >= peak("optimizer") && peak("optimizer") >= 1 << 20);
    assert!(peak("step") >= 16 << 20, "what was used before the first span inside counts");
    assert!(Memory::now()?.peak_bytes >= before && before >= 64 << 20);
    drop(recording);
    assert!(!mlx_train_core::profile::splits_steps());
    Ok(())
}

#[test]
fn a_span_ends_when_what_it_is_about_panics() {
    let recording = Recording::start(Detail::All);
    let panicked = std::panic::catch_unwind(|| {
        let _outer = span(Phase::Step);
        let _inner = span(Phase::Optimizer);
        panic!("in the optimizer");
    });
    assert!(panicked.is_err());
    drop(span(Phase::Data));
    let trace = recording.trace();
    let names: Vec<_> = trace.spans().iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["optimizer", "step", "data"]);
}
