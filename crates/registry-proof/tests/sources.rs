//! What a model can be built from, with nothing but the facade.

#![allow(clippy::unwrap_used)]

use mlx_train::{
    config::{Document, Format, IntoConfigSource},
    models::{mlp::MlpConfig, transformer::TransformerConfig},
    prelude::*,
    registry::RegistryError,
    serde_json::json,
    toml::{Table, Value},
};

/// The numbers in and out of an mlp that is built from `source`.
fn sizes(source: impl IntoConfigSource) -> (i32, i32) {
    let mut model = ModelRegistry::get_model("mlp").unwrap().build(source).unwrap();
    let input_size = model.parameters().flatten()["layers.0.linear.weight"].dim(-1);
    let features = ops::zeros::<f32>(&[1, input_size]).unwrap();
    (input_size, model.forward(&features).unwrap().dim(-1))
}

#[test]
fn a_model_is_built_from_a_config_of_its_type_a_value_overrides_or_nothing() {
    let config = MlpConfig { input_size: 6, output_size: 3, ..MlpConfig::default() };
    let table: Table = "input_size = 6\noutput_size = 3".parse().unwrap();
    assert_eq!(sizes(&config), (6, 3));
    assert_eq!(sizes(config), (6, 3));
    assert_eq!(sizes(table.clone()), (6, 3));
    assert_eq!(sizes(Value::Table(table)), (6, 3));
    assert_eq!(sizes(json!({ "input_size": 6, "output_size": 3 })), (6, 3));
    assert_eq!(
        sizes(Document::parse("input_size: 6\noutput_size: 3", Format::Yaml).unwrap()),
        (6, 3)
    );
    assert_eq!(sizes(["input_size=6", "output_size=3"]), (6, 3));
    assert_eq!(sizes(()), (784, 10));
}

#[test]
fn one_override_is_enough() {
    let entry = ModelRegistry::get_model("transformer").unwrap();
    let config = entry.resolve_config(["hidden_size=192"]).unwrap().value();
    assert_eq!((&config["hidden_size"], &config["num_heads"]), (&json!(192), &json!(12)));
    // 128 is no multiple of the default's 12 heads.
    let refused = entry.build(["hidden_size=128"]).unwrap_err().to_string();
    assert!(
        refused.contains("hidden_size = 128") && refused.contains("num_heads = 12"),
        "{refused}"
    );
    assert!(entry.resolve_config(["hidden_size=128", "num_heads=8"]).is_ok());
}

#[test]
fn the_config_of_another_model_is_refused_by_both_types() {
    let refused = ModelRegistry::get_model("mlp").unwrap().build(TransformerConfig::default());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::Registry(RegistryError::WrongConfig { .. })), "{refused}");
    let refused = refused.to_string();
    for part in ["`mlp`", "mlp::config::MlpConfig", "transformer::config::TransformerConfig"] {
        assert!(refused.contains(part), "{refused}");
    }
}
