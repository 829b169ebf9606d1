//! `profile`: what each layer of a model costs in training, as a table.

use super::{
    Failure,
    args::{ProfileArgs, RunSource},
    models::print_json,
    settings::Settings,
};
use crate::{
    Error, Result,
    checkpoint::with_policy,
    data::Batch,
    ffi::{DeviceInfo, device_info},
    mlx_rs::{Dtype, ops::indexing::TryIndexOp, random::randint},
    model::BaseModel,
    profile::{Bytes, LayerCost, LayerProfile, Memory, MemoryLimits, peak_flops, profile_layers},
    progress::grouped,
    rng,
    summary::Summary,
    train::{Precision, TrainStep},
};
use serde_json::{Value, json};
use std::{array, io::Write, time::Instant};

/// Steps that trace, compile kernels and fill caches before one is measured.
const WARM_UP: usize = 3;

pub(super) fn run(args: &ProfileArgs, out: &mut impl Write) -> Result<(), Failure> {
    let settings = settings(args).map_err(Failure::Refused)?;
    let (model, batch) = prepare(&settings).map_err(Failure::Refused)?;
    let profile = Profile::measure(&settings, model, &batch, args.repeats);
    let profile = profile.map_err(Failure::Failed)?;
    if args.json {
        return print_json(&profile.to_json(), out);
    }
    Ok(write!(out, "{}", profile.to_text(args.top))?)
}

/// The settings of what is measured.
///
/// # Errors
/// When they are refused.
pub(super) fn settings(args: &ProfileArgs) -> Result<Settings> {
    Settings::resolve(&source(args))
}

fn source(args: &ProfileArgs) -> RunSource {
    let mut source = args.run.clone();
    source.set.extend(args.batch.map(|rows| format!("train.batch_size={rows}")));
    source.set.extend(args.seq.map(|tokens| format!("data.seq_len={tokens}")));
    source.set.extend(args.memory.overrides());
    source
}

/// The model, and a batch of its data; a language model takes any tokens where no data is named.
fn prepare(settings: &Settings) -> Result<(Box<dyn BaseModel>, Batch)> {
    let (rows, tokens) = (settings.train.batch_size, settings.data.seq_len);
    let mut model = rng::scope(&rng::key(settings.train.seed)?, || settings.model.build())?;
    if settings.data.path.is_some() {
        let data = settings.data.load()?.training;
        let rows: Vec<usize> = (0..rows.min(data.len())).collect();
        return Ok((model, data.batch(&rows)?));
    }
    let Some(language_model) = model.as_language_model() else {
        return Err(Error::message(
            "the batch to measure with comes from the data, and there is none; say --set data.kind=… --set \
             data.path=…, as for `train`",
        ));
    };
    let shape = [rows as i32, tokens as i32 + 1];
    let vocab_size = language_model.vocab_size() as i32;
    let text = randint::<_, i32>(0, vocab_size, &shape, Some(&rng::key(0)?))?;
    let (x, y) = (text.try_index((.., ..-1))?, text.try_index((.., 1..))?);
    Ok((model, Batch::new(x, y)))
}

/// What was measured.
struct Profile {
    model: String,
    device: DeviceInfo,
    precision: &'static str,
    batch_shape: Vec<i32>,
    step_seconds: f64,
    num_targets: f64,
    peak_bytes: u64,
    /// Of the device, in floating-point operations per second.
    peak_flops: Option<f64>,
    layers: LayerProfile,
}

impl Profile {
    fn measure(
        settings: &Settings,
        mut model: Box<dyn BaseModel>,
        batch: &Batch,
        repeats: usize,
    ) -> Result<Self> {
        let config = &settings.train;
        let device = device_info()?;
        MemoryLimits::of(&config.memory, &device)?.0.apply()?;
        let optimizer = config.optimizer.build(&config.groups)?;
        let mut step = TrainStep::new(&mut model, optimizer, config.seed, config.step_options()?)?;
        step.model().training_mode(true);
        let mut take = || step.run([Ok(batch.clone())], 0.0);
        for _ in 0..WARM_UP {
            take()?;
        }
        Memory::reset_peak()?;
        let mut seconds = Vec::with_capacity(repeats);
        let mut num_targets = 0.0;
        for _ in 0..repeats {
            let began = Instant::now();
            let output = take()?;
            seconds.push(began.elapsed().as_secs_f64());
            num_targets = f64::from(output.loss.weight.try_item_cast::<f32>()?);
        }
        let peak_bytes = Memory::now()?.peak_bytes;
        seconds.sort_by(f64::total_cmp);
        let step_seconds = seconds.get(seconds.len() / 2).copied().unwrap_or_default();

        let policy = step.options().gradient_checkpointing.clone();
        let (precision, dtype) = match config.precision {
            Precision::F32 => ("f32", Dtype::Float32),
            Precision::Mixed => ("mixed", Dtype::Bfloat16),
            Precision::Bf16 { .. } => ("bf16", Dtype::Bfloat16),
        };
        let inputs = config.precision.batch_to_compute(batch.clone())?;
        let layers = step.with_evaluation_weights(|model| {
            with_policy(&policy, || profile_layers(model, &inputs, repeats))
        })?;
        Ok(Self {
            model: settings.model.model().name().to_owned(),
            peak_flops: peak_flops(&device, dtype),
            device,
            precision,
            batch_shape: batch.x.shape().to_vec(),
            step_seconds,
            num_targets,
            peak_bytes,
            layers,
        })
    }

    /// The operations of a step's forward and backward pass.
    fn flops(&self) -> Option<f64> {
        self.layers.layers().first().and_then(|model| model.flops)
    }

    /// How much of the device's peak so many operations in so much time are.
    fn utilization(&self, flops: Option<f64>, seconds: f64) -> Option<f64> {
        let (flops, peak) = flops.zip(self.peak_flops)?;
        (seconds > 0.0).then(|| flops / seconds / peak)
    }

    fn to_text(&self, top: usize) -> String {
        let seconds = self.step_seconds;
        let rate = grouped((self.num_targets / seconds.max(f64::MIN_POSITIVE)) as u64);
        let mut summary = Summary::new(format!("Profile of {}", self.model))
            .row("batch", format!("{:?} in {}", self.batch_shape, self.precision))
            .row("device", self.device.name.as_deref().unwrap_or("unknown"))
            .row("step", format!("{}, {rate} targets/s", milliseconds(seconds)))
            .row("peak memory", Bytes(self.peak_bytes));
        if let Some(flops) = self.flops() {
            let rate = giga(flops / seconds.max(f64::MIN_POSITIVE));
            let mut text = format!("{} GFLOP a step, {rate} GFLOP/s", giga(flops));
            if let Some(share) = self.utilization(Some(flops), seconds) {
                text = format!("{text}, {} of the device's peak", percent(share));
            }
            summary = summary.row("arithmetic", text);
        }
        let mut table = vec![HEADINGS.map(str::to_owned)];
        table.extend(self.layers.by_cost().into_iter().take(top).map(|layer| self.row(layer)));
        format!(
            "{summary}\n{}\nLayers run one by one, forward and backward, in {} together. Own time and GFLOP are \
             without the layers inside.\n",
            aligned(&table),
            milliseconds(self.layers.seconds()),
        )
    }

    fn row(&self, layer: &LayerCost) -> [String; HEADINGS.len()] {
        let unknown = || "-".to_owned();
        let share = layer.own_seconds / self.layers.seconds().max(f64::MIN_POSITIVE);
        let utilization = self.utilization(layer.own_flops, layer.own_seconds);
        [
            layer.name.clone(),
            milliseconds(layer.own_seconds),
            percent(share),
            milliseconds(layer.forward_seconds),
            milliseconds(layer.backward_seconds),
            layer.own_flops.map_or_else(unknown, giga),
            utilization.map_or_else(unknown, percent),
        ]
    }

    fn to_json(&self) -> Value {
        let total = self.layers.seconds();
        let layer = |layer: &LayerCost| {
            json!({
                "name": layer.name,
                "depth": layer.depth,
                "num_parameters": layer.num_parameters,
                "inputs": layer.inputs,
                "forward_seconds": layer.forward_seconds,
                "backward_seconds": layer.backward_seconds,
                "own_seconds": layer.own_seconds,
                "share": layer.own_seconds / total,
                "flops": layer.flops,
                "own_flops": layer.own_flops,
                "utilization": self.utilization(layer.own_flops, layer.own_seconds),
            })
        };
        json!({
            "model": self.model,
            "device": self.device.name,
            "precision": self.precision,
            "batch_shape": self.batch_shape,
            "step_seconds": self.step_seconds,
            "num_targets": self.num_targets,
            "peak_bytes": self.peak_bytes,
            "flops": self.flops(),
            "utilization": self.utilization(self.flops(), self.step_seconds),
            "layers": self.layers.by_cost().into_iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

const HEADINGS: [&str; 7] =
    ["layer", "own time", "share", "forward", "backward", "own GFLOP", "of the peak"];

/// A table whose first column is on the left and the others on the right.
fn aligned(rows: &[[String; HEADINGS.len()]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; HEADINGS.len()] = array::from_fn(width);
    let line = |row: &[String; HEADINGS.len()]| {
        let [name, numbers @ ..] = row;
        let numbers = numbers.iter().zip(&widths[1..]);
        let numbers: Vec<_> = numbers.map(|(cell, &width)| format!("{cell:>width$}")).collect();
        format!("{name:<width$}  {}\n", numbers.join("  "), width = widths[0])
    };
    rows.iter().map(line).collect()
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

fn giga(number: f64) -> String {
    format!("{:.2}", number / 1e9)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_below_one_another() {
        let row = |name: &str, number: &str| {
            array::from_fn(|column| if column == 0 { name } else { number }.to_owned())
        };
        let text = aligned(&[row("a", "1"), row("long", "234")]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("a       1") && lines[1].starts_with("long  234"), "{text}");
        assert_eq!(lines[0].len(), lines[1].len());
    }
}
