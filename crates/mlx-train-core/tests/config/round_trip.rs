//! What is saved loads back to the same value, in every format.

use crate::kitchen_sink::*;
use mlx_train_core::config::{Document, Format, ModelConfig};
use proptest::{option, prelude::*, sample::select};
use std::path::PathBuf;

/// Any string that a file can hold, often one that looks like something else.
fn text() -> impl Strategy<Value = String> {
    const TRAPS: &[&str] = &[
        "",
        "null",
        "~",
        "true",
        "yes",
        "1",
        "1.0",
        "1e5",
        ".inf",
        "0x1",
        "a: b",
        "- a",
        "#",
        "'",
        "\"\"\"",
        "\\",
        " x ",
        "a\nb",
        "\r\n",
        "\t",
        "\u{85}\u{2028}",
        "\u{7f}\u{0}\u{1b}",
        "\u{feff}",
        "日本",
        "kind",
        "@",
        "%a",
        "=",
    ];
    prop_oneof![select(TRAPS).prop_map(str::to_owned), any::<String>()]
}

fn finite() -> impl Strategy<Value = f64> {
    prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO
}

fn finite_f32() -> impl Strategy<Value = f32> {
    prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let positive = (finite()).prop_map(f64::abs);
    prop_oneof![
        Just(Schedule::Constant),
        (0..=i64::MAX, option::of(positive))
            .prop_map(|(warmup, floor)| Schedule::Cosine { warmup, floor }),
        any::<Vec<u32>>().prop_map(|at| Schedule::Step { at }),
    ]
}

fn optimizer() -> impl Strategy<Value = OptimizerConfig> {
    (finite(), [finite(), finite()], schedule()).prop_map(|(rate, betas, schedule)| {
        OptimizerConfig { learning_rate: rate.abs(), betas: betas.to_vec(), schedule }
    })
}

fn stage() -> impl Strategy<Value = Stage> {
    (1..=u32::MAX, option::of(finite_f32()), text()).prop_map(|(depth, ratio, name)| Stage {
        depth,
        ratio,
        name,
    })
}

fn numbers() -> impl Strategy<Value = SinkConfig> {
    let betas = [0.0..1.0f32, 0.0..1.0f32];
    let floats = (0.0..1.0f32, finite(), option::of(finite_f32()), betas);
    let integers = (1..2_000_000i32, any::<u64>(), any::<i64>(), any::<u32>());
    let lists = (option::of(1..=i64::MAX), prop::collection::vec(1..=usize::MAX, 0..4));
    (floats, integers, lists).prop_map(|(floats, integers, lists)| {
        let (dropout, scale, clip, betas) = floats;
        let (hidden_size, seed, offset, workers) = integers;
        let (window, widths) = lists;
        let defaults = SinkConfig { num_heads: 1, ..SinkConfig::default() };
        SinkConfig {
            hidden_size,
            dropout,
            seed,
            offset,
            workers,
            scale,
            window,
            clip,
            widths,
            betas,
            ..defaults
        }
    })
}

fn config() -> impl Strategy<Value = SinkConfig> {
    let activation = select(&[Activation::Relu, Activation::GeluTanh, Activation::Nothing][..]);
    let norm = select(&[Norm::RMSNorm, Norm::LayerNorm][..]);
    let choices = (any::<bool>(), activation, norm, schedule());
    let texts = (text(), text(), option::of(text()), prop::collection::vec(text(), 0..4));
    let nested = (optimizer(), option::of(optimizer()), prop::collection::vec(stage(), 0..3));
    (numbers(), choices, texts, nested).prop_map(|(numbers, choices, texts, nested)| {
        let (tied, activation, norm, schedule) = choices;
        let (name, data, tag, names) = texts;
        let (optimizer, teacher, stages) = nested;
        let data = PathBuf::from(data);
        SinkConfig {
            tied,
            name,
            data,
            tag,
            names,
            activation,
            norm,
            schedule,
            optimizer,
            teacher,
            stages,
            ..numbers
        }
    })
}

/// All bits, so that no digit of a float and no sign of a zero is lost unseen.
fn bits(config: &SinkConfig) -> (u32, u64, [u32; 2], Option<u32>) {
    let SinkConfig { dropout, scale, betas, clip, .. } = config;
    (dropout.to_bits(), scale.to_bits(), betas.map(f32::to_bits), clip.map(f32::to_bits))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_saved_config_loads_back_to_the_same_value(config in config()) {
        for format in Format::ALL {
            let text = config.to_text(format).unwrap();
            let loaded = SinkConfig::parse(&text, format);
            let loaded = loaded.unwrap_or_else(|error| panic!("{format}: {error}\n{text}"));
            prop_assert_eq!(&loaded, &config, "{}:\n{}", format, text);
            prop_assert_eq!(bits(&loaded), bits(&config));
            prop_assert_eq!(loaded.stable_hash(), config.stable_hash());
        }
    }

    #[test]
    fn a_config_is_its_own_value(config in config()) {
        let document = Document::from_value(config.to_value());
        prop_assert_eq!(SinkConfig::from_document(&document).unwrap(), config);
    }

    #[test]
    fn a_section_of_a_file_loads_back_to_the_same_value(config in config()) {
        let text = config.to_toml_section("model").unwrap();
        let document = Document::parse(&text, Format::Toml).unwrap();
        document.expect_sections(&["model"]).unwrap();
        let section = document.section("model").unwrap();
        prop_assert_eq!(SinkConfig::from_document(&section).unwrap(), config);
    }
}
