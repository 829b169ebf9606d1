//! Hostile and random input: an error, never a panic, an overflow or a long wait.

use crate::kitchen_sink::*;
use mlx_train_core::config::{Document, Format, ModelConfig};
use proptest::prelude::*;

#[test]
fn deep_nesting_is_refused_before_it_exhausts_the_stack() {
    let deep = 100_000;
    let cases = [
        (Format::Json, "[".repeat(deep)),
        (Format::Json, format!("{}{}", "[".repeat(deep), "]".repeat(deep))),
        (Format::Json, format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep))),
        (Format::Yaml, "[".repeat(deep)),
        (Format::Yaml, "- ".repeat(deep)),
        (Format::Yaml, (0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect()),
        (Format::Toml, format!("a = {}", "[".repeat(deep))),
        (Format::Toml, format!("a = {}", "{a = ".repeat(deep))),
        (Format::Toml, format!("{} = 1", vec!["a"; deep].join("."))),
        (Format::Toml, format!("[{}]", vec!["a"; deep].join("."))),
    ];
    for (format, text) in cases {
        let shown: String = text.chars().take(20).collect();
        assert!(Document::parse(&text, format).is_err(), "{format} {shown}");
    }
    let mut document = Document::default();
    assert!(document.set(&format!("{}=1", vec!["a"; deep].join("."))).is_err());
    assert!(document.set(&format!("a={}", "[".repeat(deep))).is_err());
}

#[test]
fn aliases_that_would_grow_without_bound_are_refused() {
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n";
    let error = Document::parse(laughs, Format::Yaml).unwrap_err().to_string();
    insta::assert_snapshot!(error, @r#"
YAML:2:8: this is not valid YAML: aliases (`*name`) are not supported; write the value out
"#);
}

#[test]
fn many_wrong_keys_are_counted_and_not_all_told() {
    let text: String =
        (0..100_000).map(|index| ["key", &index.to_string(), " = 1\n"].concat()).collect();
    let error = SinkConfig::parse(&text, Format::Toml).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 51);
    assert!(error.ends_with("… and 99950 more"), "{error}");
}

#[test]
fn a_file_on_one_line_is_read_in_one_pass() {
    let items = vec!["{\"depth\":1,\"name\":\"ü\"}"; 100_000].join(",");
    let config = SinkConfig::parse(&format!("{{\"stages\":[{items}]}}"), Format::Json).unwrap();
    assert_eq!(config.stages.len(), 100_000);
}

#[test]
fn long_and_unprintable_values_are_shortened_in_messages() {
    let text =
        format!("hidden_size = \"{}\"\n\"\\u001b[31m{}\" = 1", "x".repeat(1000), "k".repeat(1000));
    let error = SinkConfig::parse(&text, Format::Toml).unwrap_err().to_string();
    assert!(error.lines().all(|line| line.chars().count() < 500), "{error}");
    assert!(!error.contains('\u{1b}'));
}

/// Texts that look like configs, so that parsers get past their first character.
fn almost_config() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "hidden_size",
        "optimizer",
        "stages",
        "=",
        ":",
        " ",
        "\n",
        "\n  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "1",
        "-",
        "0.5",
        "1e9",
        "null",
        "true",
        "#",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        "?",
        "---",
        "...",
        "\t",
        "\\",
        "ü",
        ".",
        "%",
        "\u{0}",
        "'''",
        "\"\"\"",
        "2024-01-01",
        "<<",
        "- ",
        ": ",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_reader_panic(text in prop_oneof![almost_config(), any::<String>()]) {
        for format in Format::ALL {
            let _ = SinkConfig::parse(&text, format);
        }
        let _ = SinkConfig::default().with_overrides([&text]);
    }
}
