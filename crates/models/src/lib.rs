//! Reference models of mlx-train: [`mlp`] for feature vectors, [`transformer`] for tokens.
//!
//! Each is registered under its module's name, checks its config, and computes what the same model
//! in Python MLX computes: `tests/parity.rs` compares outputs, losses and every gradient.

pub mod mlp;
pub mod transformer;
