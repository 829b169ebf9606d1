//! Saving and loading a checkpoint, beside copying a file of as many bytes.
//!
//! All is in the system's memory while it is measured: the work of the store is compared, not the disk's. But
//! what is saved is synced, as a checkpoint has to survive a power cut.

use crate::{Group, IS_OPTIMISED};
use criterion::{BatchSize, BenchmarkGroup, SamplingMode, Throughput, measurement::WallTime};
use mlx_train::{
    Array, ffi,
    mlx_rs::random::{key, normal},
    store::{Check, CheckpointConfig, Checkpoints, Saver, Snapshot},
};
use serde_json::json;
use std::{
    cell::LazyCell,
    fs::{self, File},
};
use tempfile::{TempDir, tempdir};

pub const GROUP: Group = Group {
    name: "checkpoint",
    dtype: "float32",
    shapes: || json!({ "num_arrays": NUM_ARRAYS, "shape": SHAPE, "bytes": NUM_BYTES }),
    bench,
};

/// The first third are weights, the others the state of an optimizer.
const NUM_ARRAYS: usize = 24;
const SHAPE: [i32; 2] = if IS_OPTIMISED { [1024, 1024] } else { [128, 128] };
const NUM_BYTES: usize = NUM_ARRAYS * (SHAPE[0] * SHAPE[1]) as usize * size_of::<f32>();

fn bench(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.throughput(Throughput::Bytes(NUM_BYTES as u64));
    let arrays = LazyCell::new(arrays);
    let saved = LazyCell::new(|| saved(tempdir().unwrap(), &arrays));
    group.bench_function("save", |b| {
        let arrays = &*arrays;
        b.iter_batched(
            || tempdir().unwrap(),
            |folder| self::saved(folder, arrays),
            BatchSize::PerIteration,
        );
    });
    for (name, check) in [("load", Check::Hashes), ("load unverified", Check::Sizes)] {
        group.bench_function(name, |b| {
            let checkpoints = Checkpoints::open(saved.path()).unwrap();
            b.iter(|| checkpoints.load_latest(check).unwrap());
        });
    }
    let plain = LazyCell::new(plain);
    for (name, is_synced) in [("bare copy", false), ("bare copy, synced", true)] {
        group.bench_function(name, |b| {
            let source = plain.path().join("plain");
            let copy = |folder: TempDir| {
                let to = folder.path().join("copy");
                fs::copy(&source, &to).unwrap();
                if is_synced {
                    File::open(to).unwrap().sync_all().unwrap();
                }
                folder
            };
            b.iter_batched(|| tempdir().unwrap(), copy, BatchSize::PerIteration);
        });
    }
}

fn arrays() -> Vec<(String, Array)> {
    let arrays = (0..NUM_ARRAYS).map(|index| {
        // Zeros might be written faster.
        let array = normal::<f32>(&SHAPE, None, None, &key(index as u64).unwrap()).unwrap();
        (format!("{index:02}"), array)
    });
    let arrays: Vec<_> = arrays.collect();
    ffi::eval(arrays.iter().map(|(_, array)| array)).unwrap();
    arrays
}

/// Saves to the end, and gives the folder back.
fn saved(folder: TempDir, arrays: &[(String, Array)]) -> TempDir {
    let (weights, training) = arrays.split_at(NUM_ARRAYS / 3);
    let checkpoints = Checkpoints::create(folder.path()).unwrap();
    let mut saver = Saver::new(checkpoints, &CheckpointConfig::default()).unwrap();
    saver.save(|| Snapshot::take(1, named(weights), named(training))).unwrap();
    for outcome in saver.finish() {
        outcome.result.unwrap();
    }
    folder
}

fn named(arrays: &[(String, Array)]) -> impl Iterator<Item = (&str, &Array)> {
    arrays.iter().map(|(name, array)| (name.as_str(), array))
}

/// A folder with a file of as many bytes.
fn plain() -> TempDir {
    let folder = tempdir().unwrap();
    let bytes: Vec<u8> = (0..NUM_BYTES).map(|index| (index * index / 7) as u8).collect();
    fs::write(folder.path().join("plain"), bytes).unwrap();
    folder
}
