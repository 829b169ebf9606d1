//! Memory, time and arithmetic.

mod flops;
mod memory;
mod throughput;

pub use flops::{TransformerFlops, peak_flops};
pub use memory::{Bytes, Memory};
pub use throughput::Throughput;
