//! A step holds its weights and its state once.

use super::models::{adamw, clip, eager};
use mlx_rs::{Array, builder::Builder, module::Module, ops::tanh};
use mlx_train_core::{
    Result,
    data::Batch,
    loss,
    model::{BaseModel, Loss},
    nn::{Linear, LinearBuilder},
    profile::Memory,
    train::{StepOptions, TrainStep},
};

/// Sixteen square layers: 16 MiB of weights.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Deep {
    #[param]
    layers: Vec<Linear>,
}

impl Deep {
    fn new() -> Result<Self> {
        let layer = |_| Ok(LinearBuilder::new(512, 512).bias(false).build()?);
        Ok(Self { layers: (0..16).map(layer).collect::<Result<_>>()? })
    }
}

impl BaseModel for Deep {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = x.mean_axis(0, true)?; // (1, 512)
        self.layers.iter_mut().try_fold(x, |x, layer| Ok(tanh(layer.forward(&x)?)?))
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// Features `(rows, 512)` and targets `(1, 512)`.
fn batch(rows: i32) -> Result<Batch> {
    let (x, y) = (Array::ones::<f32>(&[rows, 512])?, Array::zeros::<f32>(&[1, 512])?);
    mlx_rs::transforms::eval([&x, &y])?;
    Ok(Batch::new(x, y))
}

/// The peak of the third step of `num` micro-batches of `rows`, and what was held before it, in bytes.
fn peak(num: usize, rows: i32, options: &StepOptions) -> Result<(u64, u64)> {
    let mut model = Deep::new()?;
    let mut step = TrainStep::new(&mut model, adamw()?, 0, options.clone())?;
    let mut measured = (0, 0);
    for _ in 0..3 {
        let held = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        step.run((0..num).map(|_| batch(rows)), 0.01)?;
        measured = (Memory::now()?.peak_bytes, held);
    }
    Ok(measured)
}

#[test]
fn a_step_does_not_hold_two_copies_and_micro_batches_cost_nothing() -> Result<()> {
    // Memory is counted for the whole process, so this runs in a process of its own.
    if std::env::var_os("MEMORY_ALONE").is_none() {
        let name = "memory::a_step_does_not_hold_two_copies_and_micro_batches_cost_nothing";
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            // Threads of OpenBLAS that wait for a busy core would take a minute.
            .envs([("MEMORY_ALONE", "1"), ("OPENBLAS_NUM_THREADS", "1")])
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    // Weights and two moments are three copies of the weights; the gradients are a fourth, and their squares,
    // for the norm, a fifth: 1.67. Measured 1.71; in another order of evaluation it was 2.02.
    let options = StepOptions { clip: clip(1.0)?, ..eager() };
    let (one, held) = peak(1, 2, &options)?;
    assert!(one * 10 < held * 19, "peak {one} over {held}");
    // The averaged weights are a copy more: measured 1.58.
    let (averaged, held) = peak(1, 2, &StepOptions { ema_decay: Some(0.9), ..options.clone() })?;
    assert!(averaged * 10 < held * 18, "peak {averaged} over {held}");

    // The mean of the gradients is a copy more again, for any number of micro-batches: measured 2.00.
    let (two, held) = peak(2, 2, &options)?;
    assert!(two * 10 < held * 23, "peak {two} over {held}");
    // Ahead of the device, a step holds no more than that: measured the same.
    let mut model = Deep::new()?;
    let mut step = TrainStep::new(&mut model, adamw()?, 0, options.clone())?;
    // Made before, or to make it would be to wait.
    let batch_of_two = batch(2)?;
    Memory::reset_peak()?;
    for _ in 0..4 {
        drop(step.run_ahead([Ok(batch_of_two.clone())], 0.01)?);
    }
    let ahead = Memory::now()?.peak_bytes;
    drop(step);
    assert!(ahead * 10 < one * 11, "peak {ahead} ahead, {one} with a wait");

    // The inputs of each are a sixth of weights and moments.
    let ((two, _), (sixteen, _)) = (peak(2, 4096, &options)?, peak(16, 4096, &options)?);
    assert!(sixteen * 10 < two * 11, "peak {two} with 2 micro-batches, {sixteen} with 16");
    Ok(())
}
