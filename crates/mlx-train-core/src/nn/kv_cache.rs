//! Keys and values of the tokens that a model has seen.
//!
//! Shape letters: B batch, H key-value heads, T tokens, D head width.

use super::NnError;
use crate::{Array, Result, ffi};
use mlx_rs::ops::{
    concatenate,
    indexing::{TryIndexMutOp, TryIndexOp},
    zeros_dtype,
};

/// How many tokens the buffers grow by at once, as in mlx-lm's `models/cache.py`.
///
/// Growing copies what is there. In steps, each token costs a write in place and one copy in 256,
/// where concatenation would copy all of it for each token.
const STEP: i32 = 256;

/// Keys and values that the attention layers of a model have computed, by layer.
///
/// Each layer keeps keys and values `(B, H, T, D)`; H is the number of key-value heads, so grouped
/// queries keep few. A pass through the model calls [`LayerCache::update`] once for each layer.
/// The pass counts when the last layer has been updated: until then [`offset`](Self::offset) is where
/// it began, and one that failed half-way can be run again.
///
/// ```
/// use mlx_train_core::{Array, nn::KvCache};
/// let mut cache = KvCache::new(1);
/// let prompt = mlx_rs::ops::zeros::<f32>(&[1, 2, 5, 8])?; // (B, H, T, D)
/// let (keys, _values) = cache.layer(0)?.update(&prompt, &prompt)?;
/// assert_eq!((keys.shape(), cache.offset()), (&[1, 2, 5, 8][..], 5));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<Layer>,
}

impl KvCache {
    /// An empty cache for a model with `num_layers` attention layers.
    pub fn new(num_layers: usize) -> Self {
        Self { layers: vec![Layer::default(); num_layers] }
    }

    /// How many layers it has.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// How many tokens every layer holds: the position of the next token.
    pub fn offset(&self) -> i32 {
        self.layers.iter().map(|layer| layer.len).min().unwrap_or(0)
    }

    /// The cache of one layer, which continues at [`offset`](Self::offset).
    ///
    /// # Errors
    /// [`NnError::CacheLayer`] when there is no such layer.
    pub fn layer(&mut self, index: usize) -> Result<LayerCache<'_>> {
        let (offset, num_layers) = (self.offset(), self.num_layers());
        let layer =
            self.layers.get_mut(index).ok_or(NnError::CacheLayer { layer: index, num_layers })?;
        Ok(LayerCache { layer, index, offset })
    }

    /// Computes all keys and values now, so that what they are computed from can be freed.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn eval(&self) -> Result<()> {
        let buffers = self.layers.iter().filter_map(|layer| layer.buffers.as_ref());
        ffi::eval(buffers.flat_map(|(keys, values)| [keys, values]))
    }

    /// Forgets the last `num_tokens` tokens, for example those of a draft that was rejected.
    ///
    /// # Errors
    /// [`NnError::CacheTrim`] when it holds fewer, or `num_tokens` is negative.
    pub fn trim(&mut self, num_tokens: i32) -> Result<()> {
        let held = self.offset();
        if !(0..=held).contains(&num_tokens) {
            return Err(NnError::CacheTrim { held, asked: num_tokens }.into());
        }
        for layer in &mut self.layers {
            layer.len = held - num_tokens;
        }
        Ok(())
    }

    /// Forgets everything and frees the buffers; another batch size may follow.
    pub fn reset(&mut self) {
        self.layers.fill(Layer::default());
    }
}

/// Keys and values of one layer, in buffers with room for more tokens than they hold.
#[derive(Debug, Clone, Default)]
struct Layer {
    /// `(B, H, capacity, D)` each.
    buffers: Option<(Array, Array)>,
    /// How many tokens are valid.
    len: i32,
}

/// One layer of a [`KvCache`], for the attention that fills it.
#[derive(Debug)]
pub struct LayerCache<'a> {
    layer: &'a mut Layer,
    index: usize,
    offset: i32,
}

impl LayerCache<'_> {
    /// The position of the first token of this pass, for rotary embeddings.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Adds keys and values `(B, H, T, D)` of the tokens of this pass, and returns those of all
    /// tokens so far, `(B, H, offset + T, D)`. Values may be of another width than keys.
    ///
    /// # Errors
    /// [`NnError::CacheEntry`] when they are not of four axes or differ in B, H or T;
    /// [`NnError::CacheMismatch`] when B, H, D or the dtype are not those of the tokens before.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let num_new = self.check(keys, values)?;
        let end = self.offset + num_new;
        // The buffers stay where they are until all has gone well. The handles that are replaced then
        // are the last ones, so MLX writes in place.
        let (mut all_keys, mut all_values) = match self.layer.buffers.clone() {
            Some(buffers) => buffers,
            None => (empty_like(keys, 0)?, empty_like(values, 0)?),
        };
        if all_keys.shape()[2] < end {
            let more = ((end - all_keys.shape()[2] - 1) / STEP + 1) * STEP;
            all_keys = concatenate(&[all_keys, empty_like(keys, more)?], 2)?;
            all_values = concatenate(&[all_values, empty_like(values, more)?], 2)?;
        }
        all_keys.try_index_mut((.., .., self.offset..end, ..), keys)?;
        all_values.try_index_mut((.., .., self.offset..end, ..), values)?;
        let seen =
            (all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?);
        self.layer.buffers = Some((all_keys, all_values));
        self.layer.len = end;
        Ok(seen)
    }

    /// T of keys and values that fit each other and the buffers.
    fn check(&self, keys: &Array, values: &Array) -> Result<i32> {
        let (&[batch, heads, num_new, _], true) = (keys.shape(), values.ndim() == 4) else {
            return Err(self.entry_error(keys, values));
        };
        if values.shape()[..3] != [batch, heads, num_new] {
            return Err(self.entry_error(keys, values));
        }
        if let Some((all_keys, all_values)) = &self.layer.buffers {
            for (name, array, all) in [("keys", keys, all_keys), ("values", values, all_values)] {
                let same = |axis: usize| array.shape()[axis] == all.shape()[axis];
                if !(same(0) && same(1) && same(3) && array.dtype() == all.dtype()) {
                    return Err(NnError::CacheMismatch {
                        layer: self.index,
                        name,
                        shape: array.shape().to_vec(),
                        dtype: array.dtype(),
                        cached: all.shape().to_vec(),
                        cached_dtype: all.dtype(),
                    }
                    .into());
                }
            }
        }
        Ok(num_new)
    }

    fn entry_error(&self, keys: &Array, values: &Array) -> crate::Error {
        let (keys, values) = (keys.shape().to_vec(), values.shape().to_vec());
        NnError::CacheEntry { layer: self.index, keys, values }.into()
    }
}

/// Zeros of the dtype of `array` `(B, H, T, D)`, with `num_tokens` in the place of T.
fn empty_like(array: &Array, num_tokens: i32) -> Result<Array> {
    let mut shape = array.shape().to_vec();
    shape[2] = num_tokens;
    Ok(zeros_dtype(&shape, array.dtype())?)
}
