//! Runs the program, as its own process, and reads what it found.

#![allow(clippy::unwrap_used)]

use std::process::Command;

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
