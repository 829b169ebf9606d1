//! The training step: one traced function, eager or compiled, in three precisions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accumulation;
mod ahead;
mod averages;
mod compiled;
mod guards;
mod memory;
mod models;
mod precision;
mod snapshots;
