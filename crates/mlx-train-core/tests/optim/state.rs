//! The state of optimizers: its names, and how it is put back.

use super::{
    floats, named,
    updates::{NAMES, gradients, optimizers, parameters},
};
use mlx_rs::Dtype;
use mlx_train_core::{
    Array, Result,
    optim::{
        Adafactor, AdamW, Group, Muon, MuonWithAdamW, Optimizer, OptimizerState, ParameterGroups,
        Sgd, apply,
    },
};

fn step(
    optimizer: &dyn Optimizer,
    values: &[Array],
    state: &OptimizerState,
    step: i32,
) -> Result<(Vec<Array>, OptimizerState)> {
    let rate = Array::from_f32(0.1 / step as f32);
    apply(optimizer, values, &gradients()?, state, &rate, &Array::from_int(step))
}

#[test]
fn a_state_that_was_saved_and_restored_by_name_goes_on_bit_for_bit() -> Result<()> {
    for optimizer in optimizers()? {
        let values = parameters();
        let fresh = OptimizerState::new(&*optimizer, named(&NAMES, &values))?;
        let (values, state) = step(&*optimizer, &values, &fresh, 1)?;
        // The order of a file is not that of the state.
        let mut saved: Vec<_> =
            state.named_arrays().map(|(name, array)| (name, array.clone())).collect();
        saved.reverse();
        let restored = fresh.restored(saved)?;
        let (expected, _) = step(&*optimizer, &values, &state, 2)?;
        let (resumed, _) = step(&*optimizer, &values, &restored, 2)?;
        for (a, b) in expected.iter().zip(&resumed) {
            assert_eq!(floats(a), floats(b), "{optimizer:?}");
        }
    }
    Ok(())
}

#[test]
fn each_parameter_has_the_names_of_its_own_optimizer() -> Result<()> {
    let names = |optimizer: &dyn Optimizer| -> Result<Vec<String>> {
        let values = parameters();
        let state = OptimizerState::new(optimizer, named(&NAMES, &values))?;
        Ok(state.named_arrays().map(|(name, _)| name).collect())
    };
    let hybrid = MuonWithAdamW::new(Muon::default(), AdamW::default());
    assert_eq!(
        names(&hybrid)?,
        ["embed.weight.m", "embed.weight.v", "layer.weight.v", "layer.bias.m", "layer.bias.v"]
    );
    assert_eq!(
        names(&Adafactor::default())?[2..],
        ["layer.weight.exp_avg_sq_row", "layer.weight.exp_avg_sq_col", "layer.bias.exp_avg_sq"]
    );
    let groups = ParameterGroups::new(Sgd::default())
        .group(Group::new(["*.bias"])?.optimizer(Sgd::default().momentum(0.9)?));
    assert_eq!(names(&groups)?, ["layer.bias.v"]);
    Ok(())
}

#[test]
fn adafactor_keeps_rows_and_columns_of_the_last_two_axes() -> Result<()> {
    let values = [Array::zeros::<f32>(&[2, 3, 4])?, Array::zeros::<f32>(&[7])?];
    let optimizer = Adafactor::default().momentum(0.5)?;
    let state = OptimizerState::new(&optimizer, named(&["a", "b"], &values))?;
    let shapes: Vec<_> =
        state.named_arrays().map(|(name, array)| (name, array.shape().to_vec())).collect();
    let expected: [(&str, &[i32]); 5] = [
        ("a.exp_avg_sq_row", &[2, 3]),
        ("a.exp_avg_sq_col", &[2, 4]),
        ("a.exp_avg", &[2, 3, 4]),
        ("b.exp_avg_sq", &[7]),
        ("b.exp_avg", &[7]),
    ];
    assert_eq!(shapes, expected.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    Ok(())
}

#[test]
fn a_saved_state_that_is_not_this_one_is_refused_by_name() -> Result<()> {
    let values = parameters();
    let state = OptimizerState::new(&AdamW::default(), named(&NAMES, &values))?;
    let saved = || -> Vec<(String, Array)> {
        state.named_arrays().map(|(name, array)| (name, array.clone())).collect()
    };
    let refused =
        |saved: Vec<(String, Array)>| state.restored(saved).expect_err("another state").to_string();
    let mut missing = saved();
    missing.remove(3);
    assert!(refused(missing).contains("has no array `layer.weight.v`"));
    let mut extra = saved();
    extra.push(("layer.scale.m".to_owned(), Array::from_f32(0.0)));
    assert!(refused(extra).contains("has an array `layer.scale.m` too many"));
    let mut reshaped = saved();
    reshaped[4].1 = Array::zeros::<f32>(&[6])?;
    let message = refused(reshaped);
    assert!(
        message.contains("`layer.bias.m` of shape [6]") && message.contains("[5]"),
        "{message}"
    );
    let mut half = saved();
    half[4].1 = half[4].1.as_dtype(Dtype::Bfloat16)?;
    assert!(refused(half).contains("Bfloat16"));
    Ok(())
}

#[test]
fn arrays_are_replaced_in_order_and_all_of_them() -> Result<()> {
    let values = parameters();
    let state = OptimizerState::new(&AdamW::default(), named(&NAMES, &values))?;
    let ones = |count| (0..count).map(|i| Array::from_f32(i as f32));
    let replaced = state.with_arrays(ones(6))?;
    let read: Vec<_> = replaced.named_arrays().map(|(name, array)| (name, floats(array))).collect();
    assert_eq!(read[3], ("layer.weight.v".to_owned(), vec![3.0]));
    for count in [5, 7] {
        let refused = state.with_arrays(ones(count)).expect_err("another number").to_string();
        assert!(refused.contains(&format!("has {count} arrays and not 6")), "{refused}");
    }
    Ok(())
}
