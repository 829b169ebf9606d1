//! How much memory a step takes on a device.
//!
//! Parameters, gradients and optimizer state are divided among the ranks that shard them (stages 1 to 3 of
//! Rajbhandari et al., arXiv:1910.02054, section 5), whole blocks are gathered for as long as they are needed, and
//! stage s of p keeps what the backward pass needs of at most p - s micro-batches (Narayanan et al.,
//! arXiv:2104.04473, section 2.2).

use super::{
    site::Site,
    time::{Pace, copies},
    workload::{Place, Workload},
};
use serde::Serialize;

/// The mean of the gradients of several micro-batches is f32.
const MEAN_BYTES: f64 = 4.0;

/// What a block works with besides what it keeps, in arrays as large as what goes from block to block.
const WORKING_BOUNDARIES: f64 = 4.0;

/// How many blocks are gathered at a time: one that computes, and the next.
const GATHERED_AHEAD: f64 = 2.0;

/// What the bytes of a device are for when it holds the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryParts {
    /// Parameters, or the rank's part of them.
    pub weights_bytes: u64,
    /// What the optimizer keeps.
    pub optimizer_bytes: u64,
    /// Gradients.
    pub gradients_bytes: u64,
    /// Whole parameters that are gathered from the parts of all ranks.
    pub gathered_bytes: u64,
    /// What waits for the backward pass.
    pub activations_bytes: u64,
    /// What the current operations work with, logits among them.
    pub working_bytes: u64,
}

impl MemoryParts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let parts = [
            self.weights_bytes,
            self.optimizer_bytes,
            self.gradients_bytes,
            self.gathered_bytes,
            self.activations_bytes,
            self.working_bytes,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What each device of a stage needs.
pub(super) fn memory(
    workload: &Workload,
    site: &Site<'_>,
    pace: Pace<'_>,
    stage: usize,
    blocks: usize,
) -> MemoryParts {
    let layout = &site.layout;
    let Pace { cost, micro_batches, rows } = pace;
    let held = State::of(workload, site, cost.checkpointed, stage, blocks);
    let number = blocks as f64;
    // In 1F1B a stage begins so many micro-batches before the first comes back.
    let in_flight = (layout.pipeline - stage).min(micro_batches) as f64;
    let saved_left = workload.tensor.saved_left(layout.tensor);
    let kept = cost.kept_bytes / layout.tensor as f64;
    let activations = number * (in_flight * rows * cost.saved_bytes * saved_left + kept);

    let without = workload.policies.first().map_or(cost.saved_bytes, |none| none.saved_bytes);
    let again = (without - cost.saved_bytes).max(0.0);
    let of_block = rows * (again * saved_left + WORKING_BOUNDARIES * workload.boundary_bytes);
    let is_last = stage + 1 == layout.pipeline;
    let of_loss =
        workload.outside(rows).working_bytes * workload.tensor.working_left(layout.tensor);
    let working = if is_last { of_block.max(of_loss) } else { of_block };
    let working = working + workload.batch_bytes * rows * micro_batches as f64;

    // What is kept goes while gradients come, so one pass alone never has all of both.
    let passing = activations + working + held.last_gradients;
    let (gradients, activations, working) = if micro_batches > 1 {
        (held.mean + held.gradients.min(passing), activations, working)
    } else if passing >= held.gradients {
        (held.last_gradients, activations, working)
    } else {
        (held.gradients, 0.0, 0.0)
    };
    let whole = |bytes: f64| bytes.max(0.0).ceil() as u64;
    MemoryParts {
        weights_bytes: whole(held.weights),
        optimizer_bytes: whole(held.optimizer),
        gradients_bytes: whole(gradients),
        gathered_bytes: whole(held.gathered),
        activations_bytes: whole(activations),
        working_bytes: whole(working),
    }
}

/// What a device holds of parameters and what belongs to them, in bytes.
#[derive(Debug, Default)]
struct State {
    weights: f64,
    optimizer: f64,
    /// Of one backward pass.
    gradients: f64,
    /// Of these, what is there when the backward pass comes to the last block.
    last_gradients: f64,
    /// The mean over micro-batches.
    mean: f64,
    gathered: f64,
}

impl State {
    fn of(
        workload: &Workload,
        site: &Site<'_>,
        checkpointed: f64,
        stage: usize,
        blocks: usize,
    ) -> Self {
        let layout = &site.layout;
        let sharded = if layout.is_sharded { layout.data } else { 1 };
        let number = blocks as f64;
        // A block that is not checkpointed keeps its parameters until its backward pass.
        let gathered = number.min((1.0 - checkpointed) * number + GATHERED_AHEAD);
        let mut sums = Self::default();
        for parameter in &workload.parameters {
            let copies = copies(parameter.place, stage, layout.pipeline, blocks);
            let numbers = copies * parameter.held(layout.tensor, sharded);
            let item = parameter.item_bytes as f64;
            sums.weights += numbers * item;
            let whole = parameter.held(layout.tensor, 1);
            let is_block = parameter.place == Place::Block;
            if layout.is_sharded {
                sums.gathered += if is_block { gathered } else { copies } * whole * item;
            }
            if parameter.is_trained {
                sums.optimizer += numbers * workload.optimizer_bytes;
                sums.gradients += numbers * workload.gradient_bytes;
                sums.mean += numbers * MEAN_BYTES;
                if !is_block && parameter.place != Place::Before {
                    sums.last_gradients += numbers * workload.gradient_bytes;
                }
                if layout.is_sharded && is_block {
                    // The gradient of a whole block, before each rank has its part of the sum.
                    sums.gathered += whole * workload.gradient_bytes;
                }
            }
        }
        sums
    }
}
