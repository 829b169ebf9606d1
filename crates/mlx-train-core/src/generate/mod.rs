//! Text generation from models that predict the next token.

use crate::{Result, nn::KvCache};
use mlx_rs::Array;

/// A model that predicts the next token of a sequence.
///
/// Shape letters: B batch, T tokens, V vocabulary.
pub trait LanguageModel {
    /// Logits `(B, T, V)` of tokens `(B, T)` (int32) that follow those that `cache` has seen.
    ///
    /// # Errors
    /// When tokens are out of the vocabulary, the context is full, or MLX fails.
    fn logits(&mut self, tokens: &Array, cache: &mut KvCache) -> Result<Array>;

    /// An empty cache with room for every layer of this model.
    fn new_cache(&self) -> KvCache;

    /// How many tokens the model can see at once.
    fn context_length(&self) -> usize;
}
