//! A small run that saves.

use mlx_rs::Array;
use mlx_train_core::store::{CheckpointConfig, Checkpoints, SaveOutcome, Saver, Snapshot};
use serde_json::json;
use tempfile::{TempDir, tempdir};

pub fn config() -> CheckpointConfig {
    CheckpointConfig { every_steps: 1, ..CheckpointConfig::default() }
}

/// The state after `step` steps, with weights that tell the step.
pub fn snapshot(step: u64, metric: Option<f64>) -> Snapshot {
    let value = step as f32;
    let weight = Array::from_slice(&[value, value + 0.25, -value, 0.0, 1.0, 2.0], &[2, 3]);
    let bias = Array::from_slice(&[value; 3], &[3]);
    let moment = Array::from_slice(&[value * 0.5; 6], &[2, 3]);
    let key = Array::from_slice(&[step as u32, 7], &[2]);
    Snapshot {
        model: "mlp".into(),
        progress: json!({ "rows": step * 32, "best": { "step": 1, "loss": 0.1 } }),
        config: json!({ "model": { "name": "mlp", "hidden_size": 3 } }),
        metric,
        ..Snapshot::take(
            step,
            [("linear.weight", &weight), ("linear.bias", &bias)],
            [("optimizer.linear.weight.m", &moment), ("rng.key", &key)],
        )
        .unwrap()
    }
}

pub fn new_run() -> (TempDir, Checkpoints) {
    let folder = tempdir().unwrap();
    let checkpoints = Checkpoints::create(folder.path().join("checkpoints")).unwrap();
    (folder, checkpoints)
}

/// Saves a snapshot and waits for it.
pub fn save(saver: &mut Saver, snapshot: Snapshot) -> SaveOutcome {
    saver.save(|| Ok(snapshot)).unwrap();
    loop {
        if let Some(outcome) = saver.finished().pop() {
            return outcome;
        }
        std::thread::yield_now();
    }
}

/// A run with checkpoints of some steps.
pub fn run_of(config: &CheckpointConfig, steps: &[u64]) -> (TempDir, Checkpoints) {
    let (folder, checkpoints) = new_run();
    let mut saver = Saver::new(checkpoints.clone(), config).unwrap();
    for &step in steps {
        save(&mut saver, snapshot(step, None)).result.unwrap();
    }
    (folder, checkpoints)
}
