//! The model that the benchmarks of training have in common.

use mlx_train::{
    mlx_rs::transforms::eval,
    models::transformer::{Transformer, TransformerConfig},
    prelude::*,
};
use serde_json::{Value, json};

/// Rows of a batch.
pub const BATCH_SIZE: i32 = 8;

/// Tokens of a row.
pub const SEQ_LEN: i32 = 256;

/// Tokens of a step.
pub const TOKENS: u32 = (BATCH_SIZE * SEQ_LEN) as u32;

/// 4.2 million parameters.
pub fn config() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 4096,
        hidden_size: 256,
        num_layers: 4,
        num_heads: 4,
        intermediate_size: Some(688),
        max_seq_len: SEQ_LEN,
        dropout: 0.0,
        tie_word_embeddings: true,
        ..Default::default()
    }
}

/// The sizes, for the record of a run.
pub fn shapes() -> Value {
    let config = config();
    json!({
        "batch_size": BATCH_SIZE,
        "seq_len": SEQ_LEN,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
    })
}

/// The model, with weights that are the same every time.
pub fn model() -> Result<Transformer> {
    rng::scope(&rng::key(0)?, || Transformer::from_config(&config()))
}

/// Batches of rows of tokens, each token after the one before it by the row's own stride.
pub fn batches(num_batches: i32) -> Result<Vec<Batch>> {
    let vocab_size = config().vocab_size;
    let token = |row: i32, at: i32| (31 * row + (1 + row % 3) * at) % vocab_size;
    let tokens = |first_row: i32, shift: i32| {
        let row = |row| (shift..SEQ_LEN + shift).map(move |at| token(row, at));
        let all: Vec<i32> = (first_row..first_row + BATCH_SIZE).flat_map(row).collect();
        Array::from_slice(&all, &[BATCH_SIZE, SEQ_LEN])
    };
    (0..num_batches)
        .map(|index| {
            let (x, y) = (tokens(index * BATCH_SIZE, 0), tokens(index * BATCH_SIZE, 1));
            eval([&x, &y])?;
            Ok(Batch::new(x, y))
        })
        .collect()
}
