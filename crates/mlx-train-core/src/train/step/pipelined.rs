//! The micro-batches of a step on one stage of a pipeline.

use super::{Accumulated, TrainStep};
use crate::{Error, Result, data::Batch, model::BaseModel};
use mlx_rs::Array;

impl<M: BaseModel + ?Sized> TrainStep<'_, M> {
    /// Whether this rank holds some of the blocks alone.
    pub(super) fn is_pipelined(&self) -> bool {
        !self.program.layout.mesh.pipeline().is_alone()
    }

    /// The mean over micro-batches that pass all stages.
    pub(super) fn pipelined(
        &mut self,
        _batches: impl Iterator<Item = Result<Batch>>,
        _parameters: &[Array],
        _others: &[Array],
    ) -> Result<Accumulated> {
        let parallelism = self.program.layout.mesh.parallelism();
        Err(Error::message(format!("`{parallelism}` is not there yet; train without a pipeline")))
    }
}
