//! What a policy names must be there.

use super::models::{Deep, batch, policy};
use mlx_rs::Array;
use mlx_train_core::{
    Result,
    checkpoint::{CheckpointPolicy, with_policy},
    config::{Format, ModelConfig},
    graph::Graph,
    model::BaseModel,
    train::TrainConfig,
};

fn forward(model: &mut Deep, text: &str) -> Result<Array> {
    let x = batch(2, 0)?.x;
    with_policy(&policy(text), || model.forward(&x))
}

fn refusal(text: &str) -> String {
    forward(&mut Deep::new(3).unwrap(), text).unwrap_err().to_string()
}

#[test]
fn a_part_that_never_ran_is_refused_with_those_that_did() {
    let refused = refusal("selective=[mlp,atention]");
    assert!(refused.contains("part `atention`, which never ran"), "{refused}");
    assert!(refused.contains("its parts are `mix`, `mlp`"), "{refused}");
    let refused = with_policy(&policy("selective=[mlp]"), || Ok(())).unwrap_err().to_string();
    assert!(refused.contains("marks no parts"), "{refused}");
}

#[test]
fn a_block_behind_the_last_is_refused() {
    let refused = refusal("layers=[0,3]");
    assert!(refused.contains("block 3") && refused.contains("3 blocks"), "{refused}");
    assert!(forward(&mut Deep::new(4).unwrap(), "layers=[0,3]").is_ok());
}

#[test]
fn a_policy_for_blocks_is_refused_where_no_stack_runs() {
    for text in ["full", "every=2", "layers=[0]"] {
        let refused = with_policy(&policy(text), || Ok(())).unwrap_err().to_string();
        assert!(refused.contains(text) && refused.contains("`Stack`"), "{refused}");
    }
}

#[test]
fn auto_is_refused_until_another_policy_takes_its_place() {
    let refused = refusal("auto=12 GiB");
    assert!(
        refused.contains("auto=12 GiB") && refused.contains("before the first step"),
        "{refused}"
    );
}

#[test]
fn a_stack_s_own_policy_wins_over_the_one_around_it() -> Result<()> {
    // Checkpointed operations are marked in the graph, as others are that have a gradient of their own.
    let num_marked = |own: Option<&str>, around: &str| -> Result<usize> {
        let mut model = Deep::new(4)?;
        model.blocks.set_policy(own.map(policy));
        let graph = Graph::of(&[forward(&mut model, around)?])?;
        let is_marked = |name: &str| name == "CustomTransforms";
        Ok(graph.operations().iter().filter(|operation| is_marked(&operation.name)).count())
    };
    let others = num_marked(None, "none")?;
    for (own, around, expected) in [
        (None, "full", 4),
        (None, "every=2", 2),
        (None, "every=3", 2),
        (None, "layers=[3]", 1),
        (None, "selective=[mix]", 4),
        (None, "selective=[mix,mlp]", 8),
        (Some("none"), "full", 0),
        (Some("selective=[mlp]"), "full", 4),
        (Some("layers=[1]"), "none", 1),
    ] {
        assert_eq!(num_marked(own, around)?, others + expected, "{own:?} in {around}");
    }
    Ok(())
}

#[test]
fn a_config_holds_a_policy_as_its_text() {
    let with = |text: &str| {
        TrainConfig::default().with_overrides([format!("gradient_checkpointing={text}")])
    };
    let config = with("selective=[mlp,attention]").unwrap();
    let names = ["mlp", "attention"].map(str::to_owned).to_vec();
    assert_eq!(config.gradient_checkpointing, CheckpointPolicy::Selective(names));
    assert_eq!(
        TrainConfig::parse(&config.to_text(Format::Toml).unwrap(), Format::Toml).unwrap(),
        config
    );
    let options = with("every=2").unwrap().step_options().unwrap();
    assert_eq!(options.gradient_checkpointing, CheckpointPolicy::Every(2));

    let refused = with("evry=2").unwrap_err().to_string();
    assert!(refused.contains("`gradient_checkpointing`: `evry=2` is no"), "{refused}");
    for policy in [CheckpointPolicy::Every(0), CheckpointPolicy::Layers(Vec::new())] {
        let config = TrainConfig { gradient_checkpointing: policy, ..TrainConfig::default() };
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.contains("gradient_checkpointing"), "{refused}");
    }
}
