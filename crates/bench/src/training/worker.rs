//! A process that takes steps when it is told to: how every framework is measured.
//!
//! It writes a [`Hello`] when it is ready, and for each line `step N` that it reads a [`Reply`], both as one line
//! of JSON. It ends when its input does.

use super::Task;
use crate::record::resident_peak_bytes;
use mlx_train::{
    Error, Result,
    data::Batch,
    ffi::device_info,
    optim::AdamW,
    profile::{Bytes, Memory, MemoryConfig, MemoryLimits, MlxEnvironment},
    run::Environment,
    train::{StepOutput, TrainStep},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write, stdin, stdout},
    time::Instant,
};

const LEARNING_RATE: f64 = 1e-4;

/// What a process says of itself when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub framework: String,
    pub version: String,
    pub device: String,
    pub threads: usize,
}

/// What a process says of the steps that it was told to take.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of each step, from the end of the one before to its own, when its loss is read.
    pub seconds: Vec<f64>,
    /// The loss of the last of them.
    pub loss: f64,
    /// The most that its allocator held on the device, if it counts.
    pub peak_bytes: Option<u64>,
    /// The most that the process had in memory, if the system says so.
    pub resident_peak_bytes: Option<u64>,
}

/// Serves with this crate's own engine.
pub fn serve(task: Task) -> Result<()> {
    // As the command line does.
    MlxEnvironment::default().with_defaults()?.enter()?;
    let Task { work, compile, ahead, memory_limit } = task;
    // As a `Trainer` does.
    let memory = MemoryConfig { memory_limit: memory_limit.map(Bytes), ..Default::default() };
    MemoryLimits::of(&memory, &device_info()?)?.0.apply()?;
    let mut model = work.model()?;
    let mut step = TrainStep::new(&mut model, AdamW::default(), 0, work.step_options(compile)?)?;
    let batches = work.sizes().batches()?;
    let here = Environment::here();
    write_line(&Hello {
        framework: "mlx-train".into(),
        version: here.mlx_train,
        device: here.device,
        threads: here.num_threads,
    })?;
    let mut batches = batches.iter().cycle();
    for line in stdin().lock().lines() {
        let line = line.map_err(|error| Error::message(format!("cannot read: {error}")))?;
        let count = line.strip_prefix("step ").and_then(|count| count.parse::<u32>().ok());
        let count = count.ok_or_else(|| Error::message(format!("`{line}` is not understood")))?;
        let mut seconds = Vec::new();
        let mut loss = f64::NAN;
        let mut began = Instant::now();
        let mut end = |output: StepOutput| -> Result<()> {
            loss = f64::from(output.loss.value.try_item_exact::<f32>()?);
            seconds.push(began.elapsed().as_secs_f64());
            began = Instant::now();
            Ok(())
        };
        let mut before = None;
        // The first one ahead has all before it to itself, and the last none behind it.
        let ends = usize::from(ahead);
        for batch in (0..count as usize + 2 * ends).zip(&mut batches).map(|(_, batch)| batch) {
            let batches = [Ok(Batch::clone(batch))];
            if ahead {
                let ahead = step.run_ahead(batches, LEARNING_RATE)?;
                before.replace(ahead).map(|it| end(it.wait()?)).transpose()?;
            } else {
                end(step.run(batches, LEARNING_RATE)?)?;
            }
        }
        before.map(|it| end(it.wait()?)).transpose()?;
        let seconds = seconds[ends..seconds.len() - ends].to_vec();
        write_line(&Reply {
            seconds,
            loss,
            peak_bytes: Some(Memory::now()?.peak_bytes),
            resident_peak_bytes: resident_peak_bytes(),
        })?;
    }
    Ok(())
}

fn write_line(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value).map_err(|error| Error::message(error.to_string()))?;
    let mut out = stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Error::message(format!("cannot write the output: {error}")))
}
