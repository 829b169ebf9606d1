//! Optimizers and groups from config files.

use super::{named, run};
use mlx_train_core::{
    Array, Result,
    config::{Format, ModelConfig},
    optim::{
        Adafactor, AdamW, GroupConfig, Lion, Muon, MuonWithAdamW, OptimizerConfig, OptimizerState,
        ScheduleConfig, Sgd,
    },
    train::TrainConfig,
};

/// The sections that a training config has of them.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
struct Settings {
    optimizer: OptimizerConfig,
    groups: Vec<GroupConfig>,
    schedule: ScheduleConfig,
}

fn parse(text: &str) -> Settings {
    Settings::parse(text, Format::Toml).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_name_alone_is_the_optimizer_with_its_defaults() -> Result<()> {
    let built = |name: &str| -> Result<String> {
        let settings = parse(&format!("optimizer = \"{name}\""));
        Ok(format!("{:?}", settings.optimizer.build(&[])?))
    };
    assert_eq!(built("adamw")?, format!("{:?}", AdamW::default()));
    assert_eq!(built("sgd")?, format!("{:?}", Sgd::default()));
    assert_eq!(built("lion")?, format!("{:?}", Lion::default()));
    assert_eq!(built("adafactor")?, format!("{:?}", Adafactor::default()));
    let hybrid = MuonWithAdamW::new(Muon::default(), AdamW::default());
    assert_eq!(built("muon")?, format!("{hybrid:?}"));
    assert_eq!(parse(""), Settings::default());
    assert_eq!(Settings::default().optimizer, parse("optimizer = \"adamw\"").optimizer);
    Ok(())
}

#[test]
fn every_setting_reaches_its_optimizer() -> Result<()> {
    let built = |table: &str| -> Result<String> {
        Ok(format!("{:?}", parse(&format!("optimizer = {{ {table} }}")).optimizer.build(&[])?))
    };
    for (kind, settings) in [
        (
            "adamw",
            &[
                "beta1 = 0.5",
                "beta2 = 0.5",
                "epsilon = 1e-3",
                "weight_decay = 0.5",
                "state = \"bf16\"",
                "state = \"int8\"",
            ][..],
        ),
        (
            "sgd",
            &[
                "momentum = 0.5",
                "dampening = 0.5",
                "momentum = 0.5, nesterov = true",
                "weight_decay = 0.5",
            ],
        ),
        ("lion", &["beta1 = 0.5", "beta2 = 0.5", "weight_decay = 0.5", "state = \"int8\""]),
        (
            "adafactor",
            &[
                "epsilon1 = 1e-3",
                "epsilon2 = 0.5",
                "clip_threshold = 0.5",
                "decay_rate = -0.5",
                "momentum = 0.5",
                "scale_parameter = false",
                "relative_step = true",
                "relative_step = true, warmup_init = true",
                "weight_decay = 0.5",
            ],
        ),
        (
            "muon",
            &[
                "momentum = 0.5",
                "nesterov = false",
                "iterations = 3",
                "weight_decay = 0.5",
                "decoupled_decay = true",
                "adamw_parameters = []",
                "adamw_learning_rate_scale = 0.5",
                "adamw_beta1 = 0.5",
                "adamw_beta2 = 0.5",
                "adamw_epsilon = 1e-3",
            ],
        ),
    ] {
        let mut seen = vec![built(&format!("kind = \"{kind}\""))?];
        for setting in settings {
            let text = built(&format!("kind = \"{kind}\", {setting}"))?;
            assert!(!seen.contains(&text), "{setting} of {kind} changes nothing");
            seen.push(text);
        }
    }
    Ok(())
}

#[test]
fn groups_of_a_file_act_in_their_order() -> Result<()> {
    let settings = parse(
        r#"
        optimizer = { kind = "sgd", weight_decay = 0.5 }
        [[groups]]
        parameters = ["*.bias"]
        learning_rate_scale = 2.0
        decay_vectors = true
        [[groups]]
        parameters = ["head.*"]
        weight_decay = 0.0
        max_grad_norm = 0.5
        [[groups]]
        parameters = ["embed.*"]
        frozen = true
        "#,
    );
    let optimizer = settings.optimizer.build(&settings.groups)?;
    let names = ["embed.weight", "layer.weight", "layer.bias", "layer.scale", "head.weight"];
    let matrix = Array::ones::<f32>(&[2, 2])?;
    let vector = Array::ones::<f32>(&[2])?;
    let values = [&matrix, &matrix, &vector, &vector, &matrix].map(Clone::clone);
    let state = OptimizerState::new(&*optimizer, named(&names, &values))?;
    let trained: Vec<_> = state.parameter_names().map(AsRef::as_ref).collect();
    assert_eq!(trained, names[1..]);

    let mut without_the_frozen = settings;
    without_the_frozen.groups.pop();
    let optimizer = without_the_frozen.optimizer.build(&without_the_frozen.groups)?;
    let (updated, _) = run(&*optimizer, &names, &values, &values, &[0.1])?;
    let moved: Vec<f32> = updated.iter().map(|value| 1.0 - super::floats(value)[0]).collect();
    for (moved, expected) in moved.iter().zip([0.15, 0.15, 0.3, 0.1, 0.025]) {
        assert!((moved - expected).abs() < 1e-6, "{moved} instead of {expected}");
    }
    Ok(())
}

#[test]
fn settings_that_contradict_one_another_are_refused_with_the_fix() {
    let refused = |text: &str| {
        let settings = parse(text);
        settings.optimizer.build(&settings.groups).expect_err("refused").to_string()
    };
    for (text, expected) in [
        (
            "optimizer = { kind = \"adafactor\", warmup_init = true }",
            "warmup_init of adafactor acts on relative steps alone; set relative_step = true, or \
             warmup_steps of the schedule",
        ),
        (
            "optimizer = { kind = \"adafactor\", relative_step = true }\n\
             groups = [{ parameters = [\"*\"], learning_rate_scale = 0.5 }]",
            "learning_rate_scale of a group is 0.5, and adafactor ignores the learning rate with \
             relative_step; turn one of them off",
        ),
        (
            "optimizer = { kind = \"sgd\", nesterov = true }",
            "Nesterov momentum of Sgd is 0; it has to be above 0 and below 1",
        ),
        (
            "groups = [{ frozen = true }]",
            "a group of parameters has no pattern, so it is empty; name some, as in parameters = \
             [\"*.bias\"]",
        ),
        (
            "groups = [{ parameters = [\"a[\"] }]",
            "the pattern `a[` is not a glob: unclosed character class; missing ']'; write names with \
             `*`, `?`, `[…]` and `{a,b}`, such as `*.bias`",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn a_config_file_reads_back_to_the_same_settings() -> Result<()> {
    let settings = parse(
        r#"
        optimizer = { kind = "muon", adamw_parameters = ["*embed*"] }
        groups = [{ parameters = ["*.bias", "*norm*"], weight_decay = 0.0 }]
        schedule = { kind = "wsd", decay_steps = 10, cooldown = "linear" }
        "#,
    );
    let text = settings.to_text(Format::Toml)?;
    assert_eq!(parse(&text), settings, "{text}");
    Ok(())
}

#[test]
fn a_training_config_is_refused_when_it_is_read() {
    for (text, expected) in [
        ("optimizer = { kind = \"sgd\", nesterov = true }", "Nesterov momentum of Sgd is 0"),
        ("groups = [{ parameters = [\"a[\"] }]", "the pattern `a[` is not a glob"),
        ("schedule = \"exponential\"", "the final learning rate is 0, where no factor leads"),
        (
            "steps = 10\nschedule = { kind = \"wsd\", decay_steps = 11 }",
            "decay_steps of the schedule is 11",
        ),
    ] {
        let refused = TrainConfig::parse(text, Format::Toml).expect_err(text).to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}
