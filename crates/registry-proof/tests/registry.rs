//! Runs the program, as its own process, and reads what it found and did.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The lines of the program: each model's name, type and number of parameter arrays.
fn found() -> Vec<(String, String, usize)> {
    let output = Command::new(env!("CARGO_BIN_EXE_registry-proof")).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    let model = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap();
        (word(), word(), word().parse().unwrap())
    };
    stdout.lines().map(model).collect()
}

#[test]
fn a_program_that_depends_on_the_facade_alone_builds_its_own_model_and_the_reference_models() {
    let found = found();
    let types: Vec<_> = found.iter().map(|(name, ty, _)| (name.as_str(), ty.as_str())).collect();
    assert_eq!(
        types,
        [
            ("mlp", "mlx_train_models::mlp::Mlp"),
            ("proof", "registry_proof::Proof"),
            ("transformer", "mlx_train_models::transformer::Transformer"),
        ]
    );
    assert!(found.iter().all(|(_, _, num_parameters)| *num_parameters > 0), "{found:?}");
}

/// What the program prints with these arguments, in this folder.
fn run(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_registry-proof"))
        .args(args)
        .current_dir(folder)
        // Two processes that both use all cores slow each other down by far more than two.
        .env("OPENBLAS_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_model_of_the_program_is_listed_configured_trained_and_continues_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| run(folder.path(), args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(
        text(run(&["models", "list", "o*"])),
        "proof  Guesses a byte from the one before it.\n"
    );
    let described = text(run(&["models", "describe", "own"]));
    for part in ["aliases  own", "presets  narrow", "layer.width", "relu | tanh", "head_size"] {
        assert!(described.contains(part), "{described}\nlacks {part}");
    }

    fs::write(folder.path().join("text.txt"), "abcd".repeat(100)).unwrap();
    run(&["config", "init", "own", "--preset", "narrow"]);
    run(&["config", "check", "--config", "train.toml"]);
    let train = ["train", "--config=train.toml", "--output=run", "--set=data.path=text.txt"];
    let sizes = ["--set=data.seq_len=8", "--set=train.batch_size=16", "--set=train.steps=60"];
    let model = ["--set=train.learning_rate=0.05", "--set=model.layer.activation=tanh"];
    let model = [&model[..], &["--set=model.head_size=3", "--set=model.hidden_size=8"]].concat();
    let summary = text(run(&[&train[..], &sizes, &model].concat()));
    assert!(
        summary.contains("Trained proof") && summary.contains("steps           60"),
        "{summary}"
    );
    let resolved = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(resolved.contains("head_size = 3") && resolved.contains("activation = \"tanh\""));

    let generate = ["generate", "run", "--prompt=ab", "--temperature=0", "--max-tokens=6"];
    assert_eq!(text(run(&generate)), "abcdabcd\n");
}
