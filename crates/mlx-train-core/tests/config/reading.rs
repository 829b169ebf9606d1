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

#[test]
fn each_format_says_what_is_malformed_and_where() {
    let cases = [
        (Format::Toml, "hidden_size = \n"),
        (Format::Toml, "a = 1\na = 2\n"),
        (Format::Toml, "[optimizer\n"),
        (Format::Toml, "seed = 999999999999999999999999999999999999999999"),
        (Format::Json, "{\n  \"hidden_size\": 1,\n}"),
        (Format::Json, "{\"name\": \"\\ud800\"}"),
        (Format::Json, "{\"tied\": true, \"tied\": false}"),
        (Format::Json, ""),
        (Format::Json, "{} {}"),
        (Format::Yaml, "hidden_size: [1\n"),
        (Format::Yaml, "hidden_size: 1\nhidden_size: 2\n"),
        (Format::Yaml, "a: 1\n---\nb: 2\n"),
        (Format::Yaml, "name: &n x\ndata: *n\n"),
        (Format::Yaml, "name: !!str 5\n"),
        (Format::Yaml, "? [a, b]\n: 1\n"),
        (Format::Yaml, "name: 'x\n"),
    ];
    let refusals =
        cases.map(|(format, text)| SinkConfig::parse(text, format).unwrap_err().to_string());
    insta::assert_snapshot!(refusals.join("\n"), @r#"
TOML:1:15: this is not valid TOML: string values must be quoted, expected literal string
TOML:2:1: this is not valid TOML: duplicate key
TOML:1:11: this is not valid TOML: unclosed table, expected `]`
TOML:1:8: this is not valid TOML: 999999999999999999999999999999999999999999 is too large an integer
JSON:3:1: this is not valid JSON: key must be a string
JSON:1:10: this is not valid JSON: unexpected end of hex escape
JSON:1:16: this is not valid JSON: the key `tied` is given twice; keep one
JSON:1:1: this is not valid JSON: EOF while parsing a value
JSON:1:4: this is not valid JSON: trailing characters
YAML:2:1: this is not valid YAML: while parsing a flow sequence, expected ',' or ']'
YAML:2:1: this is not valid YAML: the key `hidden_size` is given twice; keep one
YAML:2:1: this is not valid YAML: a second document starts here; a config is one document
YAML:2:7: this is not valid YAML: aliases (`*name`) are not supported; write the value out
YAML:1:7: this is not valid YAML: tags (`tag:yaml.org,2002:!str`) are not supported; remove it
YAML:1:3: this is not valid YAML: a key must be a plain name
YAML:1:7: this is not valid YAML: while scanning a quoted scalar, found unexpected end of stream
"#);
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_what_is_expected() {
    let cases = [
        (Format::Toml, "hidden_size = true"),
        (Format::Toml, "hidden_size = 1e3"),
        (Format::Toml, "scale = 9007199254740993"),
        (Format::Toml, "dropout = 1e-50"),
        (Format::Toml, "dropout = 1e39"),
        (Format::Toml, "name = 2024-01-01"),
        (Format::Toml, "tied = 'yes'"),
        (Format::Toml, "activation = 1"),
        (Format::Toml, "activation = { kind = 'relu' }"),
        (Format::Toml, "schedule = 'linear'"),
        (Format::Toml, "schedule = { kind = 'cosin' }"),
        (Format::Toml, "schedule = { kind = 'cosine', warmup = -1, warm = 1 }"),
        (Format::Toml, "stages = [{ depth = 0 }, 1]"),
        (Format::Toml, "optimizer = 'adam'"),
        (Format::Toml, "teacher = { schedule = { at = [1] } }"),
        (Format::Json, "[1]"),
        (Format::Json, "{\"hidden_size\": null}"),
        (Format::Json, "{\"scale\": 1e999}"),
        (Format::Json, "{\"workers\": -0.5}"),
        (Format::Yaml, "- 1"),
        (Format::Yaml, "scale: .nan"),
        (Format::Yaml, "tied: yes"),
        (Format::Yaml, "names: [a, 1]"),
        (Format::Yaml, "5"),
    ];
    let refusals =
        cases.map(|(format, text)| SinkConfig::parse(text, format).unwrap_err().to_string());
    insta::assert_snapshot!(refusals.join("\n"), @r#"
TOML:1:15: `hidden_size` is the boolean true, but must be an integer
TOML:1:15: `hidden_size` is the float 1000.0, but must be an integer; write 1000
TOML:1:9: `scale` is 9007199254740993, which no float equals; write it as 9007199254740992.0
TOML:1:11: `dropout` is 1e-50, which is too small for an f32
TOML:1:11: `dropout` is 1e39, which is too large for an f32
TOML:1:8: `name` is the date 2024-01-01, but must be a string
TOML:1:8: `tied` is the string "yes", but must be true or false
TOML:1:14: `activation` is the integer 1, but must be one of `relu`, `silu`, `gelu_tanh`, `none`
TOML:1:14: `activation` is a table, but must be one of `relu`, `silu`, `gelu_tanh`, `none`
TOML:1:12: `schedule` is "linear", which is not one of its choices; the choices are `constant`, `cosine`, `step`
TOML:1:21: `schedule` is "cosin", which is not one of its choices; did you mean `cosine`?
TOML:1:40: `schedule.warmup` is -1, but must be at least 0
TOML:1:44: unknown key `schedule.warm`; did you mean `warmup`?
TOML:1:26: `stages[1]` is the integer 1, but must be a table with the keys of Stage
TOML:1:13: `optimizer` is the string "adam", but must be a table with the keys of OptimizerConfig
TOML:1:26: unknown key `teacher.schedule.at`; the keys here are `kind`
JSON:1:1: the config is a list of 1, but must be a table with the keys of SinkConfig
JSON:1:17: `hidden_size` is null, but must be an integer; leave the key out for its default
JSON:1:11: `scale` is inf, but must be a finite number
JSON:1:13: `workers` is the float -0.5, but must be an integer
YAML:1:1: the config is a list of 1, but must be a table with the keys of SinkConfig
YAML:1:8: `scale` is NaN, but must be a finite number
YAML:1:7: `tied` is the string "yes", but must be true or false
YAML:1:12: `names[1]` is the integer 1, but must be a string
YAML:1:1: the config is the integer 5, but must be a table with the keys of SinkConfig
"#);
}

#[test]
fn yaml_scalars_follow_the_core_schema() {
    let yaml = "hidden_size: 0x40\nnum_heads: 0o10\nworkers: +3\nscale: 1e-3\nwindow: ~\n\
                name: 1e\ndata: '5'\ntied: True\nclip: 1.\nlabel: |\n  two\n  lines\n";
    let config = SinkConfig::parse(yaml, Format::Yaml).unwrap();
    assert_eq!((config.hidden_size, config.num_heads, config.workers), (64, 8, 3));
    assert_eq!((config.scale, config.clip, config.window), (1e-3, Some(1.0), None));
    assert_eq!((config.name.as_str(), config.data.to_str()), ("1e", Some("5")));
    assert_eq!((config.tied, config.tag.as_deref()), (true, Some("two\nlines\n")));
}

#[test]
fn a_yaml_section_without_keys_is_its_defaults() {
    let config = SinkConfig::parse("optimizer:\n  # learning_rate: 1\n", Format::Yaml).unwrap();
    assert_eq!(config, SinkConfig::default());
}

#[test]
fn a_nested_table_keeps_the_outer_default_of_what_it_leaves_out() {
    let config = SinkConfig::parse("[optimizer]\nbetas = [0.5, 0.6]", Format::Toml).unwrap();
    // OptimizerConfig's own default is 1e-3.
    assert_eq!((config.optimizer.learning_rate, config.optimizer.betas), (1e-2, vec![0.5, 0.6]));
}

#[test]
fn a_table_without_a_kind_changes_the_variant_that_is_the_default() {
    let config = SinkConfig::parse("schedule = { floor = 0.5 }", Format::Toml).unwrap();
    assert_eq!(config.schedule, Schedule::Cosine { warmup: 10, floor: Some(0.5) });
    let config = SinkConfig::parse("schedule = {}", Format::Toml).unwrap();
    assert_eq!(config.schedule, SinkConfig::default().schedule);
    let config = SinkConfig::parse("schedule = { kind = 'cosine' }", Format::Toml).unwrap();
    assert_eq!(config.schedule, Schedule::Cosine { warmup: 10, floor: None });
    let config = SinkConfig::parse("optimizer.schedule.kind = 'cosine'", Format::Toml).unwrap();
    assert_eq!(config.optimizer.schedule, Schedule::Cosine { warmup: 100, floor: None });
}

#[test]
fn checks_across_fields_run_when_every_field_is_right() {
    insta::assert_snapshot!(refusal("hidden_size = 100"), @r#"
TOML: num_heads (12) must divide hidden_size (100)
"#);
    insta::assert_snapshot!(refusal("optimizer.betas = [1]"), @r#"
TOML: `optimizer`: betas has to hold two numbers
"#);
    // A check may divide by what its range forbids to be zero.
    insta::assert_snapshot!(refusal("num_heads = 0"), @r#"
TOML:1:13: `num_heads` is 0, but must be at least 1 and at most 1024
"#);
}

#[test]
fn configs_built_in_code_are_checked_like_files() {
    let config = SinkConfig {
        hidden_size: 0,
        scale: f64::INFINITY,
        betas: [0.5, 1.0],
        stages: vec![Stage { depth: 0, ratio: Some(f32::NAN), name: String::new() }],
        ..SinkConfig::default()
    };
    insta::assert_snapshot!(config.validate().unwrap_err(), @r#"
`hidden_size` is 0, but must be at least 1
`scale` is inf, but must be a finite number
`betas[1]` is 1.0, but must be at least 0.0 and less than 1.0
`stages[0].depth` is 0, but must be at least 1
`stages[0].ratio` is NaN, but must be a finite number
"#);
    assert!(config.to_text(Format::Toml).is_err());
}

#[test]
fn a_preset_replaces_the_defaults_and_other_keys_override_it() {
    let config = SinkConfig::parse("num_heads = 8\npreset = 'tiny'", Format::Toml).unwrap();
    assert_eq!((config.hidden_size, config.num_heads), (64, 8));
    assert_eq!(SinkConfig::preset("large").unwrap().hidden_size, 4096);
    insta::assert_snapshot!(refusal("preset = 'tinny'"), @r#"
TOML:1:10: no preset is named `tinny`; did you mean `tiny`?
"#);
    insta::assert_snapshot!(refusal("preset = 1"), @r#"
TOML:1:10: `preset` is the integer 1, but must be a string
"#);
    insta::assert_snapshot!(refusal("optimizer.preset = 'adam'"), @r#"
TOML:1:11: unknown key `optimizer.preset`; the keys here are `learning_rate`, `betas`, `schedule`
"#);
    insta::assert_snapshot!(SinkConfig::preset("Tiny").unwrap_err(), @r#"
no preset is named `Tiny`; did you mean `tiny`?
"#);
}
