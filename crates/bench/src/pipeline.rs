//! The bubble of a pipeline: the share of a step in which its stages wait, against the formula.

use crate::{
    Options, ranks,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use mlx_train::{
    Array, Result,
    distributed::{Backend, Group, Mesh, Parallelism, PipelineOptions, Schedule, ScheduleKind},
    estimate::Rows,
    models::transformer::{Transformer, TransformerConfig},
    optim::AdamW,
    prelude::*,
    profile::Memory,
    train::{CompileMode, StageTimes, StepOptions, TrainStep},
};
use serde_json::{Value, json};

/// The sizes of the pipeline.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of pipeline")]
#[group(id = "pipeline_sizes")]
pub struct Sizes {
    /// How many stages there are, each of which is a process on this machine
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..))]
    stages: u32,
    /// 1f1b or gpipe
    #[arg(long, value_name = "SCHEDULE", default_value = "1f1b")]
    schedule: ScheduleKind,
}

/// How many micro-batches a step has.
const COUNTS: [usize; 4] = [1, 2, 4, 8];

/// Rows of a micro-batch.
const NUM_ROWS: i32 = 4;

/// Tokens of a row.
const SEQ_LEN: i32 = 128;

/// Blocks that take nearly all of the time, so that stages can be equal.
fn config() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 64,
        hidden_size: 256,
        num_layers: 8,
        num_heads: 4,
        intermediate_size: Some(688),
        max_seq_len: SEQ_LEN,
        dropout: 0.0,
        ..Default::default()
    }
}

/// Starts the stages, the first of which prints a line for each number of micro-batches; or is one of them.
pub fn run(options: &Options, sizes: &Sizes) -> Result<()> {
    let group = Group::of_environment()?;
    if !group.is_alone() {
        let mesh = Mesh::new(&group, Parallelism::pipeline(group.world_size()))?;
        return measure(options, sizes, &mesh);
    }
    let (steps, schedule) = (options.steps.to_string(), sizes.schedule.to_string());
    let arguments = ["pipeline", "--steps", &steps, "--schedule", &schedule];
    // NCCL cannot send from one rank to the next.
    ranks::launch(&arguments, sizes.stages, Backend::Ring)
}

/// Measures as one of the stages.
fn measure(options: &Options, sizes: &Sizes, mesh: &Mesh) -> Result<()> {
    let rows = Rows::tokens(SEQ_LEN);
    for count in COUNTS {
        // The machines are one, and blocks are cut evenly, as the formula has it.
        let pipeline =
            PipelineOptions { rows: Some(rows.clone()), blocks: None, schedule: sizes.schedule };
        let step_options =
            StepOptions { pipeline, compile: CompileMode::Off, ..StepOptions::default() };
        let mut model = rng::scope(&rng::key(0)?, || Transformer::from_config(&config()))?;
        let mut step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 0, step_options)?;
        let mut idle = Vec::new();
        let mut seconds = Vec::new();
        let mut first_seconds = 0.0;
        for index in 0..NUM_WARMUPS + options.steps {
            let batches = (0..count).map(|_| rows.batch(NUM_ROWS as usize));
            let (output, took) = timed(|| step.run(batches, 1e-4));
            let times = output?.stage_times;
            if index == 0 {
                first_seconds = took;
            }
            if index >= NUM_WARMUPS {
                seconds.push(took);
                idle.extend(
                    times.map(|StageTimes { took, waited }| {
                        waited.as_secs_f64() / took.as_secs_f64()
                    }),
                );
            }
        }
        let idle = of_all_stages(mesh.all(), Quantiles::of(idle).median)?;
        if mesh.all().is_first() {
            let seconds = Quantiles::of(seconds);
            let further = further(count, &idle, sizes.schedule);
            record(count, seconds, first_seconds, further)?.print()?;
        }
    }
    Ok(())
}

/// The number of each stage.
fn of_all_stages(group: &Group, number: f64) -> Result<Vec<f64>> {
    let all = group.all_gather(&Array::from_f32(number as f32))?;
    group.eval("the figures of all stages", [&all])?;
    Ok(all.try_as_slice::<f32>()?.iter().map(|&share| f64::from(share)).collect())
}

fn further(count: usize, idle: &[f64], schedule: ScheduleKind) -> Value {
    let mean = idle.iter().sum::<f64>() / idle.len() as f64;
    json!({
        "stages": idle.len(),
        "micro_batches": count,
        "schedule": schedule.to_string(),
        "idle": idle,
        "mean_idle": mean,
        "bubble": Schedule::ideal_bubble(idle.len(), count),
    })
}

fn record(count: usize, seconds: Quantiles, first_seconds: f64, further: Value) -> Result<Record> {
    let config = config();
    let tokens = count as f64 * f64::from(NUM_ROWS * SEQ_LEN);
    Ok(Record {
        benchmark: "pipeline",
        framework: "mlx-train",
        model: "small-gpt",
        shapes: json!({
            "batch_size": NUM_ROWS,
            "seq_len": SEQ_LEN,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "intermediate_size": config.intermediate_size,
        }),
        dtype: "float32",
        compiled: false,
        tokens_per_second: Some(tokens / seconds.median),
        seconds,
        first_seconds,
        peak_bytes: Memory::now()?.peak_bytes,
        further,
    })
}
