//! What a model can be built from.

use crate::kitchen_sink::*;
use mlx_train_core::config::{ConfigSource, Document, Format, IntoConfigSource, ModelConfig};
use serde_json::json;

fn optimizer(source: impl IntoConfigSource) -> OptimizerConfig {
    source.into_config_source().resolve().unwrap()
}

#[test]
fn every_source_resolves_to_the_config_that_it_describes() {
    let expected = OptimizerConfig { learning_rate: 0.5, ..OptimizerConfig::default() };
    assert_eq!(optimizer(()), OptimizerConfig::default());
    assert_eq!(optimizer(&expected), expected);
    assert_eq!(optimizer(expected.clone()), expected);
    assert_eq!(optimizer(json!({ "learning_rate": 0.5 })), expected);
    let table: toml::Table = "learning_rate = 0.5".parse().unwrap();
    assert_eq!(optimizer(table.clone()), expected);
    assert_eq!(optimizer(toml::Value::Table(table)), expected);
    assert_eq!(optimizer(Document::parse("learning_rate: 0.5", Format::Yaml).unwrap()), expected);
    assert_eq!(optimizer(["learning_rate=0.5"]), expected);
    assert_eq!(optimizer(&["learning_rate=0.5"][..]), expected);
    assert_eq!(optimizer(vec!["learning_rate=0.5".to_owned()]), expected);
    assert_eq!(optimizer(ConfigSource::default().with_overrides(["learning_rate=0.5"])), expected);
}

#[test]
fn overrides_come_on_top_of_any_source() {
    let typed = OptimizerConfig { learning_rate: 0.5, ..OptimizerConfig::default() };
    for source in [typed.into_config_source(), json!({ "learning_rate": 0.5 }).into_config_source()]
    {
        let config: OptimizerConfig = source.with_overrides(["betas=[0, 0]"]).resolve().unwrap();
        assert_eq!((config.learning_rate, config.betas), (0.5, vec![0.0, 0.0]));
    }
}

#[test]
fn a_config_of_another_type_is_refused_by_both_names() {
    let refused = Stage::default().into_config_source().resolve::<OptimizerConfig>().unwrap_err();
    insta::assert_snapshot!(refused, @r#"
this takes a `config::kitchen_sink::OptimizerConfig`, but was given a `config::kitchen_sink::Stage`; build that one instead
"#);
}

#[test]
fn a_typed_config_is_checked() {
    let wrong = Stage { depth: 0, ..Stage::default() };
    let refused = wrong.into_config_source().resolve::<Stage>().unwrap_err();
    insta::assert_snapshot!(refused, @r#"
`depth` is 0, but must be at least 1
"#);
}

#[test]
fn values_without_a_file_are_refused_by_path_alone() {
    let source = json!({ "betas": [1, "x"], "learning_rat": 1 }).into_config_source();
    insta::assert_snapshot!(source.resolve::<OptimizerConfig>().unwrap_err(), @r#"
`betas[1]` is the string "x", but must be a number
unknown key `learning_rat`; did you mean `learning_rate`?
"#);
}

#[test]
fn a_section_keeps_its_path_and_places() {
    let text =
        "model = 'sink'\n[train]\nsteps = 5\n[config]\nhiden_size = 1\noptimizer.betas = 3\n";
    let mut document = Document::parse(text, Format::Toml).unwrap();
    assert_eq!(document.take_string("model").unwrap().as_deref(), Some("sink"));
    assert_eq!(document.take_string("model").unwrap(), None);
    document.expect_sections(&["train", "config"]).unwrap();
    assert_eq!(document.keys().collect::<Vec<_>>(), ["train", "config"]);
    assert!(document.section("evaluate").is_none());
    let section = document.section("config").unwrap();
    insta::assert_snapshot!(SinkConfig::from_document(&section).unwrap_err(), @r#"
TOML:5:1: unknown key `config.hiden_size`; did you mean `hidden_size`?
TOML:6:19: `config.optimizer.betas` is the integer 3, but must be a list of f64
"#);
    insta::assert_snapshot!(document.expect_sections(&["trainer", "model"]).unwrap_err(), @r#"
TOML:2:2: unknown section `train`; did you mean `trainer`?
TOML:4:2: unknown section `config`; the sections are `trainer`, `model`
"#);
    insta::assert_snapshot!(document.take_string("train").unwrap_err(), @r#"
TOML:2:1: `train` is a table, but must be a string
"#);
}

#[test]
fn what_should_be_a_section_and_is_none_is_refused() {
    let refused = |text: &str, format| {
        let document = Document::parse(text, format).unwrap();
        document.expect_sections(&["model", "train"]).unwrap_err().to_string()
    };
    assert_eq!(
        refused("{\"model\": \"mlp\",\n \"train\": [1]}", Format::Json),
        "JSON:1:11: `model` is the string \"mlp\", but must be a table\n\
         JSON:2:11: `train` is a list of 1, but must be a table"
    );
    assert_eq!(
        refused("[1, 2]", Format::Json),
        "JSON:1:1: the config is a list of 2, but must be a table"
    );
    // An empty file, and an empty section, say that everything is as by default.
    for text in ["", "model:\ntrain: {}"] {
        Document::parse(text, Format::Yaml).unwrap().expect_sections(&["model", "train"]).unwrap();
    }
}
