//! Cross-entropy of a linear output layer whose logits never exist as a whole.
//!
//! The logits of a language model are its largest array by far, and its loss wants little of them: of
//! each token a few numbers, and gradients of the width of the model. So tokens go through in chunks, and
//! the gradients are made of a chunk's logits while those are there.
//!
//! With probabilities `p = softmax(x)` of the logits `x = hidden · weightᵀ` of a token, target `t`,
//! smoothing `s` and z-loss `z`, its loss has the gradient
//!
//! ```text
//! dx = a p - (1 - s) onehot(t) - s / V          a = 1 + 2 z log(Z)
//!    = a (p - (1 - s) / a · onehot(t)) - s / V
//! ```
//!
//! The matrix in parentheses is the softmax with one number of each row replaced in its place. So nothing
//! goes over the logits of a chunk but the product that makes them, their normaliser (with a copy in f32,
//! unless they are f32), the softmax, and the two products of the gradients. What multiplies whole rows is
//! multiplied into the narrow side of these products, and what is the same in each column is added to
//! their results.
//!
//! On a GPU that has all classes, a kernel makes losses and gradient `dx` of a chunk's logits in one pass
//! ([`kernels`]), and all terms are in the matrix that the two products take. Beside the logits of a chunk there is
//! then their gradient, as large, and no copy in f32.
//!
//! Where the classes are divided among ranks, so are the matrices: each rank has the columns of its classes, and the
//! normaliser, the target's logit and the mean come from all (see [`split_cross_entropy`](super::split_cross_entropy())).
//!
//! Source: Wijmans et al., arXiv:2411.09009, section 4, and Hsu et al., arXiv:2410.10989, section 3.2,
//! who fuse the same into kernels. Shape letters: N tokens, n those of a chunk, C width, V classes.

use super::{
    CrossEntropy, Loss, LossError,
    cross_entropy::{Classes, Scores, check_integer, masked_sum, mean_of_sum, nan_unless, nothing},
    split_cross_entropy::classes_of,
};
use crate::{
    Array, Error, Result, distributed::Group, exponential::Rows, ffi,
    kernels::cross_entropy as kernels,
};
use mlx_rs::{
    Dtype,
    ops::{addmm, concatenate, indexing::TryIndexOp, matmul, select},
};

const NAME: &str = "linear_cross_entropy";

/// The mean cross-entropy, in nats, of classes `(...)` against `hidden` `(..., C)` through the output
/// layer `weight` `(V, C)`.
///
/// It is [`cross_entropy`](super::cross_entropy()) of the logits `hidden · weightᵀ` within rounding, with
/// the same options and the same answer to targets that are no class. Memory is needed for the logits of
/// `chunk` tokens at a time, and for the gradients: `None` is [`chunk_size`].
///
/// Logits have the dtype of `hidden` and `weight`, f32 if they differ. Sums are f32, also the one over chunks
/// that is the gradient of `weight`. Inside of [`ffi::value_and_grad`] the gradients are computed along with the
/// value, that of `weight` unless it is frozen; elsewhere the value alone is. There is no second derivative.
///
/// With tied weights, give the embedding's: MLX adds this gradient to that of the look-up.
///
/// ```
/// use mlx_train_core::{Array, loss::{CrossEntropy, linear_cross_entropy}};
/// let hidden = Array::from_slice(&[0.0_f32; 4], &[2, 2]);
/// let weight = Array::from_slice(&[1.0_f32; 6], &[3, 2]);
/// let targets = Array::from_slice(&[2, 0], &[2]);
/// let loss = linear_cross_entropy(&hidden, &weight, &targets, &CrossEntropy::default(), None)?;
/// assert!((loss.value.try_item_exact::<f32>().unwrap_or(0.0) - 3_f32.ln()).abs() < 1e-6);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// [`LossError`] when shapes do not fit, an option is out of its range or `chunk` is 0; or when MLX fails.
pub fn linear_cross_entropy(
    hidden: &Array,
    weight: &Array,
    targets: &Array,
    options: &CrossEntropy,
    chunk: Option<usize>,
) -> Result<Loss> {
    split_linear_cross_entropy(hidden, weight, targets, options, chunk, &Group::alone())
}

/// As [`linear_cross_entropy`], where each rank of `group` has the weights of an equal part of the classes,
/// `(V / ranks, C)`, the first rank of the first.
///
/// The loss is that of the weights of all ranks one after the other, within rounding, and the same on all, which pass
/// the same hidden states, targets and options. Of each target, ranks exchange up to three numbers; its gradient is
/// that of the one loss, for `hidden` the whole one on every rank.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn split_linear_cross_entropy(
    hidden: &Array,
    weight: &Array,
    targets: &Array,
    options: &CrossEntropy,
    chunk: Option<usize>,
    group: &Group,
) -> Result<Loss> {
    options.check(NAME)?;
    let [num_classes, width] = check(hidden, weight, targets)?;
    let num_tokens = targets.size();
    let chunk = chunk.unwrap_or_else(|| chunk_size(num_tokens));
    if chunk == 0 {
        return Err(LossError::EmptyChunk { name: NAME }.into());
    }
    if num_tokens == 0 {
        return Ok(nothing());
    }
    let dtype = working_dtype(hidden, weight);
    let hidden = hidden.as_dtype(dtype)?.reshape(&[-1, width])?; // (N, C)
    let hidden = group.copy_to_parallel(&hidden)?;
    let weight = weight.as_dtype(dtype)?;
    let column = targets.reshape(&[-1, 1])?;
    let mut layer =
        OutputLayer::new(&column, num_classes, *options, chunk.min(num_tokens) as i32, group)?;
    if group.is_alone() {
        layer.kernels = kernels::Rows::of(dtype, options.terms())?;
    }
    let mask = layer.classes.mask.clone();
    mean_of_sum(&layer.sum(&hidden, &weight)?, mask.as_ref(), num_tokens)
}

/// Of how many of `num_tokens` tokens there are logits at a time, unless that is chosen: an eighth of
/// them, but at least 1024 and at most 4096.
///
/// Each chunk adds a matrix `(V, C)` to the gradient of the layer, which costs as much as its logits where
/// it has about C tokens, and nothing makes larger chunks faster once that is small. With V = 50304,
/// C = 768 and 16384 tokens in bf16, an H200 takes 13.9 ms for value and gradients in chunks of 1024,
/// 11.4 in 2048, 10.2 in 4096 and 9.4 in 8192; whole logits take 15.6.
pub fn chunk_size(num_tokens: usize) -> usize {
    num_tokens.div_ceil(8).clamp(1024, 4096)
}

/// What the loss needs besides `hidden` and `weight`.
#[derive(Debug, Clone)]
struct OutputLayer {
    /// `(N, 1)`; the nearest of the classes that are here.
    classes: Classes,
    /// Whether a target is one of the classes that are here, bool `(N, 1)`; absent where all are.
    is_here: Option<Array>,
    /// 1 for each target that counts and is a class, else 0: f32 `(N, 1)`.
    counted: Array,
    options: CrossEntropy,
    /// `weight`, where it needs no gradient.
    frozen: Option<Array>,
    /// How many tokens a chunk has, the last one but at most.
    chunk: i32,
    /// The ranks that have the other classes.
    group: Group,
    /// The kernels for logits, on a GPU that has all classes.
    kernels: Option<kernels::Rows>,
}

/// What chunks have left so far.
#[derive(Default)]
struct Done {
    /// The loss of each target, f32 `(n, 1)` for each chunk.
    each: Vec<Array>,
    /// The gradient of `hidden`, `(n, C)` for each chunk.
    hidden: Vec<Array>,
    /// The sum of the gradients of `weight`, f32 `(V, C)`.
    weight: Option<Array>,
    /// Those that are not in the sum yet, `(V, C)` in a half type.
    waiting: Vec<Array>,
}

impl OutputLayer {
    /// The loss of targets `(N, 1)`, where `num_classes` of the classes are here.
    fn new(
        targets: &Array,
        num_classes: i32,
        options: CrossEntropy,
        chunk: i32,
        group: &Group,
    ) -> Result<Self> {
        let (classes, is_here) = if group.is_alone() {
            (Classes::of(targets, num_classes, options.ignore_index)?, None)
        } else {
            let (classes, part) = classes_of(targets, num_classes, options.ignore_index, group)?;
            (Classes { nearest: part.nearest, ..classes }, Some(part.is_here))
        };
        let counted = match &classes.mask {
            Some(mask) => mask.logical_and(&classes.is_class)?,
            None => classes.is_class.clone(),
        };
        let counted = counted.as_dtype(Dtype::Float32)?;
        let (frozen, group, kernels) = (None, group.clone(), None);
        Ok(Self { classes, is_here, counted, options, frozen, chunk, group, kernels })
    }

    /// The sum `()` of the losses of the targets that count, f32.
    fn sum(mut self, hidden: &Array, weight: &Array) -> Result<Array> {
        // MLX computes every output of a function with its own gradient, so that gradients which are
        // not wanted must not be among them.
        let along = ffi::is_differentiating();
        let mut inputs = vec![hidden.clone()];
        // Where others differentiate, what they differentiate by is not known.
        if along && !ffi::needs_gradient(weight)? {
            self.frozen = Some(weight.clone());
        } else {
            inputs.push(weight.clone());
        }
        let later = self.clone();
        let forward = move |inputs: &[Array]| self.run(inputs, along);
        let backward = move |pass: ffi::Backward<'_>| {
            let outputs =
                if along { pass.outputs.to_vec() } else { later.run(pass.inputs, true)? };
            let gradients = outputs.iter().skip(1).zip(pass.inputs);
            let scaled = gradients.map(|(gradient, input)| {
                Ok(gradient.multiply(&pass.cotangents[0])?.as_dtype(input.dtype())?)
            });
            scaled.collect()
        };
        Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
    }

    /// The sum `()` of the losses, and where they are asked for its gradients for the inputs: `hidden` `(N, C)`,
    /// and `weight` `(V, C)` unless it is frozen.
    fn run(&self, inputs: &[Array], with_gradients: bool) -> Result<Vec<Array>> {
        let (([hidden, weight], None) | ([hidden], Some(weight))) = (inputs, &self.frozen) else {
            return Err(Error::message("MLX lost an input of the loss of an output layer"));
        };
        let num_tokens = hidden.dim(0);
        let mean_weight = match self.kernels {
            Some(_) => None,
            None => self.mean_weight(weight)?,
        };
        let mut done = Done::default();
        for start in (0..num_tokens).step_by(self.chunk as usize) {
            let tokens = start..num_tokens.min(start + self.chunk);
            // MLX computes in an order of its own: without this, all logits before anything is done
            // with them.
            let rows = ffi::depends(&[hidden.try_index(tokens.clone())?], &done.last())?;
            let chunk = self.part(tokens)?;
            let logits = matmul(&rows[0], weight.transpose()?)?; // (n, V)
            if let Some(kernels) = self.kernels {
                chunk.add_by(kernels, &mut done, &logits, &rows[0], weight, with_gradients)?;
                continue;
            }
            let sums = Rows::of(&logits)?;
            let scores = chunk.scores(&logits, &sums, &rows[0], mean_weight.as_ref())?;
            done.each.push(chunk.losses(&scores)?);
            if with_gradients {
                let (rows, mean) = (&rows[0], mean_weight.as_ref());
                chunk.add_gradients(&mut done, &sums, &scores, rows, weight, mean)?;
            }
        }
        done.add_up()?;
        let each = concatenate(&done.each, 0)?;
        let mut outputs = vec![masked_sum(&each, self.classes.mask.as_ref())?];
        if with_gradients {
            outputs.push(concatenate(&done.hidden, 0)?);
        }
        if let Some(d_weight) = done.weight {
            outputs.push(match self.kernels {
                Some(_) => d_weight,
                None => self.smoothed(d_weight, hidden)?,
            });
        }
        Ok(outputs)
    }

    /// That of some of the tokens.
    fn part(&self, tokens: std::ops::Range<i32>) -> Result<Self> {
        let of = |x: &Array| x.try_index(tokens.clone());
        let Classes { nearest, is_class, mask } = &self.classes;
        let mask = mask.as_ref().map(of).transpose()?;
        let classes = Classes { nearest: of(nearest)?, is_class: of(is_class)?, mask };
        let is_here = self.is_here.as_ref().map(of).transpose()?;
        Ok(Self { classes, is_here, counted: of(&self.counted)?, ..self.clone() })
    }

    /// Adds the losses and gradients of a chunk, whose logits `(n, V)` are read once and become their gradient in
    /// one pass.
    fn add_by(
        &self,
        kernels: kernels::Rows,
        done: &mut Done,
        logits: &Array,
        hidden: &Array,
        weight: &Array,
        with_gradients: bool,
    ) -> Result<()> {
        let targets = self.classes.or_negative()?.reshape(&[-1])?; // (n,)
        if !with_gradients {
            done.each.push(kernels.losses(logits, &targets)?.expand_dims(-1)?);
            return Ok(());
        }
        // A target that does not count has no gradient, be it a class or none.
        let counted = select(
            &self.counted.reshape(&[-1])?.gt(Array::from_f32(0.0))?,
            &targets,
            Array::from_int(-1),
        )?;
        let [each, d_logits] = kernels.losses_and_gradient(logits, &counted)?;
        done.each.push(each.expand_dims(-1)?);
        done.hidden.push(matmul(&d_logits, weight)?);
        self.add_weight(done, &d_logits, hidden)
    }

    /// What the losses take of the logits `(n, V)` of a chunk, `(n, 1)` each.
    fn scores(
        &self,
        logits: &Array,
        sums: &Rows,
        hidden: &Array,
        mean_weight: Option<&Array>,
    ) -> Result<Scores> {
        let picked = logits.take_along_axis(&self.classes.nearest, -1)?.as_dtype(Dtype::Float32)?;
        let log_z = sums.log_sum().clone();
        // The mean of the logits is the logit of the mean.
        let of_mean = |mean: &Array| matmul(hidden.as_dtype(Dtype::Float32)?, mean.transpose()?);
        let mean = mean_weight.map(of_mean).transpose()?;
        let Some(is_here) = &self.is_here else { return Ok(Scores { log_z, picked, mean }) };
        let picked = select(is_here, picked, Array::from_f32(0.0))?;
        Scores { log_z, picked, mean }.of_all(&self.group)
    }

    /// The loss of each target, f32 `(n, 1)`.
    fn losses(&self, scores: &Scores) -> Result<Array> {
        nan_unless(&self.classes.is_class, &self.options.of_each(scores)?)
    }

    /// Adds the gradients of a chunk.
    fn add_gradients(
        &self,
        done: &mut Done,
        sums: &Rows,
        Scores { log_z, picked, .. }: &Scores,
        hidden: &Array,
        weight: &Array,
        mean_weight: Option<&Array>,
    ) -> Result<()> {
        let CrossEntropy { label_smoothing, .. } = self.options;
        let dtype = hidden.dtype();
        let slope = self.slope(log_z)?;
        // The difference in f32, as in bf16 the probability of a token that is learnt is 1.
        let share = Array::from_f32(1.0 - label_smoothing).divide(&slope)?;
        let at_target = picked.subtract(log_z)?.exp()?.subtract(share)?.as_dtype(dtype)?;
        let nearest = &self.classes.nearest;
        let (probabilities, at_target) = match &self.is_here {
            None => (sums.softmax()?, at_target),
            Some(is_here) => {
                // The softmax over the classes of all ranks; a target of another rank is none here.
                let probabilities = sums.softmax_within(log_z)?.as_dtype(dtype)?;
                let as_it_is = probabilities.take_along_axis(nearest, -1)?;
                (probabilities, select(is_here, at_target, as_it_is)?)
            }
        };
        let d_logits = probabilities.put_along_axis(nearest, at_target, -1)?; // (n, V)

        let scale = self.counted.multiply(slope)?; // (n, 1)
        let mut d_hidden = matmul(&d_logits, weight)?.multiply(&scale)?; // (n, C)
        if let Some(mean) = mean_weight {
            let share = Array::from_f32(self.smoothing_here());
            let spread = self.counted.multiply(share)?.multiply(mean)?;
            d_hidden = d_hidden.subtract(spread)?;
        }
        done.hidden.push(d_hidden.as_dtype(dtype)?);
        let scaled = hidden.multiply(scale)?.as_dtype(dtype)?;
        self.add_weight(done, &d_logits, &scaled)
    }

    /// Adds the product of `d_logits` `(n, V)` and states `(n, C)` to the gradient of the weight, if it has one.
    fn add_weight(&self, done: &mut Done, d_logits: &Array, hidden: &Array) -> Result<()> {
        // Where steps are compiled, the sum is read and written once for so many.
        const AT_ONCE: usize = 2;
        if self.frozen.is_some() {
            return Ok(());
        }
        let d_logits = d_logits.transpose()?; // (V, n)
        if hidden.dtype() == Dtype::Float32 {
            done.weight = Some(match done.weight.take() {
                Some(sum) => addmm(sum, d_logits, hidden, 1.0, 1.0)?,
                None => matmul(d_logits, hidden)?,
            });
            return Ok(());
        }
        done.waiting.push(matmul(d_logits, hidden)?);
        if done.waiting.len() == AT_ONCE { done.add_up() } else { Ok(()) }
    }

    /// How the loss of a token grows with its `log_z`, f32, `(n, 1)` or a scalar; never 0, as it divides.
    fn slope(&self, log_z: &Array) -> Result<Array> {
        const SMALLEST: f32 = 1e-4;
        let z_loss = self.options.z_loss;
        if z_loss <= 0.0 {
            return Ok(Array::from_f32(1.0));
        }
        let slope = log_z.multiply(Array::from_f32(2.0 * z_loss))?.add(Array::from_f32(1.0))?;
        let smallest = Array::from_f32(SMALLEST);
        Ok(select(slope.abs()?.lt(&smallest)?, smallest, slope)?)
    }

    /// The mean of the rows of `weight`, f32 `(1, C)`, where labels are smoothed.
    fn mean_weight(&self, weight: &Array) -> Result<Option<Array>> {
        if self.options.label_smoothing <= 0.0 {
            return Ok(None);
        }
        Ok(Some(weight.as_dtype(Dtype::Float32)?.mean_axis(0, true)?))
    }

    /// How much of a target's probability is spread over the classes that are here.
    fn smoothing_here(&self) -> f32 {
        self.options.label_smoothing / self.group.world_size() as f32
    }

    /// The gradient of `weight` with the part that smoothing adds to every row.
    fn smoothed(&self, d_weight: Array, hidden: &Array) -> Result<Array> {
        if self.options.label_smoothing <= 0.0 {
            return Ok(d_weight);
        }
        let share = Array::from_f32(self.smoothing_here() / d_weight.dim(0) as f32);
        let hidden = hidden.multiply(&self.counted)?.sum_axis(0, true)?; // (1, C)
        Ok(d_weight.subtract(hidden.multiply(share)?)?)
    }
}

impl Done {
    /// What the last chunk has left.
    fn last(&self) -> Vec<Array> {
        self.each
            .last()
            .into_iter()
            .chain(self.hidden.last())
            .chain(&self.weight)
            .chain(&self.waiting)
            .cloned()
            .collect()
    }

    /// Adds the gradients of `weight` that wait to their sum.
    fn add_up(&mut self) -> Result<()> {
        for part in self.waiting.drain(..) {
            let part = part.as_dtype(Dtype::Float32)?;
            self.weight = Some(match self.weight.take() {
                Some(sum) => sum.add(part)?,
                None => part,
            });
        }
        Ok(())
    }
}

/// The dtype of both, or f32 unless they are of one half type.
fn working_dtype(hidden: &Array, weight: &Array) -> Dtype {
    match (hidden.dtype(), weight.dtype()) {
        (Dtype::Bfloat16, Dtype::Bfloat16) => Dtype::Bfloat16,
        (Dtype::Float16, Dtype::Float16) => Dtype::Float16,
        _ => Dtype::Float32,
    }
}

/// The shape of `weight`, if all fit together.
fn check(hidden: &Array, weight: &Array, targets: &Array) -> Result<[i32; 2]> {
    let ([batch @ .., width], &[num_classes, columns]) = (hidden.shape(), weight.shape()) else {
        return Err(misfit(hidden, weight));
    };
    if *width != columns || columns == 0 || num_classes == 0 {
        return Err(misfit(hidden, weight));
    }
    if batch != targets.shape() {
        let logits = [batch, &[num_classes]].concat();
        let targets = targets.shape().to_vec();
        return Err(LossError::Targets { name: NAME, logits, targets }.into());
    }
    check_integer(NAME, targets)?;
    Ok([num_classes, columns])
}

fn misfit(hidden: &Array, weight: &Array) -> Error {
    let (hidden, weight) = (hidden.shape().to_vec(), weight.shape().to_vec());
    LossError::OutputLayer { name: NAME, hidden, weight }.into()
}
