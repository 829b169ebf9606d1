//! Gradients against finite differences, without and with dropout.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{build, loss, loss_and_grads, number, parameters, set_parameters, values};
use mlx_rs::Array;
use mlx_train_core::{model::BaseModel, rng};
use mlx_train_models::{
    mlp::{Activation, Mlp, MlpConfig, Norm},
    transformer::{Transformer, TransformerConfig},
};

/// Central differences at the steepest coordinate of every parameter.
///
/// The rounding of an f32 loss near 2 is 2e-7, over two steps of 2e-2 that is 1e-5 in the slope; the curvature
/// of these models adds less than 1 %.
fn assert_slopes(model: &mut dyn BaseModel, x: &Array, y: &Array, key: Option<&Array>) {
    const STEP: f32 = 2e-2;
    let (_, grads) = loss_and_grads(model, x, y, key);
    let before = parameters(model);
    for (name, grad) in &grads {
        let slopes = values(grad);
        let steepest = |a: &usize, b: &usize| slopes[*a].abs().total_cmp(&slopes[*b].abs());
        let at = (0..slopes.len()).max_by(steepest).unwrap();
        let mut moved_loss = |step: f32| {
            let mut moved = before.clone();
            let mut numbers = values(&moved[name]);
            numbers[at] += step;
            moved.insert(name.clone(), Array::from_slice(&numbers, before[name].shape()));
            set_parameters(model, moved.values());
            number(&loss(model, x, y, key).unwrap())
        };
        let difference = (moved_loss(STEP) - moved_loss(-STEP)) / (2.0 * STEP);
        let (slope, tolerance) = (slopes[at], 0.02 * slopes[at].abs() + 5e-5);
        assert!(slope.abs() > 1e-3, "{name} is flat: rounding would hide a wrong gradient");
        assert!(
            (difference - slope).abs() <= tolerance,
            "{name} at {at}: the loss changes by {difference}, the gradient says {slope}"
        );
        set_parameters(model, before.values());
    }
}

#[test]
fn the_transformers_gradients_are_its_slopes_with_and_without_dropout() {
    let config = TransformerConfig {
        vocab_size: 11,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: Some(2),
        intermediate_size: Some(24),
        max_seq_len: 8,
        dropout: 0.3,
        ..Default::default()
    };
    let x = Array::from_slice(&[1, 5, 9, 2, 2, 0, 10, 4], &[2, 4]);
    let y = Array::from_slice(&[5, 9, 2, -100, 0, 10, 4, 7], &[2, 4]);
    let mut model = build::<Transformer>(&config, 3);
    // Fresh weights of 0.02 leave attention all but uniform; ten times as much makes it choose.
    let ten = Array::from_f32(10.0);
    let wide: Vec<_> = parameters(&model)
        .values()
        .map(|w| if w.ndim() == 2 { w.multiply(&ten).unwrap() } else { w.clone() })
        .collect();
    set_parameters(&mut model, &wide);
    assert_slopes(&mut model, &x, &y, None);
    assert_slopes(&mut model, &x, &y, Some(&rng::key(5).unwrap()));
}

#[test]
fn the_mlps_gradients_are_its_slopes_with_and_without_dropout() {
    let config = MlpConfig {
        input_size: 6,
        hidden_sizes: vec![12, 8],
        output_size: 3,
        activation: Activation::Gelu,
        norm: Norm::LayerNorm,
        dropout: 0.4,
        ..Default::default()
    };
    let x: Vec<f32> = (0..30_u8).map(|i| (f32::from(i) * 1.7).sin()).collect();
    let x = Array::from_slice(&x, &[5, 6]);
    let y = Array::from_slice(&[0, 2, 1, 1, 0], &[5]);
    let mut model = build::<Mlp>(&config, 3);
    assert_slopes(&mut model, &x, &y, None);
    assert_slopes(&mut model, &x, &y, Some(&rng::key(5).unwrap()));
}
