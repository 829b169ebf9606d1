//! What carries arrays from process to process.

use crate::ffi;
use mlx_rs::Stream;
use std::{env, ffi::CStr, fmt, str::FromStr};

use super::DistributedError;

/// The variable that tells MLX which library of Open MPI to load, and the name that programs load it by.
///
/// On Linux, MLX itself looks for `libmpi.so`, which only those have who compile for it.
pub const MPI_LIBRARY: (&str, &str) =
    ("MLX_MPI_LIBNAME", if cfg!(target_os = "macos") { "libmpi.dylib" } else { "libmpi.so.40" });

/// What carries arrays from process to process: MLX's own backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// TCP between neighbours in a ring, on any network; everywhere.
    Ring,
    /// A message passing interface that is installed, such as Open MPI.
    Mpi,
    /// NVIDIA GPUs.
    Nccl,
    /// Macs that Thunderbolt connects (RDMA).
    Jaccl,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ring, Self::Mpi, Self::Nccl, Self::Jaccl];

    /// Its name, as MLX and hostfiles have it.
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }

    pub(super) fn c_name(self) -> &'static CStr {
        match self {
            Self::Ring => c"ring",
            Self::Mpi => c"mpi",
            Self::Nccl => c"nccl",
            Self::Jaccl => c"jaccl",
        }
    }

    /// Whether this MLX and this machine have it.
    pub fn is_available(self) -> bool {
        ffi::has_backend(self.c_name())
    }

    /// The backend that whoever started this process has set it up for; `None` if it was started alone.
    ///
    /// `mlx-train launch`, Python's `mlx.launch` and `mpirun` set the variables that are looked at.
    pub fn of_environment() -> Option<Self> {
        let all_set = |names: &[&str]| names.iter().all(|name| env::var_os(name).is_some());
        let first = |(backend, names): (Self, &[&str])| all_set(names).then_some(backend);
        let marks: [(Self, &[&str]); 3] = [
            (Self::Jaccl, &["MLX_RANK", "MLX_JACCL_COORDINATOR"]),
            (Self::Nccl, &["MLX_RANK", "MLX_WORLD_SIZE", "NCCL_HOST_IP", "NCCL_PORT"]),
            (Self::Ring, &["MLX_RANK", "MLX_HOSTFILE"]),
        ];
        // A cluster's queue sets these for every job, also for one process alone.
        let is_several = |name| env::var(name).is_ok_and(|size: String| size.trim() != "1");
        let mpi = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].into_iter().any(is_several);
        marks.into_iter().find_map(first).or(mpi.then_some(Self::Mpi))
    }

    /// Where its collectives run: NCCL's on the GPU, all others on the CPU.
    pub(super) fn stream(self) -> Stream {
        match self {
            Self::Nccl => Stream::gpu(),
            Self::Ring | Self::Mpi | Self::Jaccl => Stream::cpu(),
        }
    }

    /// Whether it adds up and scatters in one operation.
    pub(crate) fn has_reduce_scatter(self) -> bool {
        matches!(self, Self::Nccl | Self::Jaccl)
    }

    /// Whether it passes arrays from one process to another.
    pub(crate) fn has_send(self) -> bool {
        self != Self::Nccl
    }

    /// Whether a group can be split into parts.
    pub fn can_split(self) -> bool {
        matches!(self, Self::Mpi | Self::Nccl)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = DistributedError;

    fn from_str(name: &str) -> Result<Self, DistributedError> {
        let named = Self::ALL.into_iter().find(|backend| backend.name() == name);
        named.ok_or_else(|| DistributedError::UnknownBackend { name: name.to_owned() })
    }
}
