//! The memory of a run does not grow with its length.
//!
//! A test program of its own, since the memory of a process is that of all its threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::build;
use mlx_train_core::{
    data::InMemory,
    profile::Memory,
    store::{CheckpointConfig, Checkpoints},
    train::{CompileMode, Event, TrainConfig, Trainer, accuracy},
};
use mlx_train_models::mlp::{Mlp, MlpConfig};

/// Until here threads start, and pools and files take the size that they keep.
const WARM_UP: u64 = 2_000;

/// What the process may grow by in the 8 000 steps after the warm-up: 130 bytes a step, about the
/// smallest array that could be forgotten. 0.4 MB were measured, for the numbers that a run remembers.
const GROWTH: u64 = 1 << 20;

fn rows(num_rows: usize, seed: usize) -> InMemory {
    let value = |index: usize| ((index + seed) * 2_654_435_761 % 1_000) as f32 / 1_000.0;
    let x: Vec<f32> = (0..4 * num_rows).map(value).collect();
    let y: Vec<i32> = x.chunks(4).map(|x| i32::from(x[0] + x[1] > x[2] + x[3])).collect();
    InMemory::from_vecs(x, &[4], y, &[]).unwrap()
}

#[test]
fn ten_thousand_steps_take_no_more_memory_than_two_thousand() {
    let sizes = MlpConfig {
        input_size: 4,
        hidden_sizes: vec![8],
        output_size: 2,
        dropout: 0.1,
        ..Default::default()
    };
    let config = TrainConfig {
        steps: 10_000,
        batch_size: 4,
        log_every: 50,
        eval_every: 500,
        checkpoint: CheckpointConfig { every_steps: 250, ..Default::default() },
        compile: CompileMode::Off,
        ..Default::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::create(folder.path().join("checkpoints")).unwrap();
    let held_out = rows(64, 7);
    let (mut before, mut after, mut num_saved) = (Vec::new(), Vec::new(), 0);
    let mut model: Mlp = build(&sizes, 0);
    Trainer::new(&mut model, config)
        .unwrap()
        .evaluate_on(&held_out)
        .metric("accuracy", accuracy)
        .checkpoints(checkpoints)
        .on_event(|event| match event {
            Event::Step(report) if report.step <= WARM_UP => before.push(report.memory),
            Event::Step(report) => after.push(report.memory),
            Event::CheckpointSaved { .. } => num_saved += 1,
            Event::CheckpointFailed { error, .. } => panic!("{error}"),
            _ => {}
        })
        .run(rows(1_000, 0))
        .unwrap();
    assert_eq!((before.len(), after.len(), num_saved), (40, 160, 40));

    let most = |memories: &[Memory], of: fn(&Memory) -> u64| memories.iter().map(of).max().unwrap();
    let grown = |of| most(&after, of).saturating_sub(most(&before, of));
    // Batches that are made ahead come and go; an array of one number a step would be 32 KB.
    let active = grown(|memory| memory.active_bytes);
    assert!(active <= 16 << 10, "arrays grew by {active} bytes: {after:?}");
    assert!(grown(|memory| memory.cache_bytes) <= GROWTH, "{after:?}");
    // Linux alone says how much a process has in RAM.
    let resident = grown(|memory| memory.resident_bytes.unwrap_or(0));
    assert!(resident <= GROWTH, "the process grew by {resident} bytes: {after:?}");
}
