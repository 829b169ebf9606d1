//! The memory and the time of a training step under each policy of gradient checkpointing.

use crate::{
    Options,
    record::Record,
    timing::{Quantiles, timed},
};
use mlx_train::{
    Array, ModuleParameters, Result,
    checkpoint::{CheckpointPolicy, with_policy},
    config::ModelConfig,
    data::Batch,
    ffi,
    mlx_rs::random::randint,
    model::{BaseModel, FromConfig},
    models::transformer::{Transformer, TransformerConfig},
    optim::{AdamW, Clip},
    profile::{Bytes, Memory},
    rng,
    train::{CompileMode, Precision, StepOptions, TrainStep},
};
use serde_json::json;
use std::{
    fmt,
    io::{Write, stderr},
    rc::Rc,
};

/// What is measured unless other policies are asked for.
const POLICIES: [&str; 6] = [
    "none",
    "selective=[attention]",
    "every=2",
    "selective=[mlp]",
    "selective=[attention,mlp]",
    "full",
];

/// How many times the policies take turns. A compiled step is traced anew each time, which takes too long.
const NUM_ROUNDS: u32 = 3;

/// The model and the batch whose memory is measured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of memory")]
pub struct Sizes {
    /// A setting of the transformer (repeatable), such as `hidden_size=768`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    rows: i32,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(i32).range(1..))]
    seq_len: i32,
    /// Compute in bf16 from f32 weights
    #[arg(long)]
    mixed: bool,
    /// A policy to measure beside `none` (repeatable), such as full [default: one of each kind]
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<CheckpointPolicy>,
}

/// Measures, prints a line for each policy, and a table of all to standard error.
///
/// The policies take turns, and the fastest steps are compared: other work on the machine only ever adds time, to
/// some rounds more than to others.
pub fn run(options: &Options, sizes: &Sizes) -> Result<()> {
    let config = sizes.config()?;
    let mut contenders = Vec::new();
    for policy in sizes.policies()? {
        contenders.push(Contender::new(policy, sizes, &config)?);
    }
    for _ in 0..if options.compile { 1 } else { NUM_ROUNDS } {
        for contender in &mut contenders {
            contender.round(options, sizes, &config)?;
        }
    }
    let Some((none, _)) = contenders.split_first() else { return Ok(()) };
    let mut table = Row::HEAD.to_owned();
    for contender in &contenders {
        contender.record(options, sizes, &config, none).print()?;
        table += &contender.row(none).to_string();
    }
    // A table for people; who reads the lines alone loses nothing.
    _ = write!(stderr(), "{table}");
    Ok(())
}

impl Sizes {
    /// A deep model whose activations are most of its memory, unless settings say otherwise.
    fn config(&self) -> Result<TransformerConfig> {
        let deep = TransformerConfig {
            vocab_size: 1024,
            hidden_size: 128,
            num_layers: 12,
            num_heads: 4,
            max_seq_len: self.seq_len,
            tie_word_embeddings: true,
            ..Default::default()
        };
        Ok(deep.with_overrides(&self.settings)?)
    }

    /// Those that were asked for, after `none`.
    fn policies(&self) -> Result<Vec<CheckpointPolicy>> {
        if self.policies.is_empty() {
            return POLICIES.iter().map(|text| Ok(text.parse()?)).collect();
        }
        let others = self.policies.iter().filter(|policy| **policy != CheckpointPolicy::None);
        Ok([CheckpointPolicy::None].iter().chain(others).cloned().collect())
    }

    fn precision(&self) -> Precision {
        if self.mixed { Precision::Mixed } else { Precision::F32 }
    }

    /// Rows of random tokens.
    fn batch(&self, config: &TransformerConfig) -> Result<Batch> {
        let tokens = |seed| -> Result<Array> {
            let shape = [self.rows, self.seq_len];
            Ok(randint::<_, i32>(0, config.vocab_size, &shape, &rng::key(seed)?)?)
        };
        let (x, y) = (tokens(1)?, tokens(2)?);
        ffi::eval([&x, &y])?;
        Ok(Batch::new(x, y))
    }
}

fn model(config: &TransformerConfig) -> Result<Transformer> {
    let model = rng::scope(&rng::key(0)?, || Transformer::from_config(config))?;
    ffi::eval(model.parameters().flatten().into_values())?;
    Ok(model)
}

/// What a step has to hold at once, in bytes: less cannot be, as long as gradients of all weights come before
/// the update.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// With the copies in bf16 that a mixed step computes with.
    weights: u64,
    /// Two moments of each weight.
    state: u64,
    gradients: u64,
    /// What the backward pass needs of the forward pass, at the moment between them.
    activations: u64,
}

impl Floor {
    fn of(policy: &CheckpointPolicy, sizes: &Sizes, config: &TransformerConfig) -> Result<Self> {
        let mut model = model(config)?;
        let (names, values): (Vec<Rc<str>>, Vec<Array>) = model
            .parameters()
            .flatten()
            .into_iter()
            .map(|(name, value)| (name, value.clone()))
            .unzip();
        let num_bytes = |arrays: &[Array]| arrays.iter().map(|array| array.nbytes() as u64).sum();
        let weights: u64 = num_bytes(&values);
        let compute = values.iter().map(|value| sizes.precision().to_compute(value));
        let compute = compute.collect::<Result<Vec<_>>>()?;
        let copies = if sizes.mixed { num_bytes(&compute) } else { 0 };
        let activations = activations(policy, &mut model, &names, &compute, &sizes.batch(config)?)?;
        let gradients = num_bytes(&compute);
        Ok(Self { weights: weights + copies, state: 2 * weights, gradients, activations })
    }

    fn total(self) -> u64 {
        self.weights + self.state + self.gradients + self.activations
    }
}

/// What MLX holds, besides weights, when the loss is computed and its gradients are not: what they need.
fn activations(
    policy: &CheckpointPolicy,
    model: &mut Transformer,
    names: &[Rc<str>],
    values: &[Array],
    batch: &Batch,
) -> Result<u64> {
    let loss = |values: &[Array]| {
        let mut parameters = model.parameters_mut().flatten();
        for (name, value) in names.iter().zip(values) {
            if let Some(parameter) = parameters.get_mut(name) {
                **parameter = value.clone();
            }
        }
        let loss = rng::scope(&rng::key(0)?, || with_policy(policy, || model.batch_loss(batch)))?;
        Ok(vec![loss.value])
    };
    ffi::eval(values)?;
    let argnums: Vec<usize> = (0..values.len()).collect();
    let before = Memory::now()?.active_bytes;
    let (loss, gradients) = ffi::value_and_grad(loss, values, &argnums)?;
    ffi::eval(&loss)?;
    let after = Memory::now()?.active_bytes;
    drop(gradients);
    Ok(after.saturating_sub(before))
}

/// A policy and its figures.
struct Contender {
    policy: CheckpointPolicy,
    floor: Floor,
    peak_bytes: u64,
    first_seconds: f64,
    seconds: Vec<f64>,
}

impl Contender {
    fn new(policy: CheckpointPolicy, sizes: &Sizes, config: &TransformerConfig) -> Result<Self> {
        let floor = Floor::of(&policy, sizes, config)?;
        Ok(Self { policy, floor, peak_bytes: 0, first_seconds: 0.0, seconds: Vec::new() })
    }

    /// Takes the steps of a round, after one that is not counted.
    fn round(
        &mut self,
        options: &Options,
        sizes: &Sizes,
        config: &TransformerConfig,
    ) -> Result<()> {
        let others = Memory::now()?.active_bytes;
        let (mut model, batch) = (model(config)?, sizes.batch(config)?);
        let step_options = StepOptions {
            clip: Clip::default().global_norm(1.0)?,
            precision: sizes.precision(),
            compile: if options.compile { CompileMode::On } else { CompileMode::Off },
            gradient_checkpointing: self.policy.clone(),
            ..StepOptions::default()
        };
        let mut step = TrainStep::new(&mut model, AdamW::default(), 0, step_options)?;
        let mut seconds = || {
            let (output, seconds) = timed(|| step.run([Ok(batch.clone())], 1e-4));
            output.map(|_| seconds)
        };
        self.first_seconds = seconds()?;
        Memory::reset_peak()?;
        for _ in 0..options.steps {
            self.seconds.push(seconds()?);
        }
        let peak_bytes = Memory::now()?.peak_bytes.saturating_sub(others);
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
        Ok(())
    }

    fn seconds(&self) -> Quantiles {
        Quantiles::of(self.seconds.clone())
    }

    fn row(&self, none: &Self) -> Row {
        let floor_bytes = self.floor.total();
        Row {
            policy: self.policy.to_string(),
            peak_bytes: self.peak_bytes,
            peak_ratio: self.peak_bytes as f64 / none.peak_bytes as f64,
            seconds: self.seconds().min,
            time_ratio: self.seconds().min / none.seconds().min,
            floor_bytes,
            over_floor: self.peak_bytes as f64 / floor_bytes as f64,
        }
    }

    fn record(
        &self,
        options: &Options,
        sizes: &Sizes,
        config: &TransformerConfig,
        none: &Self,
    ) -> Record {
        let (seconds, floor, row) = (self.seconds(), self.floor, self.row(none));
        Record {
            benchmark: "memory",
            framework: "mlx-train",
            model: "transformer",
            shapes: json!({
                "batch_size": sizes.rows,
                "seq_len": sizes.seq_len,
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "num_layers": config.num_layers,
                "num_heads": config.num_heads,
                "intermediate_size": config.intermediate_size,
            }),
            dtype: if sizes.mixed { "mixed" } else { "float32" },
            compiled: options.compile,
            tokens_per_second: Some(f64::from(sizes.rows * sizes.seq_len) / seconds.median),
            seconds,
            first_seconds: self.first_seconds,
            peak_bytes: self.peak_bytes,
            further: json!({
                "policy": row.policy,
                "peak_ratio": row.peak_ratio,
                "time_ratio": row.time_ratio,
                "floor_bytes": row.floor_bytes,
                "peak_over_floor": row.over_floor,
                "weights_bytes": floor.weights,
                "state_bytes": floor.state,
                "gradients_bytes": floor.gradients,
                "activations_bytes": floor.activations,
            }),
        }
    }
}

/// A line of the table.
struct Row {
    policy: String,
    peak_bytes: u64,
    peak_ratio: f64,
    seconds: f64,
    time_ratio: f64,
    floor_bytes: u64,
    over_floor: f64,
}

impl Row {
    const HEAD: &str = concat!(
        "| policy                      | peak       | of `none` | step      | of `none` | floor      | peak / floor |\n",
        "| --------------------------- | ---------- | --------- | --------- | --------- | ---------- | ------------ |\n",
    );
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, peak_bytes, peak_ratio, seconds, time_ratio, floor_bytes, over_floor } =
            self;
        let (policy, peak, floor) =
            (format!("`{policy}`"), Bytes(*peak_bytes), Bytes(*floor_bytes));
        writeln!(
            f,
            "| {policy:<27} | {peak:>10} | {peak_ratio:>9.2} | {:>6.1} ms | {time_ratio:>9.2} | {floor:>10} \
             | {over_floor:>12.2} |",
            seconds * 1000.0
        )
    }
}
