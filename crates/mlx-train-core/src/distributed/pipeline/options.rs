//! How a pipeline is cut and works.

use super::ScheduleKind;
use crate::estimate::Rows;

/// How a model is cut into the stages of a pipeline, and in which order they work.
///
/// ```
/// use mlx_train_core::{distributed::PipelineOptions, estimate::Rows, train::StepOptions};
/// // Two stages, the second of which has the head, too.
/// let pipeline = PipelineOptions {
///     rows: Some(Rows::tokens(1024)),
///     blocks: Some(vec![7, 5]),
///     ..PipelineOptions::default()
/// };
/// let options = StepOptions { pipeline, ..StepOptions::default() };
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineOptions {
    /// What a row of a batch is like: on it the model is looked at, to find which parameters a stage needs. Pipelines
    /// cannot do without.
    pub rows: Option<Rows>,
    /// How many blocks of the model's stack each stage has, the first stage first; by default as many as the others,
    /// or one more or less. [`BlockCosts::balance`](super::BlockCosts::balance) finds numbers for blocks or machines
    /// that differ.
    pub blocks: Option<Vec<usize>>,
    /// In which order micro-batches are computed.
    pub schedule: ScheduleKind,
}
