//! The settings of memory: the section `[train.memory]`.

use crate::{bytes::Bytes, config::ModelConfig};

/// How much memory a run may take: the section `[train.memory]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub struct MemoryConfig {
    /// How much memory the run should need at most, such as "12 GiB": MLX frees what it caches and waits before
    /// it goes over, and a GPU gets smaller buffers if the estimate is above it. null is what the device has.
    pub memory_budget: Option<Bytes>,
    /// On a GPU, how many operations one command buffer or CUDA graph has at most; null is MLX's default.
    #[config(range = 1..)]
    pub max_ops_per_buffer: Option<u32>,
    /// On a GPU, how much one command buffer or CUDA graph reads at most, in 2^20 elements, which MLX calls
    /// megabytes. What it uses is freed when all of it has run, so less saves memory and costs time. null is MLX's
    /// default, or what keeps the estimate within the budget.
    #[config(range = 1..)]
    pub max_mb_per_buffer: Option<u32>,
    /// From how much memory on MLX frees what it caches and waits for what runs; null is the budget, or else
    /// what Metal recommends for the device, or else MLX's default.
    pub memory_limit: Option<Bytes>,
    /// How much freed memory MLX keeps for the next arrays; null is MLX's default, and on a CPU an eighth of the
    /// memory limit, or else of the machine's memory.
    pub cache_limit: Option<Bytes>,
    /// With Metal, how much memory is never moved to disk; null is what Metal recommends, or the memory limit
    /// where that is less.
    pub wired_limit: Option<Bytes>,
    /// What happens before the first step when its estimate is above the budget, or what the device has.
    pub memory_check: MemoryCheck,
}

/// What a run does when the estimate of its steps is above what the device has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum MemoryCheck {
    /// Says so, with settings that fit, and goes on.
    #[default]
    Warn,
    /// Does not begin, and names settings that fit.
    Refuse,
    /// Nothing; nothing is estimated.
    Off,
}
