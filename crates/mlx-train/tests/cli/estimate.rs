//! How much memory training takes, on the command line.

use super::{folder, folder_with_text, refusal, run, stderr, stdout, train};
use serde_json::Value;
use std::fs;

const SMALL: [&str; 7] = [
    "estimate",
    "--model=transformer",
    "--set=model.vocab_size=64",
    "--set=model.hidden_size=16",
    "--set=model.num_layers=2",
    "--set=model.num_heads=2",
    "--json",
];

fn estimate(further: &[&str]) -> Value {
    let json = stdout(&run(folder().path(), &[&SMALL[..], further].concat()));
    serde_json::from_str(&json).unwrap()
}

#[test]
fn the_largest_batch_of_each_policy_fits_and_one_row_more_does_not() {
    let limit = 8 << 20;
    let at = |batch: u64, policy: &str| {
        let batch = format!("--batch={batch}");
        let policy = format!("--set=train.gradient_checkpointing={policy}");
        estimate(&["--seq=32", &batch, &policy, "--limit=8MiB"])
    };
    let first = at(4, "none");
    let policies = first["policies"].as_array().unwrap();
    let flops = |policy: &Value| policy["estimate"]["flops"].as_f64().unwrap();
    assert!(policies.len() >= 4 && policies.is_sorted_by(|a, b| flops(a) <= flops(b)), "{first}");
    let last = &policies[policies.len() - 1];
    let name = last["gradient_checkpointing"].as_str().unwrap();
    let largest = last["largest_batch"].as_u64().unwrap();
    let peak = |batch| at(batch, name)["estimate"]["peak_bytes"].as_u64().unwrap();
    assert!(peak(largest) <= limit && peak(largest + 1) > limit, "{name} {largest}");
    let at_peak = first["estimate"]["at_peak"].as_object().unwrap();
    let sum: u64 = at_peak.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(sum, first["estimate"]["peak_bytes"].as_u64().unwrap());
}

#[test]
fn a_model_that_fits_no_machine_is_estimated() {
    let large = [
        "--set=model.hidden_size=8192",
        "--set=model.num_heads=64",
        "--set=model.max_seq_len=4096",
    ];
    let too_large = [&large[..], &["--set=model.vocab_size=128000", "--seq=4096"]].concat();
    let estimated = estimate(&too_large);
    assert!(estimated["estimate"]["peak_bytes"].as_u64().unwrap() > 50 << 30, "{estimated}");
}

#[test]
fn a_model_without_tokens_needs_the_shape_of_a_row() {
    let mlp = ["estimate", "--model=mlp", "--batch=64"];
    let message = refusal(&run(folder().path(), &mlp), 2);
    assert!(message.contains("--input-shape"), "{message}");
    let text = stdout(&run(folder().path(), &[&mlp[..], &["--input-shape=28,28"]].concat()));
    assert!(text.contains("235 146 parameters") && text.contains("64 rows"), "{text}");
}

#[test]
fn a_run_is_refused_when_its_step_does_not_fit_the_budget() {
    let folder = folder_with_text();
    let budget = ["--memory-budget=4MiB", "--set=train.batch_size=64", "--set=data.seq_len=32"];
    let output = train(folder.path(), "warned", &budget);
    assert!(
        output.status.success() && stderr(&output).contains("a step needs about"),
        "{output:?}"
    );
    let refuse = [&budget[..], &["--set=train.memory.memory_check=refuse"]].concat();
    let message = refusal(&train(folder.path(), "refused", &refuse), 2);
    assert!(message.contains("batch_size = ") && message.contains("4.0 MiB"), "{message}");
}

#[test]
fn the_largest_batch_that_runs_is_found_and_trained_with() {
    let folder = folder_with_text();
    let output = train(folder.path(), "run", &["--find-batch-size", "--memory-budget=2MiB"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    let found = said.lines().find_map(|line| line.strip_prefix("trains with train.batch_size = "));
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(config.contains(&format!("batch_size = {}", found.unwrap())), "{said}");
    // What did not run is more, and what did is not.
    let tried = said.lines().filter_map(|line| line.strip_prefix("batch size ")?.split_once(": "));
    for (rows, outcome) in tried {
        let is_more = rows.parse::<u64>().unwrap() > found.unwrap().parse().unwrap();
        assert_eq!(is_more, outcome.starts_with("it needs"), "{said}");
    }
}
