//! What tells a process which rank it is.

use crate::{
    Error, Result,
    distributed::{Backend, LAUNCHER},
    file::FileError,
};
use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    process::{self, Command},
    thread::available_parallelism,
};
use tempfile::TempDir;

/// Variables that an outer launch may have set, for another group.
const FOREIGN: [&str; 6] = [
    "MLX_HOSTFILE",
    "MLX_JACCL_COORDINATOR",
    "MLX_IBV_DEVICES",
    "MLX_WORLD_SIZE",
    "NCCL_HOST_IP",
    "NCCL_PORT",
];

/// Where the ranks of a group on this machine meet.
#[derive(Debug)]
pub(super) struct Place {
    backend: Backend,
    pub(super) world_size: usize,
    ports: Vec<u16>,
    /// Has the file that the ring reads.
    folder: TempDir,
}

impl Place {
    /// Finds ports; the ring's file is written.
    pub(super) fn new(
        backend: Backend,
        world_size: usize,
        first_port: Option<u16>,
    ) -> Result<Self> {
        let ports = ports(world_size, first_port)?;
        let failed = |source| FileError::Write { path: env::temp_dir(), source };
        let folder =
            tempfile::Builder::new().prefix("mlx-train-launch").tempdir().map_err(failed)?;
        let hosts: Vec<[String; 1]> =
            ports.iter().map(|port| [format!("{}:{port}", Ipv4Addr::LOCALHOST)]).collect();
        let path = folder.path().join("ring.json");
        let text =
            serde_json::to_string(&hosts).map_err(|error| Error::message(error.to_string()))?;
        fs::write(&path, text).map_err(|source| FileError::Write { path, source })?;
        Ok(Self { backend, world_size, ports, folder })
    }

    /// Tells a process that it is this rank.
    pub(super) fn tell(&self, rank: usize, command: &mut Command) {
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.env("MLX_RANK", rank.to_string());
        command.env(LAUNCHER, process::id().to_string());
        match self.backend {
            Backend::Nccl => {
                command
                    .env("MLX_WORLD_SIZE", self.world_size.to_string())
                    .env("NCCL_HOST_IP", Ipv4Addr::LOCALHOST.to_string())
                    .env("NCCL_PORT", self.ports[0].to_string())
                    .env("CUDA_VISIBLE_DEVICES", device(rank));
            }
            _ => {
                command.env("MLX_HOSTFILE", self.folder.path().join("ring.json"));
            }
        }
        // Ranks that all use every core wait for each other's threads.
        if env::var_os("OPENBLAS_NUM_THREADS").is_none() {
            let cores = available_parallelism().map_or(1, usize::from);
            let threads = (cores / self.world_size).max(1);
            command.env("OPENBLAS_NUM_THREADS", threads.to_string());
        }
    }
}

/// The GPU of a rank: of those that this process may use, the one at its place.
fn device(rank: usize) -> String {
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    let visible = visible.as_deref().and_then(|devices| devices.split(',').nth(rank));
    visible.map_or_else(|| rank.to_string(), |device| device.trim().to_owned())
}

/// Ports that nobody uses at the moment, one for each rank.
fn ports(world_size: usize, first_port: Option<u16>) -> Result<Vec<u16>> {
    let mut listeners = Vec::new();
    for rank in 0..world_size {
        let wanted = match first_port {
            None => 0,
            Some(first) => {
                let port = u16::try_from(rank).ok().and_then(|rank| first.checked_add(rank));
                port.ok_or_else(|| {
                    Error::message(format!(
                        "{world_size} ports from {first} on go over 65535; choose a lower one"
                    ))
                })?
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|error| {
            let port = if wanted == 0 { String::new() } else { format!(" {wanted}") };
            Error::message(format!(
                "rank {rank} cannot have port{port} on this machine ({error}); choose another with --port, or leave \
                 it out and any that are free are taken"
            ))
        })?;
        listeners.push(listener);
    }
    let no_address =
        |error| Error::message(format!("a port of this machine has no address: {error}"));
    let port = |listener: &TcpListener| Ok(listener.local_addr().map_err(no_address)?.port());
    listeners.iter().map(port).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = ports(1, Some(port)).unwrap_err().to_string();
        assert!(refused.contains(&format!("port {port}")), "{refused}");
        assert!(refused.contains("--port"), "{refused}");
        let over = ports(2, Some(u16::MAX)).unwrap_err().to_string();
        assert!(over.contains("65535"), "{over}");
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = ports(8, None).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
