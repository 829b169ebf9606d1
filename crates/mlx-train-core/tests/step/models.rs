//! Small models, their data, and what tests ask of them.

use mlx_rs::{
    Array,
    module::{ModuleParameters, Param},
    ops::{select, tanh},
    random::normal,
};
use mlx_train_core::{
    Error, Result,
    data::Batch,
    loss::{self, CrossEntropy},
    model::{BaseModel, Loss},
    nn::{Dropout, Linear},
    optim::{AdamW, Clip},
    rng,
    train::{CompileMode, StepOptions, TrainStep},
};
use std::collections::BTreeMap;

/// The label of a target that does not count.
pub const IGNORED: i32 = -100;

/// Two linear layers with dropout between them: a classifier whose targets may be masked.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Mlp {
    #[param]
    pub first: Linear,
    #[param]
    pub second: Linear,
    pub dropout: Dropout,
    pub fails: Option<Failure>,
}

/// How a model fails.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    Error,
    Panic,
}

impl Mlp {
    pub fn new(inputs: i32, hidden: i32, outputs: i32, dropout: f32) -> Result<Self> {
        rng::scope(&rng::key(3)?, || {
            Ok(Self {
                first: Linear::new(inputs, hidden)?,
                second: Linear::new(hidden, outputs)?,
                dropout: Dropout::new(dropout)?,
                fails: None,
            })
        })
    }
}

impl BaseModel for Mlp {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        use mlx_rs::module::Module;
        let hidden = self.dropout.forward(&tanh(self.first.forward(x)?)?)?;
        Ok(self.second.forward(&hidden)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let outputs = self.forward(x)?;
        match self.fails {
            None => {}
            Some(Failure::Error) => {
                return Err(Error::message("the model does not like this batch"));
            }
            Some(Failure::Panic) => panic!("in the model"),
        }
        let options = CrossEntropy { ignore_index: Some(IGNORED), ..Default::default() };
        loss::cross_entropy(&outputs, y, &options)
    }
}

/// `scale * x`, which notes the running mean of its inputs in a parameter that is not trained; the loss has a
/// constant weight.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Noting {
    #[param]
    pub scale: Param<Array>,
    #[param]
    pub statistics: Statistics,
    #[param]
    pub fixed: Statistics,
}

/// A number that is not trained.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Statistics {
    #[param]
    pub mean: Param<Array>,
}

impl Noting {
    pub fn new() -> Self {
        let number = |value| Param::new(Array::from_f32(value));
        let mut model = Self {
            scale: number(1.0),
            statistics: Statistics { mean: number(0.0) },
            fixed: Statistics { mean: number(1.5) },
        };
        model.statistics.freeze_parameters(true);
        model.fixed.freeze_parameters(true);
        model
    }
}

impl BaseModel for Noting {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.multiply(&*self.scale)?.multiply(&*self.fixed.mean)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let mean = &self.statistics.mean;
        let change = x.mean(None)?.subtract(&**mean)?.multiply(Array::from_f32(0.001))?;
        self.statistics.mean = Param::new(mean.add(change)?);
        self.statistics.freeze_parameters(true);
        loss::mse(&self.forward(x)?, y)
    }
}

/// `rows` rows of features `(rows, 4)` and classes 0 to 2; every third target does not count.
pub fn batch(rows: i32, seed: u64) -> Result<Batch> {
    let x = normal::<f32>(&[rows, 4], None, None, &rng::key(seed)?)?;
    let weights = normal::<f32>(&[4, 3], None, None, &rng::key(99)?)?;
    let classes = mlx_rs::ops::indexing::argmax_axis(x.matmul(&weights)?, 1, None)?;
    let classes = classes.as_dtype(mlx_rs::Dtype::Int32)?;
    let counts = Array::from_iter((0..rows).map(|row| row % 3 != 0), &[rows]);
    let y = select(counts, classes, Array::from_int(IGNORED))?;
    mlx_rs::transforms::eval([&x, &y])?;
    Ok(Batch::new(x, y))
}

/// The rows of a batch in this range.
pub fn rows(batch: &Batch, range: std::ops::Range<i32>) -> Result<Batch> {
    use mlx_rs::ops::indexing::TryIndexOp;
    Ok(Batch::new(batch.x.try_index(range.clone())?, batch.y.try_index(range)?))
}

/// AdamW whose updates show all that it does: decay of everything, moments that forget quickly.
pub fn adamw() -> Result<AdamW> {
    use mlx_train_core::optim::WeightDecay;
    Ok(AdamW::default().betas(0.9, 0.99)?.weight_decay(WeightDecay::everything(0.1)?))
}

/// Options without compilation.
pub fn eager() -> StepOptions {
    StepOptions { compile: CompileMode::Off, ..StepOptions::default() }
}

/// Options with compilation, also on a CPU, and with all that a step can do. They are the same wherever a test
/// compiles, and so is the optimizer: on a CPU each new kernel is half a second of g++.
pub fn compiled() -> StepOptions {
    let clip = Clip::default().global_norm(0.5).unwrap();
    let compile = CompileMode::On;
    StepOptions { compile, clip, ema_decay: Some(0.9), ..StepOptions::default() }
}

pub fn clip(max_norm: f64) -> Result<Clip> {
    Clip::default().global_norm(max_norm)
}

/// Every array of a run by name.
pub fn arrays<M: BaseModel + ?Sized>(step: &TrainStep<'_, M>) -> Result<BTreeMap<String, Array>> {
    let state = step.snapshot()?;
    Ok(state.weights.into_iter().chain(state.training).collect())
}

/// The bits of an array of any dtype.
pub fn bits(array: &Array) -> Vec<u8> {
    let flat = array.reshape(&[-1]).unwrap().contiguous().unwrap();
    let bytes = flat.view_dtype(mlx_rs::Dtype::Uint8).unwrap();
    bytes.try_as_slice::<u8>().unwrap().to_vec()
}

pub fn number(scalar: &Array) -> f32 {
    scalar.as_dtype(mlx_rs::Dtype::Float32).unwrap().try_item_exact::<f32>().unwrap()
}

/// Asserts that two runs carry the same bits under the same names.
#[track_caller]
pub fn assert_same_bits(a: &BTreeMap<String, Array>, b: &BTreeMap<String, Array>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, array) in a {
        assert_eq!(array.dtype(), b[name].dtype(), "{name}");
        assert_eq!(bits(array), bits(&b[name]), "{name}");
    }
}
