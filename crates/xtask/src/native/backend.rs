//! Which build of MLX to take: for the CPU or for one CUDA generation.

use super::Version;
use crate::shell;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::process::Command;

/// The device that MLX on Linux computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The processor, with OpenBLAS.
    Cpu,
    /// NVIDIA GPUs with a driver of at least 550 (some 2 GB to fetch).
    Cuda12,
    /// NVIDIA GPUs with a driver of at least 580 (1.6 GB to fetch).
    Cuda13,
}

impl Backend {
    /// The best one for this machine's GPU and driver; the CPU where there is none.
    pub fn detect() -> Self {
        driver_version().map_or(Self::Cpu, |driver| Self::for_driver(&driver))
    }

    /// Drivers come with a CUDA generation: 580 is the first with CUDA 13; MLX asks 550 of CUDA 12.
    fn for_driver(driver: &Version) -> Self {
        match driver.major() {
            580.. => Self::Cuda13,
            550.. => Self::Cuda12,
            _ => Self::Cpu,
        }
    }

    /// Whether it computes on a GPU.
    pub fn is_cuda(self) -> bool {
        self != Self::Cpu
    }

    /// `cpu`, `cuda12`, `cuda13`: in folder names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda12 => "cuda12",
            Self::Cuda13 => "cuda13",
        }
    }

    /// The checked-in list of wheels.
    pub fn requirements_file(self) -> String {
        format!("requirements-{}.txt", self.name())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The NVIDIA driver's version, where there is a working one.
pub fn driver_version() -> Option<Version> {
    let query = ["--query-gpu=driver_version", "--format=csv,noheader"];
    let printed = shell::capture(Command::new("nvidia-smi").args(query)).ok()?;
    printed.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_decides_the_cuda_generation() {
        let backend = |driver: &str| Backend::for_driver(&driver.parse().expect("a version"));
        assert_eq!(backend("580.65.06"), Backend::Cuda13);
        assert_eq!(backend("595.10"), Backend::Cuda13);
        assert_eq!(backend("570.86.15"), Backend::Cuda12);
        assert_eq!(backend("470.1"), Backend::Cpu);
    }
}
