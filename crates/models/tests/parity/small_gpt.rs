//! Twenty steps of the trainer against a training loop in Python MLX.

use crate::common::build;
use mlx_rs::Array;
use mlx_train_core::{
    config::ModelConfig,
    data::{DataLoader, InMemory, LoaderOptions},
    optim::{OptimizerConfig, StateFormat},
    store::save_weights,
    train::{Event, TrainConfig, Trainer},
};
use mlx_train_models::transformer::{Transformer, TransformerConfig};
use parity::{run, take};
use std::{path::Path, thread};

/// Both sides are f32 with the same operations in another order, and each step starts from where the
/// rounding of those before has led; 2e-5 was measured.
const LOSS: f32 = 1e-4;

/// Gradients change faster than the loss does; 5e-4 was measured.
const GRAD_NORM: f32 = 2e-3;

const SEQ_LEN: i32 = 256;

fn model_config() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 4096,
        hidden_size: 256,
        num_layers: 4,
        num_heads: 4,
        intermediate_size: Some(688),
        max_seq_len: SEQ_LEN,
        dropout: 0.0,
        tie_word_embeddings: true,
        ..Default::default()
    }
}

fn train_config() -> TrainConfig {
    TrainConfig {
        steps: 20,
        batch_size: 8,
        learning_rate: 3e-4,
        warmup_steps: 5,
        optimizer: OptimizerConfig::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            state: StateFormat::F32,
        },
        max_grad_norm: Some(1.0),
        log_every: 1,
        ..Default::default()
    }
}

/// Rows that count modulo 97 in strides of 1, 2 or 3: the token before does not tell the next.
fn rows(num_rows: i32) -> InMemory {
    let token = |row: i32, at: i32| (31 * row + (1 + row % 3) * at) % 97;
    let tokens = |shift: i32| {
        let all: Vec<i32> = (0..num_rows)
            .flat_map(|row| (shift..SEQ_LEN + shift).map(move |at| token(row, at)))
            .collect();
        Array::from_slice(&all, &[num_rows, SEQ_LEN])
    };
    InMemory::new(tokens(0), tokens(1)).unwrap()
}

/// Loss and gradient norm of every step.
type Steps = Vec<(f32, f32)>;

fn train(mut model: Transformer, config: TrainConfig, rows: InMemory) -> Steps {
    let mut steps = Vec::new();
    Trainer::new(&mut model, config)
        .unwrap()
        .on_event(|event| {
            if let Event::Step(report) = event {
                steps.push((report.loss as f32, report.grad_norm as f32));
            }
        })
        .run(rows)
        .unwrap();
    steps
}

fn train_in_python(model: &TransformerConfig, config: &TrainConfig, folder: &Path) -> Steps {
    let [model, config] = [model.to_value(), config.to_value()].map(|config| config.to_string());
    let script = "tests/parity/small_gpt.py";
    let mut arrays = run(script, &[&model, &config, folder.to_str().unwrap()]);
    let mut numbers = |name| take(&mut arrays, name).to_vec_exact::<f32>().unwrap();
    numbers("losses").into_iter().zip(numbers("norms")).collect()
}

#[test]
fn a_small_gpt_learns_as_in_python_mlx() {
    let (sizes, config) = (model_config(), train_config());
    let rows = rows(config.steps as i32 * config.batch_size as i32);
    let model: Transformer = build(&sizes, 0);

    let folder = tempfile::tempdir().unwrap();
    save_weights(&model, folder.path().join("weights.safetensors")).unwrap();
    // The rows in the order in which the trainer comes to them.
    let options = LoaderOptions {
        batch_size: config.steps as usize * config.batch_size,
        seed: config.seed,
        ..Default::default()
    };
    let batch = DataLoader::new(rows.clone(), options).unwrap().next_batch().unwrap();
    let data = folder.path().join("data.safetensors");
    Array::save_safetensors([("x", &batch.x), ("y", &batch.y)], None, data).unwrap();

    // At the same time, as each computes on one core for most of its steps.
    let (ours, expected) = thread::scope(|scope| {
        let python = scope.spawn(|| train_in_python(&sizes, &config, folder.path()));
        (train(model, config.clone(), rows), python.join().unwrap())
    });
    assert_eq!(ours.len(), expected.len());
    for (step, (ours, expected)) in (1..).zip(ours.iter().zip(&expected)) {
        for (what, ours, expected, tolerance) in
            [("loss", ours.0, expected.0, LOSS), ("gradient norm", ours.1, expected.1, GRAD_NORM)]
        {
            let error = (ours / expected - 1.0).abs();
            assert!(error <= tolerance, "{what} of step {step}: {ours}, in Python {expected}");
        }
    }
    // Or the steps would have shown little of each other.
    assert!(ours[19].0 < 0.8 * ours[0].0, "{ours:?}");
}
