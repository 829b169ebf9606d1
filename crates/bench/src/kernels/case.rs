//! What is computed with kernels, and of what.

use super::agreement::Form;
use clap::ValueEnum;
use mlx_train::{
    Array, Result, ffi,
    kernels::Family,
    loss::{CrossEntropy, cross_entropy, linear_cross_entropy},
    mlx_rs::{
        Dtype,
        ops::{concatenate, indexing::TryIndexOp},
        random::{key, normal, randint},
    },
    nn::{self, Linear},
    optim::gradient_norms,
};
use std::{slice::from_ref, sync::Arc};

/// A function with a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    CrossEntropy,
    LinearCrossEntropy,
    /// Three projections of attention, rotated.
    Heads,
    /// A feed-forward part.
    GatedUnit,
    RmsNorm,
    LayerNorm,
    Rotary,
    SumOfSquares,
    Swiglu,
}

type Function = Arc<dyn Fn(&[Array]) -> Result<Array> + Send + Sync>;

/// A function of some inputs, with its gradients.
pub struct Case {
    function: Function,
    pub inputs: Vec<Array>,
    /// What comes back to its result.
    cotangent: Array,
    /// The least that has to be read and written.
    pub least_bytes: usize,
    /// Whether products of matrices are a part of it, which round what is inside.
    has_products: bool,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::LinearCrossEntropy => "linear_cross_entropy",
            Self::Heads => "heads",
            Self::GatedUnit => "gated_unit",
            Self::RmsNorm => "rms_norm",
            Self::LayerNorm => "layer_norm",
            Self::Rotary => "rotary",
            Self::SumOfSquares => "sum_of_squares",
            Self::Swiglu => "swiglu",
        }
    }

    /// The kernels that it uses.
    pub fn family(self) -> Family {
        match self {
            Self::CrossEntropy | Self::LinearCrossEntropy => Family::CrossEntropy,
            Self::Heads | Self::GatedUnit => Family::Joined,
            Self::RmsNorm | Self::LayerNorm => Family::Norm,
            Self::Rotary => Family::Rotary,
            Self::SumOfSquares => Family::Squares,
            Self::Swiglu => Family::Swiglu,
        }
    }

    /// Cases with tails, arrays that do not begin at 16 bytes or are not in the order of their axes, few and many rows.
    pub fn compared(self, dtype: Dtype) -> Result<Vec<Case>> {
        let shapes: &[&[i32]] = match self {
            Self::CrossEntropy | Self::LinearCrossEntropy => {
                &[&[3, 2], &[5, 7], &[9, 33], &[17, 1000], &[64, 4097], &[8, 50257], &[16, 50304]]
            }
            // With fewer than 2048 rows, nothing is joined.
            Self::Heads => &[&[2, 7, 24], &[3, 700, 24], &[2, 1100, 40], &[1, 2048, 128]],
            Self::GatedUnit => &[&[7, 24], &[3, 700, 24], &[2, 1100, 33], &[1, 2048, 128]],
            Self::RmsNorm | Self::LayerNorm => &[
                &[7],
                &[5, 33],
                &[2, 9, 256],
                &[17, 768],
                &[4, 700, 768],
                &[300, 1000],
                &[40, 4096],
                &[3, 6144],
                &[3, 6146],
            ],
            Self::Rotary => &[
                &[2, 5, 3, 8],
                &[1, 7, 2, 6],
                &[3, 130, 4, 80],
                &[2, 3000, 2, 64],
                &[5, 1, 12, 64],
                &[17, 33, 12, 128],
            ],
            Self::SumOfSquares => &[&[3], &[5, 7], &[2, 3, 33], &[1], &[257, 4099]],
            Self::Swiglu => &[&[3], &[5, 7], &[2, 3, 33], &[64, 2048]],
        };
        // A GPU compiles a kernel for each size and dtype, which takes most of the time.
        let shapes = if dtype == Dtype::Float16 { &shapes[1..3] } else { shapes };
        let placements: &[Placed] = match self {
            // cuBLAS refuses a matrix that does not begin at 16 bytes.
            Self::Heads | Self::GatedUnit => &[Placed::Whole, Placed::Transposed],
            _ => &[Placed::Whole, Placed::Behind, Placed::Transposed],
        };
        let mut cases = Vec::new();
        for shape in shapes {
            for &placed in placements {
                cases.extend(self.cases(shape, dtype, placed)?);
            }
        }
        Ok(cases)
    }

    /// Those of a step of GPT-2 small, if there is a GPU.
    pub fn measured(self, dtype: Dtype, is_on_gpu: bool) -> Result<Vec<Case>> {
        let shapes: &[&[i32]] = match (self, is_on_gpu) {
            (Self::CrossEntropy, true) => &[&[4096, 50304]],
            (Self::LinearCrossEntropy, true) => &[&[16384, 50304]],
            (Self::CrossEntropy | Self::LinearCrossEntropy, false) => &[&[64, 4096]],
            (Self::Heads | Self::GatedUnit, true) => &[&[16, 1024, 768]],
            (Self::RmsNorm | Self::LayerNorm, true) => {
                &[&[16, 1024, 768], &[16, 1024, 1024], &[4, 1024, 4096]]
            }
            (Self::Heads | Self::GatedUnit | Self::RmsNorm | Self::LayerNorm, false) => {
                &[&[2, 64, 768]]
            }
            (Self::Rotary, true) => &[&[16, 1024, 12, 64]],
            (Self::Rotary, false) => &[&[2, 64, 12, 64]],
            (Self::SumOfSquares, true) => &[&[2048, 768], &[50304, 768]],
            (Self::SumOfSquares, false) => &[&[64, 768]],
            (Self::Swiglu, true) => &[&[16, 1024, 2048]],
            (Self::Swiglu, false) => &[&[2, 64, 2048]],
        };
        let mut cases = Vec::new();
        for shape in shapes {
            // The first has the options that are most common.
            cases.extend(self.cases(shape, dtype, Placed::Whole)?.into_iter().next());
        }
        Ok(cases)
    }

    /// Those of one shape; several where a function has options.
    fn cases(self, shape: &[i32], dtype: Dtype, placed: Placed) -> Result<Vec<Case>> {
        const EPSILON: f32 = 1e-5;
        let draw = |shape: &[i32], deviation, seed| -> Result<Array> {
            placed.put(shape, |shape| {
                Ok(normal::<f32>(shape, 0.0, deviation, &key(seed)?)?.as_dtype(dtype)?)
            })
        };
        let size = shape.last().copied().unwrap_or(1);
        let passes = |count| move |inputs: &[Array]| count * inputs[0].nbytes();
        Ok(match self {
            Self::CrossEntropy | Self::LinearCrossEntropy => {
                let mut cases = Vec::new();
                for settings in settings(size) {
                    for targets in [targets(shape[0], size)?, with_one_outside(shape[0], size)?] {
                        cases.push(if self == Self::CrossEntropy {
                            let inputs = vec![draw(shape, 3.0, 1)?, targets];
                            Case::new(inputs, passes(3), move |x| {
                                Ok(cross_entropy(&x[0], &x[1], &settings)?.value)
                            })?
                        } else {
                            // The width of GPT-2 small where it is to be measured.
                            let width = if shape[0] > 1000 { 768 } else { 64 };
                            let inputs = vec![
                                draw(&[shape[0], width], 1.0, 3)?,
                                draw(&[size, width], 0.1, 4)?,
                                targets,
                            ];
                            // The product writes the logits, the kernel reads them and writes their gradient, two
                            // products read it.
                            let bytes = |x: &[Array]| {
                                5 * x[2].size() * x[1].dim(0) as usize * x[0].item_size()
                            };
                            let case = Case::new(inputs, bytes, move |x| {
                                Ok(linear_cross_entropy(&x[0], &x[1], &x[2], &settings, None)?
                                    .value)
                            })?;
                            Case { has_products: true, ..case }
                        });
                    }
                }
                cases
            }
            Self::Heads => {
                // Wide heads where they fit. Keys and values have half as many as queries, or one.
                let head_dim = if size % 64 == 0 { 64 } else { 8 };
                let h = size.div_euclid(head_dim).max(1);
                let k = if h % 2 == 0 { h / 2 } else { 1 };
                let weight = |heads, seed| {
                    draw(&[heads * head_dim, size], f32::sqrt(size as f32).recip(), seed)
                };
                let inputs =
                    vec![draw(shape, 1.0, 1)?, weight(h, 2)?, weight(k, 3)?, weight(k, 4)?];
                let case = Case::new(inputs, passes(9), move |x| {
                    let layers = layers(&x[1..]);
                    let [q, k, v] =
                        Linear::forward_all([&layers[0], &layers[1], &layers[2]], &x[0])?
                            .rotary_heads([h, k], head_dim, 10_000.0, 0)?;
                    Ok(concatenate(&[q, k, v], 1)?)
                })?;
                vec![Case { has_products: true, ..case }]
            }
            Self::GatedUnit => {
                let width = size * 8 / 3;
                let weight =
                    |shape: [i32; 2], seed| draw(&shape, f32::sqrt(shape[1] as f32).recip(), seed);
                let inputs = vec![
                    draw(shape, 2.0, 1)?,
                    weight([width, size], 2)?,
                    weight([width, size], 3)?,
                    weight([size, width], 4)?,
                ];
                let case = Case::new(inputs, passes(26), move |x| {
                    let layers = layers(&x[1..]);
                    let gated = Linear::forward_all([&layers[0], &layers[1]], &x[0])?;
                    layers[2].forward_swiglu(&gated, Some(&x[0]))
                })?;
                vec![Case { has_products: true, ..case }]
            }
            Self::RmsNorm => {
                let inputs = vec![draw(shape, 2.0, 1)?, draw(&[size], 1.0, 2)?];
                vec![Case::new(inputs, passes(5), |x| nn::rms_norm(&x[0], &x[1], EPSILON))?]
            }
            Self::LayerNorm => {
                let inputs =
                    vec![draw(shape, 2.0, 1)?, draw(&[size], 1.0, 2)?, draw(&[size], 1.0, 3)?];
                let norm = |x: &[Array]| nn::layer_norm(&x[0], &x[1], &x[2], EPSILON);
                vec![Case::new(inputs, passes(5), norm)?]
            }
            Self::Rotary => {
                let inputs = vec![draw(shape, 1.0, 1)?];
                vec![Case::new(inputs, passes(4), |x| nn::rotary(&x[0], 10_000.0, 0))?]
            }
            Self::SumOfSquares => {
                // The gradient is read and written besides.
                vec![Case::new(vec![draw(shape, 1.0, 1)?], passes(3), |x| {
                    Ok(gradient_norms(&x[..1])?.squares.swap_remove(0))
                })?]
            }
            Self::Swiglu => {
                let inputs = vec![draw(shape, 3.0, 1)?, draw(shape, 1.0, 2)?];
                vec![Case::new(inputs, passes(8), |x| nn::swiglu(&x[0], &x[1]))?]
            }
        })
    }
}

/// Layers of these weights.
fn layers(weights: &[Array]) -> Vec<Linear> {
    weights.iter().map(|weight| Linear::of_weight(weight.clone(), None)).collect()
}

/// How arrays lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    Whole,
    /// Behind one number of a larger array.
    Behind,
    /// In the order of the last axes the other way around.
    Transposed,
}

impl Placed {
    /// An array of this shape that `draw` makes of one of another shape.
    fn put(self, shape: &[i32], draw: impl Fn(&[i32]) -> Result<Array>) -> Result<Array> {
        let size: i32 = shape.iter().product();
        match (self, shape) {
            (Self::Behind, _) => {
                let longer = draw(&[size + 1])?;
                ffi::eval(from_ref(&longer))?;
                Ok(longer.try_index(1..)?.reshape(shape)?)
            }
            (Self::Transposed, [others @ .., before, last]) => {
                let turned = draw(&[others, &[*last, *before]].concat())?;
                ffi::eval(from_ref(&turned))?;
                Ok(turned.swap_axes(-1, -2)?)
            }
            _ => draw(shape),
        }
    }
}

impl Case {
    fn new(
        inputs: Vec<Array>,
        least_bytes: impl Fn(&[Array]) -> usize,
        function: impl Fn(&[Array]) -> Result<Array> + Send + Sync + 'static,
    ) -> Result<Self> {
        ffi::eval(&inputs)?;
        let result = function(&inputs)?;
        let (shape, dtype) = (result.shape(), result.dtype());
        let cotangent = normal::<f32>(shape, 0.0, 1.0, &key(9)?)?.as_dtype(dtype)?;
        ffi::eval(from_ref(&cotangent))?;
        let least_bytes = least_bytes(&inputs);
        let function = Arc::new(function);
        Ok(Self { function, inputs, cotangent, least_bytes, has_products: false })
    }

    /// The same of the same numbers in f32.
    pub fn in_f32(&self) -> Result<Self> {
        let in_f32 = |x: &Array| match x.dtype() {
            Dtype::Int32 => Ok(x.clone()),
            _ => x.as_dtype(Dtype::Float32),
        };
        let inputs = self.inputs.iter().map(in_f32).collect::<Result<_, _>>()?;
        let (function, cotangent) = (Arc::clone(&self.function), in_f32(&self.cotangent)?);
        Ok(Self { function, inputs, cotangent, ..*self })
    }

    pub fn shapes(&self) -> Vec<&[i32]> {
        self.inputs.iter().map(Array::shape).collect()
    }

    /// How far two numbers may be apart, in terms of the largest, where MLX's operations are off by `own`.
    pub fn tolerance(&self, own: f32) -> f32 {
        let tolerance = match self.inputs[0].dtype() {
            // A GPU may take products of f32 in TF32.
            Dtype::Float32 if self.has_products => 2e-3,
            Dtype::Float32 => 2e-5,
            Dtype::Float16 => 2e-3,
            _ => 1e-2,
        };
        if self.has_products { f32::max(tolerance, 2.0 * own) } else { tolerance }
    }

    /// How often it is computed in one evaluation, so that starting it counts for little.
    pub fn repeats(&self) -> u32 {
        if self.least_bytes < 1 << 30 { 10 } else { 1 }
    }

    /// The result and the gradients.
    pub fn outputs(&self, form: Form) -> Result<Vec<Array>> {
        let mut outputs = self.computed(form)?;
        let outputs = outputs()?;
        ffi::eval(&outputs)?;
        Ok(outputs)
    }

    /// What computes it again and again, as many times in one evaluation as [`Case::repeats`] says.
    pub fn repeated(&self, form: Form) -> Result<impl FnMut() -> Result<Vec<Array>>> {
        let mut computed = self.computed(form)?;
        let repeats = self.repeats();
        Ok(move || {
            (0..repeats).map(|_| computed()).collect::<Result<Vec<_>>>().map(|it| it.concat())
        })
    }

    fn computed(&self, form: Form) -> Result<impl FnMut() -> Result<Vec<Array>> + 'static> {
        let function = Arc::clone(&self.function);
        let outputs = move |inputs: &[Array]| {
            let Some((cotangent, inputs)) = inputs.split_last() else { return Ok(Vec::new()) };
            let once = |x: &[Array]| {
                let function = Arc::clone(&function);
                if form.checkpointed {
                    ffi::checkpoint(move |x| Ok(vec![function(x)?]), x)
                } else {
                    Ok(vec![function(x)?])
                }
            };
            let (values, gradients) = ffi::vjp(once, inputs, from_ref(cotangent))?;
            // Integers have none.
            let has_gradient = |(x, _): &(&Array, Array)| x.dtype() != Dtype::Int32;
            let gradients = inputs.iter().zip(gradients).filter(has_gradient).map(|(_, it)| it);
            Ok(values.into_iter().chain(gradients).collect())
        };
        let inputs = [&self.inputs[..], from_ref(&self.cotangent)].concat();
        let mut compiled =
            if form.compiled { Some(ffi::compile(outputs.clone(), false)?) } else { None };
        Ok(move || match &mut compiled {
            Some(compiled) => compiled.call(&inputs),
            None => outputs(&inputs),
        })
    }
}

/// Options of the loss; all of them, each at least once, where there are few classes. Targets of 0 occur in every case.
fn settings(classes: i32) -> Vec<CrossEntropy> {
    let plain = CrossEntropy::default();
    let mut settings = vec![plain, CrossEntropy { ignore_index: Some(0), ..plain }];
    if classes < 100 {
        settings.push(CrossEntropy {
            ignore_index: Some(-100),
            label_smoothing: 0.1,
            z_loss: 1e-3,
        });
    }
    settings
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
