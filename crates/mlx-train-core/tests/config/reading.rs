//! Reading: what is accepted, and what is refused in which words.

use crate::kitchen_sink::*;
use mlx_train_core::config::{Format, ModelConfig};

/// The error of a TOML text.
fn refusal(toml: &str) -> String {
    SinkConfig::parse(toml, Format::Toml).unwrap_err().to_string()
}

#[test]
fn an_empty_document_is_the_defaults_in_every_format() {
    let default = SinkConfig::default();
    for (text, format) in [
        ("", Format::Toml),
        ("{}", Format::Json),
        ("", Format::Yaml),
        ("# nothing\n", Format::Yaml),
        ("\u{feff}", Format::Toml),
    ] {
        assert_eq!(SinkConfig::parse(text, format).unwrap(), default, "{format}");
    }
}

#[test]
fn one_document_reads_the_same_from_every_format() {
    let toml = "hidden_size = 96\ndropout = 0\nwindow = 5\nbetas = [0.5, 1e-3]\nactivation = 'gelu_tanh'\n\
                schedule = { kind = 'step', at = [1] }\n[optimizer]\nlearning_rate = 0.5\n[[stages]]\ndepth = 3";
    let json = r#"{"hidden_size": 96, "dropout": 0, "window": 5, "betas": [0.5, 1e-3], "activation": "gelu_tanh",
                "schedule": {"kind": "step", "at": [1]}, "optimizer": {"learning_rate": 0.5}, "stages": [{"depth": 3}]}"#;
    let yaml = "hidden_size: 96\ndropout: 0\nwindow: 5\nbetas: [0.5, 1e-3]\nactivation: gelu_tanh\n\
                schedule:\n  kind: step\n  at: [1]\noptimizer:\n  learning_rate: 0.5\nstages:\n- depth: 3\n";
    let expected = SinkConfig {
        hidden_size: 96,
        dropout: 0.0,
        window: Some(5),
        betas: [0.5, 1e-3],
        activation: Activation::GeluTanh,
        schedule: Schedule::Step { at: vec![1] },
        optimizer: OptimizerConfig { learning_rate: 0.5, ..Default::default() },
        stages: vec![Stage { depth: 3, ratio: Some(0.5), name: "x".to_owned() }],
        ..Default::default()
    };
    assert_eq!(SinkConfig::parse(toml, Format::Toml).unwrap(), expected);
    assert_eq!(SinkConfig::parse(json, Format::Json).unwrap(), expected);
    assert_eq!(SinkConfig::parse(yaml, Format::Yaml).unwrap(), expected);
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let toml = "\
hiden_size = 12
num_heads = 0
dropout = 'high'
workers = 5_000_000_000
scale = inf
window = 2.0
betas = [0.9]
widths = [3, 0, -1]
activation = 'gelu-tanh'
[optimizer]
learning_rate = -1
momentum = 0.9
";
    insta::assert_snapshot!(refusal(toml), @r#"
TOML:1:1: unknown key `hiden_size`; did you mean `hidden_size`?
TOML:2:13: `num_heads` is 0, but must be at least 1 and at most 1024
TOML:3:11: `dropout` is the string "high", but must be a number
TOML:4:11: `workers` is 5000000000, but must be from 0 to 4294967295 (u32)
TOML:5:9: `scale` is inf, but must be a finite number
TOML:6:10: `window` is the float 2.0, but must be an integer; write 2
TOML:7:9: `betas` is a list of 1, but must be a list of 2 f32
TOML:8:17: `widths[2]` is -1, but must be from 0 to 18446744073709551615 (usize)
TOML:9:14: `activation` is "gelu-tanh", which is not one of its choices; did you mean `gelu_tanh`?
TOML:11:17: `optimizer.learning_rate` is -1.0, but must be at least 0.0
TOML:12:1: unknown key `optimizer.momentum`; the keys here are `learning_rate`, `betas`, `schedule`
"#);
}
