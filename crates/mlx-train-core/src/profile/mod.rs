//! Memory, time and arithmetic.

mod config;
mod environment;
mod flops;
mod leak;
mod limits;
mod memory;
mod throughput;

pub use crate::bytes::Bytes;
pub use config::MemoryConfig;
pub use environment::MlxEnvironment;
pub use flops::{TransformerFlops, peak_flops};
pub use leak::{Growing, LeakDetector, SuspectedLeak};
pub use limits::MemoryLimits;
pub use memory::Memory;
pub use throughput::Throughput;

pub(crate) use memory::active_bytes;
