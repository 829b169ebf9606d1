//! A decoder-only language model of the Llama family.
//!
//! LLaMA (arXiv:2302.13971, section 2.2): tokens become vectors, pass through blocks of causal
//! attention with rotary positions and a gated feed-forward part, each behind an RMSNorm and added
//! to its input, and a last norm and projection give the logits of the next token.
//!
//! Parameters have the names and layouts of Hugging Face's Llama
//! (`model.layers.0.self_attn.q_proj.weight`), so weights move to and from other tools; the
//! `rotary_emb.inv_freq` that old files hold is computed here.
//!
//! Ranks can divide its layers (tensor parallelism): heads, also those of keys and values, the feed-forward width and the
//! vocabulary then have to be multiples of their number.
//!
//! ```
//! # use mlx_train_core::{Array, model::{BaseModel, FromConfig}};
//! # use mlx_train_models::transformer::{Transformer, TransformerConfig};
//! let config = TransformerConfig {
//!     vocab_size: 16, hidden_size: 8, num_layers: 1, num_heads: 2, ..Default::default()
//! };
//! let tokens = Array::from_slice(&[1, 2, 3], &[1, 3]);
//! assert_eq!(Transformer::from_config(&config)?.forward(&tokens)?.shape(), [1, 3, 16]);
//! # Ok::<(), mlx_train_core::Error>(())
//! ```
//!
//! Shape letters: B batch, T tokens, V `vocab_size`, C `hidden_size`, H `num_heads`, K `num_kv_heads`,
//! D head size = C / H, F `intermediate_size`.

mod attention;
mod block;
mod config;
mod feed_forward;
mod init;
mod presets;

pub use attention::Attention;
pub use block::Block;
pub use config::TransformerConfig;
pub use feed_forward::FeedForward;

use mlx_rs::{
    Array,
    module::{Module, ModuleParameters as _},
};
use mlx_train_core::{
    Error, Result, Shard, assert_shape,
    batch::{Batch, IGNORED_TARGET},
    config::ModelConfig,
    generate::LanguageModel,
    loss::CrossEntropy,
    model::{BaseModel, FromConfig, Loss},
    nn::{Dropout, Embedding, Head, KvCache, Linear, LoraConfig, RmsNorm, Stack},
    profile::layer,
};
use mlx_train_derive::{ModuleParameters, register_model};
use std::slice::from_ref;

/// Decoder-only transformer of the Llama family: tokens `(B, T)` to next-token logits `(B, T, V)`.
///
/// Dropout follows the embedding and both parts of each block, as in GPT-2 (Radford et al. 2019);
/// it is active only while the model trains. Norms, softmax and loss are computed in f32 whatever
/// the weights' dtype. Tokens are not checked against the vocabulary here, where it would stall a
/// GPU: data loading and generation do that. One that is not in it is read as the nearest that is,
/// and as a target makes the loss NaN.
#[register_model("transformer", aliases = ["llama"], tags = ["decoder", "language"])]
#[derive(Debug, Clone, ModuleParameters, Shard)]
pub struct Transformer {
    #[param]
    #[shard]
    model: Decoder,
    /// Absent when the embedding is also the projection.
    #[param]
    #[shard(vocabulary)]
    lm_head: Option<Linear>,
    config: TransformerConfig,
}

/// All but the projection to the vocabulary; Hugging Face's `model`.
#[derive(Debug, Clone, ModuleParameters, Shard)]
struct Decoder {
    #[param]
    #[shard(vocabulary)]
    embed_tokens: Embedding,
    #[param]
    #[shard]
    layers: Stack<Block>,
    #[param]
    norm: RmsNorm,
    dropout: Dropout,
}

impl Transformer {
    /// The sizes and options that the model was built with.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Freezes the model, and puts fresh adapters beside the layers that `lora` names.
    fn adapt(&mut self, lora: &LoraConfig) -> Result<()> {
        self.freeze_parameters(true);
        for (name, layer) in self.model.layers.iter_mut().flat_map(Block::projections) {
            if lora.targets.iter().any(|target| target == name) {
                layer.adapt(lora)?;
            }
        }
        Ok(())
    }

    /// Adds the adapters, if there are some, to the layers that they are beside: the model computes the same
    /// and has the parameters of one that was built without `lora`, all of which are trained again.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn merge_adapters(&mut self) -> Result<()> {
        for (_, layer) in self.model.layers.iter_mut().flat_map(Block::projections) {
            layer.merge()?;
        }
        self.unfreeze_parameters(true);
        self.config.lora = None;
        Ok(())
    }

    /// Tokens `(B, T)` to the states `(B, T, C)` that logits are made of, after those that `cache` holds;
    /// `mask` is that of [`Attention::forward`].
    fn hidden(
        &mut self,
        tokens: &Array,
        cache: Option<&mut KvCache>,
        mask: Option<&Array>,
    ) -> Result<Array> {
        self.check_room(tokens, cache.as_ref().map_or(0, |cache| cache.offset()))?;
        let embed = |embedding: &mut Embedding, x: &[Array]| embedding.forward(&x[0]);
        let embedded =
            layer("embed_tokens", &mut self.model.embed_tokens, from_ref(tokens), embed)?; // (B, T, C)
        let x = self.model.dropout.forward(&embedded)?;
        let layers = &mut self.model.layers;
        let x = match cache {
            None => layers.forward_with(x, mask.map_or(&[], from_ref), |block, _, x, mask| {
                block.forward(&x, None, mask.first())
            })?,
            // It changes as a block runs, which therefore runs once.
            Some(cache) => layers.iter_mut().enumerate().try_fold(x, |x, (index, block)| {
                block.forward(&x, Some(cache.layer(index)?), mask)
            })?,
        };
        Ok(self.model.norm.forward(&x)?)
    }

    /// What `f` makes of the projection to the vocabulary and states `(..., C)`, as a layer of that name.
    fn with_head(
        &mut self,
        name: &str,
        hidden: &Array,
        mut f: impl FnMut(Head<'_>, &Array) -> Result<Array>,
    ) -> Result<Array> {
        let (hidden, embedding) = (from_ref(hidden), &mut self.model.embed_tokens);
        match &mut self.lm_head {
            Some(lm_head) => layer(name, lm_head, hidden, |it, x| f(it.head()?, &x[0])),
            None => layer(name, embedding, hidden, |it, x| f(it.head(), &x[0])),
        }
    }

    /// The logits `(..., V)` of states `(..., C)`.
    fn logits_of(&mut self, hidden: &Array) -> Result<Array> {
        self.with_head("lm_head", hidden, |head, x| head.logits(x))
    }

    /// The states of a batch, whose targets fit its tokens. In packed rows, tokens see those of their own
    /// segment alone.
    ///
    /// Positions go on through a row: rotary scores depend on distances, which are the same in each
    /// document wherever it starts.
    fn hidden_of(&mut self, Batch { x, y, segments, .. }: &Batch) -> Result<Array> {
        assert_shape!(x: [batch, tokens], y: [batch, tokens]);
        let Some(segments) = segments else { return self.hidden(x, None, None) };
        assert_shape!(segments, [{ batch }, { tokens }]);
        let mask = attention::mask_within(segments)?;
        self.hidden(x, None, Some(&mask))
    }

    /// The loss of states `(B, T, C)`, whose logits never exist as a whole.
    fn fused_loss(&mut self, hidden: &Array, targets: &Array) -> Result<Loss> {
        let (options, mut weight) = (self.cross_entropy(), Array::from_f32(0.0));
        let value = self.with_head("lm_head + loss", hidden, |head, x| {
            let loss = head.linear_cross_entropy(x, targets, &options, None)?;
            weight = loss.weight;
            Ok(loss.value)
        })?;
        Ok(Loss::new(value, weight))
    }

    /// How the loss treats targets and logits.
    fn cross_entropy(&self) -> CrossEntropy {
        CrossEntropy {
            ignore_index: Some(IGNORED_TARGET),
            label_smoothing: self.config.label_smoothing,
            ..Default::default()
        }
    }

    /// Refuses tokens that are not `(B, T)` or would leave the context.
    fn check_room(&self, tokens: &Array, offset: i32) -> Result<()> {
        assert_shape!(tokens, [_, num_tokens]);
        let max_seq_len = self.config.max_seq_len;
        if num_tokens > max_seq_len - offset {
            return Err(Error::message(format!(
                "{num_tokens} tokens after {offset} exceed max_seq_len = {max_seq_len}; pass fewer, \
                 or build the model with a larger max_seq_len"
            )));
        }
        Ok(())
    }
}

impl FromConfig for Transformer {
    type Config = TransformerConfig;

    fn from_config(config: &TransformerConfig) -> Result<Self> {
        config.validate()?;
        let blocks = (0..config.num_layers).map(|_| Block::new(config));
        let model = Decoder {
            embed_tokens: init::embedding(config.vocab_size, config.hidden_size)?,
            layers: blocks.collect::<Result<_>>()?,
            norm: init::rms_norm(config)?,
            dropout: Dropout::new(config.dropout)?,
        };
        let lm_head = (!config.tie_word_embeddings)
            .then(|| init::linear(config.hidden_size, config.vocab_size))
            .transpose()?;
        let mut model = Self { model, lm_head, config: config.clone() };
        if let Some(lora) = &config.lora {
            model.adapt(lora)?;
        }
        Ok(model)
    }
}

impl BaseModel for Transformer {
    /// Tokens `(B, T)`, integers, to logits `(B, T, V)` in the weights' dtype.
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden = self.hidden(x, None, None)?;
        self.logits_of(&hidden)
    }

    /// Cross-entropy, in nats, of the tokens `y` `(B, T)` that follow those in `x` `(B, T)`.
    ///
    /// Targets of -100 count for nothing, as in Hugging Face's loaders.
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        self.batch_loss(&Batch::new(x.clone(), y.clone()))
    }

    /// As [`BaseModel::loss_fn`]; in packed rows, tokens see those of their own segment alone.
    fn batch_loss(&mut self, batch: &Batch) -> Result<Loss> {
        if !self.config.fuses_loss(batch.y.size()) {
            return Ok(self.loss_and_outputs(batch)?.0);
        }
        let hidden = self.hidden_of(batch)?;
        self.fused_loss(&hidden, &batch.y)
    }

    /// As [`BaseModel::batch_loss`], with whole logits `(B, T, V)`, whatever `fused_loss` says.
    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        let hidden = self.hidden_of(batch)?;
        let (options, mut loss) = (self.cross_entropy(), None);
        let logits = self.with_head("lm_head", &hidden, |head, x| {
            let (of_part, logits) = head.cross_entropy(x, &batch.y, &options)?;
            loss = Some(of_part);
            Ok(logits)
        })?;
        Ok((
            loss.ok_or_else(|| Error::message("the projection to the vocabulary did not run"))?,
            logits,
        ))
    }

    fn as_language_model(&mut self) -> Option<&mut dyn LanguageModel> {
        Some(self)
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

impl LanguageModel for Transformer {
    fn logits(&mut self, tokens: &Array, cache: &mut KvCache) -> Result<Array> {
        let hidden = self.hidden(tokens, Some(cache), None)?;
        self.logits_of(&hidden)
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.config.num_layers)
    }

    fn context_length(&self) -> usize {
        self.config.max_seq_len as usize
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }
}
