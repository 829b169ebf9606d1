//! Pipelines: the blocks of a model's [`Stack`](crate::nn::Stack) on several ranks, which pass activations and
//! gradients of micro-batches to each other.
//!
//! A stage is the model's own loss, of which it runs its blocks and, on the first and the last stage, what is before
//! and behind the stack. [`TrainStep::parallel`](crate::train::TrainStep::parallel) trains one.

mod balance;
mod blocks;
mod error;
mod link;
mod options;
mod partition;
mod program;
mod schedule;
mod scope;

pub use balance::BlockCosts;
pub use blocks::PipelineBlocks;
pub use error::PipelineError;
pub(crate) use link::{Link, Neighbour, check_sends};
pub use options::PipelineOptions;
pub(crate) use partition::cut;
pub use partition::partition;
use partition::slowest;
pub(crate) use program::{Action, Message, actions};
pub use schedule::{Operation, Schedule, ScheduleKind};
pub(crate) use scope::{Cut, Ended, Survey, run_blocks, stage, survey};
