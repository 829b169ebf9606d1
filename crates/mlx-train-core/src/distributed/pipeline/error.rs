//! What a pipeline is refused for.

use crate::distributed::Backend;

/// What a model that is to be cut into the stages of a pipeline, or a pipeline of it, is refused for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A model without a stack.
    #[error(
        "a pipeline is cut from a `Stack`, and the loss of the model ran none: keep its repeated blocks in one, or \
         split the run in another way (dp, fsdp or tp)"
    )]
    NoStack,
    /// A model that runs several stacks one after the other.
    #[error(
        "a pipeline is cut from one `Stack`, and the loss of the model ran {num_stacks}: put the blocks of all in one, \
         or split the run in another way (dp, fsdp or tp)"
    )]
    SeveralStacks {
        /// How many.
        num_stacks: usize,
    },
    /// A stack with fewer blocks than there are stages.
    #[error(
        "{num_blocks} blocks cannot be cut into {num_stages} stages, each of which needs one; use pp={} or less",
        num_blocks.max(&1)
    )]
    TooFewBlocks {
        /// How many blocks there are.
        num_blocks: usize,
        /// How many stages were asked for.
        num_stages: usize,
    },
    /// Numbers of blocks that are no cut of the stack.
    #[error(
        "stages of {blocks:?} blocks are no cut of {num_blocks} blocks into {num_stages} stages; give a positive number \
         for each stage, {num_blocks} together"
    )]
    Blocks {
        /// The numbers of blocks.
        blocks: Vec<usize>,
        /// How many blocks the stack has.
        num_blocks: usize,
        /// How many stages there are.
        num_stages: usize,
    },
    /// A cost or a speed that is none.
    #[error(
        "the {what} {value} is none; costs are finite and at least 0, speeds are finite and above 0"
    )]
    Cost {
        /// `cost` or `speed`.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// A text that is no schedule.
    #[error("there is no pipeline schedule `{text}`; there are 1f1b and gpipe")]
    UnknownSchedule {
        /// The text.
        text: String,
    },
    /// A pipeline that does not know what a batch is like.
    #[error(
        "a pipeline looks at the model before the first step, to find which parameters each stage needs; set \
         `StepOptions::pipeline.rows` to `Rows::of` a batch"
    )]
    NoRows,
    /// A pipeline whose steps are to be compiled.
    #[error(
        "the stages of a pipeline are not compiled, as they wait for each other in the middle of a step; leave \
         `compile` at `auto`, or set it to `off`"
    )]
    Compiled,
    /// A backend that passes nothing from one rank to another.
    #[error(
        "a pipeline sends from rank to rank, which MLX cannot over {backend}; use ring, mpi or jaccl, or split the run \
         in another way (dp, fsdp or tp)"
    )]
    NoSend {
        /// The backend.
        backend: Backend,
    },
    /// A stack that runs inside of something whose gradient is taken by itself.
    #[error(
        "the `Stack` of the model runs inside of a checkpoint, so a pipeline cannot be cut from it; leave the \
         checkpoint around it away, and checkpoint its blocks with a policy"
    )]
    Checkpointed,
    /// A batch on which the model runs in another way than on the example.
    #[error(
        "the loss of the model ran no `Stack` on this batch, though it ran one before; a pipeline needs it on every batch"
    )]
    NotRun,
}
