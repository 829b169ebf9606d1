//! One decoder block: RMSNorm then attention, RMSNorm then SwiGLU, both added to their input.
//!
//! LLaMA (arXiv:2302.13971, section 2.2); RMSNorm from arXiv:1910.07467, before each part as in
//! GPT-3. Shape letters as in the [module above](super).

use super::{Attention, FeedForward, TransformerConfig, init::rms_norm};
use mlx_rs::Array;
use mlx_train_core::{
    Result, assert_shape,
    checkpoint::part,
    nn::{Dropout, LayerCache, LoraLinear, RmsNorm},
};
use mlx_train_derive::{ModuleParameters, Shard};
use std::{iter::once, slice::from_ref};

/// Pre-norm block: `(B, T, C)` in and out, in the wider of the input's and weights' dtypes.
///
/// Attention and feed-forward part, each with its norm and added to its input, are the [parts](part) `attention` and `mlp`
/// of selective checkpointing.
///
/// ```
/// # use mlx_train_core::Array;
/// # use mlx_train_models::transformer::{Block, TransformerConfig};
/// let config = TransformerConfig { hidden_size: 8, num_heads: 2, ..Default::default() };
/// let x = Array::from_slice(&[0.5_f32; 32], &[1, 4, 8]);
/// assert_eq!(Block::new(&config)?.forward(&x, None, None)?.shape(), [1, 4, 8]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, ModuleParameters, Shard)]
pub struct Block {
    // Field names are checkpoint keys, Hugging Face Llama's: renaming one breaks every saved file.
    #[param]
    #[shard]
    self_attn: Attention,
    #[param]
    #[shard]
    mlp: FeedForward,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
    dropout: Dropout,
    hidden_size: i32,
}

impl Block {
    /// Draws f32 weights; norms start at one.
    ///
    /// # Errors
    /// When the config's sizes do not fit together, or MLX fails.
    pub fn new(config: &TransformerConfig) -> Result<Self> {
        Ok(Self {
            self_attn: Attention::new(config)?,
            mlp: FeedForward::new(config)?,
            input_layernorm: rms_norm(config)?,
            post_attention_layernorm: rms_norm(config)?,
            dropout: Dropout::new(config.dropout)?,
            hidden_size: config.hidden_size,
        })
    }

    /// Transforms `x` `(B, T, C)`, which the tokens in `cache` precede, if there is one; `mask` is that of
    /// [`Attention::forward`].
    ///
    /// # Errors
    /// When `x` has another size than the weights or does not continue the cache, or MLX fails.
    pub fn forward(
        &mut self,
        x: &Array,
        cache: Option<LayerCache<'_>>,
        mask: Option<&Array>,
    ) -> Result<Array> {
        assert_shape!(x, [_, _, self.hidden_size]);
        let x = self.attend(x, cache, mask)?;
        let dropout = self.dropout;
        let parts = (&mut self.post_attention_layernorm, &mut self.mlp);
        part("mlp", parts, from_ref(&x), move |(norm, mlp), x| {
            let (x, normed) = norm.branch(&x[0])?;
            added(dropout, &x, |stream| mlp.forward(&normed, stream))
        })
    }

    /// The projections of both parts, by name.
    pub(super) fn projections(&mut self) -> impl Iterator<Item = (&'static str, &mut LoraLinear)> {
        self.self_attn.projections().into_iter().chain(self.mlp.projections())
    }

    /// The part `attention`, added to `x`. It is never checkpointed with a cache, which changes when it runs.
    fn attend(
        &mut self,
        x: &Array,
        cache: Option<LayerCache<'_>>,
        mask: Option<&Array>,
    ) -> Result<Array> {
        let Self { input_layernorm, self_attn, dropout, .. } = self;
        let dropout = *dropout;
        if cache.is_some() {
            let (x, normed) = input_layernorm.branch(x)?;
            return added(dropout, &x, |onto| self_attn.forward(&normed, cache, mask, onto));
        }
        let inputs: Vec<Array> = once(x).chain(mask).cloned().collect();
        part("attention", (input_layernorm, self_attn), &inputs, move |(norm, attention), x| {
            let (stream, normed) = norm.branch(&x[0])?;
            added(dropout, &stream, |onto| attention.forward(&normed, None, x.get(1), onto))
        })
    }
}

/// `x` and what `part` makes, which has some dropped on the way; without dropout, `part` itself adds it.
fn added(
    dropout: Dropout,
    x: &Array,
    part: impl FnOnce(Option<&Array>) -> Result<Array>,
) -> Result<Array> {
    if dropout.p() > 0.0 {
        return Ok(x.add(dropout.forward(&part(None)?)?)?);
    }
    part(Some(x))
}
