//! What every optimizer does, whatever its formula.

use super::{floats, named, run};
use mlx_rs::Dtype;
use mlx_train_core::{
    Array, Result,
    optim::{
        Adafactor, AdamW, Group, Lion, Muon, MuonWithAdamW, Optimizer, OptimizerState,
        ParameterGroups, Sgd, StateFormat, WeightDecay, apply, apply_where,
    },
};

/// Each optimizer with all the state that it can have, and decay of everything.
pub(super) fn optimizers() -> Result<Vec<Box<dyn Optimizer>>> {
    let decay = WeightDecay::everything(0.1)?;
    let adamw = AdamW::default().weight_decay(decay);
    let muon = Muon::default().weight_decay(decay);
    Ok(vec![
        Box::new(adamw.clone()),
        Box::new(Sgd::default()),
        Box::new(Sgd::default().momentum(0.9)?.weight_decay(decay)),
        Box::new(Lion::default().weight_decay(decay)),
        Box::new(Adafactor::default().weight_decay(decay)),
        Box::new(Adafactor::default().momentum(0.9)?.weight_decay(decay)),
        Box::new(muon.clone()),
        Box::new(MuonWithAdamW::new(muon.decoupled_decay(true), adamw)),
    ])
}

pub(super) const NAMES: [&str; 3] = ["embed.weight", "layer.weight", "layer.bias"];

pub(super) fn parameters() -> Vec<Array> {
    let values = |count: i32| (0..count).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    [&[4, 6][..], &[6, 4], &[5]]
        .map(|shape| Array::from_slice(&values(shape.iter().product()), shape))
        .to_vec()
}

pub(super) fn gradients() -> Result<Vec<Array>> {
    parameters().iter().map(|value| Ok(value.add(Array::from_f32(0.3))?)).collect()
}

#[test]
fn half_parameters_stay_half_and_their_state_is_f32() -> Result<()> {
    let half = |arrays: Vec<Array>, dtype| -> Result<Vec<Array>> {
        arrays.iter().map(|array| Ok(array.as_dtype(dtype)?)).collect()
    };
    for optimizer in optimizers()? {
        for dtype in [Dtype::Bfloat16, Dtype::Float16] {
            let (values, gradients) = (half(parameters(), dtype)?, half(gradients()?, dtype)?);
            let (updated, state) = run(&*optimizer, &NAMES, &values, &gradients, &[0.1; 3])?;
            for (before, after) in values.iter().zip(&updated) {
                assert_eq!((after.dtype(), after.shape()), (dtype, before.shape()));
                assert_ne!(floats(after), floats(before), "{optimizer:?}");
            }
            for (name, array) in state.named_arrays() {
                assert_eq!(array.dtype(), Dtype::Float32, "{name} of {optimizer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_bf16_gradient_of_an_f32_parameter_is_widened_first() -> Result<()> {
    for optimizer in optimizers()? {
        let rounded: Vec<_> =
            gradients()?.iter().map(|g| g.as_dtype(Dtype::Bfloat16)).collect::<Result<_, _>>()?;
        let widened: Vec<_> =
            rounded.iter().map(|g| g.as_dtype(Dtype::Float32)).collect::<Result<_, _>>()?;
        let (from_bf16, _) = run(&*optimizer, &NAMES, &parameters(), &rounded, &[0.1; 3])?;
        let (from_f32, _) = run(&*optimizer, &NAMES, &parameters(), &widened, &[0.1; 3])?;
        for (a, b) in from_bf16.iter().zip(&from_f32) {
            assert_eq!(floats(a), floats(b), "{optimizer:?}");
        }
    }
    Ok(())
}

#[test]
fn an_update_that_does_not_count_leaves_every_bit_and_one_that_does_is_the_plain_one() -> Result<()>
{
    let mut all = optimizers()?;
    let nesterov = Sgd::default().nesterov(0.9)?;
    let group = Group::new(["layer.*"])?.optimizer(nesterov).max_grad_norm(0.5)?;
    all.push(Box::new(ParameterGroups::new(optimizers()?.remove(0)).group(group)));
    for format in [StateFormat::Bf16, StateFormat::Int8] {
        all.push(Box::new(AdamW::default().state(format)));
        all.push(Box::new(Lion::default().state(format)));
    }
    for optimizer in all {
        let mut values = parameters();
        let mut state = OptimizerState::new(&*optimizer, named(&NAMES, &values))?;
        let rate = Array::from_f32(0.1);
        let bad: Vec<_> = gradients()?
            .iter()
            .map(|g| g.multiply(Array::from_f32(f32::NAN)))
            .collect::<Result<_, _>>()?;
        // At first, when moments are zeros, and later.
        for number in 1..4 {
            let number = Array::from_f32(number as f32);
            let update = |counts: bool, gradients: &[Array]| {
                let counts = Array::from_bool(counts);
                apply_where(&counts, &*optimizer, &values, gradients, &state, &rate, &number)
            };
            let (kept, kept_state) = update(false, &bad)?;
            let before = values.iter().chain(state.arrays());
            for (now, before) in kept.iter().chain(kept_state.arrays()).zip(before) {
                assert_eq!(floats(now), floats(before), "{optimizer:?}");
            }
            let (counted, counted_state) = update(true, &gradients()?)?;
            (values, state) = apply(&*optimizer, &values, &gradients()?, &state, &rate, &number)?;
            let plain = values.iter().chain(state.arrays());
            for (now, plain) in counted.iter().chain(counted_state.arrays()).zip(plain) {
                assert_eq!(floats(now), floats(plain), "{optimizer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn at_a_learning_rate_of_zero_nothing_moves() -> Result<()> {
    for optimizer in optimizers()? {
        let values = parameters();
        let (updated, _) = run(&*optimizer, &NAMES, &values, &gradients()?, &[0.0; 2])?;
        for (before, after) in values.iter().zip(&updated) {
            assert_eq!(floats(before), floats(after), "{optimizer:?}");
        }
    }
    Ok(())
}

#[test]
fn vectors_do_not_decay_unless_asked() -> Result<()> {
    let values = [Array::ones::<f32>(&[2, 2])?, Array::ones::<f32>(&[2])?];
    let zeros = [Array::zeros::<f32>(&[2, 2])?, Array::zeros::<f32>(&[2])?];
    let (some, all) = (WeightDecay::matrices(0.5)?, WeightDecay::everything(0.5)?);
    let decayed = |optimizer: &dyn Optimizer| -> Result<[bool; 2]> {
        let (updated, _) = run(optimizer, &["weight", "bias"], &values, &zeros, &[0.1])?;
        Ok([0, 1].map(|i| floats(&updated[i])[0] < 1.0))
    };
    let optimizers: [fn(WeightDecay) -> Box<dyn Optimizer>; 5] = [
        |decay| Box::new(AdamW::default().weight_decay(decay)),
        |decay| Box::new(Sgd::default().weight_decay(decay)),
        |decay| Box::new(Lion::default().weight_decay(decay)),
        |decay| Box::new(Adafactor::default().weight_decay(decay)),
        |decay| Box::new(Muon::default().weight_decay(decay)),
    ];
    for optimizer in optimizers {
        assert_eq!(decayed(&*optimizer(WeightDecay::NONE))?, [false, false]);
        assert_eq!(decayed(&*optimizer(some))?, [true, false], "{:?}", optimizer(some));
        assert_eq!(decayed(&*optimizer(all))?, [true, true], "{:?}", optimizer(all));
    }
    Ok(())
}

#[test]
fn decoupled_decay_removes_rate_times_decay_of_a_weight() -> Result<()> {
    let (weight, zero) = (Array::ones::<f32>(&[2, 2])?, Array::zeros::<f32>(&[2, 2])?);
    let decay = WeightDecay::matrices(0.5)?;
    let muon = Muon::default().weight_decay(decay);
    let optimizers: [Box<dyn Optimizer>; 3] = [
        Box::new(AdamW::default().weight_decay(decay)),
        Box::new(Lion::default().weight_decay(decay)),
        Box::new(muon.decoupled_decay(true)),
    ];
    for optimizer in optimizers {
        let (updated, _) = run(
            &*optimizer,
            &["w"],
            std::slice::from_ref(&weight),
            std::slice::from_ref(&zero),
            &[0.1],
        )?;
        let left = floats(&updated[0])[0];
        assert!((left - 0.95).abs() < 1e-6, "{left} with {optimizer:?}");
    }
    Ok(())
}

#[test]
fn settings_out_of_range_are_refused_with_their_value() {
    let refusals = [
        AdamW::default().betas(1.0, 0.9).expect_err("beta1"),
        AdamW::default().betas(0.9, f64::NAN).expect_err("beta2"),
        AdamW::default().epsilon(1e-60).expect_err("epsilon"),
        WeightDecay::matrices(-1.0).expect_err("decay"),
        Sgd::default().momentum(1.5).expect_err("momentum"),
        Sgd::default().nesterov(0.0).expect_err("nesterov"),
        Sgd::default().dampening(0.5).unwrap().nesterov(0.9).expect_err("both"),
        Sgd::default().nesterov(0.9).unwrap().dampening(0.5).expect_err("both"),
        Lion::default().betas(0.9, 1.0).expect_err("beta2"),
        Adafactor::default().decay_rate(0.5).expect_err("decay rate"),
        Adafactor::default().clip_threshold(0.0).expect_err("threshold"),
        Muon::default().iterations(0).expect_err("iterations"),
    ];
    let refusals: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    assert_eq!(
        refusals,
        [
            "beta1 of AdamW is 1; it has to be at least 0 and below 1",
            "beta2 of AdamW is NaN; it has to be at least 0 and below 1",
            "epsilon of AdamW is 0.000000000000000000000000000000000000000000000000000000000001; \
             it has to be positive and finite in f32",
            "the weight decay is -1; it has to be finite and at least 0",
            "momentum of Sgd is 1.5; it has to be at least 0 and below 1",
            "Nesterov momentum of Sgd is 0; it has to be above 0 and below 1",
            "Nesterov's variant of Sgd has no dampening, and it is 0.5; set one of the two",
            "Nesterov's variant of Sgd has no dampening, and it is 0.5; set one of the two",
            "beta2 of Lion is 1; it has to be at least 0 and below 1",
            "decay_rate of Adafactor is 0.5; it has to be at least -1 and below 0",
            "clip_threshold of Adafactor is 0; it has to be positive and finite in f32",
            "the number of iterations of Muon is 0; it has to be 1 to 100",
        ]
    );
}
