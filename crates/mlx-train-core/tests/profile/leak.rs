//! A model that keeps what it should not, in a run.

use mlx_rs::{Array, module::Param};
use mlx_train_core::{
    Result,
    data::InMemory,
    ffi, loss,
    model::{BaseModel, Loss},
    profile::{Growing, SuspectedLeak},
    train::{CompileMode, Event, TrainConfig, Trainer},
};

/// `w x`, which may keep an array of 256 KiB of each step.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Line {
    #[param]
    w: Param<Array>,
    leaks: bool,
    kept: Vec<Array>,
}

impl BaseModel for Line {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        if self.leaks {
            let forgotten = Array::zeros::<f32>(&[1 << 16])?;
            ffi::eval([&forgotten])?;
            self.kept.push(forgotten);
        }
        Ok(x.multiply(&self.w.value)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

fn leaks_of(leaks: bool) -> Vec<SuspectedLeak> {
    let mut model = Line { w: Param::new(Array::from_f32(0.0)), leaks, kept: Vec::new() };
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[4, 1]);
    let data = InMemory::new(x.clone(), x.multiply(Array::from_f32(3.0)).unwrap()).unwrap();
    // A compiled step would run the model once.
    let config = TrainConfig {
        steps: 200,
        batch_size: 2,
        compile: CompileMode::Off,
        ..TrainConfig::default()
    };
    let mut told = Vec::new();
    Trainer::new(&mut model, config)
        .unwrap()
        .on_event(|event| match event {
            Event::SuspectedLeak(leak) if leak.what == Growing::Arrays => told.push(*leak),
            _ => {}
        })
        .run(data)
        .unwrap();
    told
}

#[test]
fn a_model_that_keeps_arrays_is_told_with_its_rate_and_one_that_does_not_is_not() {
    assert_eq!(leaks_of(false), []);
    let told = leaks_of(true);
    let first = told.first().expect("it leaks");
    assert!(first.step < 100, "{first:?}");
    let kibibytes = first.bytes_per_step / 1024.0;
    assert!((250.0..262.0).contains(&kibibytes), "{kibibytes} KiB a step");
}
