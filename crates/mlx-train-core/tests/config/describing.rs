//! Schemas and hashes.

use crate::kitchen_sink::*;
use mlx_train_core::config::{Format, ModelConfig};

#[test]
fn the_schema_lists_fields_with_types_defaults_ranges_and_docs() {
    let schema = SinkConfig::schema();
    let lines = schema.fields.iter().map(|field| {
        let range = field.range.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}: {} = {} [{range}] {:?}", field.name, field.ty, field.default, field.docs)
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
hidden_size: i32 = 768 [1..] "Width of the residual stream."
num_heads: usize = 12 [1..=1024] ""
dropout: f32 = 0.1 [0.0..1.0] ""
seed: u64 = 18446744073709551615 [] ""
offset: i64 = -9223372036854775808 [] ""
workers: u32 = 7 [] ""
scale: f64 = 1.0 [] ""
tied: bool = false [] ""
name: string = "it's a \"name\"" [] "A \"name\",\non two lines."
data: path = "data/train.bin" [] ""
window: i64 or null = null [1..] ""
clip: f32 or null = 1.5 [] ""
label: string or null = null [] ""
widths: list of usize = [1,2,4] [1..] ""
names: list of string = ["a","b"] [] ""
betas: list of 2 f32 = [0.9,0.95] [0.0..1.0] ""
activation: relu | silu | gelu_tanh | none = "silu" [] ""
norm: rms_norm | layer_norm = "rms_norm" [] ""
schedule: constant | cosine | step = {"kind":"cosine","warmup":10,"floor":null} [] ""
optimizer: OptimizerConfig = {"learning_rate":0.01,"betas":[0.9,0.999],"schedule":"constant"} [] "How it learns."
teacher: OptimizerConfig or null = null [] ""
stages: list of Stage = [] [] ""
"#);
    assert_eq!((schema.name, schema.presets), ("SinkConfig", vec!["tiny", "large"]));
}

#[test]
fn the_json_schema_has_the_keywords_of_the_fields() {
    let schema = serde_json::to_string_pretty(&SinkConfig::json_schema()).unwrap();
    insta::assert_snapshot!(schema);
}

/// What a listing shows.
///
/// What the API's documentation adds.
#[derive(Debug, Clone, ModelConfig)]
struct Documented {
    /// How wide,
    /// in channels.
    ///
    /// ```text
    /// 64 is small
    ///   512 is large
    /// ```
    #[config(default = 64)]
    width: i32,
}

#[test]
fn comments_in_files_are_the_first_paragraph_and_json_schema_has_all() {
    insta::assert_snapshot!(Documented::default().to_text(Format::Toml).unwrap(), @r"
# What a listing shows.

# How wide,
# in channels.
# (i32, default 64)
width = 64
");
    let schema = Documented::schema();
    assert_eq!(schema.docs, "What a listing shows.\n\nWhat the API's documentation adds.");
    let docs = "How wide,\nin channels.\n\n```text\n64 is small\n  512 is large\n```";
    assert_eq!(schema.fields[0].docs, docs);
    let json = Documented::json_schema();
    assert_eq!(json["description"], schema.docs);
    assert_eq!(json["properties"]["width"]["description"], docs);
}

#[test]
fn the_hash_depends_on_values_and_not_on_how_they_were_written() {
    let default = SinkConfig::default();
    for text in [
        "",
        "hidden_size = 0x300 # the default\ndropout = 1e-1",
        "[optimizer]\nlearning_rate = 0.01",
    ] {
        let config = SinkConfig::parse(text, Format::Toml).unwrap();
        assert_eq!(config.stable_hash(), default.stable_hash(), "{text}");
    }
    for text in
        ["hidden_size=780", "tied=true", "optimizer.learning_rate=0.011", "window=1", "name=x"]
    {
        let config = default.with_overrides([text]).unwrap();
        assert_ne!(config.stable_hash(), default.stable_hash(), "{text}");
    }
}

#[test]
fn the_hash_of_a_config_never_changes_between_versions() {
    // printf '{"depth":1,"name":"x","ratio":0.5}' | sha256sum
    let hash = "92f0f522b5b1d9365ee174a8462cc895aa8c4197ba119c8a509a612ae8a40b66";
    assert_eq!(Stage::default().stable_hash(), hash);
}
