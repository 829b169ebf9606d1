//! What the engine costs: a step in the loop of a [`Trainer`] against the same maths in a loop by hand.
//!
//! The two take turns step by step, the one by hand whenever the other has reported a step. What the engine does
//! between two reports counts: waiting for data, the step, its checks, numbers and report. An overhead is the
//! engine's time over the mean of its neighbours' times by hand, minus one; that of a run is the median.

use crate::{
    Options,
    by_hand::ByHand,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, timed},
    training::Work,
};
use mlx_train::{
    Error, Result,
    data::{Batch, DataLoader, InMemory, LoaderOptions, Order},
    mlx_rs::ops::concatenate,
    optim::{AdamW, ScheduleConfig},
    profile::Memory,
    run::Environment,
    train::{CompileMode, Event, TrainConfig, Trainer},
};
use serde_json::{Value, json};
use std::time::Instant;

const LEARNING_RATE: f32 = 1e-4;

/// How far the losses of both may be apart, relative: sums over parameters may be in another order, after which bf16 rounds.
fn tolerance(work: Work) -> f64 {
    if work.dtype() == "float32" { 1e-4 } else { 1e-3 }
}

/// For how many steps the losses are compared: a GPU with `TensorFloat-32` takes the two apart over time.
const NUM_COMPARED: usize = 20;

/// Measures, and prints a line for each of the two, of each work.
pub fn run(options: &Options, works: &[Work]) -> Result<()> {
    let works = match works {
        [] if Environment::here().backend == "CPU" => &[Work::GptS, Work::MlpS],
        [] => &[Work::GptS, Work::MlpS, Work::Gpt2Small][..],
        works => works,
    };
    works.iter().try_for_each(|&work| compare(work, options))
}

fn compare(work: Work, options: &Options) -> Result<()> {
    let batches = work.sizes().batches()?;
    let loader = loader_of(&batches)?;
    let config = TrainConfig {
        steps: u64::from(NUM_WARMUPS + options.steps),
        learning_rate: f64::from(LEARNING_RATE),
        schedule: ScheduleConfig::Constant,
        max_grad_norm: work.max_grad_norm(),
        precision: work.precision(),
        compile: if options.compile { CompileMode::On } else { CompileMode::Off },
        // More than a loop does by default, which reports each tenth step and lets the device run ahead to the others.
        log_every: 1,
        ..TrainConfig::default()
    };
    let mut turns = Turns::new(work, options.compile, &batches)?;
    let mut failure = None;
    let mut model = work.model()?;
    Trainer::new(&mut model, config)?
        .optimizer(AdamW::default())
        .on_event(|event| {
            if let (Event::Step(report), None) = (event, &failure) {
                failure = turns.take(report.loss).err();
            }
        })
        .run_loader(loader)?;
    failure.map_or(Ok(()), Err)?;
    turns.records(work, options).iter().try_for_each(Record::print)
}

/// The rows of the batches one after the other, for ever.
fn loader_of(batches: &[Batch]) -> Result<DataLoader> {
    let [x, y] = [|batch: &Batch| batch.x.clone(), |batch: &Batch| batch.y.clone()]
        .map(|part| concatenate(&batches.iter().map(part).collect::<Vec<_>>(), 0));
    let batch_size = batches.first().map_or(0, |batch| batch.x.dim(0)) as usize;
    let options =
        LoaderOptions { batch_size, order: Order::Sequential, ..LoaderOptions::default() };
    DataLoader::new(InMemory::new(x?, y?)?, options)
}

/// The steps by hand between those of the engine, and the time of both.
struct Turns<'a> {
    by_hand: ByHand,
    tolerance: f64,
    batches: &'a [Batch],
    /// What MLX holds for others than the engine, and for others than the loop by hand.
    before: [u64; 2],
    /// When the engine went on.
    began: Instant,
    engine: Measured,
    bare: Measured,
}

#[derive(Default)]
struct Measured {
    seconds: Vec<f64>,
    peak_bytes: u64,
}

impl<'a> Turns<'a> {
    fn new(work: Work, compile: bool, batches: &'a [Batch]) -> Result<Self> {
        let before = Memory::now()?.active_bytes;
        let by_hand = ByHand::new(work.model()?, &work.step_options(compile)?)?;
        let before = [Memory::now()?.active_bytes, before];
        Memory::reset_peak()?;
        let (engine, bare) = (Measured::default(), Measured::default());
        let (tolerance, began) = (tolerance(work), Instant::now());
        Ok(Self { by_hand, tolerance, batches, before, began, engine, bare })
    }

    /// Notes the engine's step, whose loss is given, and takes the same by hand.
    fn take(&mut self, loss: f64) -> Result<()> {
        self.engine.seconds.push(self.began.elapsed().as_secs_f64());
        let [others_of_engine, others_of_bare] = self.before;
        let memory = Memory::now()?;
        let peak_bytes = memory.peak_bytes.saturating_sub(others_of_engine);
        self.engine.peak_bytes = self.engine.peak_bytes.max(peak_bytes);
        // All that the engine keeps from step to step.
        let others_of_bare = others_of_bare + memory.active_bytes.saturating_sub(others_of_engine);
        Memory::reset_peak()?;

        let index = self.bare.seconds.len();
        let batch = &self.batches[index % self.batches.len()];
        let (by_hand, seconds) = timed(|| {
            let loss = self.by_hand.step(batch, LEARNING_RATE)?;
            Ok::<_, Error>(f64::from(loss.try_item_exact::<f32>()?))
        });
        let by_hand = by_hand?;
        self.bare.seconds.push(seconds);
        let peak_bytes = Memory::now()?.peak_bytes.saturating_sub(others_of_bare);
        self.bare.peak_bytes = self.bare.peak_bytes.max(peak_bytes);
        if index < NUM_COMPARED && (by_hand / loss - 1.0).abs() > self.tolerance {
            return Err(Error::message(format!(
                "the two do not compute the same: after {index} steps the loss is {loss} in the engine and \
                 {by_hand} by hand"
            )));
        }
        Memory::reset_peak()?;
        self.began = Instant::now();
        Ok(())
    }

    fn records(self, work: Work, options: &Options) -> [Record; 2] {
        let overhead = overheads(&self.engine.seconds, &self.bare.seconds);
        let further = json!({ "overhead": Quantiles::of(overhead) });
        [
            self.bare.record("by hand", work, options, json!({})),
            self.engine.record("mlx-train", work, options, further),
        ]
    }
}

/// The engine's time of each step after the warm-up over the mean of its neighbours' times by hand, minus one.
fn overheads(engine: &[f64], bare: &[f64]) -> Vec<f64> {
    let around = bare.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
    let overheads = engine.iter().skip(1).zip(around).map(|(engine, bare)| engine / bare - 1.0);
    overheads.skip(NUM_WARMUPS as usize - 1).collect()
}

impl Measured {
    fn record(
        mut self,
        framework: &'static str,
        work: Work,
        options: &Options,
        further: Value,
    ) -> Record {
        let first_seconds = self.seconds.first().copied().unwrap_or(f64::NAN);
        let seconds = Quantiles::of(self.seconds.split_off(NUM_WARMUPS as usize));
        Record {
            benchmark: "step-overhead",
            framework,
            model: work.name(),
            shapes: json!(work.sizes()),
            dtype: work.dtype(),
            compiled: options.compile,
            tokens_per_second: Some(f64::from(work.sizes().num_items()) / seconds.median),
            seconds,
            first_seconds,
            peak_bytes: self.peak_bytes,
            further,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_compared_with_those_before_and_after_it_and_the_warm_up_with_none() {
        let engine = [9.0, 9.0, 9.0, 9.0, 9.0, 4.5, 3.0];
        let bare = [1.0, 1.0, 1.0, 1.0, 4.0, 2.0, 3.0];
        let expected = [4.5 / 3.0 - 1.0, 3.0 / 2.5 - 1.0];
        let found = overheads(&engine, &bare);
        assert!(found.len() == 2 && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}
