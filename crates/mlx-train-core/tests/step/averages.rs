//! Averaged weights: what they are, and that evaluation uses them.

use super::models::{Mlp, arrays, batch, eager, number};
use mlx_rs::{Array, Dtype};
use mlx_train_core::{
    Error, Result,
    model::BaseModel,
    optim::Sgd,
    train::{Precision, StepOptions, TrainError, TrainStep},
};
use parity::assert_close;

#[test]
fn averages_follow_their_formula() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let options = StepOptions { ema_decay: Some(0.3), ..eager() };
    let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
    let mut expected = arrays(&step)?["first.weight"].clone();
    for n in 1..=6 {
        step.run([batch(6, n)], 0.5)?;
        // (1 + n) / (10 + n) is below 0.3 for two updates.
        let decay = (f64::from(n as u32 + 1) / f64::from(n as u32 + 10)).min(0.3) as f32;
        let weight = arrays(&step)?["first.weight"].multiply(Array::from_f32(1.0 - decay))?;
        expected = expected.multiply(Array::from_f32(decay))?.add(weight)?;
        assert_close("ema", &arrays(&step)?["ema.first.weight"], &expected, 1e-5, 1e-7);
    }
    Ok(())
}

#[test]
fn evaluation_sees_the_averages_and_training_goes_on_with_the_weights() -> Result<()> {
    for precision in
        [Precision::F32, Precision::Mixed, Precision::Bf16 { stochastic_rounding: true }]
    {
        let mut model = Mlp::new(4, 8, 3, 0.0)?;
        let options = StepOptions { ema_decay: Some(0.5), precision, ..eager() };
        let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
        step.run([batch(6, 0)], 0.5)?;
        let before = arrays(&step)?;
        assert!(
            parity::compare(&before["ema.first.weight"], &before["first.weight"], 0.0, 1e-3)
                .is_err()
        );
        let compute = if precision == Precision::F32 { Dtype::Float32 } else { Dtype::Bfloat16 };
        step.with_evaluation_weights(|model| {
            let seen = model.first.weight.value.clone();
            assert_eq!(seen.dtype(), compute);
            let average = before["ema.first.weight"].as_dtype(compute)?;
            assert_close("seen", &seen, &average, 0.0, 0.0);
            Ok(())
        })?;
        let failed: Result<()> = step.with_evaluation_weights(|_| Err(Error::message("no data")));
        assert_eq!(failed.unwrap_err().to_string(), "no data");
        super::models::assert_same_bits(&arrays(&step)?, &before);
    }
    Ok(())
}

#[test]
fn a_run_ends_with_the_averages_in_the_dtypes_of_the_weights() -> Result<()> {
    for precision in [Precision::F32, Precision::Bf16 { stochastic_rounding: true }] {
        let mut model = Mlp::new(4, 8, 3, 0.0)?;
        let options = StepOptions { ema_decay: Some(0.5), precision, ..eager() };
        let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
        step.run([batch(6, 0)], 0.5)?;
        let before = arrays(&step)?;
        step.adopt_averaged_weights()?;
        let weight = &arrays(&step)?["first.weight"];
        assert_eq!(weight.dtype(), before["first.weight"].dtype());
        let average = before["ema.first.weight"].as_dtype(weight.dtype())?;
        assert_close("weight", weight, &average, 0.0, 0.0);
    }
    Ok(())
}

#[test]
fn without_averages_evaluation_sees_the_weights() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let x = batch(6, 0)?.x;
    let mut step = TrainStep::new(&mut model, Sgd::default(), 0, eager())?;
    step.run([batch(6, 0)], 0.5)?;
    assert!(step.state().averaged_weights().is_none());
    let sum = |outputs: &Array| Ok::<_, Error>(number(&outputs.sum(None)?));
    let trained = sum(&step.model().forward(&x)?)?;
    let evaluated = step.with_evaluation_weights(|model| sum(&model.forward(&x)?))?;
    assert_eq!(trained.to_bits(), evaluated.to_bits());
    Ok(())
}

#[test]
fn a_decay_that_is_none_is_refused() -> Result<()> {
    for decay in [1.0, -0.1, f64::NAN] {
        let mut model = Mlp::new(4, 8, 3, 0.0)?;
        let options = StepOptions { ema_decay: Some(decay), ..eager() };
        let error = TrainStep::new(&mut model, Sgd::default(), 0, options).unwrap_err();
        assert!(matches!(error, Error::Train(TrainError::EmaDecay { .. })), "{error}");
    }
    Ok(())
}
