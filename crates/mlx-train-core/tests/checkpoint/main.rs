//! Checkpoints on disk: what is saved comes back bit for bit, and nothing else ever does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod allocator;
mod damage;
mod export;
mod formats;
mod readers;
mod retention;
mod saving;
mod support;
