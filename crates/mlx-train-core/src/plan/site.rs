//! A layout on the devices of a cluster.

use super::{
    cluster::{Cluster, Device},
    ranks::{Groups, Ranks},
};
use crate::{bytes::Bytes, distributed::Parallelism};
use std::ptr;

/// A layout, its groups and the devices of its stages.
#[derive(Debug)]
pub(super) struct Site<'c> {
    pub(super) layout: Parallelism,
    pub(super) groups: Groups,
    pub(super) stages: Vec<Stage<'c>>,
    /// How much of what can pass during the computation does.
    pub(super) overlap: f64,
}

/// The devices of a stage, all of which have as much to do.
#[derive(Debug)]
pub(super) struct Stage<'c> {
    /// One of each kind.
    pub(super) kinds: Vec<&'c Device>,
    /// What the one with the least memory has.
    pub(super) memory_bytes: u64,
}

impl<'c> Site<'c> {
    pub(super) fn new(
        layout: Parallelism,
        cluster: &'c Cluster,
        ranks: &Ranks<'c>,
        budget: Option<Bytes>,
    ) -> Self {
        let stages = (0..layout.pipeline).map(|stage| {
            let mut kinds: Vec<&Device> = Vec::new();
            for seat in ranks.stage(&layout, stage) {
                if !kinds.iter().any(|kind| ptr::eq(*kind, seat.device)) {
                    kinds.push(seat.device);
                }
            }
            let least = kinds.iter().map(|device| device.memory.0).min().unwrap_or(0);
            Stage { kinds, memory_bytes: budget.map_or(least, |Bytes(budget)| budget.min(least)) }
        });
        Self {
            layout,
            groups: ranks.groups(&layout),
            stages: stages.collect(),
            overlap: cluster.overlap,
        }
    }
}
