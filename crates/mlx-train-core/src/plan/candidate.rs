//! One way to split a step, and what is predicted for it.

use super::{
    memory::{MemoryParts, memory},
    site::Site,
    text,
    time::{Pace, Seconds, blocks, seconds},
    workload::Workload,
};
use crate::{bytes::Bytes, checkpoint::CheckpointPolicy, distributed::Parallelism};
use serde::Serialize;
use std::{cmp::Ordering, fmt};

/// A layout with a checkpoint policy and a number of micro-batches, and what a step of it is predicted to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Into how many parts the run is split.
    #[serde(with = "text")]
    pub layout: Parallelism,
    /// Which blocks compute twice.
    #[serde(with = "text")]
    pub policy: CheckpointPolicy,
    /// How many micro-batches a step has.
    pub micro_batches: usize,
    /// How many blocks each stage of the pipeline has.
    pub blocks: Vec<usize>,
    /// What the device needs that has the least to spare.
    pub memory: MemoryParts,
    /// What that device may use, in bytes.
    pub available_bytes: u64,
    /// How long a step takes.
    pub seconds: Seconds,
    /// Whether it is taken, and why not.
    pub verdict: Verdict,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Verdict {
    /// It is the fastest that fits.
    Chosen,
    /// It fits, and takes so many times as long as the chosen one.
    Slower {
        /// At least 1.
        times: f64,
    },
    /// A device would need so many bytes more than it may use.
    DoesNotFit {
        /// How many.
        missing_bytes: u64,
    },
}

impl Candidate {
    /// Predicts a step of `workload`, whose rows the layout and `micro_batches` divide evenly.
    pub(super) fn predict(
        workload: &Workload,
        site: &Site<'_>,
        policy: usize,
        micro_batches: usize,
    ) -> Self {
        let cost = &workload.policies[policy];
        let rows = workload.rows as f64 / (site.layout.data * micro_batches) as f64;
        let pace = Pace { cost, micro_batches, rows };
        let blocks = blocks(workload, site, pace);
        let needs = blocks.iter().enumerate().map(|(stage, &blocks)| {
            (memory(workload, site, pace, stage, blocks), site.stages[stage].memory_bytes)
        });
        let tightest =
            needs.min_by_key(|(needs, has)| i128::from(*has) - i128::from(needs.total()));
        let (memory, available_bytes) = tightest.unwrap_or_default();
        let missing_bytes = memory.total().saturating_sub(available_bytes);
        Self {
            layout: site.layout,
            policy: cost.policy.clone(),
            micro_batches,
            seconds: seconds(workload, site, pace, &blocks),
            blocks,
            memory,
            available_bytes,
            verdict: match missing_bytes {
                0 => Verdict::Slower { times: 1.0 },
                missing_bytes => Verdict::DoesNotFit { missing_bytes },
            },
        }
    }

    /// Whether every device has the memory for it.
    pub fn fits(&self) -> bool {
        !matches!(self.verdict, Verdict::DoesNotFit { .. })
    }

    /// How it compares with another: what fits before what does not, then by time, or by what is missing; of
    /// equals, the one that splits less and needs less.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let missing = |it: &Self| match it.verdict {
            Verdict::DoesNotFit { missing_bytes } => missing_bytes,
            _ => 0,
        };
        let rest = |it: &Self| (it.layout.num_ways(), it.layout.is_sharded, it.micro_batches);
        missing(self)
            .cmp(&missing(other))
            .then(self.seconds.total().total_cmp(&other.seconds.total()))
            .then(rest(self).cmp(&rest(other)))
            .then(self.memory.total().cmp(&other.memory.total()))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.pad("chosen"),
            Self::Slower { times } if *times < 1.005 => f.pad("as fast"),
            Self::Slower { times } if *times < 10.0 => f.pad(&format!("{times:.2} times as long")),
            Self::Slower { times } => f.pad(&format!("{times:.0} times as long")),
            Self::DoesNotFit { missing_bytes } => {
                f.pad(&format!("lacks {}", Bytes(*missing_bytes)))
            }
        }
    }
}
