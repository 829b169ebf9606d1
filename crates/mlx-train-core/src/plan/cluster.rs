//! The devices that a run may have, and what connects them.

use crate::{
    Error, Result, bytes::Bytes, config::ModelConfig, distributed::Backend, estimate::Machine,
    ffi::device_info, profile::peak_flops,
};
use mlx_rs::Dtype;
use serde::Serialize;

/// More devices are not planned for.
pub const MAX_DEVICES: usize = 1024;

/// Devices in the order of their ranks, and what connects them: a file that `plan --measure` writes, or a person.
///
/// ```
/// use mlx_train_core::{config::{Format, ModelConfig}, plan::Cluster};
/// let cluster = Cluster::parse(r#"
///     backend = "ring"
///     [link]                        # between the hosts
///     bytes_per_second = 1.2e9
///     latency_seconds = 1e-4
///     [[hosts]]
///     count = 2                     # two of them, with one device each
///     [hosts.device]
///     memory = "64 GiB"
///     f32_flops = 1.1e13
///     bf16_flops = 1.2e13
///     bytes_per_second = 3.5e11
/// "#, Format::Toml)?;
/// assert_eq!(cluster.num_devices(), 2);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = Self::check)]
pub struct Cluster {
    /// What carries arrays: `ring`, `mpi`, `nccl` or `jaccl`. It decides which ways to split there are.
    pub backend: BackendName,
    /// How much of the time of gathers and of sums of gradients passes while the device computes: 0 is nothing, 1
    /// all that the computation is long enough for.
    #[config(default = 0.0, range = 0.0..=1.0)]
    pub overlap: f64,
    /// What connects the hosts.
    pub link: Link,
    /// The hosts, in the order of the ranks on them.
    pub hosts: Vec<Host>,
}

/// Hosts that are alike.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct Host {
    /// How many hosts like this follow each other.
    #[config(default = 1, range = 1..=1024)]
    pub count: usize,
    /// How many devices each has.
    #[config(default = 1, range = 1..=1024)]
    pub devices: usize,
    /// What each device is.
    pub device: Device,
    /// What connects the devices of a host; not used where there is one.
    pub link: Link,
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = Self::check)]
pub struct Device {
    /// What it is called.
    pub name: Option<String>,
    /// How much memory it has for arrays.
    pub memory: Bytes,
    /// Floating-point operations per second in products of f32 matrices.
    #[config(default = 1e12, range = 1.0..=1e21)]
    pub f32_flops: f64,
    /// The same for bf16.
    #[config(default = 1e12, range = 1.0..=1e21)]
    pub bf16_flops: f64,
    /// Bytes that it reads and writes per second in operations that are no matrix products.
    #[config(default = 1e11, range = 1.0..=1e18)]
    pub bytes_per_second: f64,
    /// What each operation takes besides, in seconds.
    #[config(default = 0.0, range = 0.0..=1.0)]
    pub seconds_per_operation: f64,
}

/// What connects devices.
#[derive(Debug, Clone, Copy, PartialEq, ModelConfig)]
pub struct Link {
    /// Bytes per second in one direction.
    #[config(default = 1e9, range = 1.0..=1e18)]
    pub bytes_per_second: f64,
    /// Seconds until the first of them arrives.
    #[config(default = 1e-4, range = 0.0..=10.0)]
    pub latency_seconds: f64,
}

/// A backend in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum BackendName {
    /// TCP between neighbours.
    #[default]
    Ring,
    /// A message passing interface.
    Mpi,
    /// NVIDIA GPUs.
    Nccl,
    /// RDMA over Thunderbolt.
    Jaccl,
}

/// What matrix products are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Number {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
}

impl Cluster {
    /// `count` devices of one kind on one host.
    pub fn of(count: usize, device: Device, link: Link, backend: Backend) -> Self {
        let host = Host { count: 1, devices: count, device, link };
        Self { backend: backend.into(), overlap: 0.0, link, hosts: vec![host] }
    }

    /// `count` devices like the default one of this process, with rough figures where none are measured: half of the
    /// peak that its maker tells, and links as `backend` has them: Ethernet of 10 Gbit/s for a ring or MPI,
    /// Thunderbolt 5 for JACCL, `NVLink` for NCCL.
    ///
    /// # Errors
    /// When MLX fails, or does not say how much memory there is.
    pub fn like_here(count: usize, backend: Backend) -> Result<Self> {
        let (info, machine) = (device_info()?, Machine::here()?);
        let unknown =
            || Error::message("MLX does not say how much memory there is; write a cluster file");
        let limit = machine.limit.ok_or_else(unknown)?;
        let bf16_peak = peak_flops(&info, Dtype::Bfloat16);
        let device = Device {
            name: info.name,
            memory: Bytes(limit.bytes),
            f32_flops: machine.flops_per_second,
            bf16_flops: bf16_peak.map_or(machine.flops_per_second, |peak| 0.5 * peak),
            bytes_per_second: machine.bytes_per_second,
            seconds_per_operation: machine.seconds_per_operation,
        };
        let (bytes_per_second, latency_seconds) = match backend {
            Backend::Ring | Backend::Mpi => (1.25e9, 1e-4),
            Backend::Jaccl => (8e9, 1e-5),
            Backend::Nccl => (2e11, 1e-5),
        };
        Ok(Self::of(count, device, Link { bytes_per_second, latency_seconds }, backend))
    }

    /// How many devices there are.
    pub fn num_devices(&self) -> usize {
        let counts = self.hosts.iter().map(|host| host.count.saturating_mul(host.devices));
        counts.fold(0, usize::saturating_add)
    }

    /// What carries arrays.
    pub fn backend(&self) -> Backend {
        self.backend.into()
    }

    /// `factor` times as many hosts of each kind, as far as that is allowed.
    pub(super) fn times(&self, factor: usize) -> Self {
        let mut larger = self.clone();
        for host in &mut larger.hosts {
            host.count = host.count.saturating_mul(factor);
        }
        larger
    }

    fn check(&self) -> Result<(), String> {
        match self.num_devices() {
            0 => Err("there are no [[hosts]], so no devices; write one for each kind of host, in the order of the ranks"
                .into()),
            number if number > MAX_DEVICES => Err(format!(
                "there are {number} devices and at most {MAX_DEVICES} can be planned for; lower `count` or `devices`"
            )),
            _ => Ok(()),
        }
    }
}

impl Device {
    /// Its speed in matrix products.
    pub fn flops(&self, number: Number) -> f64 {
        match number {
            Number::F32 => self.f32_flops,
            Number::Bf16 => self.bf16_flops,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.memory == Bytes(0) {
            return Err(
                "a device needs `memory`, how much it has for arrays, such as \"64 GiB\"".into()
            );
        }
        Ok(())
    }
}

impl From<Backend> for BackendName {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Ring => Self::Ring,
            Backend::Mpi => Self::Mpi,
            Backend::Nccl => Self::Nccl,
            Backend::Jaccl => Self::Jaccl,
        }
    }
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Ring => Self::Ring,
            BackendName::Mpi => Self::Mpi,
            BackendName::Nccl => Self::Nccl,
            BackendName::Jaccl => Self::Jaccl,
        }
    }
}
