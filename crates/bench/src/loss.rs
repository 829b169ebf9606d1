//! The loss of an output layer with its gradients: in chunks, against whole logits.

use crate::{
    Options,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use mlx_train::{
    Array, Error, Result, ffi,
    loss::{CrossEntropy, chunk_size, cross_entropy, linear_cross_entropy},
    mlx_rs::{
        Dtype,
        ops::matmul,
        random::{key, normal, randint},
    },
    profile::Memory,
};
use serde_json::{Value, json};

/// How far the losses of both may be apart, relative: in bf16 each logit is rounded, in f32 sums differ.
const TOLERANCE: f32 = 1e-3;

/// The sizes of the output layer; those of a GPT-2 small are 50304, 16384 and 768 in bf16.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of loss")]
#[group(id = "loss_sizes")]
pub struct Sizes {
    /// How many classes there are
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(i32).range(1..))]
    vocab_size: i32,
    /// How many tokens a batch has
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(i32).range(1..))]
    tokens: i32,
    /// The width of the model
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(i32).range(1..))]
    hidden_size: i32,
    /// How many tokens have logits at a time [default: as many as the library chooses]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Compute in bf16, not in f32
    #[arg(long)]
    bf16: bool,
    /// Measure the value alone, as an evaluation computes it
    #[arg(long)]
    value_only: bool,
}

/// Measures, and prints a line for each of the two.
///
/// They take turns, and the ratio is the median of those of neighbours: what slows the machine down for
/// longer than a step slows both.
pub fn run(options: &Options, sizes: &Sizes) -> Result<()> {
    let inputs = inputs(sizes)?;
    let mut plain = Contender::new("whole logits", sizes, options, |x| {
        let logits = matmul(&x[0], x[1].transpose()?)?;
        Ok(cross_entropy(&logits, &x[2], &CrossEntropy::default())?.value)
    })?;
    let chunk = sizes.chunk;
    let mut fused = Contender::new("mlx-train", sizes, options, move |x| {
        let options = CrossEntropy::default();
        Ok(linear_cross_entropy(&x[0], &x[1], &x[2], &options, chunk)?.value)
    })?;
    plain.warm_up(&inputs)?;
    fused.warm_up(&inputs)?;
    let mut ratios = Vec::new();
    for index in 0..options.steps {
        // Each goes first as often as the other.
        let (ours, theirs) = if index % 2 == 0 {
            let ours = fused.step(&inputs)?;
            (ours, plain.step(&inputs)?)
        } else {
            let theirs = plain.step(&inputs)?;
            (fused.step(&inputs)?, theirs)
        };
        if (ours.loss / theirs.loss - 1.0).abs() > TOLERANCE {
            return Err(Error::message(format!(
                "the two losses are not the same: {} in chunks and {} of whole logits",
                ours.loss, theirs.loss
            )));
        }
        ratios.push(ours.seconds / theirs.seconds);
    }
    let further = json!({
        "chunk": chunk.unwrap_or_else(|| chunk_size(sizes.tokens as usize)),
        "time_ratio": Quantiles::of(ratios),
        "peak_ratio": fused.peak_bytes as f64 / plain.peak_bytes.max(1) as f64,
    });
    plain.record(options, sizes, json!({})).print()?;
    fused.record(options, sizes, further).print()
}

/// Hidden states `(N, C)`, the output layer `(V, C)`, and targets `(N,)`.
fn inputs(&Sizes { vocab_size, tokens, hidden_size, bf16, .. }: &Sizes) -> Result<Vec<Array>> {
    let dtype = if bf16 { Dtype::Bfloat16 } else { Dtype::Float32 };
    let draw = |shape: &[i32], deviation, seed| -> Result<Array> {
        Ok(normal::<f32>(shape, 0.0, deviation, &key(seed)?)?.as_dtype(dtype)?)
    };
    let hidden = draw(&[tokens, hidden_size], 1.0, 0)?;
    let weight = draw(&[vocab_size, hidden_size], 0.02, 1)?;
    let targets = randint::<_, i32>(0, vocab_size, &[tokens], &key(2)?)?;
    let inputs = vec![hidden, weight, targets];
    ffi::eval(&inputs)?;
    Ok(inputs)
}

/// One of the two that are compared.
struct Contender<'a> {
    framework: &'static str,
    function: Box<Function<'a>>,
    first_seconds: f64,
    peak_bytes: u64,
    seconds: Vec<f64>,
}

/// From inputs to the loss `()` and whatever is computed with it.
type Function<'a> = dyn FnMut(&[Array]) -> Result<Vec<Array>> + 'a;

struct Measured {
    loss: f32,
    seconds: f64,
}

impl<'a> Contender<'a> {
    fn new(
        framework: &'static str,
        sizes: &Sizes,
        options: &Options,
        loss: impl Fn(&[Array]) -> Result<Array> + 'a,
    ) -> Result<Self> {
        let value_only = sizes.value_only;
        let whole = move |inputs: &[Array]| -> Result<Vec<Array>> {
            if value_only {
                return Ok(vec![loss(inputs)?]);
            }
            let loss = |inputs: &[Array]| Ok(vec![loss(inputs)?]);
            let (values, gradients) = ffi::value_and_grad(loss, inputs, &[0, 1])?;
            Ok([values, gradients].concat())
        };
        let function: Box<Function<'a>> = if options.compile {
            let mut compiled = ffi::compile(whole, false)?;
            Box::new(move |inputs| compiled.call(inputs))
        } else {
            Box::new(whole)
        };
        let seconds = Vec::new();
        Ok(Self { framework, function, first_seconds: 0.0, peak_bytes: 0, seconds })
    }

    /// Takes the steps that are not counted. What MLX holds at their most is this one's alone.
    fn warm_up(&mut self, inputs: &[Array]) -> Result<()> {
        let others = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        for index in 0..NUM_WARMUPS {
            let measured = self.step(inputs)?;
            if index == 0 {
                self.first_seconds = measured.seconds;
            }
        }
        self.peak_bytes = Memory::now()?.peak_bytes.saturating_sub(others);
        self.seconds.clear();
        Ok(())
    }

    fn step(&mut self, inputs: &[Array]) -> Result<Measured> {
        let (outputs, seconds) = timed(|| {
            let outputs = (self.function)(inputs)?;
            ffi::eval(&outputs)?;
            Ok::<_, Error>(outputs)
        });
        let loss = outputs?.swap_remove(0).try_item_exact::<f32>()?;
        self.seconds.push(seconds);
        Ok(Measured { loss, seconds })
    }

    fn record(self, options: &Options, sizes: &Sizes, further: Value) -> Record {
        let &Sizes { vocab_size, tokens, hidden_size, bf16, value_only, .. } = sizes;
        let seconds = Quantiles::of(self.seconds);
        Record {
            benchmark: "loss",
            framework: self.framework,
            model: if value_only { "output layer, value alone" } else { "output layer" },
            shapes: json!({
                "tokens": tokens,
                "vocab_size": vocab_size,
                "hidden_size": hidden_size,
            }),
            dtype: if bf16 { "bfloat16" } else { "float32" },
            compiled: options.compile,
            tokens_per_second: Some(f64::from(tokens) / seconds.median),
            seconds,
            first_seconds: self.first_seconds,
            peak_bytes: self.peak_bytes,
            further,
        }
    }
}
