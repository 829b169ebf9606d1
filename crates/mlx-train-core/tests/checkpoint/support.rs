//! A small run that saves.

use mlx_rs::Array;
use mlx_train_core::store::{
    Check, CheckpointConfig, Checkpoints, HostArray, Loaded, SaveOutcome, Saver, Snapshot,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::{TempDir, tempdir};

pub fn config() -> CheckpointConfig {
    CheckpointConfig { every_steps: 1, ..CheckpointConfig::default() }
}

/// One array a file.
pub fn sharded() -> CheckpointConfig {
    CheckpointConfig { max_shard_gigabytes: 1e-9, ..config() }
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

/// Saves one snapshot to a run that is not being saved to.
pub fn save_one(checkpoints: &Checkpoints, config: &CheckpointConfig, snapshot: Snapshot) {
    let mut saver = Saver::new(checkpoints.clone(), config).unwrap();
    save(&mut saver, snapshot).result.unwrap();
}

pub fn step_path(checkpoints: &Checkpoints, step: u64) -> PathBuf {
    checkpoints.folder().join(format!("step-{step:08}"))
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in files(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// The names in a folder, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn host(arrays: &[(String, Array)]) -> Vec<(String, HostArray)> {
    let copy = |(name, array): &(String, Array)| (name.clone(), HostArray::take(array).unwrap());
    arrays.iter().map(copy).collect()
}

fn sorted(mut arrays: Vec<(String, HostArray)>) -> Vec<(String, HostArray)> {
    arrays.sort_by(|(a, _), (b, _)| a.cmp(b));
    arrays
}

/// Asserts that what was loaded is what was saved, bit for bit.
pub fn assert_is(loaded: &Loaded, snapshot: &Snapshot) {
    assert_eq!(sorted(host(&loaded.weights)), sorted(snapshot.weights.clone()));
    assert_eq!(sorted(host(&loaded.training)), sorted(snapshot.training.clone()));
    assert_eq!(loaded.progress, snapshot.progress);
    assert_eq!(loaded.config, snapshot.config);
    assert_eq!(loaded.manifest.step, snapshot.step);
    assert_eq!(loaded.manifest.model, snapshot.model);
}

/// Why a checkpoint cannot be loaded.
pub fn find_error(path: &Path) -> String {
    match Loaded::read(path, Check::Hashes) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Makes a manifest vouch for whatever is in its folder, and for `change` of itself.
pub fn reseal(folder: &Path, change: impl FnOnce(&mut Value)) {
    change_manifest(folder, |manifest| {
        for (name, entry) in manifest["files"].as_object_mut().unwrap() {
            let bytes = fs::read(folder.join(name)).unwrap();
            *entry = json!({ "bytes": bytes.len(), "sha256": hex(&bytes) });
        }
        change(manifest);
    });
}

/// Makes a manifest vouch for a change of itself.
pub fn change_manifest(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().shift_remove("sha256");
    change(&mut manifest);
    let text = format!("{manifest:#}");
    let text = format!("{},\n  \"sha256\": \"", text.strip_suffix("\n}").unwrap());
    let hash = hex(text.as_bytes());
    fs::write(path, text + &hash + "\"\n}\n").unwrap();
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
