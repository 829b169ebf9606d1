//! What a run costs: its environment, its memory, its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(unix)]
mod environment;
mod layers;
mod leak;
mod models;
mod trace;
