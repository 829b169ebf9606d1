//! Layers that mlx-rs lacks or gets wrong for training.
//!
//! | here | instead of mlx-rs's, because |
//! | --- | --- |
//! | [`attention`] | its CPU kernel computes scores that the mask hides, and exponentials slowly |
//! | [`Dropout`] | its masks come from global state, its f32 scale promotes bf16 |
//! | [`Embedding`] | it panics on token ids that are not integers, and ids out of range corrupt memory |
//! | [`gelu`], [`silu`], … | they compile at each call (with g++ on a CPU), and gelu promotes bf16 |
//! | [`LayerNorm`], [`RmsNorm`] | MLX adds up the gradients of their weights slowly on a GPU |
//! | [`Linear`] | it cannot be divided among ranks, and the gradient of its weight lies transposed in memory |
//! | [`rotary`], [`swiglu`] | MLX's operations pass over memory more often than they need to on a GPU |
//! | [`Stack`], [`KvCache`], [`LoraLinear`], [`init`] | it has none |
//!
//! Its `Rope` agrees with Python MLX and is re-exported.

mod activation;
mod attention;
mod dropout;
mod embedding;
mod error;
mod head;
pub mod init;
mod kv_cache;
mod linear;
pub(crate) mod lora;
mod norm;
mod outputs;
mod rotary;
mod shortened;
mod split;
mod stack;

pub use activation::{gelu, gelu_approximate, relu, silu, swiglu};
pub use attention::attention;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use error::NnError;
pub use head::Head;
pub use kv_cache::{KvCache, LayerCache};
pub use linear::{Linear, LinearBuilder};
pub use lora::{LoraConfig, LoraLinear};
pub use mlx_rs::nn::{Rope, RopeBuilder};
pub use norm::{LayerNorm, LayerNormBuilder, RmsNorm, RmsNormBuilder, layer_norm, rms_norm};
pub use outputs::Outputs;
pub use rotary::rotary;
pub(crate) use shortened::shortened;
pub use stack::Stack;
