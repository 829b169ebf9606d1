//! Which way to split a training step over devices is the fastest that fits, before it is tried.
//!
//! A [`Workload`] says what a step of a model costs, a [`Cluster`] what there is to run it on, and [`plan`] predicts
//! memory and time of every layout under every checkpoint policy. Nothing is computed and no device is needed: the
//! model is recorded, and the cluster may be a file.
//!
//! What is assumed: all devices of a stage wait for the slowest; matrix products run at the measured speed whatever
//! their size, and all else at the measured bandwidth; collectives are rings; tensor ranks and neighbouring stages
//! wait for each other, and of the gathers and sums of gradients the share [`Cluster::overlap`] passes during the
//! computation. Sources: Narayanan et al., arXiv:2104.04473 (Megatron-LM), and Rajbhandari et al., arXiv:1910.02054
//! (`ZeRO`).

mod candidate;
mod choice;
mod cluster;
mod collectives;
mod error;
mod fit;
mod forward;
mod measure;
mod memory;
mod names;
mod plain;
mod ranks;
mod record;
#[cfg(test)]
mod samples;
mod search;
mod site;
mod stages;
mod text;
mod time;
mod traffic;
mod work;
mod workload;

pub use candidate::{Candidate, Verdict};
pub use choice::Choice;
pub use cluster::{BackendName, Cluster, Device, Host, Link, MAX_DEVICES, Number};
pub use error::PlanError;
pub use memory::MemoryParts;
pub use search::{Excluded, Plan, plan};
pub use time::Seconds;
pub use work::Work;
pub use workload::{BlockCost, OutsideCost, Parameter, Place, TensorSplit, Workload};
