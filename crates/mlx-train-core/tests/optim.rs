//! Optimizers and schedules against Python MLX, and their dtypes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_rs::{Array, Dtype, transforms::eval};
use mlx_train_core::{
    Result,
    optim::{
        AdamW, Optimizer, OptimizerState, Parameter, Schedule, ScheduleConfig, Sgd, WeightDecay,
        apply,
    },
};
use parity::{assert_close, run, take};
use std::collections::HashMap;

const STEPS: u64 = 20;
const NAMES: [&str; 3] = ["a.weight", "b.weight", "c.bias"];

fn named(values: &[Array]) -> impl Iterator<Item = Parameter<'_>> {
    NAMES.iter().zip(values).map(|(name, value)| Parameter { name, value })
}

/// The parameters after twenty steps with the gradients that the script drew.
fn train(optimizer: &dyn Optimizer, arrays: &HashMap<String, Array>) -> Result<Vec<Array>> {
    let schedule = ScheduleConfig::Cosine.build(0.05, 0.005, 5, 20)?;
    let mut parameters: Vec<_> = (0..3).map(|i| arrays[&format!("p{i}")].clone()).collect();
    let mut state = OptimizerState::new(optimizer, named(&parameters))?;
    for step in 0..STEPS {
        let gradients: Vec<_> = (0..3).map(|i| arrays[&format!("g{step}.{i}")].clone()).collect();
        let learning_rate = Array::from_f32(schedule.at(step) as f32);
        let count = Array::from_int(step as i32 + 1);
        (parameters, state) =
            apply(optimizer, &parameters, &gradients, &state, &learning_rate, &count)?;
        eval(parameters.iter().chain(state.arrays()))?;
    }
    Ok(parameters)
}

#[test]
fn twenty_steps_end_where_python_mlx_ends() -> Result<()> {
    let mut arrays = run("tests/parity/optim.py", &[]);
    let adamw = AdamW::default()
        .betas(0.9, 0.95)?
        .epsilon(1e-6)?
        .weight_decay(WeightDecay::everything(0.1)?);
    let momentum = Sgd::default().momentum(0.9)?.weight_decay(WeightDecay::everything(0.05)?);
    let optimizers: [(&str, &dyn Optimizer); 4] = [
        ("adamw", &adamw),
        ("sgd", &Sgd::default()),
        ("momentum", &momentum),
        ("nesterov", &Sgd::default().nesterov(0.8)?),
    ];
    for (name, optimizer) in optimizers {
        for (i, parameter) in train(optimizer, &arrays)?.iter().enumerate() {
            let name = format!("{name}.{i}");
            assert_close(&name, parameter, &take(&mut arrays, &name), 1e-5, 1e-6);
        }
    }
    Ok(())
}

#[test]
fn schedules_equal_python_mlx_at_every_step() -> Result<()> {
    let mut arrays = run("tests/parity/optim.py", &[]);
    let schedules = [
        ("linear", Schedule::Linear { from: 0.3, to: 0.05, steps: 7 }),
        ("cosine", Schedule::Cosine { from: 0.2, to: 0.01, steps: 9 }),
        ("warmup_cosine", ScheduleConfig::Cosine.build(0.05, 0.005, 5, 20)?),
        ("warmup_linear", ScheduleConfig::Linear.build(0.1, 0.02, 4, 12)?),
        ("warmup_constant", ScheduleConfig::Constant.build(0.1, 0.0, 3, 12)?),
    ];
    for (name, schedule) in schedules {
        let rates: Vec<f32> = (0..30).map(|step| schedule.at(step) as f32).collect();
        // Python computes in f32; one step off would be wrong in the second digit.
        let rates = Array::from_slice(&rates, &[30]);
        assert_close(name, &rates, &take(&mut arrays, name), 1e-5, 1e-8);
    }
    Ok(())
}

#[test]
fn half_parameters_stay_half_and_their_state_is_f32() -> Result<()> {
    let adamw = AdamW::default();
    let momentum = Sgd::default().momentum(0.9)?.weight_decay(WeightDecay::matrices(0.1)?);
    for optimizer in [&adamw as &dyn Optimizer, &momentum] {
        for dtype in [Dtype::Bfloat16, Dtype::Float16] {
            let mut parameters = vec![Array::ones::<f32>(&[4, 4])?.as_dtype(dtype)?];
            let gradients = parameters.clone();
            let mut state = OptimizerState::new(optimizer, named(&parameters))?;
            for step in 1..=10 {
                let (rate, step) = (Array::from_f32(0.1), Array::from_int(step));
                (parameters, state) =
                    apply(optimizer, &parameters, &gradients, &state, &rate, &step)?;
            }
            assert_eq!(parameters[0].dtype(), dtype, "{optimizer:?}");
            for (name, array) in state.named_arrays() {
                assert_eq!(array.dtype(), Dtype::Float32, "{name} of {optimizer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn vectors_do_not_decay_unless_asked() -> Result<()> {
    let parameters = [Array::ones::<f32>(&[2, 2])?, Array::ones::<f32>(&[2])?];
    let gradients = [Array::zeros::<f32>(&[2, 2])?, Array::zeros::<f32>(&[2])?];
    let after = |optimizer: AdamW| -> Result<(f32, f32)> {
        let state = OptimizerState::new(&optimizer, named(&parameters))?;
        let (rate, step) = (Array::from_f32(0.1), Array::from_int(1));
        let (updated, _) = apply(&optimizer, &parameters, &gradients, &state, &rate, &step)?;
        Ok((updated[0].try_as_slice::<f32>()?[0], updated[1].try_as_slice::<f32>()?[0]))
    };
    let (matrix, vector) = after(AdamW::default().weight_decay(WeightDecay::matrices(0.5)?))?;
    assert!((matrix - 0.95).abs() < 1e-6 && vector.to_bits() == 1.0_f32.to_bits());
    let (_, vector) = after(AdamW::default().weight_decay(WeightDecay::everything(0.5)?))?;
    assert!((vector - 0.95).abs() < 1e-6);
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
        ]
    );
}
