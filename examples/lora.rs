//! Fine-tuning with adapters: a model that knows one text learns another through 1.4 % of its numbers.
//!
//! ```text
//! cargo run --release -p mlx-train-examples --bin lora    # ten seconds on two cores
//!
//! the base on squares: 0.29, on cubes: 1.40
//! training 8192 of 598656 numbers
//! with adapters on cubes: 0.58
//! merged, in a plain model: 0.58
//! ```
//!
//! The weights of the base come from any file, folder or run; from the command line, the same is
//! `mlx-train train --config train.toml --weights BASE --set model.lora.rank=8`.

use mlx_train::{
    models::transformer::{Transformer, TransformerConfig},
    nn::{LoraConfig, LoraLinear},
    prelude::*,
    store::{LoadOptions, load_weights, save_weights},
    train::evaluate,
};
use std::{env, fs};

fn main() -> Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "runs/lora".to_owned());
    fs::create_dir_all(&folder).map_err(|error| Error::message(format!("{folder}: {error}")))?;
    let (squares, cubes) = (powers(2), powers(3));
    let sizes = TransformerConfig { num_layers: 2, dropout: 0.0, ..tiny() };

    let mut base = rng::scope(&rng::key(1)?, || Transformer::from_config(&sizes))?;
    train(&mut base, &squares, 60)?;
    let (known, unknown) = (loss(&mut base, &squares)?, loss(&mut base, &cubes)?);
    println!("the base on squares: {known:.2}, on cubes: {unknown:.2}");
    let weights = format!("{folder}/base.safetensors");
    save_weights(&base, &weights)?;

    // ANCHOR: adapt
    let targets = ["q_proj", "v_proj"].map(str::to_owned).to_vec();
    let lora = LoraConfig { rank: 8, alpha: 16.0, targets };
    let sizes = TransformerConfig { lora: Some(lora), ..sizes };
    let mut model = rng::scope(&rng::key(2)?, || Transformer::from_config(&sizes))?;
    // The file has no adapters; fresh ones change nothing.
    let options = LoadOptions { optional: Some(&LoraLinear::is_adapter), ..Default::default() };
    load_weights(&mut model, &weights, &options)?;
    // ANCHOR_END: adapt
    let count = |arrays: Vec<&Array>| arrays.iter().map(|array| array.size()).sum::<usize>();
    let trained = count(model.trainable_parameters().flatten().into_values().collect());
    let all = count(model.parameters().flatten().into_values().collect());
    println!("training {trained} of {all} numbers");
    train(&mut model, &cubes, 100)?;
    println!("with adapters on cubes: {:.2}", loss(&mut model, &cubes)?);

    // ANCHOR: merge
    model.merge_adapters()?;
    let merged = format!("{folder}/merged.safetensors");
    save_weights(&model, &merged)?;
    // ANCHOR_END: merge
    load_weights(&mut base, &merged, &LoadOptions::default())?;
    println!("merged, in a plain model: {:.2}", loss(&mut base, &cubes)?);
    Ok(())
}

fn tiny() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 256,
        hidden_size: 128,
        num_heads: 4,
        max_seq_len: 64,
        ..Default::default()
    }
}

/// Sentences about the powers of digits.
fn powers(exponent: u32) -> Text {
    let sentence = |n: u64| format!("{n} to the {exponent} is {}. ", n.pow(exponent));
    let text: String = (0..1000).map(|n| sentence(n * 7 % 10)).collect();
    Text::new(text, "powers of digits")
}

fn train(model: &mut Transformer, text: &Text, steps: u64) -> Result<()> {
    let config = TrainConfig {
        steps,
        batch_size: 8,
        learning_rate: 3e-3,
        warmup_steps: 10,
        ..TrainConfig::default()
    };
    Trainer::new(model, config)?.run(text.windows(64)?)?;
    Ok(())
}

/// The mean loss in nats a byte.
fn loss(model: &mut Transformer, text: &Text) -> Result<f64> {
    Ok(evaluate(model, &text.chunks(64)?, 16, &mut [])?.loss)
}
