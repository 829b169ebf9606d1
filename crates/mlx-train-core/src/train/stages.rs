//! How many blocks each stage of a run has, where the run decides it.

use super::{StepOptions, ranks::Ranks, step::count_blocks};
use crate::{
    Result,
    batch::Batch,
    distributed::{BlockCosts, Mesh, PipelineError, pipeline},
    model::BaseModel,
};
use std::time::Instant;

/// A cut that a run has decided on.
#[derive(Debug)]
pub(super) struct StageCut {
    /// How many blocks each stage has.
    pub(super) blocks: Vec<usize>,
    /// How long it took to measure; `None` where it is that of the checkpoint.
    pub(super) seconds: Option<f64>,
}

impl StageCut {
    /// The cut of the checkpoint that the run goes on from, if it fits; otherwise one by times that every rank
    /// measures. All ranks have to call it, and get the same.
    ///
    /// # Errors
    /// [`PipelineError`] when the model cannot be cut; what it returns, on all ranks.
    pub(super) fn decide<M: BaseModel + ?Sized>(
        ranks: &Ranks,
        mesh: &Mesh,
        model: &mut M,
        batch: Option<&Batch>,
        options: &StepOptions,
        saved: Option<Vec<usize>>,
    ) -> Result<Self> {
        let num_stages = mesh.pipeline().world_size();
        let has_as_many = |saved: &Vec<usize>| saved.len() == num_stages;
        let began = Instant::now();
        let find = || {
            pipeline::check_sends(mesh.pipeline())?;
            let batch = batch.ok_or(PipelineError::NoRows)?;
            if let Some(blocks) = saved.filter(has_as_many)
                && blocks.iter().sum::<usize>() == count_blocks(model, batch, options)?
            {
                return Ok((Some(blocks), None));
            }
            Ok((None, Some(BlockCosts::measure(model, batch, options)?)))
        };
        // Ranks that read the same checkpoint take the same way.
        match ranks.agree(find())? {
            (Some(blocks), _) => Ok(Self { blocks, seconds: None }),
            (None, costs) => {
                let blocks = costs.ok_or(PipelineError::NoStack)?.balance(mesh)?;
                Ok(Self { blocks, seconds: Some(began.elapsed().as_secs_f64()) })
            }
        }
    }
}
