//! Text generation from models that predict the next token.
//!
//! [`generate`] feeds a prompt to a [`LanguageModel`], then one token after another that a
//! [`Sampler`] draws, keeping what attention has computed in a [`KvCache`].
//!
//! Shape letters: B batch, T tokens, V vocabulary.

mod sampler;

pub use sampler::Sampler;

use crate::{
    Result, ffi,
    nn::KvCache,
    rng::{self, in_scope},
};
use mlx_rs::{Array, ops::indexing::TryIndexOp};
use std::ops::ControlFlow;

/// How many tokens of a prompt pass through the model at once, to bound the attention's memory.
const PREFILL_TOKENS: usize = 512;

/// A model that predicts the next token of a sequence.
pub trait LanguageModel {
    /// Logits `(B, T, V)` of tokens `(B, T)` (int32) that follow those that `cache` has seen.
    ///
    /// To look at tokens here would stall a GPU: whoever makes tokens checks that they are in the
    /// vocabulary, as [`generate`] and data loading do.
    ///
    /// # Errors
    /// When `tokens` has another shape or dtype, the context is full, or MLX fails.
    fn logits(&mut self, tokens: &Array, cache: &mut KvCache) -> Result<Array>;

    /// An empty cache with room for every layer of this model.
    fn new_cache(&self) -> KvCache;

    /// How many tokens the model can see at once.
    fn context_length(&self) -> usize;

    /// How many tokens the model knows; they are `0..vocab_size`.
    fn vocab_size(&self) -> usize;
}

/// What [`generate`] does besides the model and prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that does is not part of it.
    pub stop_tokens: Vec<u32>,
    /// How a token is drawn from the logits.
    pub sampler: Sampler,
    /// The seed of the draws: one seed gives one text.
    pub seed: u64,
}

impl Default for GenerateOptions {
    /// 256 tokens, each the most likely, with seed 0.
    fn default() -> Self {
        Self { max_tokens: 256, stop_tokens: Vec::new(), sampler: Sampler::greedy(), seed: 0 }
    }
}

/// Generates the tokens that follow `prompt`, handing each to `on_token` as soon as it is known.
///
/// The text ends after `max_tokens` tokens, before a stop token, or when `on_token` breaks.
/// Nothing slides: prompt and text must fit the model's context together, which is checked first,
/// so that no text is generated and then lost.
///
/// # Errors
/// [`GenerateError`] when the prompt is empty, holds a token out of the vocabulary or leaves no
/// room for `max_tokens`, when the sampler's options are out of range, inside of a
/// [`rng::scope`], or when logits are not finite; when the model or MLX fails.
pub fn generate(
    model: &mut dyn LanguageModel,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    options.sampler.check()?;
    let (&last, before) = check_prompt(model, prompt, options.max_tokens)?;

    // Only the last token's logits are wanted: MLX is lazy, so evaluating the cache alone spares
    // the projection of all others to the vocabulary.
    let mut cache = model.new_cache();
    for block in before.chunks(PREFILL_TOKENS) {
        model.logits(&row(block), &mut cache)?;
        cache.eval()?;
    }

    let mut key = rng::key(options.seed)?;
    let mut token = last;
    let mut text = Vec::new();
    while text.len() < options.max_tokens {
        let logits = model.logits(&row(&[token]), &mut cache)?.try_index((0, -1))?; // (V,)
        let (next_key, draw) = rng::split(&key)?;
        key = next_key;
        token = checked(&options.sampler.sample(&logits, &draw)?, &logits)?;
        if options.stop_tokens.contains(&token) {
            break;
        }
        text.push(token);
        if on_token(token).is_break() {
            break;
        }
    }
    Ok(text)
}

/// Why text could not be generated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The prompt has no token.
    #[error("the prompt is empty, and the model continues text; give it one token at least")]
    EmptyPrompt,
    /// A token of the prompt is not in the vocabulary.
    #[error(
        "token {token} at place {place} of the prompt is not in the model's vocabulary of \
         {vocab_size}; use the tokenizer that the model was trained with"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Its index in the prompt.
        place: usize,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// The prompt and the text would not fit the context.
    #[error(
        "{prompt} tokens of prompt and up to {max_tokens} of text do not fit the model's context \
         of {context}; {}", room(*.context, *.prompt)
    )]
    ContextFull {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens to generate at most.
        max_tokens: usize,
        /// Tokens that the model can see at once.
        context: usize,
    },
    /// An option of the sampler is out of its range.
    #[error("{name} is {value}; it must be {range}")]
    Option {
        /// The field of [`Sampler`].
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// Dropout would disturb the text.
    #[error("generate was called in an `rng::scope`, where models train; call it outside of one")]
    Training,
    /// The model is broken.
    #[error(
        "the model's largest logit is {0}, not a finite number: its training diverged or its \
         weights are damaged; load an earlier checkpoint"
    )]
    NotFinite(f32),
}

/// What makes room in the context.
fn room(context: usize, prompt: usize) -> String {
    match context.checked_sub(prompt) {
        None | Some(0) => format!("shorten the prompt to fewer than {context} tokens"),
        Some(left) => format!("lower max_tokens to {left} or shorten the prompt"),
    }
}

fn check_prompt<'a>(
    model: &dyn LanguageModel,
    prompt: &'a [u32],
    max_tokens: usize,
) -> Result<(&'a u32, &'a [u32]), GenerateError> {
    if in_scope() {
        return Err(GenerateError::Training);
    }
    let (vocab_size, context) = (model.vocab_size(), model.context_length());
    // MLX's indices are signed; no vocabulary comes near 2^31.
    let known = |token: u32| (token as usize) < vocab_size && i32::try_from(token).is_ok();
    if let Some(place) = prompt.iter().position(|&token| !known(token)) {
        return Err(GenerateError::UnknownToken { token: prompt[place], place, vocab_size });
    }
    if prompt.len().saturating_add(max_tokens) > context {
        return Err(GenerateError::ContextFull { prompt: prompt.len(), max_tokens, context });
    }
    prompt.split_last().ok_or(GenerateError::EmptyPrompt)
}

/// Tokens as a batch of one: `(1, T)`, int32.
fn row(tokens: &[u32]) -> Array {
    let tokens: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    Array::from_slice(&tokens, &[1, tokens.len() as i32])
}

/// The token as a number, if the logits `(V,)` that it was drawn from are numbers.
fn checked(token: &Array, logits: &Array) -> Result<u32> {
    let largest = logits.max(None)?.as_type::<f32>()?;
    ffi::eval([token, &largest])?;
    let largest = largest.try_item_exact::<f32>()?;
    if !largest.is_finite() {
        return Err(GenerateError::NotFinite(largest).into());
    }
    Ok(token.try_item_exact()?)
}
