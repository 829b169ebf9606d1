//! How much memory a run may take, as flags and settings.

use super::{folder_with_text, refusal, run, stdout, train};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The variables that MLX of a run has seen.
fn variables(folder: &Path, output: &str) -> Vec<String> {
    let about = fs::read_to_string(folder.join(output).join("run.json")).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    let variables = &about["sessions"][0]["environment"]["mlx_variables"];
    serde_json::from_value(variables.clone()).unwrap()
}

#[test]
fn limits_of_a_buffer_are_set_before_mlx_reads_them_unless_the_user_has_set_them() {
    let folder = folder_with_text();
    let limits = ["--max-mb-per-buffer=77", "--set=train.memory.max_ops_per_buffer=33"];
    stdout(&train(folder.path(), "chosen", &limits));
    let chosen = variables(folder.path(), "chosen");
    assert!(chosen.contains(&"MLX_MAX_MB_PER_BUFFER=77".into()), "{chosen:?}");
    assert!(chosen.contains(&"MLX_MAX_OPS_PER_BUFFER=33".into()), "{chosen:?}");

    let output = Command::new(env!("CARGO_BIN_EXE_mlx-train"))
        .args([super::TINY, &["--output=users"], &limits].concat())
        .current_dir(folder.path())
        .envs([("OPENBLAS_NUM_THREADS", "1"), ("MLX_MAX_MB_PER_BUFFER", "5")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    stdout(&output);
    let users = variables(folder.path(), "users");
    assert!(users.contains(&"MLX_MAX_MB_PER_BUFFER=5".into()), "{users:?}");
    assert!(users.contains(&"MLX_MAX_OPS_PER_BUFFER=33".into()), "{users:?}");
}

#[test]
fn a_refusal_has_its_exit_code_and_message_once_also_after_the_program_was_started_anew() {
    let folder = folder_with_text();
    let output =
        train(folder.path(), "run", &["--max-mb-per-buffer=77", "--set=data.seq_len=4096"]);
    let message = refusal(&output, 2);
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
}

#[test]
fn sizes_of_memory_are_flags_and_settings_and_need_a_unit_that_is_known() {
    let folder = folder_with_text();
    let sizes = ["--memory-limit=3GiB", "--cache-limit=1.5 GiB", "--memory-budget=4 GB"];
    stdout(&train(folder.path(), "run", &sizes));
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(config.contains("memory_limit = \"3 GiB\""), "{config}");
    assert!(config.contains("cache_limit = \"1536 MiB\""), "{config}");
    assert!(config.contains("memory_budget = \"3906250 KiB\""), "{config}");

    let refused = train(folder.path(), "other", &["--set=train.memory.memory_limit=12 parsecs"]);
    let message = refusal(&refused, 2);
    assert!(message.contains("train.memory.memory_limit") && message.contains("GiB"), "{message}");
    let refused = train(folder.path(), "other", &["--cache-limit=12 parsecs"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(!folder.path().join("other").exists());
}

#[test]
fn what_the_device_does_not_have_is_told_and_the_run_goes_on() {
    let folder = folder_with_text();
    let output = train(folder.path(), "run", &["--wired-limit=1GiB"]);
    // A Mac has it, and says nothing.
    assert_eq!(super::stderr(&output).contains("wired_limit"), !cfg!(target_os = "macos"));
    stdout(&output);
    let resumed = run(
        folder.path(),
        &["train", "--resume", "run", "--set=train.steps=5", "--memory-limit=8GiB"],
    );
    stdout(&resumed);
}

#[test]
fn a_checkpointing_policy_is_a_flag_and_changes_no_weight() {
    let folder = folder_with_text();
    let weights = |output: &str, policy: &str| {
        stdout(&train(folder.path(), output, &["--gradient-checkpointing", policy]));
        fs::read(folder.path().join(output).join("weights.safetensors")).unwrap()
    };
    let expected = weights("none", "none");
    assert!(weights("full", "full") == expected);
    assert!(weights("selective", "selective=[attention,mlp]") == expected);
    let config = fs::read_to_string(folder.path().join("selective/config.toml")).unwrap();
    assert!(config.contains("gradient_checkpointing = \"selective=[attention,mlp]\""), "{config}");

    let refused = train(folder.path(), "other", &["--gradient-checkpointing=fulll"]);
    assert!(refusal(&refused, 2).contains("`fulll` is no checkpointing policy"));
    let refused = train(folder.path(), "other", &["--gradient-checkpointing=selective=[atention]"]);
    let message = refusal(&refused, 2);
    assert!(message.contains("`atention`") && message.contains("`attention`, `mlp`"), "{message}");
}
