//! Groups of parameters.

use super::{floats, named, run};
use mlx_train_core::{
    Array, Result,
    optim::{
        AdamW, Group, Muon, MuonWithAdamW, Optimizer, OptimizerState, Parameter, ParameterGroups,
        Sgd, WeightDecay,
    },
};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["embed.weight", "layers.0.weight", "layers.0.bias", "head.weight"];

fn ones() -> Vec<Array> {
    NAMES.map(|_| Array::from_slice(&[1.0_f32; 4], &[2, 2])).to_vec()
}

/// How far each parameter moves in one step of rate 0.1 with gradients of ones.
fn moves(optimizer: &dyn Optimizer) -> Result<Vec<f32>> {
    let (updated, _) = run(optimizer, &NAMES, &ones(), &ones(), &[0.1])?;
    Ok(updated.iter().map(|value| 1.0 - floats(value)[0]).collect())
}

fn assert_moves(optimizer: &dyn Optimizer, expected: [f32; 4]) -> Result<()> {
    let moves = moves(optimizer)?;
    let close = moves.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close, "{moves:?} instead of {expected:?}");
    Ok(())
}

#[test]
fn the_first_group_that_matches_a_name_has_it() -> Result<()> {
    let groups = ParameterGroups::new(Sgd::default())
        .group(Group::new(["layers.*.bias"])?.learning_rate_scale(3.0)?)
        .group(Group::new(["layers.*", "head.*"])?.learning_rate_scale(0.5)?);
    assert_moves(&groups, [0.1, 0.05, 0.3, 0.05])
}

#[test]
fn a_group_has_its_own_optimizer_and_decay() -> Result<()> {
    let decay = WeightDecay::matrices(2.0)?;
    let groups = ParameterGroups::new(Sgd::default())
        .group(Group::new(["layers.0.weight"])?.optimizer(Sgd::default().weight_decay(decay)))
        // The first step of Adam is the learning rate, whatever the gradient is.
        .group(
            Group::new(["head.*"])?
                .optimizer(AdamW::default().weight_decay(WeightDecay::NONE))
                .learning_rate_scale(0.25)?,
        );
    assert_moves(&groups, [0.1, 0.3, 0.1, 0.025])
}

#[test]
fn groups_nest_in_groups() -> Result<()> {
    let inner = ParameterGroups::new(Sgd::default()).group(
        Group::new(["layers.*"])?.learning_rate_scale(2.0)?.max_grad_norm(8.0_f64.sqrt() / 2.0)?,
    );
    let outer = ParameterGroups::new(inner)
        .group(Group::new(["*.bias"])?.learning_rate_scale(0.5)?)
        .group(Group::new(["head.*"])?.optimizer(Sgd::default()));
    // Weight and bias of the layer are clipped together, to half, though the outer groups part them.
    assert_moves(&outer, [0.1, 0.1, 0.05, 0.1])?;

    let misspelt = ParameterGroups::new(Sgd::default()).group(Group::new(["layer.*"])?.frozen());
    let outer =
        ParameterGroups::new(Sgd::default()).group(Group::new(["layers.*"])?.optimizer(misspelt));
    let refused = moves(&outer).expect_err("misspelt").to_string();
    assert!(refused.starts_with("the pattern `layer.*` matches no parameter"), "{refused}");
    Ok(())
}

#[test]
fn a_group_clips_its_gradients_together_and_no_others() -> Result<()> {
    // Two matrices of ones have the norm sqrt(8).
    let groups = ParameterGroups::new(Sgd::default())
        .group(Group::new(["layers.*"])?.max_grad_norm(0.5)?)
        .group(Group::new(["head.*"])?.max_grad_norm(100.0)?);
    let clipped = 0.1 * 0.5 / 8.0_f32.sqrt();
    assert_moves(&groups, [0.1, clipped, clipped, 0.1])
}

#[test]
fn frozen_parameters_have_no_state() -> Result<()> {
    let groups = ParameterGroups::new(AdamW::default())
        .group(Group::new(["embed.*", "*.bias"])?.frozen())
        .group(Group::new(["head.*"])?.learning_rate_scale(0.1)?);
    let values = ones();
    let state = OptimizerState::new(&groups, named(&NAMES, &values))?;
    let names: Vec<_> = state.named_arrays().map(|(name, _)| name).collect();
    assert_eq!(names, ["layers.0.weight.m", "layers.0.weight.v", "head.weight.m", "head.weight.v"]);
    Ok(())
}

#[test]
fn a_pattern_without_a_match_is_refused_by_name() -> Result<()> {
    let groups = ParameterGroups::new(AdamW::default())
        .group(Group::new(["embed.*", "layer.*.bias"])?.learning_rate_scale(0.1)?);
    let values = ones();
    let refused = OptimizerState::new(&groups, named(&NAMES, &values)).expect_err("misspelt");
    assert_eq!(
        refused.to_string(),
        "the pattern `layer.*.bias` matches no parameter; the names most like it are \
         `layers.0.bias`, `layers.0.weight`, `embed.weight`"
    );
    Ok(())
}

#[test]
fn a_group_that_gets_nothing_is_refused() -> Result<()> {
    let groups = ParameterGroups::new(AdamW::default())
        .group(Group::new(["layers.*"])?.frozen())
        .group(Group::new(["*.bias"])?.learning_rate_scale(0.1)?);
    let values = ones();
    let refused = OptimizerState::new(&groups, named(&NAMES, &values)).expect_err("hidden");
    assert!(refused.to_string().starts_with("group 2 of the parameters is empty"), "{refused}");
    Ok(())
}

#[test]
fn settings_of_a_group_out_of_range_are_refused() {
    let group = || Group::new(["*"]).unwrap();
    for refused in [group().learning_rate_scale(-1.0), group().learning_rate_scale(f64::NAN)] {
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.starts_with("learning_rate_scale of a group is"), "{refused}");
    }
    let refused = group().max_grad_norm(0.0).expect_err("refused").to_string();
    assert!(refused.starts_with("max_grad_norm of a group is 0"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However names are split into groups, parameters that no setting changes move as without groups.
    #[test]
    fn groups_that_change_nothing_change_nothing(
        owners in proptest::collection::vec(0_usize..3, 1..8),
    ) {
        let names: Vec<String> =
            owners.iter().enumerate().map(|(i, owner)| format!("g{owner}.p{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let values: Vec<_> = (1..=names.len()).map(|i| Array::from_f32(i as f32)).collect();
        let momentum = Sgd::default().momentum(0.9).unwrap();
        let mut groups = ParameterGroups::new(momentum.clone());
        for owner in [0, 1] {
            if owners.contains(&owner) {
                groups = groups.group(Group::new([format!("g{owner}.*")]).unwrap());
            }
        }
        let (expected, _) = run(&momentum, &names, &values, &values, &[0.1, 0.2]).unwrap();
        let (updated, _) = run(&groups, &names, &values, &values, &[0.1, 0.2]).unwrap();
        for (a, b) in expected.iter().zip(&updated) {
            prop_assert_eq!(floats(a), floats(b));
        }
    }
}

#[test]
fn a_hybrid_splits_by_shape_and_name_and_the_user_may_say_otherwise() -> Result<()> {
    let matrix = Array::zeros::<f32>(&[4, 4])?;
    let vector = Array::zeros::<f32>(&[4])?;
    let hidden = |optimizer: &MuonWithAdamW| {
        [
            ("model.embed_tokens.weight", &matrix),
            ("transformer.wte.weight", &matrix),
            ("lm_head.weight", &matrix),
            ("head.weight", &matrix),
            ("model.layers.0.self_attn.q_proj.weight", &matrix),
            ("model.layers.0.input_layernorm.weight", &vector),
            ("layers.3.weight", &matrix),
        ]
        .map(|(name, value)| optimizer.is_hidden_matrix(Parameter { name, value }))
    };
    let hybrid = MuonWithAdamW::new(Muon::default(), AdamW::default());
    assert_eq!(hidden(&hybrid), [false, false, false, false, true, false, true]);
    let own = hybrid.adamw_parameters(["layers.3.*", "*wte*"])?;
    assert_eq!(hidden(&own), [true, false, true, true, true, false, false]);
    Ok(())
}

#[test]
fn the_two_optimizers_of_a_hybrid_have_their_own_rates() -> Result<()> {
    let adamw = AdamW::default().weight_decay(WeightDecay::NONE);
    let muon = Muon::default().weight_decay(WeightDecay::NONE);
    let hybrid = MuonWithAdamW::new(muon.clone(), adamw).adamw_learning_rate_scale(0.2)?;
    let (alone, together) = (moves(&muon)?, moves(&hybrid)?);
    assert_eq!(together[1].to_bits(), alone[1].to_bits());
    assert!((together[0] - 0.02).abs() < 1e-6 && (together[3] - 0.02).abs() < 1e-6);
    Ok(())
}
