//! Groups of real processes, over the ring on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod collectives;
mod data_parallel;
mod deadlines;
mod deep;
mod fsdp;
mod gradients;
mod layouts;
mod mpi;
mod overlap;
mod pipeline;
mod ranks;
mod run;
mod split_model;
mod start;
mod tensor;
mod trained;
mod vocabulary;

use mlx_train_core::Array;
use trained::numbers;

/// What rank `rank` brings along: `shape` of numbers that are exact in f32, and different on each rank.
fn brought(rank: usize, shape: &[i32]) -> Array {
    let size: i32 = shape.iter().product();
    let values: Vec<f32> =
        (0..size).map(|i| (i * 7 % 11) as f32 - 4.0 + 100.0 * rank as f32).collect();
    Array::from_slice(&values, shape)
}
