//! The planner's predictions against what steps take, on ranks of this machine.

use crate::{
    Options, ranks,
    record::Record,
    timing::{Quantiles, Steps, steps},
};
use mlx_train::{
    Error, Result,
    bytes::Bytes,
    checkpoint::CheckpointPolicy,
    distributed::{Backend, Group, Mesh, Parallelism, PipelineOptions},
    estimate::Rows,
    model::BaseModel,
    models::transformer::{Transformer, TransformerConfig},
    plan::{Candidate, Cluster, Plan, Workload, plan},
    prelude::*,
    profile::Memory,
    train::{CompileMode, Precision, TrainConfig, TrainStep},
};
use serde_json::{Value, json};
use std::io::{Write, stdout};

/// How many ranks the plan is for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of plan and scaling")]
#[group(id = "plan_sizes")]
pub struct Sizes {
    /// How many ranks there are, each of which is a process on this machine
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=8))]
    pub ranks: u32,
}

/// The layouts that are measured, with the policy and the number of micro-batches; `N` is all ranks.
const CASES: [(&str, &str, usize); 9] = [
    ("dp", "none", 1),
    ("dp", "none", 4),
    ("dp", "full", 1),
    ("fsdp", "none", 1),
    ("fsdp", "full", 1),
    ("tp", "none", 1),
    ("tp", "full", 1),
    ("pp", "none", 4),
    ("pp", "full", 8),
];

/// What is trained: sizes that keep the device busy.
struct Trained {
    config: TransformerConfig,
    rows: usize,
    seq_len: i32,
    precision: Precision,
}

impl Trained {
    fn on(backend: Option<Backend>) -> Self {
        if backend == Some(Backend::Nccl) {
            let config = TransformerConfig { dropout: 0.0, ..TransformerConfig::default() };
            return Self { config, rows: 32, seq_len: 1024, precision: Precision::Mixed };
        }
        let config = TransformerConfig {
            vocab_size: 1024,
            hidden_size: 256,
            num_layers: 8,
            num_heads: 4,
            intermediate_size: Some(688),
            max_seq_len: 64,
            dropout: 0.0,
            ..TransformerConfig::default()
        };
        Self { config, rows: 16, seq_len: 64, precision: Precision::F32 }
    }

    fn build(&self) -> Result<Transformer> {
        rng::scope(&rng::key(0)?, || Transformer::from_config(&self.config))
    }

    fn train_config(&self, compile: bool) -> TrainConfig {
        TrainConfig {
            batch_size: self.rows,
            precision: self.precision,
            compile: if compile { CompileMode::On } else { CompileMode::Off },
            ..TrainConfig::default()
        }
    }
}

/// Starts the ranks, the first of which prints a line for each layout and one for all; or is one of them.
pub fn run(options: &Options, sizes: &Sizes) -> Result<()> {
    let group = Group::of_environment()?;
    if !group.is_alone() {
        return measure(options, &group);
    }
    let steps = options.steps.to_string();
    let mut arguments = vec!["plan", "--steps", &steps];
    arguments.extend(options.compile.then_some("--compile"));
    ranks::launch(&arguments, sizes.ranks, ranks::backend())
}

/// Predicts and measures as one of the ranks.
fn measure(options: &Options, group: &Group) -> Result<()> {
    // All are on this machine, whatever it is called.
    let cluster = Cluster::measure(group, "here")?;
    let trained = Trained::on(group.backend());
    let config = trained.train_config(options.compile);
    let rows = |_: &mut dyn BaseModel| Ok(Rows::tokens(trained.seq_len));
    let build = || Ok(Box::new(trained.build()?) as Box<dyn BaseModel>);
    let workload = Workload::of("transformer", build, rows, &config)?;
    let plan = plan(&workload, &cluster, None)?;
    let mut compared = Vec::new();
    for (way, policy, micro_batches) in CASES {
        let layout: Parallelism = format!("{way}={}", group.world_size()).parse()?;
        let policy: CheckpointPolicy = policy.parse()?;
        let is_case = |it: &&Candidate| {
            it.layout == layout && it.policy == policy && it.micro_batches == micro_batches
        };
        // What the planner excludes is none.
        let Some(candidate) = plan.candidates.iter().find(is_case) else { continue };
        let measured = step_seconds(options, group, &trained, candidate, &config)?;
        if group.is_first() {
            let further = further(candidate, &measured.steps.seconds);
            measured.record(&trained, &plan, further, options.compile).print()?;
            compared.push((candidate.seconds.total(), measured.steps.seconds.median));
        }
    }
    if group.is_first() {
        print_summary(&compared, &cluster, group)?;
    }
    Ok(())
}

/// What steps of a layout take.
struct Measured {
    steps: Steps,
    peak_bytes: u64,
}

fn step_seconds(
    options: &Options,
    group: &Group,
    trained: &Trained,
    candidate: &Candidate,
    config: &TrainConfig,
) -> Result<Measured> {
    let mesh = Mesh::new(group, candidate.layout)?;
    let rows = Rows::tokens(trained.seq_len);
    let mut step_options = config.step_options()?;
    step_options.gradient_checkpointing = candidate.policy.clone();
    step_options.pipeline = PipelineOptions {
        rows: Some(rows.clone()),
        blocks: Some(candidate.blocks.clone()).filter(|blocks| blocks.len() > 1),
        ..PipelineOptions::default()
    };
    let mut model = trained.build()?;
    let optimizer = config.optimizer.build(&config.groups)?;
    let mut step = TrainStep::parallel(&mesh, &mut model, optimizer, 0, step_options)?;
    let batch = rows.batch(trained.rows / candidate.layout.data / candidate.micro_batches)?;
    mlx_train::ffi::eval(batch.arrays())?;
    Memory::reset_peak()?;
    let taken = steps(options.steps, || {
        let batches = (0..candidate.micro_batches).map(|_| Ok(batch.clone()));
        step.run(batches, 1e-4).map(drop)
    })?;
    Ok(Measured { steps: taken, peak_bytes: Memory::now()?.peak_bytes })
}

impl Measured {
    fn record(&self, trained: &Trained, plan: &Plan, further: Value, compiled: bool) -> Record {
        let TransformerConfig { vocab_size, hidden_size, num_layers, num_heads, .. } =
            trained.config;
        Record {
            benchmark: "plan",
            framework: "mlx-train",
            model: "transformer",
            shapes: json!({
                "rows": trained.rows,
                "seq_len": trained.seq_len,
                "vocab_size": vocab_size,
                "hidden_size": hidden_size,
                "num_layers": num_layers,
                "num_heads": num_heads,
                "ranks": plan.num_devices,
            }),
            dtype: if trained.precision == Precision::F32 { "float32" } else { "mixed" },
            compiled,
            seconds: self.steps.seconds,
            first_seconds: self.steps.first_seconds,
            tokens_per_second: Some(
                (plan.rows * plan.tokens_per_row) as f64 / self.steps.seconds.median,
            ),
            peak_bytes: self.peak_bytes,
            further,
        }
    }
}

fn further(candidate: &Candidate, measured: &Quantiles) -> Value {
    json!({
        "layout": candidate.layout.to_string(),
        "gradient_checkpointing": candidate.policy.to_string(),
        "micro_batches": candidate.micro_batches,
        "predicted_seconds": candidate.seconds.total(),
        "predicted": candidate.seconds,
        "predicted_bytes": candidate.memory.total(),
        "ratio": candidate.seconds.total() / measured.median,
    })
}

/// Prints how well the ranking agrees, as JSON, and a sentence for people.
fn print_summary(compared: &[(f64, f64)], cluster: &Cluster, group: &Group) -> Result<()> {
    let ratios =
        Quantiles::of(compared.iter().map(|(predicted, measured)| predicted / measured).collect());
    let agreement = agreement(compared);
    let fastest = |time: fn(&(f64, f64)) -> f64| {
        compared.iter().min_by(|a, b| time(a).total_cmp(&time(b))).copied().unwrap_or_default()
    };
    // What the planner would choose, against the best that there is.
    let lost = fastest(|it| it.0).1 / fastest(|it| it.1).1 - 1.0;
    let summary = json!({
        "benchmark": "plan",
        "summary": true,
        "ranks": group.world_size(),
        "backend": group.backend().map(|backend| backend.to_string()),
        "cases": compared.len(),
        "ratio": ratios,
        "pairs_in_the_same_order": agreement,
        "lost_by_the_choice": lost,
        "cluster": cluster.to_value(),
    });
    let memory: Vec<String> =
        cluster.hosts.iter().map(|host| Bytes(host.device.memory.0).to_string()).collect();
    eprintln!(
        "{} layouts on {} ranks of {}: {:.0} % of pairs in the order that was predicted; predicted / measured {:.2} \
         ({:.2} to {:.2}); the choice is {:.0} % slower than the best",
        compared.len(),
        group.world_size(),
        memory.join(", "),
        100.0 * agreement,
        ratios.median,
        ratios.min,
        ratios.max,
        100.0 * lost,
    );
    let written = writeln!(stdout(), "{summary}");
    written.map_err(|error| Error::message(format!("cannot write the output: {error}")))
}

/// The share of pairs whose measured times are in the order of the predicted ones; times that differ by less than a
/// twentieth are in any order.
fn agreement(compared: &[(f64, f64)]) -> f64 {
    let (mut pairs, mut agreeing) = (0, 0);
    for (index, a) in compared.iter().enumerate() {
        for b in &compared[index + 1..] {
            pairs += 1;
            let is_close = (a.1 / b.1 - 1.0).abs() < 0.05;
            agreeing += u32::from(is_close || (a.0 < b.0) == (a.1 < b.1));
        }
    }
    if pairs == 0 { 1.0 } else { f64::from(agreeing) / f64::from(pairs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_agree_where_the_order_is_the_same_or_the_times_are() {
        let found = [
            agreement(&[(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]),
            agreement(&[(1.0, 2.0), (2.0, 1.0)]),
            agreement(&[(1.0, 2.0), (2.0, 1.95)]),
            agreement(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)]),
        ];
        let expected = [1.0, 0.0, 1.0, 2.0 / 3.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
    }
}
