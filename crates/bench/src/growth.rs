//! How the cost of a step grows: against layers, tokens of a row, rows and parameters.
//!
//! One size of a small GPT grows, the others stay. The slope is that of the line through the logarithms of size and
//! time: 1 is in proportion, 0 is no growth. Where a step has little to compute, what it costs whatever its size
//! counts too, so the slope of the larger half is told beside that of all.

use crate::{
    Options,
    record::Record,
    timing::{Quantiles, Steps, steps},
};
use mlx_train::{
    Array, Result,
    chart::Chart,
    data::Batch,
    ffi,
    mlx_rs::random::randint,
    model::FromConfig,
    models::transformer::{Transformer, TransformerConfig},
    optim::{AdamW, Clip},
    profile::Memory,
    rng,
    run::Environment,
    train::{CompileMode, StepOptions, TrainStep},
};
use serde_json::json;
use std::path::PathBuf;

/// Where the picture goes, and where the sizes end.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of growth")]
pub struct GrowthArgs {
    /// A picture of all curves, .svg or .png
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// The most parameters that a model has [default: 30 million on a CPU, a billion on a GPU]
    #[arg(long, value_name = "N")]
    max_parameters: Option<u64>,
}

/// What grows; each time it is twice as large, but for parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Layers,
    Tokens,
    Rows,
    Parameters,
}

/// A model and its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::struct_field_names)] // As the config of the transformer calls them.
struct Size {
    hidden_size: i32,
    num_layers: usize,
    seq_len: i32,
    rows: i32,
}

const VOCAB_SIZE: i32 = 256;

/// What stays while something else grows.
const BASE: Size = Size { hidden_size: 128, num_layers: 2, seq_len: 64, rows: 4 };

/// Widths and depths from ten thousand parameters to a billion.
const MODELS: [(i32, usize); 8] =
    [(16, 2), (48, 2), (128, 2), (256, 4), (512, 8), (768, 12), (1280, 24), (2048, 20)];

impl Axis {
    const ALL: [Self; 4] = [Self::Layers, Self::Tokens, Self::Rows, Self::Parameters];

    fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Tokens => "tokens of a row",
            Self::Rows => "rows",
            Self::Parameters => "parameters",
        }
    }

    fn sizes(self, max_parameters: u64) -> Vec<Size> {
        match self {
            Self::Layers => [1, 2, 4, 8, 16].map(|num_layers| Size { num_layers, ..BASE }).into(),
            Self::Tokens => [32, 64, 128, 256, 512, 1024]
                .map(|seq_len| Size { seq_len, rows: 1, ..BASE })
                .into(),
            Self::Rows => [1, 2, 4, 8, 16, 32].map(|rows| Size { rows, ..BASE }).into(),
            Self::Parameters => MODELS
                .map(|(hidden_size, num_layers)| Size { hidden_size, num_layers, ..BASE })
                .into_iter()
                .filter(|size| size.num_parameters() <= max_parameters)
                .collect(),
        }
    }

    fn of(self, size: &Size) -> f64 {
        match self {
            Self::Layers => size.num_layers as f64,
            Self::Tokens => f64::from(size.seq_len),
            Self::Rows => f64::from(size.rows),
            Self::Parameters => size.num_parameters() as f64,
        }
    }
}

impl Size {
    fn config(&self) -> TransformerConfig {
        TransformerConfig {
            vocab_size: VOCAB_SIZE,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            num_heads: (self.hidden_size / 64).max(2),
            intermediate_size: Some(self.intermediate_size()),
            max_seq_len: self.seq_len,
            dropout: 0.0,
            tie_word_embeddings: true,
            ..TransformerConfig::default()
        }
    }

    /// As usual with `SwiGLU`: three matrices have as many parameters as two of four times the width.
    fn intermediate_size(&self) -> i32 {
        8 * self.hidden_size / 3
    }

    fn num_parameters(&self) -> u64 {
        let [width, inner, vocab_size] =
            [self.hidden_size, self.intermediate_size(), VOCAB_SIZE].map(|it| it as u64);
        let block = 4 * width * width + 3 * width * inner + 2 * width;
        vocab_size * width + self.num_layers as u64 * block + width
    }
}

/// What the steps of one size took.
struct Point {
    axis: Axis,
    size: Size,
    first_seconds: f64,
    seconds: Quantiles,
    peak_bytes: u64,
}

/// Measures, prints a line for each size, and draws the curves if a file is named.
pub fn run(options: &Options, args: &GrowthArgs) -> Result<()> {
    let on_cpu = Environment::here().backend == "CPU";
    let max_parameters =
        args.max_parameters.unwrap_or(if on_cpu { 30_000_000 } else { 1_200_000_000 });
    let mut chart = Chart::new("Step time as one size grows")
        .axes("doublings of the size", "doublings of the time");
    let mut longest = 0.0_f64;
    for axis in Axis::ALL {
        let points = axis.sizes(max_parameters).into_iter();
        let points = points.map(|size| Point::measure(axis, size, options));
        let points = points.collect::<Result<Vec<_>>>()?;
        let curve: Vec<_> =
            points.iter().map(|point| (axis.of(&point.size), point.seconds.median)).collect();
        let slopes = [slope(&curve), slope(&curve[curve.len() / 2..])];
        for point in &points {
            point.record(options, slopes).print()?;
        }
        if let Some(&(size, time)) = curve.first() {
            let doublings = |&(x, y): &(f64, f64)| ((x / size).log2(), (y / time).log2());
            longest = curve.iter().map(|point| doublings(point).0).fold(longest, f64::max);
            let name = format!("{}, slope {:.2}", axis.name(), slopes[1]);
            chart = chart.dotted_line(name, curve.iter().map(doublings));
        }
    }
    match &args.plot {
        Some(path) => chart.line("in proportion", [(0.0, 0.0), (longest, longest)]).save(path),
        None => Ok(()),
    }
}

impl Point {
    fn measure(axis: Axis, size: Size, options: &Options) -> Result<Self> {
        let others = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        let mut model = rng::scope(&rng::key(0)?, || Transformer::from_config(&size.config()))?;
        let tokens = |seed| -> Result<Array> {
            let shape = [size.rows, size.seq_len];
            Ok(randint::<_, i32>(0, VOCAB_SIZE, &shape, &rng::key(seed)?)?)
        };
        let batch = Batch::new(tokens(1)?, tokens(2)?);
        ffi::eval([&batch.x, &batch.y])?;
        let step_options = StepOptions {
            clip: Clip::default().global_norm(1.0)?,
            compile: if options.compile { CompileMode::On } else { CompileMode::Off },
            ..StepOptions::default()
        };
        let mut step = TrainStep::new(&mut model, AdamW::default(), 0, step_options)?;
        let Steps { first_seconds, seconds } = steps(options.steps, || {
            let output = step.run([Ok(batch.clone())], 1e-4)?;
            output.loss.value.try_item_exact::<f32>()?;
            Ok(())
        })?;
        Ok(Self {
            axis,
            size,
            first_seconds,
            seconds,
            peak_bytes: Memory::now()?.peak_bytes.saturating_sub(others),
        })
    }

    fn record(&self, options: &Options, [slope, slope_of_larger_half]: [f64; 2]) -> Record {
        let Self { axis, size, first_seconds, seconds, peak_bytes } = *self;
        Record {
            benchmark: "growth",
            framework: "mlx-train",
            model: "transformer",
            shapes: json!({
                "batch_size": size.rows,
                "seq_len": size.seq_len,
                "vocab_size": VOCAB_SIZE,
                "hidden_size": size.hidden_size,
                "num_layers": size.num_layers,
                "intermediate_size": size.intermediate_size(),
            }),
            dtype: "float32",
            compiled: options.compile,
            seconds,
            first_seconds,
            tokens_per_second: Some(f64::from(size.rows * size.seq_len) / seconds.median),
            peak_bytes,
            further: json!({
                "grows": axis.name(),
                "size": axis.of(&size),
                "num_parameters": size.num_parameters(),
                "slope": slope,
                "slope_of_larger_half": slope_of_larger_half,
            }),
        }
    }
}

/// The slope of the line through the logarithms of points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let logarithms = points.iter().map(|(x, y)| (x.ln(), y.ln()));
    let count = points.len() as f64;
    let (x, y) = logarithms.clone().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    let (x_mean, y_mean) = (x / count, y / count);
    let (above, below) = logarithms.fold((0.0, 0.0), |(above, below), (x, y)| {
        let dx = x - x_mean;
        (dx.mul_add(y - y_mean, above), dx.mul_add(dx, below))
    });
    above / below
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_train::ModuleParameters;

    #[test]
    fn the_slope_of_a_power_is_its_exponent() {
        for exponent in [0.0, 0.5, 1.0, 2.0] {
            let points = [1.0_f64, 2.0, 5.0, 40.0].map(|x| (x, 3.0 * x.powf(exponent)));
            assert!((slope(&points) - exponent).abs() < 1e-12, "{exponent}: {}", slope(&points));
        }
    }

    #[test]
    fn parameters_are_counted_as_the_model_has_them() -> Result<()> {
        let size = Size { hidden_size: 48, ..BASE };
        let model = Transformer::from_config(&size.config())?;
        let shapes = model.parameters().flatten().into_values().map(|array| array.size() as u64);
        assert_eq!(shapes.sum::<u64>(), size.num_parameters());
        Ok(())
    }

    #[test]
    fn models_grow_from_ten_thousand_parameters_to_a_billion() {
        let numbers: Vec<u64> =
            Axis::Parameters.sizes(u64::MAX).iter().map(Size::num_parameters).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert!(numbers[0] < 12_000 && numbers[numbers.len() - 1] > 1_000_000_000, "{numbers:?}");
    }
}
