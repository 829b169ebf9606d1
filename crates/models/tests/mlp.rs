//! What must hold for the multilayer perceptron, whatever its weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{build, cast, descend, loss, num_draws, number, parameters, value_and_grads, values};
use mlx_rs::{Array, Dtype};
use mlx_train_core::{
    checkpoint::with_policy,
    config::{Format, ModelConfig},
    model::{BaseModel, FromConfig},
    rng,
    store::{LoadOptions, load_weights, save_weights},
};
use mlx_train_models::mlp::{Activation, Mlp, MlpConfig, Norm, Task};

fn config() -> MlpConfig {
    MlpConfig { input_size: 6, hidden_sizes: vec![16, 8], output_size: 3, ..Default::default() }
}

fn features() -> Array {
    let features: Vec<f32> = (0..24_u8).map(|i| (f32::from(i) * 1.3).sin()).collect();
    Array::from_slice(&features, &[4, 6])
}

#[test]
fn axes_after_the_first_are_flattened() {
    let mut model = build::<Mlp>(&config(), 0);
    let flat = model.forward(&features()).unwrap();
    let images = features().reshape(&[4, 2, 1, 3]).unwrap();
    assert_eq!(flat.shape(), [4, 3]);
    assert_eq!(values(&flat), values(&model.forward(&images).unwrap()));
}

#[test]
fn widths_activation_norm_and_bias_decide_what_parameters_there_are() {
    let names =
        |config: &MlpConfig| parameters(&build::<Mlp>(config, 0)).into_keys().collect::<Vec<_>>();
    let one = MlpConfig { hidden_sizes: vec![4], norm: Norm::RmsNorm, bias: false, ..config() };
    assert_eq!(names(&one), ["layers.0.linear.weight", "layers.0.norm.weight", "output.weight"]);
    let linear = MlpConfig { hidden_sizes: vec![], ..config() };
    assert_eq!(names(&linear), ["output.bias", "output.weight"]);
}

#[test]
fn features_keep_their_size_through_a_deep_fresh_model() {
    for activation in [Activation::Relu, Activation::Gelu, Activation::Silu, Activation::Tanh] {
        let config = MlpConfig {
            input_size: 256,
            hidden_sizes: vec![256; 6],
            output_size: 256,
            activation,
            ..config()
        };
        let mut model = build::<Mlp>(&config, 0);
        let x = mlx_rs::random::normal::<f32>(&[32, 256], None, None, &rng::key(1).unwrap());
        let output = values(&model.forward(&x.unwrap()).unwrap());
        let size = (output.iter().map(|x| x * x).sum::<f32>() / output.len() as f32).sqrt();
        // PyTorch's default would leave 0.005 of ReLU's.
        assert!((0.2..2.0).contains(&size), "{activation:?}: {size}");
    }
}

#[test]
fn one_seed_gives_one_model_and_another_seed_another() {
    let weights =
        |seed| parameters(&build::<Mlp>(&config(), seed)).values().map(values).collect::<Vec<_>>();
    assert_eq!(weights(1), weights(1));
    assert_ne!(weights(1), weights(2));
}

#[test]
fn dropout_is_off_outside_of_a_scope_and_follows_its_key_inside() {
    let mut model = build::<Mlp>(&MlpConfig { dropout: 0.5, ..config() }, 0);
    let mut in_scope = |seed| {
        values(&rng::scope(&rng::key(seed).unwrap(), || model.forward(&features())).unwrap())
    };
    let (first, again, other) = (in_scope(1), in_scope(1), in_scope(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let evaluated = values(&model.forward(&features()).unwrap());
    assert_ne!(evaluated, first);
    assert_eq!(evaluated, values(&model.forward(&features()).unwrap()));
}

#[test]
fn dropout_follows_each_hidden_layer_and_not_the_output() {
    for hidden_sizes in [vec![], vec![4], vec![4, 4, 4]] {
        let num_layers = hidden_sizes.len();
        let mut model = build::<Mlp>(&MlpConfig { dropout: 0.1, hidden_sizes, ..config() }, 0);
        assert_eq!(num_draws(|| model.forward(&features())), num_layers);
    }
}

#[test]
fn checkpointed_layers_of_unequal_widths_give_the_same_bits() {
    let config = MlpConfig { dropout: 0.3, hidden_sizes: vec![7, 3, 5], ..config() };
    let gradients = |policy: &str| {
        let (policy, key) = (policy.parse().unwrap(), rng::key(5).unwrap());
        let y = Array::from_slice(&[0, 2, 1, 0], &[4]);
        let (_, gradients) = value_and_grads(&mut build::<Mlp>(&config, 1), |model| {
            with_policy(&policy, || loss(model, &features(), &y, Some(&key)))
        });
        gradients.values().map(values).collect::<Vec<_>>()
    };
    assert_eq!(gradients("full"), gradients("none"));
    assert_eq!(gradients("layers=[1]"), gradients("none"));
}

#[test]
fn saved_and_loaded_the_model_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = MlpConfig { norm: Norm::LayerNorm, ..config() };
    let (mut saved, mut loaded) = (build::<Mlp>(&config, 1), build::<Mlp>(&config, 2));
    save_weights(&saved, &path).unwrap();
    load_weights(&mut loaded, &path, &LoadOptions::default()).unwrap();
    let (a, b) = (saved.forward(&features()).unwrap(), loaded.forward(&features()).unwrap());
    assert_eq!(values(&a), values(&b));
}

#[test]
fn bf16_weights_give_bf16_outputs_for_every_activation_and_norm() {
    for activation in [Activation::Relu, Activation::Gelu, Activation::Silu, Activation::Tanh] {
        for norm in [Norm::None, Norm::LayerNorm, Norm::RmsNorm] {
            let config = MlpConfig { activation, norm, dropout: 0.5, ..config() };
            let mut model = build::<Mlp>(&config, 0);
            cast(&mut model, Dtype::Bfloat16);
            let x = features().as_dtype(Dtype::Bfloat16).unwrap();
            let output = rng::scope(&rng::key(0).unwrap(), || model.forward(&x)).unwrap();
            assert_eq!(output.dtype(), Dtype::Bfloat16, "{activation:?} {norm:?}");
        }
    }
}

#[test]
fn a_few_steps_down_the_gradient_reduce_the_loss() {
    let numbers = Array::from_slice(&[0.5_f32, -1.0, 2.0], &[1, 3]);
    let numbers = mlx_rs::ops::broadcast_to(&numbers, &[4, 3]).unwrap();
    let classes = Array::from_slice(&[0, 1, 2, 1], &[4]);
    for (task, y) in [(Task::Classification, classes), (Task::Regression, numbers)] {
        let mut model = build::<Mlp>(&MlpConfig { task, ..config() }, 0);
        let before = number(&loss(&mut model, &features(), &y, None).unwrap());
        for _ in 0..20 {
            descend(&mut model, &features(), &y, 0.1);
        }
        let after = number(&loss(&mut model, &features(), &y, None).unwrap());
        assert!(after < 0.5 * before, "{task:?}: {before} to {after}");
    }
}

#[test]
fn a_config_file_names_options_in_words() {
    let text = "hidden_sizes = [32]\nactivation = 'silu'\nnorm = 'rms_norm'\ntask = 'regression'";
    let config = MlpConfig::parse(text, Format::Toml).unwrap();
    let expected = MlpConfig {
        hidden_sizes: vec![32],
        activation: Activation::Silu,
        norm: Norm::RmsNorm,
        task: Task::Regression,
        ..Default::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn inputs_and_configs_that_do_not_fit_are_refused() {
    let mut model = build::<Mlp>(&config(), 0);
    let seven = Array::from_slice(&[0.5_f32; 14], &[2, 7]);
    let error = model.forward(&seven).unwrap_err().to_string();
    assert!(error.contains("[2, 7]") && error.contains("input_size = 6"), "{error}");
    assert!(model.forward(&Array::from_f32(1.0)).is_err());
    let pairs = Array::from_slice(&[0, 1], &[2]);
    assert!(model.loss_fn(&features(), &pairs).is_err());

    let narrow = Mlp::from_config(&MlpConfig { hidden_sizes: vec![4, 0], ..config() });
    let narrow = narrow.unwrap_err().to_string();
    assert!(narrow.contains("hidden_sizes") && narrow.contains('0'), "{narrow}");
}
