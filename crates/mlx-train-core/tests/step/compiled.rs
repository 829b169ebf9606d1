//! Compiled steps do what eager ones do, freeze nothing, and count their traces.

use super::models::{
    Mlp, Noting, adamw, arrays, assert_same_bits, batch, compiled, eager, number, rows,
};
use mlx_train_core::{
    Array, Error, Result,
    optim::Sgd,
    train::{CompileMode, StepOptions, StepOutput, TrainError, TrainStep},
};
use parity::assert_close;
use std::collections::BTreeMap;

/// Ten steps with all that a step can do, of one micro-batch and of three in turn.
fn ten_steps(options: &StepOptions) -> Result<(BTreeMap<String, Array>, Vec<StepOutput>)> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 7, options.clone())?;
    let mut outputs = Vec::new();
    for index in 0..10 {
        let all = batch(12, index)?;
        let learning_rate = 0.01 * (1 + index) as f64;
        outputs.push(if index % 2 == 0 {
            step.run([Ok(all)], learning_rate)?
        } else {
            let parts = [rows(&all, 0..4), rows(&all, 4..8), rows(&all, 8..12)];
            step.run(parts, learning_rate)?
        });
    }
    Ok((arrays(&step)?, outputs))
}

#[test]
fn compiled_and_eager_steps_agree() -> Result<()> {
    let eager = StepOptions { compile: CompileMode::Off, ..compiled() };
    let (eager, eager_outputs) = ten_steps(&eager)?;
    let (compiled, outputs) = ten_steps(&compiled())?;
    for (name, array) in &eager {
        assert_close(name, &compiled[name], array, 2e-5, 1e-6);
    }
    for (eager, compiled) in eager_outputs.iter().zip(&outputs) {
        assert_close("loss", &compiled.loss.value, &eager.loss.value, 1e-5, 0.0);
        assert_close("weight", &compiled.loss.weight, &eager.loss.weight, 0.0, 0.0);
        assert_close("norm", &compiled.grad_norm, &eager.grad_norm, 1e-5, 0.0);
        let squares = compiled.squared_grad_norms.iter().zip(&eager.squared_grad_norms);
        for (compiled, eager) in squares {
            assert_close("squared norm", compiled, eager, 2e-4, 1e-11);
        }
    }
    // One of a whole step, one of a micro-batch, one of the update after several.
    assert_eq!(outputs.last().map(|output| output.traces), Some(3));
    assert!(eager_outputs.iter().all(|output| output.traces == 0));
    Ok(())
}

#[test]
fn nothing_is_frozen_into_a_trace() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 0, compiled())?;
    let mut losses = Vec::new();
    for _ in 0..4 {
        // At learning rate 0 the masks of dropout alone can change the loss.
        losses.push(number(&step.run([batch(8, 1)], 0.0)?.loss.value).to_bits());
    }
    losses.sort_unstable();
    losses.dedup();
    assert_eq!(losses.len(), 4, "the masks");

    let weight = |step: &TrainStep<'_, Mlp>| Ok::<_, Error>(arrays(step)?["first.weight"].clone());
    let start = weight(&step)?;
    let output = step.run([batch(8, 1)], 0.0)?;
    assert_close("learning rate 0", &weight(&step)?, &start, 0.0, 0.0);
    step.run([batch(8, 1)], 0.1)?;
    assert!(parity::compare(&weight(&step)?, &start, 0.0, 1e-4).is_err(), "learning rate 0.1");
    let other = step.run([batch(8, 2)], 0.0)?;
    assert!((number(&other.loss.value) - number(&output.loss.value)).abs() > 1e-3, "the data");
    assert_eq!(number(step.state().updates()) as i32, 7, "the updates");
    assert_eq!(other.traces, 1);
    Ok(())
}

#[test]
fn statistics_and_constants_pass_through_a_trace() -> Result<()> {
    let run = |options| {
        let mut model = Noting::new();
        let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
        for seed in 0..3 {
            let batch = batch(8, seed)?;
            let y = batch.x.multiply(Array::from_f32(2.0))?;
            let batch = mlx_train_core::data::Batch::new(batch.x, y);
            let output = step.run([Ok(batch.clone())], 0.1)?;
            assert_eq!(number(&output.loss.weight) as i32, 32);
            step.run([Ok(batch.clone()), Ok(batch)], 0.1)?;
        }
        arrays(&step)
    };
    let compiled = run(StepOptions { compile: CompileMode::On, ..eager() })?;
    let eager = run(eager())?;
    for (name, array) in &eager {
        assert_close(name, &compiled[name], array, 1e-6, 1e-7);
    }
    assert!(number(&eager["statistics.mean"]).abs() > 1e-5);
    Ok(())
}

#[test]
fn too_many_kinds_of_batches_are_an_error_that_names_the_input() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step =
        TrainStep::new(&mut model, adamw()?, 0, StepOptions { max_traces: 2, ..compiled() })?;
    step.run([batch(4, 0)], 0.1)?;
    step.run([batch(5, 0)], 0.1)?;
    let before = arrays(&step)?;
    let error = step.run([batch(6, 0)], 0.1).unwrap_err();
    let Error::Train(TrainError::TooManyTraces { limit, input, shapes }) = &error else {
        panic!("{error}");
    };
    assert_eq!((*limit, &input[..]), (2, "batch.x"));
    assert_eq!(shapes[..], ["Float32 [4, 4]", "Float32 [5, 4]", "Float32 [6, 4]"]);
    assert!(error.to_string().contains("pad sequences to a few lengths"), "{error}");
    assert_same_bits(&arrays(&step)?, &before);
    // Batches of known kinds go on.
    assert_eq!(step.run([batch(5, 1)], 0.1)?.traces, 2);
    Ok(())
}

#[test]
fn only_a_gpu_compiles_unless_told() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let options = StepOptions { compile: CompileMode::Auto, ..StepOptions::default() };
    let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
    let on_gpu = matches!(mlx_rs::Device::try_default()?.get_type()?, mlx_rs::DeviceType::Gpu);
    assert_eq!(step.run([batch(4, 0)], 0.1)?.traces, usize::from(on_gpu));
    Ok(())
}
