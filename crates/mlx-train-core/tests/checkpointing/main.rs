//! Gradient checkpointing: the same numbers from less memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failures;
mod frozen;
mod gradients;
mod memory;
mod models;
mod policies;
mod steps;
