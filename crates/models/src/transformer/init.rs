//! How weights start: normal with standard deviation 0.02, smaller where a block adds to its input.
//!
//! 0.02 is GPT-2's and Llama's `initializer_range`. A block adds twice, so a stream of L blocks is
//! a sum of 2L terms, and keeps its variance when each term's weights are scaled by 1/sqrt(2L):
//! Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.

use super::TransformerConfig;
use mlx_rs::builder::Builder;
use mlx_train_core::{
    Result,
    nn::{Embedding, Linear, RmsNorm, RmsNormBuilder, init::normal},
};

const STANDARD_DEVIATION: f32 = 0.02;

/// A projection without bias: weight `(output_size, input_size)`.
pub(super) fn linear(input_size: i32, output_size: i32) -> Result<Linear> {
    projection(input_size, output_size, STANDARD_DEVIATION)
}

/// A projection without bias whose output is added to the input of a block, one of `num_layers`.
pub(super) fn residual_linear(
    input_size: i32,
    output_size: i32,
    num_layers: usize,
) -> Result<Linear> {
    let num_terms = (2 * num_layers.max(1)) as f32;
    projection(input_size, output_size, STANDARD_DEVIATION / num_terms.sqrt())
}

/// A table of vectors: weight `(vocab_size, hidden_size)`.
pub(super) fn embedding(vocab_size: i32, hidden_size: i32) -> Result<Embedding> {
    Ok(Embedding::of_weight(normal(&[vocab_size, hidden_size], STANDARD_DEVIATION)?))
}

/// A norm over C that starts at one.
pub(super) fn rms_norm(config: &TransformerConfig) -> Result<RmsNorm> {
    Ok(RmsNormBuilder::new(config.hidden_size).eps(config.rms_norm_eps).build()?)
}

fn projection(input_size: i32, output_size: i32, deviation: f32) -> Result<Linear> {
    let weight = normal(&[output_size, input_size], deviation)?;
    Ok(Linear::of_weight(weight, None))
}
