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

/// What the backward pass of a block makes besides what the block keeps, in multiples of that.
const GRADIENTS_OF_SAVED: f64 = 2.0;

/// And in arrays as large as what goes from block to block.
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
    let of_loss = workload.outside(rows).working_bytes
        * workload.tensor.working_left(layout.tensor)
        + rows * cost.extra_bytes * saved_left;
    // A stage without a loss works on one block, of whose activations the gradients are as large.
    let of_block = (again + GRADIENTS_OF_SAVED * without) * saved_left
        + WORKING_BOUNDARIES * workload.boundary_bytes;
    let is_last = stage + 1 == layout.pipeline;
    let working = if is_last { of_loss } else { of_loss.min(rows * of_block) };
    let working = working + workload.batch_bytes * rows * micro_batches as f64;

    // What is kept goes while gradients come, so one pass alone never has all of both.
    let (before, last) = if micro_batches > 1 {
        (held.mean + held.last_gradients, held.mean + held.gradients)
    } else {
        (held.last_gradients, held.gradients)
    };
    let updated = if micro_batches > 1 { held.mean } else { held.gradients };
    let update =
        workload.update_bytes * held.largest.max(workload.updated_together.min(held.trained));
    let moments = [(before, activations, working), (last, 0.0, 0.0), (updated, 0.0, update)];
    let most = moments.into_iter().max_by(|a, b| (a.0 + a.1 + a.2).total_cmp(&(b.0 + b.1 + b.2)));
    let (gradients, activations, working) = most.unwrap_or_default();
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
    /// How many numbers are trained, and how many the largest parameter has of them.
    trained: f64,
    largest: f64,
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
            if parameter.is_trained && copies > 0.0 {
                sums.trained += numbers;
                sums.largest = sums.largest.max(numbers / copies);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        ranks::Ranks,
        samples::{cluster, workload},
    };

    const NUMBERS: u64 = 1 << 20;

    fn needs(
        layout: &str,
        policy: usize,
        micro_batches: usize,
        stage: usize,
        blocks: usize,
    ) -> MemoryParts {
        let (workload, cluster) = (workload(), cluster(8, 1 << 40));
        let site =
            Site::new(layout.parse().expect("a layout"), &cluster, &Ranks::of(&cluster), None);
        let rows = 32.0 / (site.layout.data * micro_batches) as f64;
        let pace = Pace { cost: &workload.policies[policy], micro_batches, rows };
        memory(&workload, &site, pace, stage, blocks)
    }

    #[test]
    fn a_device_alone_holds_all_and_the_gradients_of_one_moment() {
        let found = needs("none", 0, 1, 0, 4);
        assert_eq!(found.weights_bytes, 6 * 4 * NUMBERS);
        assert_eq!(found.optimizer_bytes, 6 * 8 * NUMBERS);
        // Where the backward pass begins: the head's gradient, and what 32 rows keep in four blocks.
        assert_eq!(found.gradients_bytes, 4 * NUMBERS);
        assert_eq!(found.activations_bytes, 4 * 32 * 8_000_000);
        assert_eq!(found.working_bytes, 32 * (4_000_000 + 1000));
        assert_eq!(found.gathered_bytes, 0);
    }

    #[test]
    fn micro_batches_keep_less_and_the_mean_of_gradients_beside() {
        let found = needs("none", 0, 8, 0, 4);
        assert_eq!(found.activations_bytes, 4 * 4 * 8_000_000);
        assert_eq!(found.gradients_bytes, (6 * 4 + 4) * NUMBERS);
    }

    #[test]
    fn shards_hold_a_part_of_everything_and_gather_two_blocks_and_the_ends() {
        let found = needs("fsdp=8", 1, 1, 0, 4);
        assert_eq!(found.weights_bytes, 6 * 4 * NUMBERS / 8);
        assert_eq!(found.optimizer_bytes, 6 * 8 * NUMBERS / 8);
        // Two blocks, both ends, and the gradient of a block.
        assert_eq!(found.gathered_bytes, (2 + 2 + 1) * 4 * NUMBERS);
        // Blocks that are not checkpointed stay gathered.
        assert_eq!(needs("fsdp=8", 0, 1, 0, 4).gathered_bytes, (4 + 2 + 1) * 4 * NUMBERS);
    }

    #[test]
    fn a_stage_keeps_its_blocks_for_as_many_micro_batches_as_are_on_their_way() {
        let stages = [0, 1, 2, 3].map(|stage| needs("pp=4", 0, 8, stage, 1));
        let kept = stages.map(|found| found.activations_bytes);
        assert_eq!(kept, [4, 3, 2, 1].map(|in_flight| in_flight * 4 * 8_000_000));
        // The first has the embedding besides its block, the last the head.
        let weights = stages.map(|found| found.weights_bytes / (4 * NUMBERS));
        assert_eq!(weights, [2, 1, 1, 2]);
    }

    #[test]
    fn tensor_ranks_hold_a_part_of_parameters_and_of_what_is_divided() {
        let found = needs("tp=4", 0, 1, 0, 4);
        assert_eq!(found.weights_bytes, 6 * NUMBERS);
        // Half of what a block keeps is divided by four.
        assert_eq!(found.activations_bytes, 4 * 32 * 8_000_000 * 5 / 8);
    }

    #[test]
    fn gradients_are_more_than_what_few_rows_keep() {
        let mut workload = workload();
        workload.rows = 1;
        for cost in &mut workload.policies {
            cost.saved_bytes = 1.0;
        }
        workload.outside.iter_mut().for_each(|cost| cost.working_bytes = 1.0);
        let cluster = cluster(1, 1 << 40);
        let site =
            Site::new("none".parse().expect("a layout"), &cluster, &Ranks::of(&cluster), None);
        let pace = Pace { cost: &workload.policies[0], micro_batches: 1, rows: 1.0 };
        let found = memory(&workload, &site, pace, 0, 4);
        assert_eq!(found.gradients_bytes, 6 * 4 * NUMBERS);
        // The update of the largest parameter.
        assert_eq!((found.activations_bytes, found.working_bytes), (0, 8 * NUMBERS));
    }
}
