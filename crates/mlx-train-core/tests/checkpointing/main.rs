//! Gradient checkpointing: the same numbers from less memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod gradients;
mod models;
