//! Runs the program, as its own process, and reads what it found.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn a_program_that_depends_on_the_facade_alone_builds_its_own_model_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_registry-proof")).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");

    let found: Vec<Vec<&str>> =
        stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(found.contains(&vec!["proof", "registry_proof::Proof", "1"]), "{stdout}");
    // The reference models, which the program never mentions: weights and biases of three layers;
    // embedding, twelve blocks of nine, norm and head.
    assert!(found.contains(&vec!["mlp", "mlx_train_models::mlp::Mlp", "6"]), "{stdout}");
    let transformer = vec!["transformer", "mlx_train_models::transformer::Transformer", "111"];
    assert!(found.contains(&transformer), "{stdout}");
}
