//! Overrides: `key.path=value`.
// What is read has to be the very number that was written.
#![allow(clippy::float_cmp)]

use crate::kitchen_sink::*;
use mlx_train_core::config::{Document, Format, ModelConfig};

fn with(overrides: &[&str]) -> SinkConfig {
    SinkConfig::default().with_overrides(overrides).unwrap()
}

#[test]
fn values_take_the_type_of_their_field() {
    assert_eq!(with(&["hidden_size = 120"]).hidden_size, 120);
    assert_eq!(with(&["optimizer.learning_rate=1e-3"]).optimizer.learning_rate, 1e-3);
    assert_eq!(with(&["widths=[1,2]"]).widths, [1, 2]);
    assert_eq!(with(&["names=[]"]).names, [""; 0]);
    assert_eq!(with(&["activation=relu"]).activation, Activation::Relu);
    assert_eq!(with(&["clip=null"]).clip, None);
    assert_eq!(with(&["teacher.betas=[0.1, 0.2]"]).teacher.unwrap().betas, [0.1, 0.2]);
}

#[test]
fn a_string_field_takes_any_text_with_or_without_quotes() {
    let given =
        ["x", "\"x\"", "'x'", "5", "1e-3", "true", "2024-01-01", "null", "a=b", "", "a b, c"];
    let read = given.map(|value| with(&[&format!("name={value}")]).name);
    assert_eq!(
        read,
        ["x", "x", "x", "5", "1e-3", "true", "2024-01-01", "null", "a=b", "", "a b, c"]
    );
    assert_eq!(with(&["data=/tmp/x y.bin"]).data.to_str(), Some("/tmp/x y.bin"));
}

#[test]
fn the_last_override_of_a_key_wins() {
    assert_eq!(with(&["hidden_size=12", "hidden_size=24"]).hidden_size, 24);
}

#[test]
fn a_kind_and_then_its_fields_can_be_overridden() {
    let config = with(&["optimizer.schedule=cosine", "optimizer.schedule.warmup=5"]);
    assert_eq!(config.optimizer.schedule, Schedule::Cosine { warmup: 5, floor: None });
    assert_eq!(
        with(&["schedule.floor=1"]).schedule,
        Schedule::Cosine { warmup: 10, floor: Some(1.0) }
    );
}

#[test]
fn what_is_not_overridden_stays_as_it_was() {
    let base = SinkConfig { workers: 3, tied: true, ..SinkConfig::default() };
    let changed = base.with_overrides(["hidden_size=24"]).unwrap();
    assert_eq!(changed, SinkConfig { hidden_size: 24, ..base });
}

#[test]
fn mistakes_name_the_override() {
    let refused = |text: &str| match SinkConfig::default().with_overrides([text]) {
        Ok(_) => panic!("{text} is accepted"),
        Err(error) => error.to_string(),
    };
    let cases = [
        "num_heads=x",
        "num_heads=0",
        "num_head=4",
        "optimiser.learning_rate=1",
        "optimizer.learning_rate.x=1",
        "hidden_size.x=1",
        "num_heads",
        "=4",
        "a..b=4",
        "widths=[1, 2",
        "name=\"x",
        "dropout=nan",
        "preset=hug",
        "hidden_size=100",
    ];
    insta::assert_snapshot!(cases.map(refused).join("\n"), @r#"
override `num_heads=x`: `num_heads` is the string "x", but must be an integer
override `num_heads=0`: `num_heads` is 0, but must be at least 1 and at most 1024
override `num_head=4`: unknown key `num_head`; did you mean `num_heads`?
override `optimiser.learning_rate=1`: unknown key `optimiser`; did you mean `optimizer`?
override `optimizer.learning_rate.x=1`: `optimizer.learning_rate` is a table, but must be a number
override `hidden_size.x=1`: `hidden_size` is a table, but must be an integer
override `num_heads`: there is no `=`; write key=value, as in hidden_size=128
override `=4`: `` is not a key; write key=value or table.key=value
override `a..b=4`: `a..b` is not a key; write key=value or table.key=value
override `widths=[1, 2`: the value is malformed: unclosed array, expected `]`
override `name="x`: the value is malformed: invalid basic string, expected `"`
override `dropout=nan`: `dropout` is NaN, but must be a finite number
override `preset=hug`: no preset is named `hug`; the presets are `tiny`, `large`
override `hidden_size=100`: num_heads (12) must divide hidden_size (100)
"#);
}

#[test]
fn overrides_win_over_the_file_and_keep_the_places_of_the_rest() {
    let mut document = Document::parse("num_heads = 0\nworkers = -1", Format::Toml).unwrap();
    document.set("num_heads=4").unwrap();
    let refused = SinkConfig::from_document(&document).unwrap_err();
    insta::assert_snapshot!(refused, @r#"
TOML:2:11: `workers` is -1, but must be from 0 to 4294967295 (u32)
"#);
}

#[test]
fn a_document_that_is_no_table_is_not_replaced_by_an_override() {
    let mut document = Document::parse("[1, 2]", Format::Json).unwrap();
    insta::assert_snapshot!(document.set("num_heads=4").unwrap_err(), @r#"
override `num_heads=4`: the config is a list of 2, so it has no keys to override
"#);
}
