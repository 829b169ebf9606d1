//! Trains the reference MLP on images of handwritten digits.
//!
//! ```text
//! cargo run --release -p mlx-train-examples --bin train_mlp
//! cargo run --release -p mlx-train-examples --bin train_mlp -- --data path/to/mnist
//! ```
//!
//! Without `--data` it learns the 1,797 digits of 8 × 8 pixels that the `smartcore` package holds
//! (<https://archive.ics.uci.edu/dataset/80>); on two CPU cores that takes a few seconds and
//! reaches 97 % on held-out digits. With `--data` it takes any folder of IDX files: MNIST,
//! Fashion-MNIST and their relatives.

use clap::Parser;
use mlx_train::{
    data::idx,
    models::mlp::MlpConfig,
    optim::{OptimizerConfig, StateFormat},
    prelude::*,
    profile::Memory,
    run::{RunFolder, RunRecorder, config_text},
    store::save_weights,
    summary::Summary,
    train::{RunDescription, accuracy},
};
use serde_json::json;
use std::{path::PathBuf, time::Instant};

/// Train an MLP on handwritten digits
#[derive(Debug, Parser)]
struct Args {
    /// A folder with MNIST's four files, or others like them, instead of the built-in digits
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where settings, weights, numbers and curves go
    #[arg(long, value_name = "DIR", default_value = "runs/mlp-digits")]
    output: PathBuf,
    /// How many steps to train
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// From which all randomness follows
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

const NUM_CLASSES: usize = 10;

/// The digits of smartcore: features `(1797, 64)` in 0 to 1, a fifth of them held out.
fn built_in_digits(seed: u64) -> Result<(InMemory, InMemory)> {
    let digits = smartcore::dataset::digits::load_dataset();
    let features: Vec<f32> = digits.data.iter().map(|&ink| ink / 16.0).collect();
    let labels: Vec<i32> = digits.target.iter().map(|&class| class as i32).collect();
    let shape = [digits.num_samples as i32, digits.num_features as i32];
    let features = Array::from_slice(&features, &shape);
    InMemory::with_labels(features, &labels, NUM_CLASSES, "smartcore's digits")?.split(0.2, seed)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (training, held_out) = match &args.data {
        Some(folder) => idx::load_folder(folder, NUM_CLASSES)?,
        None => built_in_digits(args.seed)?,
    };

    let sizes = MlpConfig {
        input_size: training.feature_shape()[0],
        output_size: NUM_CLASSES as i32,
        hidden_sizes: vec![256, 256],
        dropout: 0.2,
        ..MlpConfig::default()
    };
    let config = TrainConfig {
        steps: args.steps,
        batch_size: 64,
        learning_rate: 2e-3,
        warmup_steps: args.steps / 20,
        optimizer: OptimizerConfig::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.05,
            state: StateFormat::F32,
        },
        log_every: (args.steps / 20).max(1),
        eval_every: (args.steps / 5).max(1),
        seed: args.seed,
        ..TrainConfig::default()
    };
    let sizes = ModelRegistry::get_model("mlp")?.resolve_config(sizes)?;
    let mut model = rng::scope(&rng::key(args.seed)?, || sizes.build())?;

    let folder = RunFolder::create(&args.output, true)?;
    folder.write_config(&config_text(&sizes, &config)?)?;
    let recorder = RunRecorder::new(folder.clone()).title("MLP on digits").unit("images");
    let began = Instant::now();
    Memory::reset_peak()?;
    let trainer = Trainer::new(&mut model, config)?
        .evaluate_on(&held_out)
        .checkpoints(folder.new_checkpoints()?)
        .describe(RunDescription::new("mlp", json!({ "model": sizes.to_section() })))
        .metric("accuracy", accuracy)
        .on_event(|event| recorder.record(event));
    let history = recorder.end(trainer.run(training))?.history;
    save_weights(model.as_ref(), folder.weights())?;
    let summary = Summary::new("MLP on handwritten digits")
        .history(&history, began.elapsed(), Memory::now()?.peak_bytes)
        .row("run folder", folder.path().display());
    print!("{summary}");
    Ok(())
}
