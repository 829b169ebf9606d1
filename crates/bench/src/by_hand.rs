//! The training step of the small GPT in bare MLX calls: what the engine's step is compared with.
//!
//! No module, no name, no check, no option: arrays in a vector, and the operations that the maths
//! needs. It is the engine's maths, so the losses are the same, which [`super::step_overhead`] checks.

// One letter is what the papers give them.
#![allow(clippy::many_single_char_names)]

use mlx_train::{
    Array, Error, Result,
    ffi::{Compiled, compile},
    mlx_rs::{
        error::Exception,
        fast::{
            ScaledDotProductAttentionMask::Causal, rms_norm, rope, scaled_dot_product_attention,
        },
        module::ModuleParameters,
        ops::{minimum, sigmoid, zeros_like},
        transforms::{eval, value_and_grad_with_argnums},
    },
    models::transformer::{Transformer, TransformerConfig},
};
use std::mem;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.01;
const MAX_GRAD_NORM: f32 = 1.0;

/// The weights of a block, in their order.
const BLOCK: [&str; 9] = [
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A model with tied embeddings and without dropout, and the state of `AdamW`.
pub struct ByHand {
    config: TransformerConfig,
    /// The embedding, the last norm and the blocks; then the first moments of all, then the second.
    state: Vec<Array>,
    step: u16,
    compiled: Option<Compiled<'static>>,
}

impl ByHand {
    /// Starts from the weights of a model.
    pub fn new(model: &Transformer, is_compiled: bool) -> Result<Self> {
        let config = model.config().clone();
        let named = model.parameters().flatten();
        let weight = |name: &str| {
            let array = named.get(format!("model.{name}.weight").as_str()).copied().cloned();
            array.ok_or_else(|| Error::message(format!("the transformer has no {name}")))
        };
        let mut weights = vec![weight("embed_tokens")?, weight("norm")?];
        for layer in 0..config.num_layers {
            for part in BLOCK {
                weights.push(weight(&format!("layers.{layer}.{part}"))?);
            }
        }
        let zeros = weights.iter().map(zeros_like).collect::<Result<Vec<_>, _>>()?;
        let state = [&weights[..], &zeros, &zeros].concat();
        eval(&state)?;
        let compiled = if is_compiled {
            let config = config.clone();
            Some(compile(move |inputs| Ok(update(&config, inputs)?), false)?)
        } else {
            None
        };
        Ok(Self { config, state, step: 0, compiled })
    }

    /// One step on tokens `(B, T)`, evaluated; returns the loss `()` before it.
    pub fn step(&mut self, x: &Array, y: &Array, learning_rate: f32) -> Result<Array> {
        self.step += 1;
        let mut inputs = mem::take(&mut self.state);
        inputs.extend([x.clone(), y.clone()]);
        inputs.extend([learning_rate, f32::from(self.step)].map(Array::from_f32));
        let mut outputs = match &mut self.compiled {
            Some(compiled) => compiled.call(&inputs)?,
            None => update(&self.config, &inputs)?,
        };
        // Nobody holds the old values then, and the new ones take their memory.
        drop(inputs);
        eval(&outputs)?;
        let loss = outputs.pop().ok_or_else(|| Error::message("the step has no outputs"))?;
        self.state = outputs;
        Ok(loss)
    }
}

/// The state, `x`, `y`, the learning rate and the number of the step to the next state and the loss.
fn update(config: &TransformerConfig, inputs: &[Array]) -> Result<Vec<Array>, Exception> {
    let [state @ .., x, y, learning_rate, step] = inputs else {
        return Err(Exception::custom("there are no inputs"));
    };
    let (weights, moments) = state.split_at(state.len() / 3);
    let (means, squares) = moments.split_at(weights.len());
    let traced = |weights: &[Array]| Ok(vec![loss(config, weights, x, y)?]);
    let argnums: Vec<i32> = (0..weights.len() as i32).collect();
    let (loss, gradients) = value_and_grad_with_argnums(traced, &argnums[..])(weights)?;
    let scale = clip_scale(&gradients)?;

    let [one, beta1, beta2] = [1.0, BETA1, BETA2].map(Array::from_f32);
    let [rest1, rest2] = [1.0 - BETA1, 1.0 - BETA2].map(Array::from_f32);
    let [decay, epsilon] = [WEIGHT_DECAY, EPSILON].map(Array::from_f32);
    let step_size = learning_rate.divide(one.subtract(beta1.power(step)?)?)?;
    let correction = one.subtract(beta2.power(step)?)?.rsqrt()?;
    let kept = one.subtract(learning_rate.multiply(decay)?)?;
    let mut next: [Vec<Array>; 3] = Default::default();
    for (((weight, m), v), gradient) in weights.iter().zip(means).zip(squares).zip(gradients) {
        let g = gradient.multiply(&scale)?;
        let m = m.multiply(&beta1)?.add(g.multiply(&rest1)?)?;
        let v = v.multiply(&beta2)?.add(g.square()?.multiply(&rest2)?)?;
        let divisor = v.sqrt()?.multiply(&correction)?.add(&epsilon)?;
        let change = step_size.multiply(&m)?.divide(divisor)?;
        // Norms do not decay.
        let decayed = if weight.ndim() > 1 { weight.multiply(&kept)? } else { weight.clone() };
        for (next, array) in next.iter_mut().zip([decayed.subtract(change)?, m, v]) {
            next.push(array);
        }
    }
    Ok(next.into_iter().flatten().chain(loss).collect())
}

/// The mean cross-entropy `()` of the tokens `y` `(B, T)` that follow those in `x` `(B, T)`.
fn loss(
    config: &TransformerConfig,
    weights: &[Array],
    x: &Array,
    y: &Array,
) -> Result<Array, Exception> {
    let [embedding, norm, blocks @ ..] = weights else {
        return Err(Exception::custom("there are no weights"));
    };
    let mut h = embedding.take_axis(x, 0)?; // (B, T, C)
    for block in blocks.as_chunks::<{ BLOCK.len() }>().0 {
        h = forward(config, block, &h)?;
    }
    let h = rms_norm(&h, Some(norm), config.rms_norm_eps)?;
    let logits = h.matmul(embedding.t())?; // (B, T, V)
    let picked = logits.take_along_axis(y.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    let each = logits.logsumexp_axis(-1, None)?.subtract(picked)?; // (B, T)
    // Rows first: MLX's sum over a whole array loses digits on a CPU.
    each.mean_axis(-1, None)?.mean(None)
}

/// One block: `(B, T, C)` in and out.
fn forward(
    config: &TransformerConfig,
    block: &[Array; BLOCK.len()],
    x: &Array,
) -> Result<Array, Exception> {
    let [norm1, q, k, v, o, norm2, gate, up, down] = block;
    let (batch_size, seq_len) = (x.dim(0), x.dim(1));
    let head_dim = config.hidden_size / config.num_heads;
    let heads = |x: &Array, weight: &Array| {
        let shape = [batch_size, seq_len, -1, head_dim];
        x.matmul(weight.t())?.reshape(&shape)?.transpose_axes(&[0, 2, 1, 3])
    };
    let rotate = |x: Array| rope(x, head_dim, false, config.rope_theta, 1.0, 0, None);

    let normed = rms_norm(x, Some(norm1), config.rms_norm_eps)?;
    let (q, k, v) = (rotate(heads(&normed, q)?)?, rotate(heads(&normed, k)?)?, heads(&normed, v)?);
    let scale = (head_dim as f32).sqrt().recip();
    let mixed = scaled_dot_product_attention(q, k, v, scale, Causal, None)?; // (B, H, T, D)
    let mixed = mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(x.shape())?;
    let x = x.add(mixed.matmul(o.t())?)?;

    let normed = rms_norm(&x, Some(norm2), config.rms_norm_eps)?;
    let gate = normed.matmul(gate.t())?; // (B, T, F)
    let gated = gate.multiply(sigmoid(&gate)?)?.multiply(normed.matmul(up.t())?)?;
    x.add(gated.matmul(down.t())?)
}

/// What gradients are multiplied by, a scalar `()`: their global norm is then at most the largest.
fn clip_scale(gradients: &[Array]) -> Result<Array, Exception> {
    let mut total = Array::from_f32(0.0);
    for gradient in gradients {
        total = total.add(gradient.square()?.sum_axis(-1, None)?.sum(None)?)?;
    }
    let scale = Array::from_f32(MAX_GRAD_NORM).divide(total.sqrt()?.add(Array::from_f32(1e-6))?)?;
    minimum(scale, Array::from_f32(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_train::{
        optim::{AdamW, Clip},
        prelude::*,
        train::{CompileMode, StepOptions, TrainStep},
    };

    #[test]
    fn the_step_by_hand_is_that_of_the_engine() -> Result<()> {
        let config = TransformerConfig {
            vocab_size: 32,
            hidden_size: 16,
            num_layers: 2,
            num_heads: 2,
            dropout: 0.0,
            tie_word_embeddings: true,
            ..Default::default()
        };
        let mut model = rng::scope(&rng::key(0)?, || Transformer::from_config(&config))?;
        let mut by_hand = ByHand::new(&model, false)?;
        let options = StepOptions {
            clip: Clip::default().global_norm(f64::from(MAX_GRAD_NORM))?,
            compile: CompileMode::Off,
            ..StepOptions::default()
        };
        let mut step = TrainStep::new(&mut model, AdamW::default(), 0, options)?;
        let tokens: Vec<i32> = (0..22).map(|index| index * index % 32).collect();
        let x = Array::from_slice(&tokens[..20], &[2, 10]);
        let y = Array::from_slice(&tokens[1..21], &[2, 10]);
        for _ in 0..5 {
            let output = step.run([Ok(Batch::new(x.clone(), y.clone()))], 0.01)?;
            let expected: f32 = output.loss.value.try_item_exact()?;
            let loss: f32 = by_hand.step(&x, &y, 0.01)?.try_item_exact()?;
            // f32 in another order; 1e-6 was measured.
            assert!((loss / expected - 1.0).abs() < 1e-4, "{loss} by hand, {expected}");
        }
        Ok(())
    }
}
