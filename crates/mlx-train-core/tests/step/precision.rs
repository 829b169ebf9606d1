//! Dtypes stay what they are said to be, and small updates in bf16 are not lost.

use super::models::{Mlp, Noting, adamw, arrays, batch, eager, number};
use mlx_rs::{
    Array, Dtype,
    module::{ModuleParameters, Param},
};
use mlx_train_core::{
    Result,
    data::Batch,
    loss,
    model::{BaseModel, Loss},
    optim::Sgd,
    train::{Precision, StepOptions, TrainStep},
};

const BF16: Precision = Precision::Bf16 { stochastic_rounding: true };

#[test]
fn every_array_keeps_its_dtype() -> Result<()> {
    use Dtype::{Bfloat16, Float32};
    for (precision, parameters, state) in [
        (Precision::F32, Float32, Float32),
        (Precision::Mixed, Float32, Float32),
        (BF16, Bfloat16, Bfloat16),
        (Precision::Bf16 { stochastic_rounding: false }, Bfloat16, Bfloat16),
    ] {
        let mut model = Mlp::new(4, 8, 3, 0.3)?;
        let options = StepOptions { precision, ema_decay: Some(0.9), ..eager() };
        let mut step = TrainStep::new(&mut model, adamw()?, 0, options)?;
        for index in 0..10 {
            let output = if index % 2 == 0 {
                step.run([batch(6, index)], 0.01)?
            } else {
                step.run([batch(4, index), batch(2, index)], 0.01)?
            };
            for array in [&output.loss.value, &output.loss.weight, &output.grad_norm]
                .into_iter()
                .chain(&output.squared_grad_norms)
            {
                assert_eq!(array.dtype(), Float32);
            }
        }
        for (name, array) in arrays(&step)? {
            let expected = match name.as_str() {
                "rng.key" => Dtype::Uint32,
                "optimizer.updates" => Dtype::Int32,
                name if name.starts_with("ema.") => Float32,
                name if name.starts_with("optimizer.") => state,
                _ => parameters,
            };
            assert_eq!(array.dtype(), expected, "{name} in {precision:?}");
        }
    }
    Ok(())
}

/// One weight, which notes the dtypes that its loss saw.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Watching {
    #[param]
    weight: Param<Array>,
    trains: bool,
    seen: Vec<[Dtype; 4]>,
}

impl BaseModel for Watching {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.multiply(&*self.weight)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let outputs = self.forward(x)?;
        assert!(self.trains);
        self.seen.push([x.dtype(), self.weight.dtype(), outputs.dtype(), y.dtype()]);
        loss::mse(&outputs, y)
    }

    fn training_mode(&mut self, training: bool) {
        self.trains = training;
    }
}

#[test]
fn the_model_trains_in_the_dtype_of_the_precision() -> Result<()> {
    for (precision, compute) in [
        (Precision::F32, Dtype::Float32),
        (Precision::Mixed, Dtype::Bfloat16),
        (BF16, Dtype::Bfloat16),
    ] {
        let mut model =
            Watching { weight: Param::new(Array::from_f32(1.0)), trains: false, seen: vec![] };
        let mut step =
            TrainStep::new(&mut model, Sgd::default(), 0, StepOptions { precision, ..eager() })?;
        let x = batch(8, 0)?.x;
        let batch = || Ok(Batch::new(x.clone(), x.clone()));
        step.run([batch()], 0.1)?;
        step.run([batch(), batch()], 0.1)?;
        assert_eq!(step.model().seen, [[compute, compute, compute, Dtype::Float32]; 3]);
    }
    Ok(())
}

#[test]
fn statistics_that_the_loss_moves_are_not_rounded() -> Result<()> {
    let run = |precision| {
        let mut model = Noting::new();
        // Not a bf16: the nearest is 1.
        model.statistics.mean = Param::new(Array::from_f32(1.001));
        model.statistics.freeze_parameters(true);
        let mut step =
            TrainStep::new(&mut model, Sgd::default(), 0, StepOptions { precision, ..eager() })?;
        for _ in 0..20 {
            let x = Array::from_slice(&[2.0_f32; 8], &[8]);
            step.run([Ok(Batch::new(x.clone(), x))], 0.0)?;
        }
        arrays(&step)
    };
    // Each step adds less than 0.001, an eighth of what two neighbours in bf16 are apart.
    let expected = 2.0 - 0.999 * 0.999_f32.powi(20);
    for precision in [Precision::F32, Precision::Mixed, BF16] {
        let arrays = run(precision)?;
        let mean = &arrays["statistics.mean"];
        assert_eq!((mean.dtype(), arrays["fixed.mean"].dtype()), (Dtype::Float32, Dtype::Float32));
        assert!((number(mean) / expected - 1.0).abs() < 1e-5, "{precision:?}: {}", number(mean));
    }
    Ok(())
}

/// The loss after many small steps.
fn last_loss(precision: Precision) -> Result<f32> {
    let mut model = Mlp::new(4, 16, 3, 0.0)?;
    let mut step =
        TrainStep::new(&mut model, Sgd::default(), 0, StepOptions { precision, ..eager() })?;
    let batch = batch(48, 0)?;
    let mut loss = 0.0;
    for _ in 0..300 {
        loss = number(&step.run([Ok(batch.clone())], 0.02)?.loss.value);
    }
    Ok(loss)
}

#[test]
fn stochastic_rounding_learns_where_the_nearest_bf16_stalls() -> Result<()> {
    let f32 = last_loss(Precision::F32)?;
    let mixed = last_loss(Precision::Mixed)?;
    let stochastic = last_loss(BF16)?;
    let nearest = last_loss(Precision::Bf16 { stochastic_rounding: false })?;
    let all = format!("f32 {f32}, mixed {mixed}, stochastic {stochastic}, nearest {nearest}");
    assert!((mixed - f32).abs() < 0.02 * f32, "{all}");
    assert!((stochastic - f32).abs() < 0.05 * f32, "{all}");
    assert!(nearest > 1.2 * f32, "{all}");
    Ok(())
}
