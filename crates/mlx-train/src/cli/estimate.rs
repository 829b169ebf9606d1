//! `estimate`: how much memory training takes, before there is anything to train.

use super::{
    Failure,
    args::{EstimateArgs, StepSource},
    models::print_json,
    settings::Settings,
};
use crate::{
    Error, Result,
    checkpoint::CheckpointPolicy,
    estimate::{AtPeak, Estimate, Estimator, Fit, Limit, LimitSource, Machine, Rows, Sizes},
    ffi::{device_info, has_cuda},
    mlx_rs::Dtype,
    model::BaseModel,
    profile::{Bytes, MemoryLimits},
    progress::grouped,
    rng,
    train::{Precision, TrainConfig},
};
use serde_json::{Value, json};
use signal_hook::low_level;
use std::io::Write;

pub(super) fn run(args: &EstimateArgs, out: &mut impl Write) -> Result<(), Failure> {
    let estimated = Estimated::new(args).map_err(Failure::Refused)?;
    if args.json {
        print_json(&estimated.to_json(), out)?;
    } else {
        out.write_all(estimated.to_text().as_bytes())?;
    }
    out.flush()?;
    exit_unused();
    Ok(())
}

/// Ends a process that has computed nothing, if it has opened a GPU of NVIDIA.
pub(super) fn exit_unused() {
    if has_cuda() {
        // MLX 0.32.2 aborts at the end of a process that has opened the GPU and computed nothing on it.
        low_level::exit(0);
    }
}

impl StepSource {
    /// The settings of the run.
    ///
    /// # Errors
    /// When they are refused.
    pub(super) fn settings(&self) -> Result<Settings> {
        let mut source = self.run.clone();
        source.set.extend(self.batch.map(|rows| format!("train.batch_size={rows}")));
        source.set.extend(self.seq.map(|tokens| format!("data.seq_len={tokens}")));
        Settings::resolve(&source)
    }

    /// The rows of a model with these settings: those that are asked for, or as [`rows`].
    ///
    /// # Errors
    /// As [`rows`].
    pub(super) fn rows(&self, settings: &Settings, model: &mut dyn BaseModel) -> Result<Rows> {
        if self.input_shape.is_empty() {
            return rows(settings, model);
        }
        let target = if self.target_shape.is_empty() { Dtype::Int32 } else { Dtype::Float32 };
        Ok(Rows::new((&self.input_shape, Dtype::Float32), (&self.target_shape, target)))
    }
}

/// A model and its training, and what they need.
struct Estimated {
    model: String,
    config: TrainConfig,
    /// How many tokens a row has, if it is of tokens.
    seq_len: Option<usize>,
    device: String,
    limit: Limit,
    estimate: Estimate,
    fits: Vec<Fit>,
}

impl Estimated {
    fn new(args: &EstimateArgs) -> Result<Self> {
        let settings = args.step.settings()?;
        let mut model = rng::scope(&rng::key(settings.train.seed)?, || settings.model.build())?;
        let rows = args.step.rows(&settings, model.as_mut())?;
        let seq_len = model.as_language_model().map(|_| settings.data.seq_len);
        let device = device_info()?;
        // A budget is a limit of MLX, which the machine then has.
        MemoryLimits::of(&settings.train.memory, &device)?.0.apply()?;
        let mut machine = Machine::here()?;
        if let Some(Bytes(bytes)) = args.limit {
            machine.limit = Some(Limit { bytes, source: LimitSource::Given });
        }
        let limit = machine.limit.ok_or_else(|| {
            Error::message("MLX does not say how much memory there is; say it with --limit SIZE")
        })?;
        let mut config = settings.train;
        let mut estimator = Estimator::new(&mut model, rows, machine);
        config.gradient_checkpointing = estimator.resolve(&config)?;
        let estimate = estimator.estimate(&config)?;
        let fits = estimator.fitting(&config, limit.bytes)?;
        Ok(Self {
            model: settings.model.model().name().to_owned(),
            config,
            seq_len,
            device: device.name.unwrap_or_else(|| "this device".into()),
            limit,
            estimate,
            fits,
        })
    }

    fn to_json(&self) -> Value {
        let fits = self.fits.iter().map(|fit| {
            json!({
                "gradient_checkpointing": fit.policy.to_string(),
                "estimate": fit.estimate,
                "fits": fit.estimate.peak_bytes <= self.limit.bytes,
                "largest_batch": fit.largest_batch,
            })
        });
        json!({
            "model": self.model,
            "batch_size": self.config.batch_size,
            "accumulation": self.config.accumulation,
            "seq_len": self.seq_len,
            "precision": precision(self.config.precision),
            "gradient_checkpointing": self.config.gradient_checkpointing.to_string(),
            "device": self.device,
            "limit_bytes": self.limit.bytes,
            "limit_source": self.limit.source,
            "fits": self.estimate.peak_bytes <= self.limit.bytes,
            "estimate": self.estimate,
            "policies": fits.collect::<Vec<_>>(),
        })
    }

    fn to_text(&self) -> String {
        [self.heading(), self.parts(), self.policies(), self.verdict()].join("\n")
    }

    fn heading(&self) -> String {
        let Sizes { num_parameters, num_trained, .. } = self.estimate.sizes;
        let trained = match num_trained {
            all if all == num_parameters => "all trained".to_owned(),
            some => format!("{} of them trained", grouped(some)),
        };
        let TrainConfig { batch_size, accumulation, .. } = self.config;
        let tokens = self.seq_len.map(|tokens| format!(" of {tokens} tokens")).unwrap_or_default();
        let accumulated = match accumulation {
            1 => String::new(),
            number => format!(", {number} micro-batches a step"),
        };
        format!(
            "{}: {} parameters, {trained}\n{batch_size} rows{tokens}{accumulated}, {}, on {}\n",
            self.model,
            grouped(num_parameters),
            precision(self.config.precision),
            self.device,
        )
    }

    /// What the memory is for.
    fn parts(&self) -> String {
        let Estimate { peak_bytes, at_peak, sizes, .. } = self.estimate;
        let AtPeak { weights_bytes, gradients_bytes, optimizer_bytes, .. } = at_peak;
        let parts = [
            ("weights", Some(sizes.weights_bytes), weights_bytes),
            ("gradients", Some(sizes.gradients_bytes), gradients_bytes),
            ("optimizer", Some(sizes.optimizer_bytes), optimizer_bytes),
            ("batch", None, at_peak.batch_bytes),
            ("logits and loss", None, at_peak.outputs_bytes),
            ("activations", None, at_peak.activations_bytes),
            ("total", None, peak_bytes),
        ];
        let heading = format!("{:24}{:>12}{:>16}", "", "whole", "at the peak");
        let rows = parts.into_iter().map(|(name, whole, at_peak)| {
            let whole = whole.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default();
            format!("{name:24}{whole:>12}{:>16}", Bytes(at_peak))
        });
        lines(heading, rows)
    }

    /// What fits under each policy.
    fn policies(&self) -> String {
        let heading = format!(
            "{:24}{:>12}{:>16}{:>12}{:>10}{:>15}",
            "gradient_checkpointing",
            "activations",
            "logits and loss",
            "total",
            "of limit",
            "largest batch"
        );
        let rows = self.fits.iter().map(|Fit { policy, estimate, largest_batch }| {
            let AtPeak { activations_bytes, outputs_bytes, .. } = estimate.at_peak;
            let share = 100.0 * estimate.peak_bytes as f64 / self.limit.bytes as f64;
            let largest = largest_batch.map_or("none".into(), |rows| rows.to_string());
            format!(
                "{policy:24}{:>12}{:>16}{:>12}{share:>8.0} %{largest:>15}",
                Bytes(activations_bytes),
                Bytes(outputs_bytes),
                Bytes(estimate.peak_bytes),
            )
        });
        lines(heading, rows)
    }

    fn verdict(&self) -> String {
        let (needed, limit) = (self.estimate.peak_bytes, self.limit.bytes);
        let verdict = if needed <= limit { "fits" } else { "does not fit" };
        let policy: &CheckpointPolicy = &self.config.gradient_checkpointing;
        format!(
            "{} rows with gradient_checkpointing = \"{policy}\" need {} of {}, {}: it {verdict}\n",
            self.config.batch_size,
            Bytes(needed),
            Bytes(limit),
            self.limit.source.name(),
        )
    }
}

/// A table whose rows are whole lines.
fn lines(heading: String, rows: impl Iterator<Item = String>) -> String {
    [heading].into_iter().chain(rows).map(|line| line + "\n").collect()
}

/// What a row is: tokens for a language model, a row of the data for others.
pub(super) fn rows(settings: &Settings, model: &mut dyn BaseModel) -> Result<Rows> {
    let seq_len = settings.data.seq_len;
    if let Some(model) = model.as_language_model() {
        let context = model.context_length();
        if seq_len > context {
            return Err(Error::message(format!(
                "a row has {seq_len} tokens and the model sees {context} at once; lower --seq, or build a model with \
                 a longer context"
            )));
        }
        return Ok(Rows::tokens(i32::try_from(seq_len).unwrap_or(i32::MAX)));
    }
    if settings.data.path.is_none() {
        return Err(Error::message(
            "what is a row? say --input-shape 28,28, say, and --target-shape for targets that are no class; or name \
             the data with --set data.kind=… --set data.path=…",
        ));
    }
    Ok(Rows::of(&settings.data.load()?.training.batch(&[0])?))
}

fn precision(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Mixed => "mixed",
        Precision::Bf16 { .. } => "bf16",
    }
}
