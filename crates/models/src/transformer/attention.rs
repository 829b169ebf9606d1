//! Causal self-attention with rotary positions and grouped keys and values.
//!
//! Rotary positions: arXiv:2104.09864, section 3.2, in Hugging Face's layout (the halves of a head
//! are rotated against each other). Grouped queries: arXiv:2305.13245, whose K key heads are read for H
//! query heads without a copy; the softmax is taken in f32.
//! Shape letters as in the [module above](super).

use super::{TransformerConfig, init};
use mlx_rs::{Array, ops::arange};
use mlx_train_core::{
    Result, assert_shape,
    nn::{LayerCache, LoraLinear, attention},
};
use mlx_train_derive::{ModuleParameters, Shard};

/// Causal self-attention: `(B, T, C)` in and out, in the wider of the input's and weights' dtypes.
///
/// Its heads can be divided among ranks.
#[derive(Debug, Clone, ModuleParameters, Shard)]
pub struct Attention {
    #[param]
    #[shard(columns)]
    q_proj: LoraLinear,
    #[param]
    #[shard(columns)]
    k_proj: LoraLinear,
    #[param]
    #[shard(columns)]
    v_proj: LoraLinear,
    #[param]
    #[shard(rows)]
    o_proj: LoraLinear,
    #[shard(divide)]
    num_heads: i32,
    #[shard(divide)]
    num_kv_heads: i32,
    hidden_size: i32,
    head_dim: i32,
    rope_theta: f32,
}

impl Attention {
    /// Draws f32 weights, normal with standard deviation 0.02, smaller in `o_proj`.
    ///
    /// # Errors
    /// When the config's heads do not fit together, or MLX fails.
    pub fn new(config: &TransformerConfig) -> Result<Self> {
        let (head_dim, num_kv_heads) = (config.head_dim()?, config.num_kv_heads()?);
        let (hidden_size, kv_size) = (config.hidden_size, num_kv_heads * head_dim);
        Ok(Self {
            q_proj: init::linear(hidden_size, hidden_size)?.into(),
            k_proj: init::linear(hidden_size, kv_size)?.into(),
            v_proj: init::linear(hidden_size, kv_size)?.into(),
            o_proj: init::residual_linear(hidden_size, hidden_size, config.num_layers)?.into(),
            num_heads: config.num_heads,
            num_kv_heads,
            hidden_size,
            head_dim,
            rope_theta: config.rope_theta,
        })
    }

    /// Attends from each token of `x` `(B, T, C)` to itself, earlier ones, and those in `cache`; or
    /// to those alone that `mask` `(B, 1, T, T)`, bool, has true, query by key, without a cache. What it
    /// makes is added to `stream` `(B, T, C)`, if there is one.
    ///
    /// # Errors
    /// When `x` or `stream` has another size than the weights or does not continue the cache, or MLX fails.
    pub fn forward(
        &mut self,
        x: &Array,
        cache: Option<LayerCache<'_>>,
        mask: Option<&Array>,
        stream: Option<&Array>,
    ) -> Result<Array> {
        assert_shape!(x, [batch, tokens, self.hidden_size]);
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let offset = cache.as_ref().map_or(0, LayerCache::offset);
        let [q, k, v] = LoraLinear::forward_all(projections, x)?.rotary_heads(
            [self.num_heads, self.num_kv_heads],
            self.head_dim,
            self.rope_theta,
            offset,
        )?; // (B, H, T, D), (B, K, T, D), (B, K, T, D)
        let (k, v) = match cache {
            Some(mut cache) => cache.update(&k, &v)?, // (B, K, offset + T, D)
            None => (k, v),
        };
        // 1/sqrt(D) keeps the variance of the scores independent of the head's width.
        let scale = (self.head_dim as f32).sqrt().recip();
        let mixed = attention(&q, &k, &v, scale, mask)?;
        let width = self.num_heads * self.head_dim;
        let mixed = mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, tokens, width])?;
        self.o_proj.forward_onto(&mixed, stream) // (B, T, C)
    }

    /// The projections by name.
    pub(super) fn projections(&mut self) -> [(&'static str, &mut LoraLinear); 4] {
        let Self { q_proj, k_proj, v_proj, o_proj, .. } = self;
        [("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj), ("o_proj", o_proj)]
    }
}

/// Which tokens of packed rows see which: `(B, 1, T, T)` bool, query by key, from segments `(B, T)`.
///
/// A token sees itself and the earlier ones of its own segment. Every token sees one at least, so that
/// the softmax has a sum.
pub(super) fn mask_within(segments: &Array) -> Result<Array> {
    assert_shape!(segments, [_, num_tokens]);
    let position = arange::<_, i32>(None, num_tokens, None)?;
    let causal = position.expand_dims(1)?.ge(&position)?; // (T, T)
    let same = segments.expand_dims(2)?.eq(segments.expand_dims(1)?)?; // (B, T, T)
    Ok(same.logical_and(causal)?.expand_dims(1)?)
}
