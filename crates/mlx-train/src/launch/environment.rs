//! What tells a process which rank it is.
//!
//! Source: `python/mlx/_distributed_utils/launch.py` in MLX 0.32.2.

use super::hostfile::{Host, Hostfile};
use crate::{
    Error, Result,
    distributed::{Backend, DistributedError, LAUNCHER},
    file::FileError,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    env, fs,
    io::ErrorKind,
    net::{IpAddr, TcpListener},
    process::{self, Command},
    thread::available_parallelism,
};
use tempfile::TempDir;

/// The port of rank 0 where ranks are on several machines, as `mlx.launch` has it: a firewall may let it pass.
const DEFAULT_PORT: u16 = 32323;

/// Variables that an outer launch may have set, for another group.
const FOREIGN: [&str; 8] = [
    "MLX_RANK",
    "MLX_HOSTFILE",
    "MLX_JACCL_COORDINATOR",
    "MLX_JACCL_RING",
    "MLX_IBV_DEVICES",
    "MLX_WORLD_SIZE",
    "NCCL_HOST_IP",
    "NCCL_PORT",
];

/// How many threads of OpenBLAS multiply matrices.
const BLAS_THREADS: &str = "OPENBLAS_NUM_THREADS";

/// Where the ranks of a group run, and where they meet.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seats: Vec<Seat>,
    /// What all ranks are to find in a file, the path of which is in a variable.
    pub(super) file: Option<MeetingFile>,
    /// Has the file for the ranks on this machine.
    folder: TempDir,
}

/// The name of a variable, and the text of the file whose path it has.
#[derive(Debug)]
pub(super) struct MeetingFile {
    pub(super) variable: &'static str,
    pub(super) text: String,
}

/// Where one rank runs, and what tells it who it is.
#[derive(Debug)]
pub(super) struct Seat {
    /// The host to log in to; none is this machine.
    pub(super) host: Option<String>,
    /// How many ranks its host has.
    pub(super) neighbours: usize,
    pub(super) variables: Vec<(String, String)>,
}

/// What ranks are connected by, as far as the user says it.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) backend: Backend,
    pub(super) world_size: usize,
    /// `None` for ranks on this machine.
    pub(super) hostfile: Option<&'a Hostfile>,
    pub(super) first_port: Option<u16>,
    /// For all ranks.
    pub(super) variables: &'a [(String, String)],
}

impl Plan<'_> {
    /// Finds places and ports; the files of the ranks on this machine are written.
    ///
    /// # Errors
    /// When the hosts do not have what the backend needs, or ports of this machine are in use.
    pub(super) fn place(&self) -> Result<Place> {
        let here;
        let hosts = if let Some(hostfile) = self.hostfile {
            &hostfile.hosts
        } else {
            here = vec![Host::here(); self.world_size];
            &here
        };
        let mut seats: Vec<Seat> =
            hosts.iter().enumerate().map(|it| self.seat(it, hosts)).collect();
        let file = match self.backend {
            // A process alone is told nothing more: a ring of one has no neighbour to connect to.
            _ if hosts.len() == 1 => None,
            Backend::Ring => Some(self.ring(hosts)?),
            Backend::Jaccl => Some(self.jaccl(hosts, &mut seats)?),
            Backend::Nccl => {
                self.nccl(hosts, &mut seats)?;
                None
            }
            Backend::Mpi => return Err(Error::message("the ranks of mpi are started by mpirun")),
        };
        let failed = |source| FileError::Write { path: env::temp_dir(), source };
        let folder =
            tempfile::Builder::new().prefix("mlx-train-launch").tempdir().map_err(failed)?;
        if let Some(MeetingFile { variable, text }) = &file {
            let path = folder.path().join(variable);
            fs::write(&path, text).map_err(|source| FileError::Write { path, source })?;
        }
        Ok(Place { seats, file, folder })
    }

    fn seat(&self, (rank, host): (usize, &Host), hosts: &[Host]) -> Seat {
        let neighbours = hosts.iter().filter(|other| is_same(host, other)).count();
        let mut variables = vec![("MLX_RANK".to_owned(), rank.to_string())];
        variables.extend(self.variables.iter().cloned());
        Seat { host: (!host.is_here()).then(|| host.name.clone()), neighbours, variables }
    }

    /// Every rank knows the addresses of all: one or more for each, all of them the same number.
    fn ring(&self, hosts: &[Host]) -> Result<MeetingFile> {
        let num_ips = hosts[0].ips.len();
        for (index, host) in hosts.iter().enumerate() {
            if host.ips.is_empty() {
                return Err(self.refuse(
                    index,
                    "ring needs its address; write `ips`, as in \"ips\": [\"192.168.1.1\"]",
                ));
            }
            if host.ips.len() != num_ips {
                return Err(self.refuse(
                    index,
                    format!(
                        "it has {} addresses in `ips` and host 0 has {num_ips}; a ring needs as many on each host",
                        host.ips.len()
                    ),
                ));
            }
        }
        let mut ports = self.ports(hosts);
        let mut of_host = |host: usize| (0..num_ips).map(|ip| ports.address(host, ip)).collect();
        let addresses = (0..hosts.len()).map(&mut of_host).collect::<Result<Vec<Vec<String>>>>()?;
        Ok(MeetingFile { variable: "MLX_HOSTFILE", text: json!(addresses).to_string() })
    }

    /// Every rank knows the address of rank 0, and has a GPU of its own.
    fn nccl(&self, hosts: &[Host], seats: &mut [Seat]) -> Result<()> {
        if hosts.iter().all(Host::is_here) && !Backend::Nccl.is_available() {
            return Err(DistributedError::NoBackend { backend: Backend::Nccl }.into());
        }
        let (ip, port) = self.coordinator(hosts)?;
        let mut gpus: HashMap<&str, usize> = HashMap::new();
        for (host, seat) in hosts.iter().zip(seats) {
            let name = if host.is_here() { "localhost" } else { &host.name };
            let gpu = gpus.entry(name).or_default();
            let device = if host.is_here() { device(*gpu) } else { gpu.to_string() };
            *gpu += 1;
            let told = [
                ("NCCL_HOST_IP", ip.clone()),
                ("NCCL_PORT", port.to_string()),
                ("MLX_WORLD_SIZE", hosts.len().to_string()),
                ("CUDA_VISIBLE_DEVICES", device),
            ];
            seat.variables.extend(told.map(|(name, value)| (name.to_owned(), value)));
        }
        Ok(())
    }

    /// Every rank knows the address of rank 0, and which devices lead to which host.
    fn jaccl(&self, hosts: &[Host], seats: &mut [Seat]) -> Result<MeetingFile> {
        if self.hostfile.is_none() {
            return Err(Error::message(
                "jaccl connects several Macs, and these ranks are all on this machine; name the Macs with --hostfile, \
                 or use ring",
            ));
        }
        for (index, host) in hosts.iter().enumerate() {
            self.check_devices(index, host, hosts.len())?;
        }
        let (ip, port) = self.coordinator(hosts)?;
        for seat in seats {
            seat.variables.push(("MLX_JACCL_COORDINATOR".into(), format!("{ip}:{port}")));
        }
        let devices: Vec<&[Value]> = hosts.iter().map(|host| host.rdma.as_slice()).collect();
        Ok(MeetingFile { variable: "MLX_IBV_DEVICES", text: json!(devices).to_string() })
    }

    /// The devices of a host lead to each other one, or at least to those before and after it.
    fn check_devices(&self, index: usize, host: &Host, count: usize) -> Result<()> {
        let is_none =
            |device: &Value| device.is_null() || device.as_array().is_some_and(Vec::is_empty);
        let example = "\"rdma\": [null, \"rdma_en2\"] for the first of two";
        if host.rdma.len() != count {
            return Err(self.refuse(
                index,
                format!(
                    "jaccl needs the device that leads to each of the {count} hosts, and `rdma` has {}; write null for \
                     the host itself and a name for each other one, as in {example}",
                    host.rdma.len()
                ),
            ));
        }
        if !is_none(&host.rdma[index]) {
            let what =
                format!("`rdma[{index}]` is the host itself; write null there, as in {example}");
            return Err(self.refuse(index, what));
        }
        for neighbour in [(index + 1) % count, (index + count - 1) % count] {
            if is_none(&host.rdma[neighbour]) {
                let what = format!(
                    "`rdma[{neighbour}]` names no device, and ranks {index} and {neighbour} are neighbours; write the \
                     device that leads there, as in {example}"
                );
                return Err(self.refuse(index, what));
            }
        }
        Ok(())
    }

    /// The address and port of rank 0.
    fn coordinator(&self, hosts: &[Host]) -> Result<(String, u16)> {
        if hosts[0].ips.is_empty() {
            let backend = self.backend;
            return Err(self.refuse(
                0,
                format!("{backend} needs an address of rank 0 that all others reach; write `ips`"),
            ));
        }
        let port = self.ports(hosts).take(0, 0)?;
        Ok((hosts[0].ips[0].clone(), port))
    }

    fn ports<'a>(&'a self, hosts: &'a [Host]) -> Ports<'a> {
        let default = (!hosts.iter().all(Host::is_here)).then_some(DEFAULT_PORT);
        let first = self.first_port.or(default);
        Ports { plan: self, hosts, first, num_taken: 0, listeners: Vec::new() }
    }

    /// An error about a host; those of a launch without a file are all this machine, which has what it needs.
    fn refuse(&self, host: usize, what: impl std::fmt::Display) -> Error {
        match self.hostfile {
            Some(hostfile) => hostfile.refuse(host, what),
            None => Error::message(format!("rank {host}: {what}")),
        }
    }
}

/// Ports, one after the other, those of this machine tried out.
struct Ports<'a> {
    plan: &'a Plan<'a>,
    hosts: &'a [Host],
    /// `None`: any that are free.
    first: Option<u16>,
    num_taken: usize,
    /// Hold what was tried, so that none is taken twice.
    listeners: Vec<TcpListener>,
}

impl Ports<'_> {
    /// The next port, behind one of the addresses of a host.
    fn address(&mut self, host: usize, ip: usize) -> Result<String> {
        let port = self.take(host, ip)?;
        Ok(format!("{}:{port}", self.hosts[host].ips[ip]))
    }

    fn take(&mut self, host: usize, ip: usize) -> Result<u16> {
        let wanted = match self.first {
            None => 0,
            Some(first) => {
                let after = u16::try_from(self.num_taken).ok();
                after.and_then(|after| first.checked_add(after)).ok_or_else(|| {
                    Error::message(format!(
                        "the ports of {} ranks from {first} on go over 65535; choose a lower one with --port",
                        self.hosts.len()
                    ))
                })?
            }
        };
        self.num_taken += 1;
        self.listen(host, ip, wanted)
    }

    /// Tries a port of this machine; what another one has is not known here.
    fn listen(&mut self, index: usize, ip: usize, port: u16) -> Result<u16> {
        let host = &self.hosts[index];
        let address = host.ips[ip].as_str();
        let is_here = host.is_here();
        // Names are looked up where they are used; a loopback address is that of whoever uses it.
        let is_ours = |ip: IpAddr| !ip.is_loopback();
        if !is_here && !address.parse().is_ok_and(is_ours) {
            return Ok(port);
        }
        match TcpListener::bind((address, port)) {
            Ok(listener) => {
                let no_address = |error| {
                    Error::message(format!("a port of this machine has no address: {error}"))
                };
                let port = listener.local_addr().map_err(no_address)?.port();
                self.listeners.push(listener);
                Ok(port)
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Error::message(format!(
                "rank {index} cannot have port {port} on this machine, since a program uses it; choose another \
                 with --port{}",
                if self.hosts.iter().all(Host::is_here) {
                    ", or leave it out and any that are free are taken"
                } else {
                    ""
                }
            ))),
            Err(_) if !is_here => Ok(port),
            Err(error) => Err(self.plan.refuse(
                index,
                format!(
                    "`ips[{ip}]` is {address:?}, where this machine cannot listen on port {port} ({error}); write an \
                     address of this machine, and choose a port with --port"
                ),
            )),
        }
    }
}

impl Place {
    /// Tells a process on this machine that it has this seat.
    pub(super) fn tell(&self, seat: &Seat, command: &mut Command) {
        clear(command);
        command.env(LAUNCHER, process::id().to_string());
        if let Some(MeetingFile { variable, .. }) = &self.file {
            command.env(variable, self.folder.path().join(variable));
        }
        share_cores(seat.neighbours, command);
        command.envs(seat.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// Takes away what an outer launch has set.
pub(super) fn clear(command: &mut Command) {
    for name in FOREIGN {
        command.env_remove(name);
    }
}

/// Gives each of so many ranks its part of the cores, unless the environment says how many threads they have.
///
/// Ranks that all use every core wait for each other's threads.
pub(super) fn share_cores(num_ranks: usize, command: &mut Command) {
    if env::var_os(BLAS_THREADS).is_none() {
        let cores = available_parallelism().map_or(1, usize::from);
        command.env(BLAS_THREADS, (cores / num_ranks).max(1).to_string());
    }
}

/// Whether two ranks are on the same machine, as far as its name says it.
fn is_same(host: &Host, other: &Host) -> bool {
    host.name == other.name || (host.is_here() && other.is_here())
}

/// The GPU of a rank on this machine: of those that this process may use, the one at its place.
fn device(index: usize) -> String {
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    let visible = visible.as_deref().and_then(|devices| devices.split(',').nth(index));
    visible.map_or_else(|| index.to_string(), |device| device.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hostfile(hosts: &str) -> Hostfile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.json");
        fs::write(&path, hosts).unwrap();
        Hostfile::read(path).unwrap()
    }

    /// What each rank finds in its environment, and the text of the file.
    fn place(backend: Backend, hosts: &str, first_port: Option<u16>) -> Result<Place> {
        let hostfile = hostfile(hosts);
        let hostfile = Some(&hostfile);
        Plan { backend, world_size: 0, hostfile, first_port, variables: &[] }.place()
    }

    fn variable<'a>(seat: &'a Seat, name: &str) -> Option<&'a str> {
        seat.variables.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    fn here(world_size: usize, first_port: Option<u16>) -> Result<Place> {
        let backend = Backend::Ring;
        Plan { backend, world_size, hostfile: None, first_port, variables: &[] }.place()
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = here(2, Some(port)).unwrap_err().to_string();
        assert!(refused.contains(&format!("rank 0 cannot have port {port}")), "{refused}");
        assert!(refused.contains("--port, or leave it out"), "{refused}");
        let mixed =
            r#"[{"ssh": "far", "ips": ["10.0.0.1"]}, {"ssh": "localhost", "ips": ["127.0.0.1"]}]"#;
        let refused = place(Backend::Ring, mixed, Some(port - 1)).unwrap_err().to_string();
        assert!(refused.contains(&format!("rank 1 cannot have port {port}")), "{refused}");
        let over = here(2, Some(u16::MAX)).unwrap_err().to_string();
        assert!(over.contains("65535"), "{over}");
    }

    #[test]
    fn ranks_of_this_machine_meet_on_free_ports_that_differ() {
        let place = here(8, None).unwrap();
        let addresses: Vec<Vec<String>> = serde_json::from_str(&place.file.unwrap().text).unwrap();
        let mut ports: Vec<String> = addresses.concat();
        assert!(ports.iter().all(|address| address.starts_with("127.0.0.1:")), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn a_ring_over_machines_has_the_ports_of_mlx_launch() {
        let hosts = r#"[{"ssh": "a", "ips": ["10.0.0.1", "10.0.1.1"]},
                        {"ssh": "b", "ips": ["10.0.0.2", "10.0.1.2"]}]"#;
        let place = place(Backend::Ring, hosts, None).unwrap();
        let file = place.file.as_ref().unwrap();
        assert_eq!(file.variable, "MLX_HOSTFILE");
        let expected =
            r#"[["10.0.0.1:32323","10.0.1.1:32324"],["10.0.0.2:32325","10.0.1.2:32326"]]"#;
        assert_eq!(file.text, expected);
        assert_eq!(variable(&place.seats[1], "MLX_RANK"), Some("1"));
        assert_eq!(place.seats[1].host.as_deref(), Some("b"));
    }

    #[test]
    fn jaccl_knows_its_devices_and_rank_0() {
        let hosts = r#"[{"ssh": "a", "ips": ["10.0.0.1"], "rdma": [null, "en2"]},
                        {"ssh": "b", "rdma": [["en3"], null]}]"#;
        let place = place(Backend::Jaccl, hosts, Some(5000)).unwrap();
        let file = place.file.as_ref().unwrap();
        assert_eq!(
            (file.variable, file.text.as_str()),
            ("MLX_IBV_DEVICES", r#"[[null,"en2"],[["en3"],null]]"#)
        );
        for seat in &place.seats {
            assert_eq!(variable(seat, "MLX_JACCL_COORDINATOR"), Some("10.0.0.1:5000"));
        }
    }

    #[test]
    fn each_rank_of_nccl_has_a_gpu_of_its_machine() {
        let host = |name: &str| format!(r#"{{"ssh": "{name}", "ips": ["10.0.0.1"]}}"#);
        let hosts = format!("[{}, {}, {}]", host("a"), host("b"), host("a"));
        let place = place(Backend::Nccl, &hosts, None).unwrap();
        let gpus: Vec<_> =
            place.seats.iter().map(|seat| variable(seat, "CUDA_VISIBLE_DEVICES")).collect();
        assert_eq!(gpus, [Some("0"), Some("0"), Some("1")]);
        for (name, value) in
            [("NCCL_HOST_IP", "10.0.0.1"), ("NCCL_PORT", "32323"), ("MLX_WORLD_SIZE", "3")]
        {
            assert_eq!(variable(&place.seats[2], name), Some(value));
        }
        assert_eq!((place.seats[0].neighbours, place.seats[1].neighbours), (2, 1));
    }

    #[test]
    fn hosts_without_what_the_backend_needs_are_refused() {
        let pair = |first: &str, second: &str| {
            format!(r#"[{{"ssh": "a"{first}}}, {{"ssh": "b"{second}}}]"#)
        };
        let ip = r#", "ips": ["10.0.0.1"]"#;
        let both = |rdma: &str| format!("{ip}, \"rdma\": {rdma}");
        for (backend, hosts, said) in [
            (Backend::Ring, pair(ip, ""), "host 1: ring needs its address; write `ips`"),
            (Backend::Ring, pair("", ip), "host 0: ring needs its address"),
            (
                Backend::Ring,
                pair(ip, r#", "ips": ["10.0.0.2", "10.0.1.2"]"#),
                "host 1: it has 2 addresses in `ips` and host 0 has 1",
            ),
            (Backend::Nccl, pair("", ip), "host 0: nccl needs an address of rank 0"),
            (Backend::Jaccl, pair(ip, ip), "host 0: jaccl needs the device that leads to each"),
            (
                Backend::Jaccl,
                pair(&both(r#"[null, "en2"]"#), &both(r#"["en2"]"#)),
                "host 1: jaccl needs the device that leads to each of the 2 hosts, and `rdma` has 1",
            ),
            (
                Backend::Jaccl,
                pair(&both(r#"["en1", "en2"]"#), &both(r#"["en2", null]"#)),
                "host 0: `rdma[0]` is the host itself",
            ),
            (
                Backend::Jaccl,
                pair(&both(r#"[null, "en2"]"#), &both("[[], null]")),
                "host 1: `rdma[0]` names no device",
            ),
            (
                Backend::Jaccl,
                pair(r#", "rdma": [null, "en2"]"#, &both(r#"["en2", null]"#)),
                "host 0: jaccl needs an address of rank 0",
            ),
        ] {
            let refused = place(backend, &hosts, None).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}\nlacks {said}");
        }
        // 192.0.2.1 is in documents alone (RFC 5737).
        let elsewhere =
            r#"[{"ssh": "localhost", "ips": ["192.0.2.1"]}, {"ssh": "b", "ips": ["10.0.0.1"]}]"#;
        let refused = place(Backend::Ring, elsewhere, None).unwrap_err().to_string();
        assert!(
            refused.contains("host 0: `ips[0]` is \"192.0.2.1\", where this machine cannot"),
            "{refused}"
        );
    }

    #[test]
    fn a_rank_alone_is_told_of_no_group() {
        let place = here(1, None).unwrap();
        assert!(place.file.is_none());
        assert_eq!(place.seats[0].variables, [("MLX_RANK".to_owned(), "0".to_owned())]);
    }
}
