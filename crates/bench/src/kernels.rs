//! Kernels of our own against MLX's operations: the same numbers, and the time of each.
//!
//! Where there is no GPU, both are MLX's operations, and a line says so.

use crate::{
    Options,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use mlx_train::{
    Array, Error, Result, ffi,
    kernels::{Family, kernel_form, without_kernels},
    loss::{CrossEntropy, Loss, cross_entropy, linear_cross_entropy},
    mlx_rs::{
        Dtype,
        ops::select,
        random::{key, normal, randint},
    },
    profile::Memory,
};
use serde_json::json;

/// Rows and classes of the logits that are compared: tails, rows that do not begin at 16 bytes, few and many.
const COMPARED: [[i32; 2]; 7] =
    [[3, 1], [5, 7], [9, 33], [17, 1000], [64, 4097], [8, 50257], [16, 50304]];

/// How wide the states of the output layers are.
const WIDTH: i32 = 64;

/// Compares, and prints a line for each function, dtype and form.
pub fn run(options: &Options) -> Result<()> {
    for [rows, classes] in COMPARED {
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            for settings in settings() {
                for targets in [targets(rows, classes)?, with_one_outside(rows, classes)?] {
                    compare(&Logits::new(&targets, classes, dtype, settings)?)?;
                    compare(&Layer::new(&targets, classes, WIDTH, dtype, settings)?)?;
                }
            }
        }
    }
    let plain = CrossEntropy::default();
    let on_gpu = kernel_form(Family::CrossEntropy)?.is_some();
    let [tokens, classes, width] = if on_gpu { [16384, 50304, 768] } else { [64, 4096, 64] };
    let targets = targets(tokens, classes)?;
    for dtype in [Dtype::Bfloat16, Dtype::Float32] {
        measure(&Logits::new(&targets, classes, dtype, plain)?, options)?;
        measure(&Layer::new(&targets, classes, width, dtype, plain)?, options)?;
    }
    Ok(())
}

/// Each option of the loss at least once; targets of 0 occur in every case.
fn settings() -> [CrossEntropy; 3] {
    let plain = CrossEntropy::default();
    [
        plain,
        CrossEntropy { ignore_index: Some(0), ..plain },
        CrossEntropy { ignore_index: Some(-100), label_smoothing: 0.1, z_loss: 1e-3 },
    ]
}

/// A function with a kernel.
trait Subject {
    const NAME: &'static str;
    fn inputs(&self) -> &[Array];
    /// How many of the inputs have a gradient, the first ones.
    fn num_differentiated(&self) -> usize;
    fn loss(&self, inputs: &[Array]) -> Result<Loss>;
    /// The least that has to be read and written.
    fn least_bytes(&self) -> usize;
    /// How far apart two numbers may be, by the size of the largest.
    fn tolerance(&self) -> f32 {
        // Both round the same f32 numbers, some of them to the one neighbour and some to the other.
        if self.inputs()[0].dtype() == Dtype::Float32 { 2e-5 } else { 2e-2 }
    }

    /// The loss and the gradients.
    fn outputs(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let argnums: Vec<usize> = (0..self.num_differentiated()).collect();
        let loss = |inputs: &[Array]| Ok(vec![self.loss(inputs)?.value]);
        let (values, gradients) = ffi::value_and_grad(loss, inputs, &argnums)?;
        Ok([values, gradients].concat())
    }
}

/// The loss of whole logits `(N, V)`.
struct Logits {
    inputs: Vec<Array>,
    settings: CrossEntropy,
}

impl Logits {
    fn new(targets: &Array, classes: i32, dtype: Dtype, settings: CrossEntropy) -> Result<Self> {
        let shape = [targets.dim(0), classes];
        let logits = normal::<f32>(&shape, 0.0, 3.0, &key(1)?)?.as_dtype(dtype)?;
        let inputs = vec![logits, targets.clone()];
        ffi::eval(&inputs)?;
        Ok(Self { inputs, settings })
    }
}

impl Subject for Logits {
    const NAME: &'static str = "cross_entropy";

    fn inputs(&self) -> &[Array] {
        &self.inputs
    }

    fn num_differentiated(&self) -> usize {
        1
    }

    fn loss(&self, inputs: &[Array]) -> Result<Loss> {
        cross_entropy(&inputs[0], &inputs[1], &self.settings)
    }

    fn least_bytes(&self) -> usize {
        3 * self.inputs[0].nbytes()
    }
}

/// The loss of an output layer `(V, C)` in chunks.
struct Layer {
    inputs: Vec<Array>,
    settings: CrossEntropy,
}

impl Layer {
    fn new(
        targets: &Array,
        classes: i32,
        width: i32,
        dtype: Dtype,
        settings: CrossEntropy,
    ) -> Result<Self> {
        let draw = |shape: &[i32], deviation, seed| -> Result<Array> {
            Ok(normal::<f32>(shape, 0.0, deviation, &key(seed)?)?.as_dtype(dtype)?)
        };
        let hidden = draw(&[targets.dim(0), width], 1.0, 3)?;
        let weight = draw(&[classes, width], 0.1, 4)?;
        let inputs = vec![hidden, weight, targets.clone()];
        ffi::eval(&inputs)?;
        Ok(Self { inputs, settings })
    }
}

impl Subject for Layer {
    const NAME: &'static str = "linear_cross_entropy";

    fn inputs(&self) -> &[Array] {
        &self.inputs
    }

    fn num_differentiated(&self) -> usize {
        2
    }

    fn loss(&self, inputs: &[Array]) -> Result<Loss> {
        linear_cross_entropy(&inputs[0], &inputs[1], &inputs[2], &self.settings, None)
    }

    fn least_bytes(&self) -> usize {
        // The product writes the logits, the kernel reads them and writes their gradient, two products read it.
        let logits = self.inputs[2].size() * self.inputs[1].dim(0) as usize;
        5 * logits * self.inputs[0].item_size()
    }
}

/// Targets `(N,)`; the first is 0, so that there is one to ignore, and the last is as well.
fn targets(rows: i32, classes: i32) -> Result<Array> {
    let drawn = randint::<_, i32>(0, classes, &[rows], &key(2)?)?;
    let inside =
        Array::from_iter((0..rows).map(|row| i32::from(0 < row && row + 1 < rows)), &[rows]);
    Ok(drawn.multiply(inside)?)
}

/// Targets `(N,)` of which one is no class.
fn with_one_outside(rows: i32, classes: i32) -> Result<Array> {
    let outside =
        Array::from_iter((0..rows).map(|row| if row == 1 { classes } else { 0 }), &[rows]);
    Ok(targets(rows, classes)?.add(outside)?)
}

/// Refuses outputs that are not those of MLX's operations.
fn compare<S: Subject>(subject: &S) -> Result<()> {
    let ours = subject.outputs(subject.inputs())?;
    let plain = without_kernels(|| subject.outputs(subject.inputs()))?;
    for (index, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
        let [ours, plain] = [ours.as_dtype(Dtype::Float32)?, plain.as_dtype(Dtype::Float32)?];
        // A loss that is no number has to be none in both; another NaN stays one, and is as far apart as can be.
        let both_nan = ours.is_nan()?.logical_and(plain.is_nan()?)?;
        let or_zero = |x: &Array| -> Result<f32> {
            let zeroed = select(&both_nan, Array::from_f32(0.0), x.abs()?)?;
            Ok(zeroed.max(None)?.try_item_exact::<f32>()?)
        };
        let (largest, apart) = (or_zero(&plain)?, or_zero(&ours.subtract(&plain)?)?);
        if apart.is_nan() || apart > subject.tolerance() * largest.max(1e-6) {
            let shapes: Vec<_> = subject.inputs().iter().map(Array::shape).collect();
            return Err(Error::message(format!(
                "{}: output {index} of {shapes:?}, {:?}, differs by {apart} where the largest number is {largest}",
                S::NAME,
                subject.inputs()[0].dtype(),
            )));
        }
    }
    Ok(())
}

/// Prints a line with kernels and one without; they take turns.
fn measure<S: Subject>(subject: &S, options: &Options) -> Result<()> {
    compare(subject)?;
    let mut seconds = [Vec::new(), Vec::new()];
    let (mut first, mut peak) = ([0.0; 2], [0; 2]);
    for index in 0..NUM_WARMUPS + options.steps {
        for (form, seconds) in seconds.iter_mut().enumerate() {
            Memory::reset_peak()?;
            let work = || ffi::eval(&subject.outputs(subject.inputs())?);
            let (done, took) = timed(|| if form == 0 { work() } else { without_kernels(work) });
            done?;
            if index == 0 {
                first[form] = took;
            }
            if index >= NUM_WARMUPS {
                seconds.push(took);
            }
            peak[form] = Memory::now()?.peak_bytes;
        }
    }
    let is_f32 = subject.inputs()[0].dtype() == Dtype::Float32;
    let shapes: Vec<_> = subject.inputs().iter().map(Array::shape).collect();
    let frameworks = match kernel_form(Family::CrossEntropy)? {
        Some(_) => ["mlx-train", "MLX's operations"],
        None => ["mlx-train (no GPU: MLX's operations)", "MLX's operations"],
    };
    for ((framework, seconds), (first_seconds, peak_bytes)) in
        frameworks.into_iter().zip(seconds).zip(first.into_iter().zip(peak))
    {
        let seconds = Quantiles::of(seconds);
        let bytes_per_second = subject.least_bytes() as f64 / seconds.median;
        Record {
            benchmark: "kernels",
            framework,
            model: S::NAME,
            shapes: json!(shapes),
            dtype: if is_f32 { "float32" } else { "bfloat16" },
            compiled: false,
            seconds,
            first_seconds,
            tokens_per_second: None,
            peak_bytes,
            further: json!({ "gigabytes_per_second": bytes_per_second / 1e9 }),
        }
        .print()?;
    }
    Ok(())
}
