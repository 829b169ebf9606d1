//! The sizes and options of the transformer, and how they must fit together.

use super::presets;
use crate::check_weight;
use mlx_train_core::{Error, Result, nn::LoraConfig};
use mlx_train_derive::ModelConfig;

/// Llama rounds the width of its feed-forward part up to a multiple of this.
const INTERMEDIATE_MULTIPLE: i32 = 256;

/// From how many logits of a batch on the loss is computed in chunks: fewer make one or two chunks, and no
/// difference that matters.
const FUSED_FROM: usize = 1 << 25;

/// Sizes and options of a decoder-only transformer.
///
/// The defaults have the size of GPT-2 small with Llama's vocabulary.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = TransformerConfig::check, presets = presets::all)]
pub struct TransformerConfig {
    /// How many tokens the model knows.
    #[config(default = 32_000, range = 1..)]
    pub vocab_size: i32,
    /// Width of the residual stream; a multiple of 2 * `num_heads`.
    #[config(default = 768, range = 1..)]
    pub hidden_size: i32,
    /// How many blocks.
    #[config(default = 12, range = 1..=10_000)]
    pub num_layers: usize,
    /// How many heads of queries in each block.
    #[config(default = 12, range = 1..)]
    pub num_heads: i32,
    /// How many heads of keys and values, a divisor of `num_heads`; as many when unset.
    #[config(range = 1..)]
    pub num_kv_heads: Option<i32>,
    /// Width of the feed-forward part; when unset, 8/3 of `hidden_size` rounded up to a multiple of 256, as in Llama.
    #[config(range = 1..)]
    pub intermediate_size: Option<i32>,
    /// The most tokens that the model sees at once.
    #[config(default = 2048, range = 1..)]
    pub max_seq_len: i32,
    /// Probability with which an element of the residual stream is dropped in training.
    #[config(default = 0.1, range = 0.0..1.0)]
    pub dropout: f32,
    /// Base of the rotary wavelengths: larger ones tell distant positions apart.
    #[config(default = 10_000.0, range = 1.0..)]
    pub rope_theta: f32,
    /// Added to the mean square in each norm.
    #[config(default = 1e-5, range = 0.0..1.0)]
    pub rms_norm_eps: f32,
    /// Whether the embedding is also the projection to the logits.
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// How much of a target's probability the loss spreads over all tokens.
    #[config(default = 0.0, range = 0.0..1.0)]
    pub label_smoothing: f32,
    /// Whether the loss is computed in chunks, so that the logits of a batch never exist at once; when unset, from 2^25 logits (128 MiB in f32) on.
    pub fused_loss: Option<bool>,
    /// Trains small adapters beside these layers of each block, and nothing else; null trains all of the model.
    pub lora: Option<LoraConfig>,
}

/// The layers of a block that may have an adapter.
const ADAPTABLE: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

impl TransformerConfig {
    /// Width of one head, D.
    ///
    /// # Errors
    /// Unless `num_heads` divides `hidden_size` into even widths.
    pub fn head_dim(&self) -> Result<i32> {
        let Self { hidden_size, num_heads, .. } = *self;
        if hidden_size < 1 || num_heads < 1 || hidden_size % num_heads != 0 {
            return Err(Error::message(format!(
                "hidden_size = {hidden_size} is not a multiple of num_heads = {num_heads}; change \
                 one, so that every head has the same width"
            )));
        }
        let head_dim = hidden_size / num_heads;
        if head_dim % 2 != 0 {
            return Err(Error::message(format!(
                "hidden_size / num_heads = {hidden_size} / {num_heads} = {head_dim} is odd, and \
                 rotary positions turn pairs; make it even"
            )));
        }
        Ok(head_dim)
    }

    /// How many heads of keys and values, K.
    ///
    /// # Errors
    /// Unless it divides `num_heads`.
    pub fn num_kv_heads(&self) -> Result<i32> {
        let num_heads = self.num_heads;
        let num_kv_heads = self.num_kv_heads.unwrap_or(num_heads);
        if num_kv_heads < 1 || num_heads % num_kv_heads != 0 {
            return Err(Error::message(format!(
                "num_heads = {num_heads} is not a multiple of num_kv_heads = {num_kv_heads}; \
                 change one, so that each key head serves as many query heads"
            )));
        }
        Ok(num_kv_heads)
    }

    /// Width of the feed-forward part, F.
    ///
    /// Unset, it is `8/3 * hidden_size`, which gives the three matrices of SwiGLU the parameters of
    /// two at `4 * hidden_size`, rounded up to a multiple of 256: LLaMA's reference code,
    /// `llama/model.py`, `FeedForward`.
    ///
    /// # Errors
    /// When it is over 2^31 - 1.
    pub fn intermediate_size(&self) -> Result<i32> {
        if let Some(size) = self.intermediate_size {
            return Ok(size);
        }
        let wanted = i64::from(self.hidden_size) * 8 / 3;
        let multiple = i64::from(INTERMEDIATE_MULTIPLE);
        let rounded = (wanted + multiple - 1) / multiple * multiple;
        i32::try_from(rounded).map_err(|_| {
            Error::message(format!(
                "hidden_size = {} asks for a feed-forward width over 2^31 - 1; lower it",
                self.hidden_size
            ))
        })
    }

    /// Whether the loss of `num_tokens` tokens is computed without their logits as a whole.
    pub(super) fn fuses_loss(&self, num_tokens: usize) -> bool {
        let num_logits = num_tokens.saturating_mul(self.vocab_size.max(0) as usize);
        self.fused_loss.unwrap_or(num_logits >= FUSED_FROM)
    }

    /// What must hold between fields; their ranges are checked one by one before.
    fn check(&self) -> std::result::Result<(), String> {
        let intermediate_size = self
            .head_dim()
            .and_then(|_| self.num_kv_heads())
            .and_then(|_| self.intermediate_size())
            .map_err(|error| error.to_string())?;
        let hidden = ("hidden_size", self.hidden_size);
        check_weight([("vocab_size", self.vocab_size), hidden])?;
        check_weight([("intermediate_size", intermediate_size), hidden])?;
        check_weight([hidden, hidden])?;
        self.lora.as_ref().map_or(Ok(()), check_adapters)
    }
}

/// Refuses names of layers that there are not, and adapters of nothing.
fn check_adapters(LoraConfig { targets, .. }: &LoraConfig) -> std::result::Result<(), String> {
    let known = ADAPTABLE.join(", ");
    if targets.is_empty() {
        return Err(format!("lora.targets is empty, so nothing would train; name some of {known}"));
    }
    match targets.iter().find(|target| !ADAPTABLE.contains(&target.as_str())) {
        Some(target) => {
            Err(format!("lora.targets names `{target}`, which no block has; it has {known}"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feed_forward_width_is_that_of_llamas() {
        let width = |hidden_size| {
            TransformerConfig { hidden_size, ..Default::default() }.intermediate_size().unwrap()
        };
        // LLaMA 7B, 13B and 65B, and GPT-2 small's width.
        assert_eq!([4096, 5120, 8192, 768].map(width), [11_008, 13_824, 22_016, 2048]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let refusal = |config: TransformerConfig| config.check().unwrap_err();
        let base = TransformerConfig::default();
        let uneven = refusal(TransformerConfig { num_heads: 7, ..base.clone() });
        assert!(
            uneven.contains("hidden_size = 768") && uneven.contains("num_heads = 7"),
            "{uneven}"
        );
        let odd = refusal(TransformerConfig { hidden_size: 36, ..base.clone() });
        assert!(odd.contains("36 / 12 = 3 is odd"), "{odd}");
        let groups = refusal(TransformerConfig { num_kv_heads: Some(5), ..base.clone() });
        assert!(groups.contains("num_kv_heads = 5"), "{groups}");
        for (targets, problem) in [(vec![], "is empty"), (vec!["k".to_owned()], "names `k`")] {
            let lora = Some(LoraConfig { targets, ..Default::default() });
            assert!(refusal(TransformerConfig { lora, ..base.clone() }).contains(problem));
        }
        let huge = TransformerConfig { hidden_size: 2_000_000_000, num_heads: 1, ..base.clone() };
        assert!(refusal(huge).contains("2^31"));
        for (wide, size) in [
            (TransformerConfig { vocab_size: i32::MAX, ..base.clone() }, "vocab_size = 2147483647"),
            (
                TransformerConfig { intermediate_size: Some(i32::MAX), ..base.clone() },
                "intermediate_size = 2147483647",
            ),
            (
                TransformerConfig {
                    hidden_size: 48_000,
                    intermediate_size: Some(1),
                    ..base.clone()
                },
                "hidden_size = 48000 and hidden_size = 48000",
            ),
        ] {
            let wide = refusal(wide);
            assert!(wide.contains(size) && wide.contains("2^31"), "{wide}");
        }
        assert!(base.check().is_ok());
    }
}
