//! Adapters: nothing else is trained, kept or needed, and they merge into plain weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{build, distance, parameters, set_parameters, values};
use mlx_rs::{Array, module::ModuleParameters, random::randint};
use mlx_train_core::{
    Result,
    checkpoint::CheckpointPolicy,
    data::Batch,
    ffi,
    model::BaseModel,
    nn::{LoraConfig, LoraLinear},
    optim::AdamW,
    profile::Memory,
    rng,
    store::{LoadOptions, load_weights, save_weights},
    train::{CompileMode, Precision, StepOptions, TrainStep},
};
use mlx_train_models::transformer::{Transformer, TransformerConfig};
use std::{collections::BTreeMap, env, process::Command};

fn plain() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 64,
        hidden_size: 32,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: Some(2),
        max_seq_len: 16,
        dropout: 0.0,
        ..Default::default()
    }
}

fn adapted(targets: &[&str]) -> TransformerConfig {
    let targets = targets.iter().map(ToString::to_string).collect();
    TransformerConfig {
        lora: Some(LoraConfig { rank: 2, targets, ..Default::default() }),
        ..plain()
    }
}

fn batch(seed: u64, [rows, tokens, vocab]: [i32; 3]) -> Batch {
    let draw =
        |seed| randint::<_, i32>(0, vocab, &[rows, tokens], &rng::key(seed).unwrap()).unwrap();
    let (x, y) = (draw(seed), draw(seed + 1000));
    ffi::eval([&x, &y]).unwrap();
    Batch::new(x, y)
}

fn eager() -> StepOptions {
    StepOptions { compile: CompileMode::Off, ..StepOptions::default() }
}

/// Weights after five steps on one batch, and the first and the last loss.
fn trained(
    model: &mut Transformer,
    options: StepOptions,
) -> Result<(BTreeMap<String, Array>, [f32; 2])> {
    let mut step = TrainStep::new(model, AdamW::default(), 0, options)?;
    let mut losses = Vec::new();
    for _ in 0..5 {
        let output = step.run([Ok(batch(1, [4, 8, 64]))], 2e-2)?;
        losses.push(output.loss.value.try_item_exact::<f32>()?);
    }
    drop(step);
    Ok((parameters(model), [losses[0], losses[4]]))
}

#[test]
fn only_adapters_have_gradients_and_state_and_move() -> Result<()> {
    let targets = ["q_proj", "v_proj", "down_proj"];
    for precision in [Precision::F32, Precision::Mixed] {
        let mut model = build::<Transformer>(&adapted(&targets), 0);
        let before = parameters(&model);
        let options = StepOptions { precision, ..eager() };
        let step = TrainStep::new(&mut model, AdamW::default(), 0, options.clone())?;
        let names = step.state().parameter_names();
        assert!(names.iter().all(|name| LoraLinear::is_adapter(name)), "{names:?}");
        // Two matrices for each, and two means of each in the optimizer.
        assert_eq!(
            (names.len(), step.state().optimizer().arrays().count()),
            (2 * 3 * 3, 4 * 3 * 3)
        );
        drop(step);
        let (after, [first, last]) = trained(&mut model, options)?;
        assert!(last < 0.98 * first, "{first} to {last}");
        for (name, array) in &after {
            let moved = values(array) != values(&before[name]);
            assert_eq!(moved, LoraLinear::is_adapter(name), "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_fresh_adapter_changes_nothing_and_plain_weights_fit() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (mut base, mut model) = (
        build::<Transformer>(&plain(), 3),
        build::<Transformer>(&adapted(&["k_proj", "o_proj"]), 4),
    );
    save_weights(&base, &path)?;
    let refused = load_weights(&mut model, &path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("model.layers.0.self_attn.k_proj.lora_a"), "{refused}");
    let options = LoadOptions { optional: Some(&LoraLinear::is_adapter), ..Default::default() };
    load_weights(&mut model, &path, &options)?;
    let tokens = batch(0, [2, 8, 64]).x;
    assert_eq!(values(&model.forward(&tokens)?), values(&base.forward(&tokens)?));
    // What is not an adapter may not be missing.
    let mut other = build::<Transformer>(&TransformerConfig { num_layers: 4, ..plain() }, 0);
    assert!(load_weights(&mut other, &path, &options).is_err());
    Ok(())
}

#[test]
fn merged_it_computes_the_same_with_the_parameters_of_a_plain_model() -> Result<()> {
    let mut model = build::<Transformer>(&adapted(&["q_proj", "up_proj", "gate_proj"]), 0);
    trained(&mut model, eager())?;
    let tokens = batch(7, [2, 8, 64]).x;
    let expected = model.forward(&tokens)?;
    model.merge_adapters()?;
    assert!(distance(&model.forward(&tokens)?, &expected) < 1e-5);
    let mut fresh = build::<Transformer>(&plain(), 1);
    assert_eq!(model.config(), fresh.config());
    let merged = parameters(&model);
    assert_eq!(merged.keys().collect::<Vec<_>>(), parameters(&fresh).keys().collect::<Vec<_>>());
    assert_eq!(model.trainable_parameters().flatten().len(), merged.len());
    set_parameters(&mut fresh, merged.values());
    assert_eq!(values(&fresh.forward(&tokens)?), values(&model.forward(&tokens)?));
    Ok(())
}

#[test]
fn the_output_is_that_of_the_formula() -> Result<()> {
    let mut layer = LoraLinear::from(mlx_train_core::nn::Linear::new(3, 2)?);
    layer.adapt(&LoraConfig { rank: 2, alpha: 3.0, ..Default::default() })?;
    assert_eq!((layer.trainable_parameters().flatten().len(), layer.num_parameters()), (2, 4));
    layer.weight.value = Array::from_slice(&[1.0_f32, 0.0, 2.0, 0.0, 1.0, 0.0], &[2, 3]);
    layer.bias.value = Some(Array::from_slice(&[0.5_f32, -0.5], &[2]));
    layer.lora_a.value = Some(Array::from_slice(&[1.0_f32, 1.0, 0.0, 0.0, 0.0, 1.0], &[2, 3]));
    layer.lora_b.value = Some(Array::from_slice(&[1.0_f32, 0.0, 2.0, -1.0], &[2, 2]));
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[1, 3]);
    // W x + b = [7.5, 1.5], A x = [3, 3], B A x = [3, 3], times 3 / 2.
    assert_eq!(values(&layer.forward(&x)?), [12.0, 6.0]);
    layer.merge()?;
    assert_eq!(values(&layer.forward(&x)?), [12.0, 6.0]);
    assert_eq!(layer.trainable_parameters().flatten().len(), 2);
    Ok(())
}

#[test]
fn checkpointed_blocks_train_their_adapters_to_the_same_weights() -> Result<()> {
    let run = |policy| {
        let mut model = build::<Transformer>(&adapted(&["q_proj", "v_proj"]), 0);
        trained(&mut model, StepOptions { gradient_checkpointing: policy, ..eager() })
    };
    let ((kept, _), (computed_twice, _)) =
        (run(CheckpointPolicy::None)?, run(CheckpointPolicy::Full)?);
    for (name, array) in &kept {
        assert_eq!(values(array), values(&computed_twice[name]), "{name}");
    }
    Ok(())
}

#[test]
fn a_step_takes_no_memory_for_what_is_frozen() -> Result<()> {
    // Memory is counted for the whole process, so this runs in a process of its own.
    if env::var_os("MEMORY_ALONE").is_none() {
        let test = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_step_takes_no_memory_for_what_is_frozen"])
            .envs([("MEMORY_ALONE", "1"), ("OPENBLAS_NUM_THREADS", "1")])
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    // 8.8 MB of weights, of which the output layer is 4; with its loss in chunks and in one.
    let base = TransformerConfig {
        vocab_size: 8192,
        hidden_size: 128,
        num_layers: 6,
        num_heads: 4,
        num_kv_heads: None,
        intermediate_size: Some(256),
        ..plain()
    };
    let peak = |config: &TransformerConfig| -> Result<(u64, u64)> {
        let mut model = build::<Transformer>(config, 0);
        let mut step = TrainStep::new(&mut model, AdamW::default(), 0, eager())?;
        let mut measured = (0, 0);
        for seed in 0..3 {
            let batch = batch(seed, [1, 8, 8192]);
            let held = Memory::now()?.active_bytes;
            Memory::reset_peak()?;
            step.run([Ok(batch)], 1e-3)?;
            measured = (held, Memory::now()?.peak_bytes - held);
        }
        Ok(measured)
    };
    for fused_loss in [Some(false), Some(true)] {
        let full = TransformerConfig { fused_loss, ..base.clone() };
        let lora = TransformerConfig { lora: Some(LoraConfig::default()), ..full.clone() };
        let weights =
            parameters(&build::<Transformer>(&full, 0)).values().map(Array::nbytes).sum::<usize>()
                as u64;
        let ((full_held, full), (lora_held, lora)) = (peak(&full)?, peak(&lora)?);
        println!("{weights}: {full_held} {full}, {lora_held} {lora}");
        // Weights and two moments, and weights alone with adapters of a hundredth.
        assert!(
            full_held > 3 * weights && lora_held * 10 < weights * 11,
            "{full_held} {lora_held}"
        );
        // Gradients of all, and of next to nothing.
        assert!(full > weights && lora * 4 < weights, "{full} {lora}, weights {weights}");
    }
    Ok(())
}
