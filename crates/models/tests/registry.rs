//! The models by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_rs::Array;
use mlx_train_core::{model::BaseModel, registry::ModelRegistry};
// Names the crate, without which the linker may leave it out.
use mlx_train_models as _;

#[test]
fn models_are_built_by_name_from_overrides() {
    let overrides = ["preset=tiny", "num_layers=1", "vocab_size=7"];
    let mut model = ModelRegistry::get_model("transformer").unwrap().build(overrides).unwrap();
    let tokens = Array::from_slice(&[1, 2, 3], &[1, 3]);
    assert_eq!(model.forward(&tokens).unwrap().shape(), [1, 3, 7]);
    assert!(model.as_language_model().is_some());

    let overrides = ["input_size=2", "hidden_sizes=[3]", "activation=tanh"];
    let mut model = ModelRegistry::get_model("mlp").unwrap().build(overrides).unwrap();
    let features = Array::from_slice(&[0.5_f32, 1.0], &[1, 2]);
    assert_eq!(model.forward(&features).unwrap().shape(), [1, 10]);
    assert!(model.as_language_model().is_none());
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let refused = ModelRegistry::get_model("llama").unwrap().build(["num_heads=7"]);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("num_heads = 7") && error.contains("hidden_size = 768"), "{error}");
}
