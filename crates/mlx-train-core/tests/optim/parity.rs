//! Against Python MLX.

use super::named;
use mlx_train_core::{
    Array, Result,
    ffi::eval,
    optim::{
        Adafactor, AdamW, Cooldown, Lion, Muon, Optimizer, OptimizerState, Schedule,
        ScheduleConfig, Sgd, WeightDecay, apply,
    },
};
use parity::{assert_close, compare, run, take};
use std::collections::HashMap;

const STEPS: u64 = 20;
const NUM_PARAMETERS: usize = 7;

/// The parameters after twenty steps with the gradients that the script drew.
fn train(optimizer: &dyn Optimizer, arrays: &HashMap<String, Array>) -> Result<Vec<Array>> {
    let schedule = ScheduleConfig::Cosine.build(0.05, 0.005, 5, 20)?;
    let all = |prefix: &str| -> Vec<Array> {
        (0..NUM_PARAMETERS).map(|i| arrays[&format!("{prefix}{i}")].clone()).collect()
    };
    let mut parameters = all("p");
    let names: Vec<_> = (0..NUM_PARAMETERS).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut state = OptimizerState::new(optimizer, named(&names, &parameters))?;
    for step in 0..STEPS {
        let learning_rate = Array::from_f32(schedule.at(step) as f32);
        let count = Array::from_int(step as i32 + 1);
        let gradients = all(&format!("g{step}."));
        (parameters, state) =
            apply(optimizer, &parameters, &gradients, &state, &learning_rate, &count)?;
        eval(parameters.iter().chain(state.arrays()))?;
    }
    Ok(parameters)
}

fn optimizers() -> Result<Vec<(&'static str, Box<dyn Optimizer>)>> {
    let decay = WeightDecay::everything;
    let adamw = AdamW::default();
    let unscaled = Adafactor::default().scale_parameter(false).epsilons(1e-12, 1e-3)?;
    let momentum = Adafactor::default().momentum(0.9)?.decay_rate(-0.5)?.clip_threshold(0.3)?;
    Ok(vec![
        ("adamw", Box::new(adamw.clone().weight_decay(WeightDecay::NONE))),
        ("adamw_decay", Box::new(adamw.betas(0.9, 0.95)?.epsilon(1e-6)?.weight_decay(decay(0.1)?))),
        ("sgd", Box::new(Sgd::default())),
        ("sgd_decay", Box::new(Sgd::default().weight_decay(decay(0.1)?))),
        ("sgd_momentum", Box::new(Sgd::default().momentum(0.9)?.weight_decay(decay(0.05)?))),
        ("sgd_dampening", Box::new(Sgd::default().momentum(0.8)?.dampening(0.3)?)),
        ("sgd_nesterov", Box::new(Sgd::default().nesterov(0.8)?)),
        ("lion", Box::new(Lion::default())),
        ("lion_decay", Box::new(Lion::default().betas(0.8, 0.95)?.weight_decay(decay(0.2)?))),
        ("adafactor", Box::new(Adafactor::default())),
        ("adafactor_unscaled", Box::new(unscaled.weight_decay(decay(0.1)?))),
        ("adafactor_momentum", Box::new(momentum.weight_decay(decay(0.1)?))),
        ("adafactor_floor", Box::new(Adafactor::default().epsilons(1e-30, 2.0)?)),
        ("adafactor_relative", Box::new(Adafactor::default().relative_step(false))),
        ("adafactor_warmup", Box::new(Adafactor::default().momentum(0.5)?.relative_step(true))),
        ("muon", Box::new(Muon::default().weight_decay(decay(0.01)?))),
        (
            "muon_no_decay",
            Box::new(Muon::default().momentum(0.8, true)?.weight_decay(WeightDecay::NONE)),
        ),
        (
            "muon_plain",
            Box::new(
                Muon::default().momentum(0.95, false)?.weight_decay(decay(0.1)?).iterations(3)?,
            ),
        ),
    ])
}

#[test]
fn twenty_steps_end_where_python_mlx_ends() -> Result<()> {
    let mut arrays = run("tests/parity/optim.py", &[]);
    let mut differences = Vec::new();
    for (name, optimizer) in optimizers()? {
        for (i, parameter) in train(&*optimizer, &arrays)?.iter().enumerate() {
            let name = format!("{name}.{i}");
            let expected = take(&mut arrays, &name);
            // Of the largest element: one that nearly cancels has few digits in Python too.
            let largest = expected.abs()?.max(None)?.try_item_exact::<f32>()?;
            let tolerance = 1e-5 * f64::from(largest);
            let difference = compare(parameter, &expected, 0.0, tolerance);
            differences.extend(difference.err().map(|difference| format!("{name}: {difference}")));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn schedules_equal_python_mlx_at_every_step() -> Result<()> {
    let mut arrays = run("tests/parity/schedule.py", &[]);
    let staircase = Schedule::Step { from: 0.3, factor: 0.1, every: 3 }.after_warmup(4);
    let wsd = ScheduleConfig::Wsd { decay_steps: Some(6), cooldown: Cooldown::Linear };
    let exponential = ScheduleConfig::Exponential { factor: Some(0.8) };
    let schedules = [
        ("linear", Schedule::Linear { from: 0.3, to: 0.05, steps: 7 }),
        ("cosine", Schedule::Cosine { from: 0.2, to: 0.01, steps: 9 }),
        ("step", Schedule::Step { from: 0.3, factor: 0.5, every: 7 }),
        ("exponential", Schedule::Exponential { from: 0.3, factor: 0.9 }),
        ("warmup_cosine", ScheduleConfig::Cosine.build(0.05, 0.005, 5, 20)?),
        ("warmup_linear", ScheduleConfig::Linear.build(0.1, 0.02, 4, 12)?),
        ("warmup_constant", ScheduleConfig::Constant.build(0.1, 0.0, 3, 12)?),
        ("warmup_step", ScheduleConfig::Step { every: 5, factor: 0.5 }.build(0.4, 0.0, 3, 12)?),
        ("warmup_exponential", exponential.build(0.4, 0.0, 3, 12)?),
        ("wsd", wsd.build(0.1, 0.01, 4, 24)?),
        ("nested", Schedule::Cosine { from: 0.2, to: 0.1, steps: 6 }.until(8, staircase)),
        ("warmup_of_one", ScheduleConfig::Linear.build(0.1, 0.0, 1, 2)?),
    ];
    for (name, schedule) in schedules {
        let rates: Vec<f32> = (0..30).map(|step| schedule.at(step) as f32).collect();
        // Python computes in f32, and its cosine ends a little beside its end; one step off would be
        // wrong in the second digit.
        let rates = Array::from_slice(&rates, &[30]);
        assert_close(name, &rates, &take(&mut arrays, name), 1e-5, 1e-8);
    }
    assert!(arrays.is_empty(), "not compared: {:?}", arrays.keys());
    Ok(())
}
