//! The models of several real processes, over the ring on this machine, against those of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod layouts;
mod pipeline;
#[path = "../../../mlx-train-core/tests/distributed/ranks.rs"]
#[allow(dead_code)] // this binary uses a part of it
mod ranks;
#[path = "../../../mlx-train-core/tests/distributed/split_model.rs"]
mod split_model;
mod tensor;
#[path = "../../../mlx-train-core/tests/distributed/trained.rs"]
mod trained;

use mlx_train_models::transformer::TransformerConfig;

/// Two blocks whose sizes two and four ranks divide; it draws nothing.
fn transformer() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 32,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 4,
        intermediate_size: Some(24),
        max_seq_len: 16,
        dropout: 0.0,
        ..Default::default()
    }
}
