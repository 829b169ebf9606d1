//! What a run costs: its environment, its memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(unix)]
mod environment;
mod leak;
