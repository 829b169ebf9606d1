//! Benchmarks of mlx-train: `cargo xtask bench [NAME…]`.
//!
//! One program that needs MLX's library and nothing else, so that it can be carried to another
//! machine. It prints one JSON line a run, with everything that the figures depend on. What is
//! compared takes turns in one run: the speed of a machine changes from minute to minute.

// Talking to a person is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod by_hand;
mod checkpoint;
mod estimate;
mod growth;
mod kernels;
mod loader;
mod loss;
mod memory;
mod pipeline;
mod plan;
mod ranks;
mod scaling;
mod step_overhead;
mod training;

use clap::{Parser, ValueEnum};
use mlx_train::Result;
use mlx_train_bench::{record, timing};

/// Measure mlx-train, one JSON line a run
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// What to measure [default: all]
    #[arg(value_enum, value_name = "NAME")]
    names: Vec<Name>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    loss: loss::Sizes,
    #[command(flatten)]
    growth: growth::GrowthArgs,
    #[command(flatten)]
    kernels: kernels::KernelArgs,
    #[command(flatten)]
    memory: memory::Sizes,
    #[command(flatten)]
    pipeline: pipeline::Sizes,
    #[command(flatten)]
    plan: plan::Sizes,
    #[command(flatten)]
    training: training::TrainingArgs,
}

/// What the benchmarks have in common.
#[derive(Debug, clap::Args)]
struct Options {
    /// How many steps are measured, after some that are not; `loader` takes ten times as many, `memory` as many
    /// in each round, `pipeline` as many for each number of micro-batches, `plan` for each layout, `estimate` always four
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..))]
    steps: u32,
    /// Trace the steps of training once and replay them
    #[arg(long)]
    compile: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A step of the engine against the same maths in a loop by hand
    StepOverhead,
    /// The wait for data at ten times the rate of gpt-s
    Loader,
    /// Saving and loading a checkpoint against `cp` and reading its files
    Checkpoint,
    /// Kernels of our own against MLX's operations: the same numbers, and the time of each
    Kernels,
    /// The loss of an output layer in chunks against whole logits
    Loss,
    /// The estimate of a step's memory against what MLX then holds
    Estimate,
    /// The memory and time of a step under each policy of gradient checkpointing
    Memory,
    /// How the time of a step grows with layers, tokens, rows and parameters
    Growth,
    /// How long the stages of a pipeline wait, by the number of micro-batches
    Pipeline,
    /// The planner's predictions for several layouts against what steps take
    Plan,
    /// What several ranks gain over one, for each way of splitting the same work
    Scaling,
    /// A step of training; with --peers against other frameworks
    Training,
}

fn main() -> Result<()> {
    let Args { names, options, loss, growth, kernels, memory, pipeline, plan, training } =
        Args::parse();
    if let Some(task) = training.task() {
        return training::serve(task);
    }
    let names = if names.is_empty() { Name::value_variants() } else { &names[..] };
    for name in names {
        match name {
            Name::StepOverhead => step_overhead::run(&options, training.works())?,
            Name::Loader => loader::run(&options)?,
            Name::Checkpoint => checkpoint::run(&options)?,
            Name::Kernels => kernels::run(&options, &kernels)?,
            Name::Loss => loss::run(&options, &loss)?,
            Name::Estimate => estimate::run(&options)?,
            Name::Memory => memory::run(&options, &memory)?,
            Name::Growth => growth::run(&options, &growth)?,
            Name::Pipeline => pipeline::run(&options, &pipeline)?,
            Name::Plan => plan::run(&options, &plan)?,
            Name::Scaling => scaling::run(&options, plan.ranks, &training)?,
            Name::Training => training::run(&options, &training)?,
        }
    }
    Ok(())
}
