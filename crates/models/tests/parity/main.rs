//! The models against Python MLX: outputs, losses and every gradient from the same weights.
//!
//! The scripts write the weights under the names that the models have; that the strict loader takes
//! them proves the names, shapes and dtypes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod small_gpt;

use common::{build, cast, distance, loss_and_grads};
use mlx_rs::{Array, Dtype};
use mlx_train_core::{
    config::ModelConfig,
    model::{BaseModel, FromConfig},
    store::{LoadOptions, load_weights},
};
use mlx_train_models::{
    mlp::{Activation, Mlp, MlpConfig, Norm, Task},
    transformer::{Transformer, TransformerConfig},
};
use parity::{run, take};
use std::{collections::HashMap, path::Path};

/// Both sides are f32 with the same operations in another order; 3e-6 was measured.
const F32: f32 = 1e-4;

/// A rounding to bf16, which keeps 8 bits.
const BF16: f32 = 1.0 / 256.0;

fn assert_near(what: &str, actual: &Array, expected: &Array, tolerance: f32) {
    let distance = distance(actual, expected);
    assert!(distance <= tolerance, "{what} is off by {distance:e} of its size");
}

/// Compares one model with what the script computed for `case`, then its bf16 twin.
fn compare(
    case: &str,
    model: &mut dyn BaseModel,
    inputs: &str,
    arrays: &mut HashMap<String, Array>,
    folder: &Path,
) {
    let weights = folder.join(format!("{case}.safetensors"));
    load_weights(model, weights, &LoadOptions::default()).unwrap();
    let mut part = |part: &str| take(arrays, &format!("{case}/{part}"));
    let (x, y) = (part(inputs), part("targets"));
    let (output, loss) = (part("output"), part("loss"));
    assert_near(case, &model.forward(&x).unwrap(), &output, F32);
    let (ours, grads) = loss_and_grads(model, &x, &y, None);
    assert_near(&format!("{case} loss"), &ours, &loss, F32);
    assert_eq!(grads.len(), model.num_parameters());
    for (name, grad) in &grads {
        let expected = part(&format!("grad/{name}"));
        assert_near(&format!("{case} {name}"), grad, &expected, F32);
    }

    // In bf16 the order of roundings matters, so what is bounded is the distance from f32: it is no
    // more than twice that of Python MLX's own bf16.
    let rounding = 2.0 * distance(&part("output_bf16"), &output) + BF16;
    cast(model, Dtype::Bfloat16);
    let x = if x.dtype() == Dtype::Float32 { x.as_dtype(Dtype::Bfloat16).unwrap() } else { x };
    let half = model.forward(&x).unwrap();
    assert_eq!(half.dtype(), Dtype::Bfloat16, "{case}");
    assert_near(&format!("{case} bf16"), &half, &output, rounding);
    let (ours, grads) = loss_and_grads(model, &x, &y, None);
    assert_eq!(ours.dtype(), Dtype::Float32, "{case}");
    assert_near(&format!("{case} bf16 loss"), &ours, &loss, rounding);
    assert!(grads.values().all(|grad| grad.dtype() == Dtype::Bfloat16), "{case}");
}

/// Runs a script for all cases, then compares each.
fn compare_all<M: FromConfig>(script: &str, inputs: &str, cases: &[(String, M::Config)]) {
    let folder = tempfile::tempdir().unwrap();
    let configs: serde_json::Map<_, _> =
        cases.iter().map(|(case, config)| (case.clone(), config.to_value())).collect();
    let configs = serde_json::Value::from(configs).to_string();
    let mut arrays = run(script, &[&configs, folder.path().to_str().unwrap()]);
    for (case, config) in cases {
        let mut model = build::<M>(config, 0);
        compare(case, &mut model, inputs, &mut arrays, folder.path());
    }
    assert!(arrays.is_empty(), "not compared: {:?}", arrays.keys());
}

#[test]
fn the_transformer_computes_what_python_mlx_computes() {
    let multi_head = TransformerConfig {
        vocab_size: 13,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: None,
        intermediate_size: Some(24),
        max_seq_len: 8,
        ..Default::default()
    };
    let grouped = TransformerConfig { num_kv_heads: Some(2), ..multi_head.clone() };
    let tied = TransformerConfig {
        tie_word_embeddings: true,
        label_smoothing: 0.1,
        rope_theta: 100.0,
        rms_norm_eps: 1e-3,
        ..multi_head.clone()
    };
    let tied_single = TransformerConfig {
        num_kv_heads: Some(1),
        tie_word_embeddings: true,
        ..multi_head.clone()
    };
    let cases = [
        ("multi_head".to_owned(), multi_head),
        ("grouped".to_owned(), grouped),
        ("tied".to_owned(), tied),
        ("tied_single_kv_head".to_owned(), tied_single),
    ];
    compare_all::<Transformer>("tests/parity/transformer.py", "tokens", &cases);
}

#[test]
fn the_mlp_computes_what_python_mlx_computes() {
    let base =
        MlpConfig { input_size: 6, hidden_sizes: vec![8, 7], output_size: 4, ..Default::default() };
    let mut cases = Vec::new();
    for activation in [Activation::Relu, Activation::Gelu, Activation::Silu, Activation::Tanh] {
        for norm in [Norm::None, Norm::LayerNorm, Norm::RmsNorm] {
            let config = MlpConfig { activation, norm, ..base.clone() };
            cases.push((format!("{activation:?}_{norm:?}"), config));
        }
    }
    let others = [
        ("regression", MlpConfig { task: Task::Regression, ..base.clone() }),
        ("no_bias", MlpConfig { bias: false, ..base.clone() }),
        ("smoothed", MlpConfig { label_smoothing: 0.2, ..base.clone() }),
        ("linear", MlpConfig { hidden_sizes: Vec::new(), ..base }),
    ];
    cases.extend(others.map(|(case, config)| (case.to_owned(), config)));
    compare_all::<Mlp>("tests/parity/mlp.py", "inputs", &cases);
}
