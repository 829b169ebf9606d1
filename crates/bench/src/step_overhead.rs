//! A training step of the small GPT: the engine's against the same maths in bare MLX calls.

use crate::{
    Options,
    by_hand::ByHand,
    record::Record,
    small_gpt,
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use mlx_train::{
    Array, Error, Result,
    data::Batch,
    optim::{AdamW, Clip},
    profile::Memory,
    train::{CompileMode, StepOptions, TrainStep},
};
use serde_json::{Value, json};

const LEARNING_RATE: f32 = 1e-4;

/// How many batches take turns.
const NUM_BATCHES: i32 = 4;

/// How far the losses of both may be apart, relative: they are f32, in another order.
const TOLERANCE: f32 = 1e-3;

/// For how many steps the losses are compared: a GPU with `TensorFloat-32` takes the two apart over time.
const NUM_COMPARED: u32 = 20;

/// Measures, and prints a line for each of the two.
///
/// They take turns step by step, and the overhead is the median of the ratios of neighbouring steps:
/// what slows the machine down for longer than a step slows both.
pub fn run(options: &Options) -> Result<()> {
    let batches = small_gpt::batches(NUM_BATCHES)?;
    let mut model = small_gpt::model()?;

    let mut by_hand = ByHand::new(&model, options.compile)?;
    let step = |batch: &Batch| by_hand.step(&batch.x, &batch.y, LEARNING_RATE);
    let mut bare = Contender::warm_up("mlx by hand", &batches, step)?;

    let step_options = StepOptions {
        clip: Clip::default().global_norm(1.0)?,
        compile: if options.compile { CompileMode::On } else { CompileMode::Off },
        ..StepOptions::default()
    };
    let mut train_step = TrainStep::new(&mut model, AdamW::default(), 0, step_options)?;
    let step = |batch: &Batch| {
        let output = train_step.run([Ok(batch.clone())], f64::from(LEARNING_RATE))?;
        Ok(output.loss.value)
    };
    let mut engine = Contender::warm_up("mlx-train", &batches, step)?;

    let mut ratios = Vec::new();
    for (index, batch) in (0..options.steps).zip(batches.iter().cycle()) {
        // Each goes first as often as the other.
        let (ours, theirs) = if index % 2 == 0 {
            let ours = engine.step(batch)?;
            (ours, bare.step(batch)?)
        } else {
            let theirs = bare.step(batch)?;
            (engine.step(batch)?, theirs)
        };
        if index < NUM_COMPARED && (ours.loss / theirs.loss - 1.0).abs() > TOLERANCE {
            return Err(Error::message(format!(
                "the two steps do not compute the same: their losses are {} and {} after {index} steps",
                ours.loss, theirs.loss
            )));
        }
        ratios.push(ours.seconds / theirs.seconds - 1.0);
    }
    bare.record(options, json!({})).print()?;
    engine.record(options, json!({ "overhead": Quantiles::of(ratios) })).print()
}

/// One of the two that are compared.
struct Contender<'a> {
    framework: &'static str,
    step: Box<Step<'a>>,
    first_seconds: f64,
    peak_bytes: u64,
    seconds: Vec<f64>,
}

/// Takes a step and returns its loss `()`, evaluated.
type Step<'a> = dyn FnMut(&Batch) -> Result<Array> + 'a;

struct Measured {
    loss: f32,
    seconds: f64,
}

impl<'a> Contender<'a> {
    /// Takes the steps that are not counted. What MLX holds at their most is this one's alone.
    fn warm_up(
        framework: &'static str,
        batches: &[Batch],
        step: impl FnMut(&Batch) -> Result<Array> + 'a,
    ) -> Result<Self> {
        let (step, seconds) = (Box::new(step), Vec::new());
        let mut this = Self { framework, step, first_seconds: 0.0, peak_bytes: 0, seconds };
        let others = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        for (index, batch) in (0..NUM_WARMUPS).zip(batches.iter().cycle()) {
            let measured = this.step(batch)?;
            if index == 0 {
                this.first_seconds = measured.seconds;
            }
        }
        this.peak_bytes = Memory::now()?.peak_bytes.saturating_sub(others);
        this.seconds.clear();
        Ok(this)
    }

    fn step(&mut self, batch: &Batch) -> Result<Measured> {
        let (loss, seconds) = timed(|| (self.step)(batch));
        let loss = loss?.try_item_exact::<f32>()?;
        self.seconds.push(seconds);
        Ok(Measured { loss, seconds })
    }

    fn record(self, options: &Options, further: Value) -> Record {
        let seconds = Quantiles::of(self.seconds);
        Record {
            benchmark: "step-overhead",
            framework: self.framework,
            model: "small-gpt",
            shapes: small_gpt::shapes(),
            dtype: "float32",
            compiled: options.compile,
            tokens_per_second: Some(f64::from(small_gpt::TOKENS) / seconds.median),
            seconds,
            first_seconds: self.first_seconds,
            peak_bytes: self.peak_bytes,
            further,
        }
    }
}
