//! Memory and time.

mod memory;
mod throughput;

pub use memory::{Bytes, Memory};
pub use throughput::Throughput;
