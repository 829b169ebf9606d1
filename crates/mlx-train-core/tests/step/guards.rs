//! Numbers that are not finite, models that fail: nothing is lost.

use super::models::{
    Failure, Mlp, Noting, adamw, arrays, assert_same_bits, batch, compiled, eager, number,
};
use mlx_rs::module::Param;
use mlx_train_core::{
    Array, Result,
    data::Batch,
    optim::Sgd,
    train::{CompileMode, Precision, StepOptions, TrainStep},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A batch whose second feature is NaN.
fn poisoned(rows: i32) -> Result<Batch> {
    let batch = batch(rows, 1)?;
    let poison = Array::from_slice(&[1.0, f32::NAN, 1.0, 1.0], &[4]);
    Ok(Batch::new(batch.x.multiply(&poison)?, batch.y))
}

fn options() -> [StepOptions; 4] {
    let averaged = |precision| StepOptions { precision, ema_decay: Some(0.9), ..eager() };
    [
        averaged(Precision::F32),
        averaged(Precision::Mixed),
        averaged(Precision::Bf16 { stochastic_rounding: true }),
        compiled(),
    ]
}

#[test]
fn a_step_that_is_not_finite_moves_nothing_but_key_and_count() -> Result<()> {
    for options in options() {
        let mut model = Mlp::new(4, 8, 3, 0.3)?;
        let mut step = TrainStep::new(&mut model, adamw()?, 0, options)?;
        for poison in [vec![poisoned(6)?], vec![batch(6, 4)?, poisoned(6)?]] {
            assert!(step.run([batch(6, 2)], 0.1)?.is_finite()?);
            let mut before = arrays(&step)?;
            let output = step.run(poison.into_iter().map(Ok), 0.1)?;
            assert!(!output.is_finite()? && number(&output.loss.value).is_nan());
            let mut after = arrays(&step)?;
            let keys = (before.remove("rng.key"), after.remove("rng.key"));
            assert_ne!(
                super::models::bits(&keys.0.unwrap()),
                super::models::bits(&keys.1.unwrap())
            );
            assert_same_bits(&after, &before);
        }
        // It goes on as if nothing had been.
        step.run([batch(6, 2)], 0.1)?;
        assert_eq!((step.state().step(), number(step.state().updates()) as i32), (5, 3));
    }
    Ok(())
}

#[test]
fn statistics_do_not_take_in_what_is_not_finite() -> Result<()> {
    for compile in [CompileMode::Off, CompileMode::On] {
        let options = StepOptions { compile, ..eager() };
        let mut model = Noting::new();
        let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
        let good = Batch::new(batch(8, 0)?.x, batch(8, 1)?.x);
        let bad = Batch::new(poisoned(8)?.x, good.y.clone());
        step.run([Ok(good.clone())], 0.1)?;
        let before = number(&arrays(&step)?["statistics.mean"]);
        step.run([Ok(bad.clone())], 0.1)?;
        step.run([Ok(good), Ok(bad)], 0.1)?;
        assert_eq!(number(&arrays(&step)?["statistics.mean"]).to_bits(), before.to_bits());
    }
    Ok(())
}

#[test]
fn the_first_layer_whose_gradient_is_not_finite_is_named() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let mut step = TrainStep::new(&mut model, Sgd::default(), 0, eager())?;
    let gradients = step.run([poisoned(6)], 0.1)?.not_finite_gradients()?;
    assert_eq!(
        (gradients.parameter.as_deref(), gradients.layer()),
        (Some("first.bias"), Some("first"))
    );
    assert_eq!(
        gradients.to_string(),
        "the first gradient that is not finite is that of `first.bias`; 4 of 4 are not"
    );
    // Inputs so large, and weights so small, that one gradient alone has no norm in f32.
    let small = step.model().first.weight.multiply(Array::from_f32(1e-25))?;
    step.model().first.weight = Param::new(small);
    let batch = batch(6, 0)?;
    let huge = Batch::new(batch.x.multiply(Array::from_f32(1e25))?, batch.y);
    let output = step.run([Ok(huge)], 0.1)?;
    assert!(!output.is_finite()? && number(&output.loss.value).is_finite());
    let gradients = output.not_finite_gradients()?;
    assert_eq!((gradients.parameter.as_deref(), gradients.num_affected), (Some("first.weight"), 1));
    // And nothing is said of gradients that are finite.
    let text = step.run([super::models::batch(6, 0)], 0.1)?.not_finite_gradients()?.to_string();
    assert_eq!(text, "the gradient of each parameter is finite by itself");
    Ok(())
}

#[test]
fn without_the_guard_the_update_is_made() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let options = StepOptions { skip_non_finite: false, ..eager() };
    let mut step = TrainStep::new(&mut model, Sgd::default(), 0, options)?;
    step.run([poisoned(6)], 0.1)?;
    assert!(arrays(&step)?["first.weight"].is_nan()?.any(None)?.try_item_exact::<bool>()?);
    Ok(())
}

#[test]
fn a_model_that_fails_or_panics_in_a_step_is_as_before() -> Result<()> {
    for options in [eager(), compiled()] {
        let mut model = Mlp::new(4, 8, 3, 0.3)?;
        let mut step = TrainStep::new(&mut model, adamw()?, 0, options)?;
        // Of a size that no trace exists for, so that a compiled step runs the model.
        let parts = || [batch(7, 0), batch(7, 1)];
        let before = arrays(&step)?;
        step.model().fails = Some(Failure::Error);
        for count in [1, 2] {
            let error = step.run(parts().into_iter().take(count), 0.1).unwrap_err();
            assert_eq!(error.to_string(), "the model does not like this batch");
        }
        step.model().fails = Some(Failure::Panic);
        for count in [1, 2] {
            let run = || step.run(parts().into_iter().take(count), 0.1).map(|_| ());
            let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the model"));
        }
        step.model().fails = None;
        assert_same_bits(&arrays(&step)?, &before);
        assert_eq!(step.state().step(), 0);
        step.run(parts(), 0.1)?;
    }
    Ok(())
}
