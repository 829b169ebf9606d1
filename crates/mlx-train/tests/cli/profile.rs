//! What a run and its layers cost, on the command line.

use super::{folder, folder_with_text, refusal, run, stdout, train};
use serde_json::Value;
use std::fs;

const SMALL: [&str; 9] = [
    "profile",
    "--model=transformer",
    "--set=model.vocab_size=64",
    "--set=model.hidden_size=16",
    "--set=model.num_layers=2",
    "--set=model.num_heads=2",
    "--batch=2",
    "--seq=8",
    "--repeats=1",
];

#[test]
fn a_language_model_is_profiled_without_data_and_its_most_expensive_layers_are_listed() {
    let folder = folder();
    let text = stdout(&run(folder.path(), &[&SMALL[..], &["--top=3"]].concat()));
    assert!(text.contains("[2, 8] in f32") && text.contains("GFLOP a step"), "{text}");
    let table = text.lines().skip_while(|line| !line.starts_with("layer "));
    let rows: Vec<_> = table.skip(1).take_while(|line| !line.is_empty()).collect();
    assert_eq!(rows.len(), 3, "{text}");

    let json = stdout(&run(folder.path(), &[&SMALL[..], &["--json"]].concat()));
    let profile: Value = serde_json::from_str(&json).unwrap();
    let layers = profile["layers"].as_array().unwrap();
    let number = |layer: &Value, key: &str| layer[key].as_f64().unwrap();
    let shares: f64 = layers.iter().map(|layer| number(layer, "share")).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert!(layers.is_sorted_by(|a, b| number(a, "own_seconds") >= number(b, "own_seconds")));
    let own: f64 = layers.iter().map(|layer| number(layer, "own_flops")).sum();
    assert!((own / number(&profile, "flops") - 1.0).abs() < 1e-9, "{json}");
    let blocks = layers.iter().filter(|layer| layer["depth"] == 1);
    let mut names: Vec<_> = blocks.map(|layer| layer["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert!(names.contains(&"Block 0") && names.contains(&"Block 1"), "{names:?}");
}

#[test]
fn a_model_of_something_else_than_text_needs_data_to_be_profiled() {
    let message = refusal(&run(folder().path(), &["profile", "--model=mlp"]), 2);
    assert!(message.contains("data.path"), "{message}");
}

#[test]
fn a_run_with_a_profile_leaves_a_trace_that_its_report_names() {
    let folder = folder_with_text();
    let output = train(folder.path(), "run", &["--profile=2", "--set=train.steps=9"]);
    assert!(super::stderr(&output).contains("profiled: run/trace.json"), "{output:?}");
    stdout(&output);
    let trace = fs::read_to_string(folder.path().join("run/trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let names = trace["traceEvents"].as_array().unwrap().iter().map(|event| &event["name"]);
    for name in ["step", "evaluation", "write checkpoint", "Block 0"] {
        assert!(names.clone().any(|found| found == name), "{name}");
    }
    let page = fs::read_to_string(folder.path().join("run/index.html")).unwrap();
    assert!(page.contains("href=\"trace.json\""));
    // A new run in the same folder has no trace of the old one.
    stdout(&train(folder.path(), "run", &["--force"]));
    assert!(!folder.path().join("run/trace.json").exists());
}

#[test]
fn metal_is_captured_only_where_it_is() {
    if mlx_train::ffi::has_metal() {
        return;
    }
    let folder = folder_with_text();
    let flags = ["--profile=1", "--metal-capture=gpu.gputrace"];
    let message = refusal(&train(folder.path(), "run", &flags), 2);
    assert!(message.contains("gpu.gputrace") && message.contains("Metal"), "{message}");
    assert!(!folder.path().join("run").exists());
}
