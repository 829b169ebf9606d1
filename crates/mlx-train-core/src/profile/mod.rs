//! Memory, time and arithmetic.

mod config;
mod environment;
mod flops;
mod layers;
mod leak;
mod limits;
mod memory;
mod span;
mod throughput;
mod trace;

pub use crate::bytes::Bytes;
pub use config::{MemoryCheck, MemoryConfig};
pub use environment::MlxEnvironment;
pub use flops::{TransformerFlops, peak_flops};
pub use layers::{LayerCost, LayerProfile, layer, profile_layers};
pub use leak::{Growing, LeakDetector, SuspectedLeak};
pub use limits::MemoryLimits;
pub use memory::Memory;
pub use span::{Detail, OpenSpan, Phase, Recording, span, splits_steps};
pub use throughput::Throughput;
pub use trace::{Span, Trace, Track};

pub(crate) use layers::{Layer, is_measuring, measure};
pub(crate) use memory::{active_bytes, ram_bytes};
