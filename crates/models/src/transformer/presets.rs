//! Named sizes: `preset = "llama-1b"` in a config file.
//!
//! | name | parameters | sizes of |
//! | --- | --- | --- |
//! | `tiny` | 0.56 M | a byte-level model for tests and first runs |
//! | `small` | 4.2 M | the model that the benchmarks train |
//! | `gpt2-small` | 124 M | GPT-2 small (Radford et al. 2019) |
//! | `gpt2-medium` | 360 M | GPT-2 medium |
//! | `llama-1b` | 1.1 B | TinyLlama 1.1B (arXiv:2401.02385) |
//! | `llama-7b` | 6.7 B | Llama 2 7B (arXiv:2307.09288) |
//! | `llama-8b` | 8.0 B | Llama 3 8B (arXiv:2407.21783) |
//!
//! The Llamas' published weights fit. GPT-2's are sizes alone: the architecture here is Llama's.

use super::TransformerConfig;
use mlx_train_core::config::Preset;

/// Every preset, smallest first.
pub(super) fn all() -> Vec<Preset<TransformerConfig>> {
    let default = TransformerConfig::default();
    // The Llamas were trained without dropout on more text than they could memorise.
    let llama = TransformerConfig { dropout: 0.0, ..default.clone() };
    let tiny = TransformerConfig {
        vocab_size: 256,
        hidden_size: 128,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: Some(2),
        max_seq_len: 256,
        ..default.clone()
    };
    let small = TransformerConfig {
        vocab_size: 4096,
        hidden_size: 256,
        num_layers: 4,
        num_heads: 4,
        intermediate_size: Some(688),
        max_seq_len: 256,
        dropout: 0.0,
        tie_word_embeddings: true,
        ..default.clone()
    };
    let gpt2_small = TransformerConfig {
        vocab_size: 50_257,
        max_seq_len: 1024,
        tie_word_embeddings: true,
        ..default
    };
    let gpt2_medium = TransformerConfig {
        hidden_size: 1024,
        num_layers: 24,
        num_heads: 16,
        ..gpt2_small.clone()
    };
    let llama_1b = TransformerConfig {
        hidden_size: 2048,
        num_layers: 22,
        num_heads: 32,
        num_kv_heads: Some(4),
        intermediate_size: Some(5632),
        ..llama.clone()
    };
    let llama_7b = TransformerConfig {
        hidden_size: 4096,
        num_layers: 32,
        num_heads: 32,
        intermediate_size: Some(11_008),
        max_seq_len: 4096,
        ..llama
    };
    let llama_8b = TransformerConfig {
        vocab_size: 128_256,
        num_kv_heads: Some(8),
        intermediate_size: Some(14_336),
        max_seq_len: 8192,
        rope_theta: 500_000.0,
        ..llama_7b.clone()
    };
    vec![
        Preset::new("tiny", tiny),
        Preset::new("small", small),
        Preset::new("gpt2-small", gpt2_small),
        Preset::new("gpt2-medium", gpt2_medium),
        Preset::new("llama-1b", llama_1b),
        Preset::new("llama-7b", llama_7b),
        Preset::new("llama-8b", llama_8b),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted from the sizes alone; `llama-8b` would not fit this machine.
    fn num_parameters(config: &TransformerConfig) -> i64 {
        let [vocab, hidden, heads] =
            [config.vocab_size, config.hidden_size, config.num_heads].map(i64::from);
        let kv_heads = i64::from(config.num_kv_heads().unwrap());
        let attention = 2 * hidden * hidden + 2 * hidden * (hidden / heads * kv_heads);
        let feed_forward = 3 * hidden * i64::from(config.intermediate_size().unwrap());
        let blocks = config.num_layers as i64 * (attention + feed_forward + 2 * hidden);
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        tables * vocab * hidden + blocks + hidden
    }

    #[test]
    fn presets_have_the_sizes_of_their_models() {
        let counts: Vec<_> =
            all().iter().map(|preset| (preset.name, num_parameters(&preset.config))).collect();
        // TinyLlama's and the Llamas' are those of their published weights.
        let expected = [
            ("tiny", 557_696),
            ("small", 4_212_992),
            ("gpt2-small", 123_551_232),
            ("gpt2-medium", 359_794_688),
            ("llama-1b", 1_100_048_384),
            ("llama-7b", 6_738_415_616),
            ("llama-8b", 8_030_261_248),
        ];
        assert_eq!(counts, expected);
    }
}
