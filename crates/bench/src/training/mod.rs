//! A step of training: this engine's, and with `--peers` those of other frameworks on the same work.
//!
//! Every framework is a process of its own, which takes steps when it is told to. They take turns, a few steps
//! each, so that what slows the machine down slows all of them, and none works while another is measured. A step
//! is the forward and backward pass, clipping of the global norm (GPTs), and `AdamW`, with its results there.

mod contender;
mod peer;
mod table;
mod work;
mod worker;

pub use self::work::Work;

use self::{contender::Contender, peer::Peer};
use crate::{Options, timing::NUM_WARMUPS};
use mlx_train::{Result, profile::Bytes};
use serde::{Deserialize, Serialize};
use std::{
    io::{Write, stderr},
    path::PathBuf,
};

/// How many steps a framework takes before the next one does.
const TURN: u32 = 5;

/// What is measured, and against what.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of training, scaling and step-overhead")]
pub struct TrainingArgs {
    /// What is trained (repeatable) [default: gpt-s and mlp-s; of step-overhead all on GPUs; of scaling gpt2-124m on GPUs, else gpt-s]
    #[arg(long, value_enum, value_name = "WORK")]
    work: Vec<Work>,
    /// Measure Python MLX, `PyTorch`, burn and candle beside, as far as they are there
    #[arg(long)]
    peers: bool,
    /// Read the loss of a step when the next one has been begun, of those that can
    #[arg(long)]
    ahead: bool,
    /// Measure ours with these kernels alone beside (repeatable), compiled or not: `none`, `all`, or some by their names
    #[arg(long, value_name = "KERNELS")]
    kernels: Vec<String>,
    /// Measure ours within this much memory beside (repeatable), such as "9 GiB": a step waits for what runs where it would
    /// need more
    #[arg(long, value_name = "SIZE")]
    memory_limit: Vec<Bytes>,
    /// A file of earlier lines, to which ratios are printed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Serve as a process that is measured
    #[arg(long, hide = true, value_name = "JSON")]
    worker: Option<String>,
}

impl TrainingArgs {
    /// What is trained, if that is said.
    pub fn works(&self) -> &[Work] {
        &self.work
    }

    /// Whether the loss of a step is read when the next one has been begun.
    pub fn ahead(&self) -> bool {
        self.ahead
    }

    /// What this process is to take steps of, if it is one that is measured.
    pub fn task(&self) -> Option<&str> {
        self.worker.as_deref()
    }
}

/// What a process is told to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    work: Work,
    compile: bool,
    /// Whether the next step is begun before the loss of one is read.
    ahead: bool,
    /// From how many bytes on ours waits for what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_limit: Option<u64>,
}

/// Serves as a process that is measured.
pub fn serve(task: &str) -> Result<()> {
    let task = serde_json::from_str(task)
        .map_err(|error| mlx_train::Error::message(format!("`{task}` is no task: {error}")))?;
    worker::serve(task)
}

/// Measures, prints a line for each framework, and tables of ratios to standard error.
pub fn run(options: &Options, args: &TrainingArgs) -> Result<()> {
    let earlier = args.compare.as_deref().map(table::read).transpose()?;
    let works = if args.work.is_empty() { &[Work::GptS, Work::MlpS][..] } else { &args.work };
    for &work in works {
        let mut contenders = start(work, options.compile, args)?;
        // The first step by itself, as it loads kernels and traces.
        for steps in [1, NUM_WARMUPS - 1] {
            for contender in &mut contenders {
                contender.warm_up(steps)?;
            }
        }
        for turn in 0..options.steps.div_ceil(TURN) {
            // Each goes first as often as the others.
            let first = turn as usize % contenders.len();
            let (after, before) = contenders.split_at_mut(first);
            for contender in before.iter_mut().chain(after) {
                contender.measure(TURN)?;
            }
        }
        let mut lines = Vec::new();
        for contender in contenders {
            let (record, framework) = contender.record(work)?;
            record.print_of(framework)?;
            lines.push(table::Line::of(&record));
        }
        let mut text = table::ratios(work.name(), &lines);
        if let Some(earlier) = &earlier {
            text += &table::against(earlier, &lines);
        }
        // Tables for people; who reads the lines alone loses nothing.
        _ = write!(stderr(), "{text}");
    }
    Ok(())
}

/// Starts all that take part, which have built their models then.
fn start(work: Work, compile: bool, args: &TrainingArgs) -> Result<Vec<Contender>> {
    // Many processes share a GPU's memory where kernels are compared.
    let modes = match (compile, args.kernels.is_empty()) {
        (true, true) => &[false, true][..],
        (true, false) => &[true],
        (false, _) => &[false],
    };
    let mut contenders = Vec::new();
    let task = |compile| Task { work, compile, ahead: args.ahead, memory_limit: None };
    for &compile in modes {
        contenders.push(Contender::start(Peer::This, task(compile), None)?);
    }
    for kernels in &args.kernels {
        contenders.push(Contender::start(Peer::This, task(compile), Some(kernels))?);
    }
    for &Bytes(limit) in &args.memory_limit {
        let task = Task { memory_limit: Some(limit), ..task(compile) };
        contenders.push(Contender::start(Peer::This, task, None)?);
    }
    for peer in Peer::OTHERS.into_iter().filter(|_| args.peers) {
        let ahead = args.ahead && peer.runs_ahead();
        for &compile in modes.iter().filter(|&&compile| !compile || peer.compiles()) {
            match Contender::start(peer, Task { ahead, ..task(compile) }, None) {
                Ok(contender) => contenders.push(contender),
                // Those that are there are compared all the same.
                Err(error) => _ = writeln!(stderr(), "{} takes no part: {error}", peer.name()),
            }
        }
    }
    Ok(contenders)
}
