//! The estimate of a step's memory against what MLX then holds at its most.

use crate::{
    Options,
    record::Record,
    timing::{Quantiles, timed},
};
use mlx_train::{
    Error, Result,
    bytes::Bytes,
    estimate::{Backend, Estimate, Estimator, Machine, Rows},
    ffi,
    mlx_rs::Dtype,
    prelude::*,
    profile::Memory,
    train::{CompileMode, Precision, TrainConfig, TrainStep},
};
use serde_json::json;
use std::fmt;

/// How many steps are taken. The peak of all counts: where something else keeps MLX's thread from its work, it
/// is less ahead of the device, and that step holds less.
const STEPS: usize = 4;

/// The share of the measured peak that an estimate may be off.
const TOLERANCE: f64 = 0.15;

/// A model, a batch and how it is trained.
struct Case {
    model: &'static str,
    /// Settings of the model.
    set: &'static [&'static str],
    seq_len: i32,
    batch_size: usize,
    accumulation: usize,
    precision: &'static str,
    policy: &'static str,
}

/// A small language model; the sizes that are not said are those of its kind.
const fn transformer(
    set: &'static [&'static str],
    seq_len: i32,
    batch_size: usize,
    precision: &'static str,
    policy: &'static str,
) -> Case {
    Case { model: "transformer", set, seq_len, batch_size, accumulation: 1, precision, policy }
}

const SMALL: &[&str] = &["vocab_size=2048", "hidden_size=128", "num_layers=4", "num_heads=4"];
const WIDE: &[&str] = &["vocab_size=2048", "hidden_size=384", "num_layers=3", "num_heads=6"];
const DEEP: &[&str] = &["vocab_size=512", "hidden_size=128", "num_layers=12", "num_heads=4"];
const LARGE_VOCABULARY: &[&str] = &[
    "vocab_size=16384",
    "hidden_size=128",
    "num_layers=2",
    "num_heads=4",
    "tie_word_embeddings=true",
];
const DROPOUT: &[&str] =
    &["vocab_size=2048", "hidden_size=128", "num_layers=4", "num_heads=4", "dropout=0.1"];
const CLASSIFIER: &[&str] = &["input_size=784", "output_size=10", "hidden_sizes=[512,512]"];

const GPT: &[&str] = &["vocab_size=32000", "hidden_size=768", "num_layers=12", "num_heads=12"];
const WIDE_GPT: &[&str] = &["vocab_size=32000", "hidden_size=1536", "num_layers=6", "num_heads=12"];
const DEEP_GPT: &[&str] = &["vocab_size=8192", "hidden_size=512", "num_layers=24", "num_heads=8"];

/// Sizes that keep a GPU busy.
const GPU_GRID: &[Case] = &[
    transformer(GPT, 512, 8, "f32", "none"),
    transformer(GPT, 1024, 16, "mixed", "none"),
    transformer(GPT, 1024, 32, "mixed", "none"),
    transformer(GPT, 1024, 16, "mixed", "full"),
    transformer(GPT, 1024, 16, "mixed", "selective=[mlp]"),
    transformer(GPT, 1024, 16, "bf16", "none"),
    transformer(WIDE_GPT, 1024, 8, "f32", "none"),
    transformer(WIDE_GPT, 1024, 16, "mixed", "none"),
    transformer(WIDE_GPT, 1024, 16, "mixed", "full"),
    transformer(DEEP_GPT, 512, 32, "mixed", "none"),
    transformer(DEEP_GPT, 512, 32, "mixed", "every=2"),
    transformer(DEEP_GPT, 512, 32, "mixed", "full"),
    Case { accumulation: 3, ..transformer(GPT, 512, 8, "mixed", "none") },
    Case { model: "mlp", ..transformer(CLASSIFIER, 0, 4096, "f32", "none") },
];

/// Sizes that a CPU computes in seconds.
const CPU_GRID: &[Case] = &[
    transformer(SMALL, 128, 8, "f32", "none"),
    transformer(SMALL, 256, 8, "f32", "none"),
    transformer(SMALL, 128, 32, "f32", "none"),
    transformer(SMALL, 256, 8, "f32", "full"),
    transformer(SMALL, 256, 8, "f32", "selective=[mlp]"),
    transformer(SMALL, 64, 4, "mixed", "none"),
    transformer(SMALL, 64, 4, "mixed", "full"),
    transformer(SMALL, 64, 4, "bf16", "none"),
    transformer(DROPOUT, 256, 8, "f32", "none"),
    transformer(DROPOUT, 256, 8, "f32", "full"),
    transformer(WIDE, 128, 4, "f32", "none"),
    transformer(WIDE, 128, 16, "f32", "none"),
    transformer(WIDE, 256, 8, "f32", "selective=[attention]"),
    transformer(DEEP, 128, 16, "f32", "none"),
    transformer(DEEP, 128, 16, "f32", "every=2"),
    transformer(DEEP, 128, 16, "f32", "full"),
    transformer(LARGE_VOCABULARY, 128, 8, "f32", "none"),
    Case { accumulation: 3, ..transformer(SMALL, 128, 8, "f32", "none") },
    Case { model: "mlp", ..transformer(CLASSIFIER, 0, 512, "f32", "none") },
];

/// Measures, and prints a line for each case, and a table of all to standard error.
///
/// # Errors
/// When an estimate is off by more than it may be.
pub fn run(options: &Options) -> Result<()> {
    let machine = Machine::here()?;
    let mut worst: f64 = 0.0;
    eprintln!("{HEADING}");
    let grid = if machine.backend == Backend::Cpu { CPU_GRID } else { GPU_GRID };
    for case in grid {
        let measured = case.measure(&machine, options.compile)?;
        measured.record(options.compile).print()?;
        eprintln!("{measured}");
        worst = worst.max((measured.ratio() - 1.0).abs());
    }
    let summary = format!("{} estimates are off by {:.1} % at most", grid.len(), 100.0 * worst);
    eprintln!("{summary}");
    if worst > TOLERANCE {
        let allowed = 100.0 * TOLERANCE;
        return Err(Error::message(format!("{summary}, more than {allowed} %; see its table")));
    }
    Ok(())
}

const HEADING: &str = "model        sizes                                     seq batch acc precision policy                \
                       estimate   measured  ratio";

/// What was estimated, and what was measured.
struct Measured<'c> {
    case: &'c Case,
    estimate: Estimate,
    estimate_seconds: f64,
    peak_bytes: u64,
    seconds: Vec<f64>,
}

impl Case {
    fn config(&self, compile: bool) -> Result<TrainConfig> {
        let precision = match self.precision {
            "mixed" => Precision::Mixed,
            "bf16" => Precision::Bf16 { stochastic_rounding: true },
            _ => Precision::F32,
        };
        Ok(TrainConfig {
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            precision,
            compile: if compile { CompileMode::On } else { CompileMode::Off },
            gradient_checkpointing: self.policy.parse()?,
            ..TrainConfig::default()
        })
    }

    fn rows(&self) -> Rows {
        match self.model {
            "mlp" => Rows::new((&[784], Dtype::Float32), (&[], Dtype::Int32)),
            _ => Rows::tokens(self.seq_len),
        }
    }

    fn measure(&self, machine: &Machine, compile: bool) -> Result<Measured<'_>> {
        let config = self.config(compile)?;
        let entry = ModelRegistry::get_model(self.model)?;
        let mut model = rng::scope(&rng::key(0)?, || entry.build(self.set))?;
        let (estimate, estimate_seconds) =
            timed(|| Estimator::new(&mut model, self.rows(), machine.clone()).estimate(&config));
        let estimate = estimate?;

        let batch = self.rows().batch(self.batch_size)?;
        ffi::eval(batch.arrays())?;
        let optimizer = config.optimizer.build(&config.groups)?;
        let mut step = TrainStep::new(&mut model, optimizer, 0, config.step_options()?)?;
        let mut seconds = Vec::new();
        Memory::reset_peak()?;
        for _ in 0..STEPS {
            let batches = (0..self.accumulation).map(|_| Ok(batch.clone()));
            let (output, step_seconds) = timed(|| step.run(batches, 1e-4));
            output?;
            seconds.push(step_seconds);
        }
        let peak_bytes = Memory::now()?.peak_bytes;
        Ok(Measured { case: self, estimate, estimate_seconds, peak_bytes, seconds })
    }
}

impl Measured<'_> {
    fn ratio(&self) -> f64 {
        self.estimate.peak_bytes as f64 / self.peak_bytes as f64
    }

    fn record(&self, compiled: bool) -> Record {
        let Case { model, set, seq_len, batch_size, accumulation, precision, policy } = self.case;
        Record {
            benchmark: "estimate",
            framework: "mlx-train",
            model,
            shapes: json!({
                "settings": set,
                "seq_len": seq_len,
                "batch_size": batch_size,
                "accumulation": accumulation,
            }),
            dtype: precision,
            compiled,
            seconds: Quantiles::of(self.seconds.clone()),
            first_seconds: self.seconds.first().copied().unwrap_or(f64::NAN),
            tokens_per_second: None,
            peak_bytes: self.peak_bytes,
            further: json!({
                "gradient_checkpointing": policy,
                "estimate": self.estimate,
                "estimate_seconds": self.estimate_seconds,
                "ratio": self.ratio(),
            }),
        }
    }
}

impl fmt::Display for Measured<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { model, set, seq_len, batch_size, accumulation, precision, policy } = self.case;
        let sizes = set.iter().filter_map(|set| set.split_once('=')).map(|(_, value)| value);
        let sizes: Vec<&str> = sizes.collect();
        let (estimate, measured) = (Bytes(self.estimate.peak_bytes), Bytes(self.peak_bytes));
        write!(
            f,
            "{model:12} {:40} {seq_len:4} {batch_size:5} {accumulation:3} {precision:9} {policy:20} \
             {estimate:>10} {measured:>10} {:6.3}",
            sizes.join(" "),
            self.ratio()
        )
    }
}
