//! What layers refuse.

use mlx_rs::Dtype;

/// What layers refuse, with the value and the fix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NnError {
    /// A dropout probability outside of `[0, 1)`.
    #[error("a dropout probability of {0} is outside of 0.0..1.0; use 0.0 to switch dropout off")]
    DropoutProbability(f32),
    /// Keys and values whose shapes do not belong together.
    #[error(
        "layer {layer}: keys {keys:?} and values {values:?} are not (B, H, T, D) with equal B, H and T"
    )]
    CacheEntry {
        /// The layer's index.
        layer: usize,
        /// The shape of the keys.
        keys: Vec<i32>,
        /// The shape of the values.
        values: Vec<i32>,
    },
    /// Keys or values that do not continue those in the cache.
    #[error(
        "layer {layer}: {name} {shape:?} {dtype:?} do not continue the cache, whose shape is \
         {cached:?} and dtype {cached_dtype:?}; only the third axis may differ (reset the cache \
         before another batch)"
    )]
    CacheMismatch {
        /// The layer's index.
        layer: usize,
        /// `keys` or `values`.
        name: &'static str,
        /// The shape given.
        shape: Vec<i32>,
        /// The dtype given.
        dtype: Dtype,
        /// The shape in the cache, with its capacity as the third axis.
        cached: Vec<i32>,
        /// The dtype in the cache.
        cached_dtype: Dtype,
    },
    /// A layer that the cache was not made for.
    #[error("layer {layer} is not in a cache made for {num_layers} layers")]
    CacheLayer {
        /// The layer's index.
        layer: usize,
        /// How many layers the cache has.
        num_layers: usize,
    },
    /// More tokens to forget than the cache holds.
    #[error("the cache holds {held} tokens, so it cannot forget {asked}")]
    CacheTrim {
        /// How many tokens it holds.
        held: i32,
        /// How many it should forget.
        asked: i32,
    },
    /// Token ids that are not integers.
    #[error("an embedding looks up integers, but was given {0:?}; cast the token ids to int32")]
    EmbeddingDtype(Dtype),
    /// A shape whose fans cannot be told, or a standard deviation that is none.
    #[error("initialiser `{name}`: {reason}")]
    Init {
        /// The initialiser.
        name: &'static str,
        /// What is wrong with which value.
        reason: String,
    },
    /// A last layer whose outputs are sums over ranks.
    #[error(
        "a layer that is split by rows has no part of the classes, so it cannot be the head of a loss; split it by \
         `#[shard(vocabulary)]`"
    )]
    HeadByRows,
    /// A last layer with a bias, where logits never exist as a whole.
    #[error(
        "the loss in chunks is for a last layer without a bias; build the layer without one, or take `cross_entropy`"
    )]
    HeadWithBias,
}
