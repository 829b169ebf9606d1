//! What MLX computes on, as far as it decides when memory is given back.
//!
//! MLX's thread hands operations on and does not wait for them; what an operation reads is held until it has
//! run. So the peak depends on how far that thread is ahead, which MLX limits, and on how fast either is.

use crate::{
    Result,
    ffi::{DeviceInfo, device_info},
    profile::{peak_flops, ram_bytes},
};
use mlx_rs::Dtype;
use std::env;

/// What MLX computes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its kind, which decides how operations are handed on.
    pub backend: Backend,
    /// How long MLX takes to hand an operation on, in seconds.
    pub seconds_per_operation: f64,
    /// How much arithmetic it does in a second.
    pub flops_per_second: f64,
    /// How many bytes it reads and writes in a second.
    pub bytes_per_second: f64,
    /// In how many operations at most MLX goes through a graph in breadth: `MLX_BFS_MAX_WIDTH`.
    pub max_width: usize,
    /// What it has for arrays, if that is known.
    pub limit: Option<Limit>,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A thread that runs one operation after the other.
    Cpu,
    /// An NVIDIA GPU, which gets operations as graphs.
    Cuda(PerBuffer),
    /// An Apple GPU, which gets operations as command buffers.
    Metal(PerBuffer),
}

/// How much one graph or command buffer holds at most: `MLX_MAX_OPS_PER_BUFFER` and `MLX_MAX_MB_PER_BUFFER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerBuffer {
    /// Operations.
    pub operations: usize,
    /// Elements of the arrays that they read, in units of 2^20. MLX counts elements, not bytes.
    pub mega_elements: u64,
}

/// How much memory there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In bytes.
    pub bytes: u64,
    /// Whose it is.
    pub source: LimitSource,
}

/// Where a limit is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitSource {
    /// Metal's recommended working set, above which the system begins to move memory.
    RecommendedWorkingSet,
    /// The memory of a GPU.
    GpuMemory,
    /// The RAM of the machine.
    Ram,
    /// What a person has asked for.
    Given,
}

impl LimitSource {
    /// What it is called in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::RecommendedWorkingSet => "Metal's recommended working set",
            Self::GpuMemory => "the memory of the GPU that MLX may use",
            Self::Ram => "the memory that MLX may use",
            Self::Given => "what was asked for",
        }
    }
}

impl Machine {
    /// The default device of MLX, with its limits as the environment sets them.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn here() -> Result<Self> {
        let device = device_info()?;
        // Beyond this, MLX waits for memory that is in use, and what waits for itself is stuck.
        let mlx_limit = mlx_rs::memory::memory_limit()? as u64;
        Ok(Self::of(&device, mlx_limit, ram_bytes()))
    }

    fn of(device: &DeviceInfo, mlx_limit: u64, ram_bytes: Option<u64>) -> Self {
        let architecture = device.architecture.as_deref().unwrap_or_default();
        let backend = match (device.is_gpu, architecture.strip_prefix("sm_")) {
            (false, _) => Backend::Cpu,
            (true, Some(capability)) => {
                Backend::Cuda(PerBuffer::of_cuda(capability).or_environment())
            }
            (true, None) => Backend::Metal(PerBuffer::of_metal(architecture).or_environment()),
        };
        let (source, bytes) = match backend {
            Backend::Cpu => (LimitSource::Ram, ram_bytes),
            Backend::Cuda(_) => (LimitSource::GpuMemory, device.memory_bytes),
            Backend::Metal(_) => (LimitSource::RecommendedWorkingSet, device.working_set_bytes),
        };
        let bytes = bytes.unwrap_or(mlx_limit).min(mlx_limit);
        // Rough figures will do: what counts is whether the device or MLX's thread is faster, and by far.
        let (seconds_per_operation, flops, bytes_per_second) = match backend {
            Backend::Cpu => (2e-6, 2e10, 2e9),
            Backend::Cuda(_) => (5e-6, 1e14, 2e12),
            Backend::Metal(_) => (5e-6, 5e12, 2e11),
        };
        Self {
            backend,
            seconds_per_operation,
            flops_per_second: peak_flops(device, Dtype::Float32).map_or(flops, |peak| 0.5 * peak),
            bytes_per_second,
            max_width: from_environment("MLX_BFS_MAX_WIDTH").unwrap_or(20),
            limit: Some(Limit { bytes, source }),
        }
    }

    /// How many bytes an array of `bytes` takes.
    pub(super) fn allocated(&self, bytes: u64) -> u64 {
        const PAGE_BYTES: u64 = 16384;
        match self.backend {
            Backend::Cpu => bytes,
            Backend::Metal(_) if bytes <= PAGE_BYTES => bytes,
            Backend::Cuda(_) if bytes < PAGE_BYTES => match bytes {
                0 => 0,
                bytes => bytes.max(8).next_power_of_two(),
            },
            Backend::Cuda(_) | Backend::Metal(_) => bytes.next_multiple_of(PAGE_BYTES),
        }
    }
}

impl PerBuffer {
    /// By compute capability: `90`, `121`. Source: `get_graph_limits` in mlx/backend/cuda/device.cpp.
    fn of_cuda(capability: &str) -> Self {
        let (operations, mega_elements) = match capability {
            "80" => (20, 400),
            "90" | "100" | "120" => (100, 1000),
            "121" => (20, 25),
            _ => (20, 100),
        };
        Self { operations, mega_elements }
    }

    /// By the last letter of the architecture: `applegpu_g13s`. Source: mlx/backend/metal/device.cpp.
    fn of_metal(architecture: &str) -> Self {
        let (operations, mega_elements) = match architecture.chars().last() {
            Some('p') => (20, 40),
            Some('s' | 'd') => (50, 50),
            _ => (40, 40),
        };
        Self { operations, mega_elements }
    }

    fn or_environment(self) -> Self {
        Self {
            operations: from_environment("MLX_MAX_OPS_PER_BUFFER").unwrap_or(self.operations),
            mega_elements: from_environment("MLX_MAX_MB_PER_BUFFER").unwrap_or(self.mega_elements),
        }
    }
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn gpu(architecture: &str) -> DeviceInfo {
        DeviceInfo {
            is_gpu: true,
            architecture: Some(architecture.into()),
            memory_bytes: Some(64 * GIB),
            working_set_bytes: architecture.starts_with("apple").then_some(48 * GIB),
            ..DeviceInfo::default()
        }
    }

    #[test]
    fn the_limit_is_the_device_s_unless_mlx_has_less() {
        let limit = |device: &DeviceInfo, mlx| Machine::of(device, mlx, Some(32 * GIB)).limit;
        let (cuda, metal, cpu) = (gpu("sm_90"), gpu("applegpu_g13s"), DeviceInfo::default());
        let cases = [
            (limit(&cuda, 60 * GIB), 60 * GIB, LimitSource::GpuMemory),
            (limit(&metal, 72 * GIB), 48 * GIB, LimitSource::RecommendedWorkingSet),
            (limit(&cpu, 25 * GIB), 25 * GIB, LimitSource::Ram),
            (limit(&cpu, 64 * GIB), 32 * GIB, LimitSource::Ram),
        ];
        for (found, bytes, source) in cases {
            assert_eq!(found, Some(Limit { bytes, source }));
        }
    }

    #[test]
    fn small_arrays_take_whole_pages_of_a_gpu() {
        let cuda = Machine::of(&gpu("sm_90"), GIB, None);
        let taken = [0, 4, 9, 16383, 16385].map(|bytes| cuda.allocated(bytes));
        assert_eq!(taken, [0, 8, 16, 16384, 32768]);
        let metal = Machine::of(&gpu("applegpu_g13s"), GIB, None);
        assert_eq!([4, 16385].map(|bytes| metal.allocated(bytes)), [4, 32768]);
        assert_eq!(Machine::of(&DeviceInfo::default(), GIB, None).allocated(5), 5);
    }
}
