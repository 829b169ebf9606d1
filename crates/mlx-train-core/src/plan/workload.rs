//! What a step of a model costs, by blocks: all that a plan needs to know of it.

use super::{
    cluster::Number,
    work::{Work, left},
};
use crate::checkpoint::CheckpointPolicy;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a step of a model costs: recorded from the model by [`Workload::of`], or written down by hand.
///
/// A model is what comes before its stack of blocks, the blocks, which are alike, and what comes after them. Where
/// blocks are not alike, or there is more than one stack, the whole model counts as one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The name of the model.
    pub model: String,
    /// How many rows a step has, on all devices and in all micro-batches together.
    pub rows: usize,
    /// How many tokens a row has; 1 where rows are not of tokens.
    pub tokens_per_row: usize,
    /// What its matrix products are of.
    pub number: Number,
    /// How many blocks there are.
    pub num_blocks: usize,
    /// The parameters; those of a block stand for those of every block.
    pub parameters: Vec<Parameter>,
    /// Bytes of the optimizer's state for each trained number.
    pub optimizer_bytes: f64,
    /// Bytes of the gradient of each trained number, as the backward pass makes it.
    pub gradient_bytes: f64,
    /// Bytes of it as it travels between ranks that share a batch.
    pub travelling_bytes: f64,
    /// The update of each trained number; its `operations` are those of each trained array.
    pub update: Work,
    /// Bytes that the update works with besides, for each number of those that are updated at a time.
    pub update_bytes: f64,
    /// How many numbers are updated at a time, unless one parameter has more.
    pub updated_together: f64,
    /// Bytes of a row between two blocks.
    pub boundary_bytes: f64,
    /// Bytes of a row of inputs and targets.
    pub batch_bytes: f64,
    /// What a block costs under each policy; the first is [`CheckpointPolicy::None`].
    pub policies: Vec<BlockCost>,
    /// What comes before the blocks, of each row, forward and backward.
    pub before: Work,
    /// All that is not in blocks, for micro-batches of several sizes: the smallest first, one at least.
    pub outside: Vec<OutsideCost>,
    /// How layers can be divided among ranks.
    pub tensor: TensorSplit,
    /// The optimizer that needs whole matrices and therefore no split of them, if it is one.
    pub whole_matrices: Option<String>,
}

/// A parameter of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// Its name; that of a block has `*` in the place of the block's number.
    pub name: String,
    /// Where it is used.
    pub place: Place,
    /// Its axes.
    pub shape: Vec<i32>,
    /// Bytes of a number.
    pub item_bytes: u64,
    /// Whether it is trained.
    pub is_trained: bool,
    /// The axis by which tensor ranks divide it, if they do.
    pub tensor_axis: Option<usize>,
}

/// Where a parameter is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Before the blocks: on the first stage of a pipeline.
    Before,
    /// In each block.
    Block,
    /// After the blocks: on the last stage of a pipeline.
    After,
    /// Before and after, as an embedding that is also the projection to the logits.
    Both,
}

/// What one block costs under a checkpoint policy, forward and backward, with what is computed twice.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockCost {
    /// The policy.
    pub policy: CheckpointPolicy,
    /// For each row.
    pub row: Work,
    /// For each micro-batch besides.
    pub micro_batch: Work,
    /// Bytes that are kept from the forward to the backward pass, for each row.
    pub saved_bytes: f64,
    /// Bytes that are kept besides, such as copies of weights in another dtype.
    pub kept_bytes: f64,
    /// Bytes that the backward pass works with besides what it does under no policy, for each row.
    pub extra_bytes: f64,
    /// The share of the forward pass that runs again.
    pub rerun: f64,
    /// The share of blocks that are checkpointed as a whole.
    pub checkpointed: f64,
}

/// What all that is not in blocks costs, for a micro-batch of some size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutsideCost {
    /// The rows of the micro-batch.
    pub rows: usize,
    /// What is to be done.
    pub work: Work,
    /// Bytes that are needed where the backward pass begins, besides what blocks keep.
    pub working_bytes: f64,
}

/// How much of a model is divided among tensor ranks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorSplit {
    /// Among how many ranks it can be divided at most.
    pub max_ranks: usize,
    /// The numbers of ranks up to that which it cannot be divided among, and why.
    pub refusals: BTreeMap<usize, String>,
    /// How many sums over ranks the forward pass of a block has; the backward pass has as many.
    pub sums: f64,
    /// The share of the products of a block that is divided.
    pub flops: f64,
    /// The share of the other work of a block that is divided.
    pub bytes: f64,
    /// The share of what a block keeps that is divided.
    pub saved: f64,
    /// The share of the products outside of blocks that is divided.
    pub outside_flops: f64,
    /// The share of the other work and memory outside of blocks that is divided.
    pub outside_bytes: f64,
}

impl Workload {
    /// How many numbers the parameters have.
    pub fn num_parameters(&self) -> u64 {
        let counts = self.parameters.iter().map(|parameter| {
            let copies = if parameter.place == Place::Block { self.num_blocks as u64 } else { 1 };
            copies * parameter.size()
        });
        counts.sum()
    }

    /// All that is not in blocks, for a micro-batch of `rows` rows; between recorded sizes on the line that
    /// connects them, beyond the largest in proportion.
    pub(super) fn outside(&self, rows: f64) -> OutsideCost {
        let none = OutsideCost { rows: 1, work: Work::default(), working_bytes: 0.0 };
        let above = self.outside.iter().position(|cost| cost.rows as f64 >= rows);
        let (below, above) = match above {
            Some(0) => (None, self.outside[0]),
            Some(index) => (Some(self.outside[index - 1]), self.outside[index]),
            None => (None, self.outside.last().copied().unwrap_or(none)),
        };
        let rounded = rows.ceil() as usize;
        let Some(below) = below else {
            let factor = rows / above.rows as f64;
            let OutsideCost { work, working_bytes, .. } = above;
            let scaled = Work { operations: work.operations, ..work * factor };
            return OutsideCost {
                rows: rounded,
                work: scaled,
                working_bytes: working_bytes * factor,
            };
        };
        let weight = (rows - below.rows as f64) / (above.rows - below.rows) as f64;
        OutsideCost {
            rows: rounded,
            work: below.work * (1.0 - weight) + above.work * weight,
            working_bytes: below.working_bytes * (1.0 - weight) + above.working_bytes * weight,
        }
    }
}

impl Parameter {
    /// How many numbers it has.
    pub fn size(&self) -> u64 {
        self.shape.iter().map(|&length| u64::from(length.unsigned_abs())).product()
    }

    /// How many numbers of it a rank holds that divides it among `tensor` ranks and then, if some axis allows,
    /// among `sharded` ranks.
    pub(super) fn held(&self, tensor: usize, sharded: usize) -> f64 {
        let mut shape = self.shape.clone();
        if let Some(length) = self.tensor_axis.and_then(|axis| shape.get_mut(axis)) {
            *length /= tensor as i32;
        }
        let size: f64 = shape.iter().map(|&length| f64::from(length)).product();
        let divides = |&length: &i32| (length as usize).is_multiple_of(sharded);
        if shape.iter().any(divides) { size / sharded as f64 } else { size }
    }
}

impl TensorSplit {
    /// Why layers cannot be divided among so many ranks, if they cannot.
    pub(super) fn refusal(&self, ranks: usize) -> Option<String> {
        let max_ranks = self.max_ranks.max(1);
        if ranks > max_ranks {
            return Some(format!("layers are divided among {max_ranks} ranks at most"));
        }
        self.refusals.get(&ranks).cloned()
    }

    /// What each of `ranks` has to do of the work of a block.
    pub(super) fn of_block(&self, work: Work, ranks: usize) -> Work {
        work.divided(ranks, self.flops, self.bytes)
    }

    /// What each has to do of the work outside of blocks.
    pub(super) fn of_outside(&self, work: Work, ranks: usize) -> Work {
        work.divided(ranks, self.outside_flops, self.outside_bytes)
    }

    /// The share of what a block keeps that each of `ranks` has.
    pub(super) fn saved_left(&self, ranks: usize) -> f64 {
        left(self.saved, ranks)
    }

    /// The share of the memory that is needed outside of blocks that each has.
    pub(super) fn working_left(&self, ranks: usize) -> f64 {
        left(self.outside_bytes, ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples::workload;

    #[test]
    fn a_rank_holds_its_part_of_what_divides_and_all_of_the_rest() {
        let weight = |shape: &[i32], tensor_axis| Parameter {
            name: "weight".into(),
            place: Place::Block,
            shape: shape.to_vec(),
            item_bytes: 4,
            is_trained: true,
            tensor_axis,
        };
        let matrix = weight(&[8, 6], Some(0));
        // Of 4 x 6 that are left, 3 ranks divide the 6.
        let held = vec![matrix.held(2, 1), matrix.held(2, 3), weight(&[7], None).held(2, 4)];
        assert_eq!(held, [24.0, 8.0, 7.0]);
    }

    #[test]
    fn what_is_outside_of_blocks_lies_between_the_sizes_that_were_recorded() {
        let mut workload = workload();
        let at = |rows, flops, working_bytes| OutsideCost {
            rows,
            work: Work { flops, bytes: 0.0, operations: 10.0 },
            working_bytes,
        };
        workload.outside = vec![at(1, 10.0, 100.0), at(4, 40.0, 250.0)];
        let found = |rows: f64| {
            let OutsideCost { work, working_bytes, .. } = workload.outside(rows);
            (work.flops, working_bytes, work.operations)
        };
        assert_eq!(found(1.0), (10.0, 100.0, 10.0));
        assert_eq!(found(2.0), (20.0, 150.0, 10.0));
        assert_eq!(found(8.0), (80.0, 500.0, 10.0));
    }
}
