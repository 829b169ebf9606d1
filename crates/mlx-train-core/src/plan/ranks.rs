//! Where the ranks of a layout are: on which devices, and over which links their groups reach.

use super::{
    cluster::{Cluster, Device, Link},
    collectives::Ring,
};
use crate::distributed::Parallelism;
use std::collections::HashMap;

/// The devices of a cluster by rank.
#[derive(Debug)]
pub(super) struct Ranks<'c> {
    cluster: &'c Cluster,
    devices: Vec<Seat<'c>>,
}

/// A device and its host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat<'c> {
    pub(super) device: &'c Device,
    host: usize,
    link: Link,
}

/// The groups of a layout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    pub(super) data: Ring,
    pub(super) tensor: Ring,
    pub(super) pipeline: Ring,
}

impl<'c> Ranks<'c> {
    pub(super) fn of(cluster: &'c Cluster) -> Self {
        let mut devices = Vec::with_capacity(cluster.num_devices());
        let mut host = 0;
        for kind in &cluster.hosts {
            for _ in 0..kind.count {
                let seat = Seat { device: &kind.device, host, link: kind.link };
                devices.extend(std::iter::repeat_n(seat, kind.devices));
                host += 1;
            }
        }
        Self { cluster, devices }
    }

    /// The devices of a stage of the pipeline.
    pub(super) fn stage(&self, layout: &Parallelism, stage: usize) -> &[Seat<'c>] {
        let size = layout.data * layout.tensor;
        self.devices.get(stage * size..(stage + 1) * size).unwrap_or_default()
    }

    /// The groups of a layout, each as slow as the slowest of its kind.
    pub(super) fn groups(&self, layout: &Parallelism) -> Groups {
        let &Parallelism { data, tensor, pipeline, .. } = layout;
        let stage = data * tensor;
        let ring = |ranks, first: &dyn Fn(usize) -> usize, stride| {
            let groups = layout.num_ranks() / ranks;
            let link = self.link(groups, ranks, first, stride);
            Ring { ranks, link, backend: self.cluster.backend() }
        };
        Groups {
            tensor: ring(tensor, &|group| group * tensor, 1),
            data: ring(data, &|group| group / tensor * stage + group % tensor, tensor),
            pipeline: ring(pipeline, &|group| group, stage),
        }
    }

    /// The link that rings of one kind go at, when all of them run at the same time: the `ranks` of a group begin
    /// at `first` and are `stride` apart. Groups that leave a host share its link to the others.
    fn link(
        &self,
        groups: usize,
        ranks: usize,
        first: &dyn Fn(usize) -> usize,
        stride: usize,
    ) -> Link {
        let mut inside: Option<Link> = None;
        let mut leaving: HashMap<usize, usize> = HashMap::new();
        for group in 0..groups {
            let seats =
                (0..ranks).filter_map(|rank| self.devices.get(first(group) + rank * stride));
            let hosts: Vec<usize> = seats.clone().map(|seat| seat.host).collect();
            if hosts.windows(2).all(|pair| pair[0] == pair[1]) {
                inside = seats.map(|seat| seat.link).chain(inside).reduce(slower);
                continue;
            }
            // A host that several ranks of a group are on is left once in each direction.
            let mut left = hosts;
            left.dedup();
            for host in left {
                *leaving.entry(host).or_default() += 1;
            }
        }
        let most = leaving.into_values().max();
        let shared = most.map(|groups| {
            let Link { bytes_per_second, latency_seconds } = self.cluster.link;
            Link { bytes_per_second: bytes_per_second / groups as f64, latency_seconds }
        });
        inside.into_iter().chain(shared).reduce(slower).unwrap_or(self.cluster.link)
    }
}

/// What the slower of two links has of each.
fn slower(a: Link, b: Link) -> Link {
    Link {
        bytes_per_second: a.bytes_per_second.min(b.bytes_per_second),
        latency_seconds: a.latency_seconds.max(b.latency_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cluster::{BackendName, Host};

    fn two_hosts_of_four() -> Cluster {
        let link = |bytes_per_second| Link { bytes_per_second, latency_seconds: 0.0 };
        let host = Host { count: 2, devices: 4, device: Device::default(), link: link(100.0) };
        Cluster { backend: BackendName::Mpi, overlap: 0.0, link: link(8.0), hosts: vec![host] }
    }

    fn speeds(layout: &str) -> [f64; 3] {
        let cluster = two_hosts_of_four();
        let Groups { data, tensor, pipeline } =
            Ranks::of(&cluster).groups(&layout.parse().expect("a layout"));
        [data, tensor, pipeline].map(|ring| ring.link.bytes_per_second)
    }

    #[test]
    fn groups_that_stay_on_a_host_have_its_link_and_those_that_leave_share_the_other() {
        // One ring around both hosts leaves each once.
        assert_eq!(speeds("dp=8")[..1], [8.0]);
        // Four pairs, one rank of each on either host.
        assert_eq!(speeds("dp=2,tp=4")[..2], [2.0, 100.0]);
        // The stages are the hosts; four chains go from one to the other.
        assert_eq!(speeds("tp=4,pp=2")[1..], [100.0, 2.0]);
        assert_eq!(speeds("dp=4,pp=2")[..1], [100.0]);
        // Tensor groups over both hosts.
        assert_eq!(speeds("tp=8")[1..2], [8.0]);
    }
}
