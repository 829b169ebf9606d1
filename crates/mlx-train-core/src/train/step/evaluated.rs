//! Evaluations of what is trained, also where each rank has a stage of it.

use super::{TrainStep, stage::Stage};
use crate::{
    Array, Result,
    batch::Batch,
    distributed::{
        Mesh,
        pipeline::{self, Ended, Link, Neighbour},
    },
    model::BaseModel,
    train::{
        Evaluation, Metric,
        evaluate::{Means, evaluate_batches, measure},
    },
};
use std::rc::Rc;

impl<M: BaseModel + ?Sized> TrainStep<'_, M> {
    /// Evaluates the weights that are evaluated (the averaged ones, if weights are averaged) on these batches.
    ///
    /// Ranks that share rows pass their parts of as many batches as each other. In a pipeline all stages pass the same
    /// batches, which go from stage to stage. All get the same evaluation, which is that of all rows.
    ///
    /// # Errors
    /// As [`evaluate`](crate::train::evaluate()).
    pub fn evaluate(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        metrics: &mut [Metric<'_>],
    ) -> Result<Evaluation> {
        self.evaluate_parts(batches.map(|batch| Ok((batch?, true))), metrics)
    }

    /// As [`TrainStep::evaluate`], of batches some of which are computed and do not count.
    pub(in crate::train) fn evaluate_parts(
        &mut self,
        batches: impl Iterator<Item = Result<(Batch, bool)>>,
        metrics: &mut [Metric<'_>],
    ) -> Result<Evaluation> {
        let program = Rc::clone(&self.program);
        let mesh = &program.layout.mesh;
        self.with_evaluation_weights(|model| match &program.layout.stage {
            None => evaluate_batches(model, batches, metrics, mesh),
            Some(stage) => evaluate_stage(mesh, stage, model, batches, metrics),
        })
    }
}

/// The part of an evaluation that a stage has, and the result, which the last stage tells.
fn evaluate_stage<M: BaseModel + ?Sized>(
    mesh: &Mesh,
    stage: &Stage,
    model: &mut M,
    batches: impl Iterator<Item = Result<(Batch, bool)>>,
    metrics: &mut [Metric<'_>],
) -> Result<Evaluation> {
    let all = mesh.all();
    let mut link = Link::new(&stage.group);
    let mut means = Means::new(metrics.len());
    for batch in batches {
        let (batch, counts) = batch?;
        let [(shape, dtype), _] = stage.boundaries(model, &batch)?;
        let input = (!stage.is_first()).then(|| link.receive(&shape, dtype, Neighbour::Previous));
        let input = input.transpose()?;
        stage.group.eval("the output of the stage before", &input)?;
        model.training_mode(false);
        let (blocks, is_last) = (stage.blocks.clone(), stage.is_last());
        match pipeline::stage(blocks, input, is_last, || measure(model, &batch, metrics))? {
            Ended::Output(output) => {
                all.eval("the outputs of a stage", [&output])?;
                // One is on its way at a time, or a fast stage would fill its memory.
                link.end()?;
                link.send(&output, Neighbour::Next)?;
            }
            Ended::Whole(values) => {
                let arrays = values.iter().flat_map(|loss| [&loss.value, &loss.weight]);
                all.eval("the losses of the last stage", arrays)?;
                if counts {
                    means.add(&values)?;
                }
            }
        }
    }
    link.end()?;
    of_last(stage, means.numbers_mut())?;
    means.sum_over_ranks(mesh.data())?;
    means.evaluation(metrics)
}

/// Gives all stages the numbers of the last, to the last bit.
fn of_last<'n>(stage: &Stage, numbers: impl Iterator<Item = &'n mut f64>) -> Result<()> {
    let numbers: Vec<&mut f64> = numbers.collect();
    let halves = numbers.iter().flat_map(|number| {
        let bits = if stage.is_last() { number.to_bits() } else { 0 };
        [(bits >> 32) as u32, bits as u32]
    });
    let halves: Vec<u32> = halves.collect();
    // The others add nothing.
    let sum = stage.group.all_sum(&Array::from_slice(&halves, &[halves.len() as i32]))?;
    stage.group.eval("the evaluation of the last stage", [&sum])?;
    let halves = sum.try_as_slice::<u32>()?;
    for (number, halves) in numbers.into_iter().zip(halves.chunks_exact(2)) {
        *number = f64::from_bits(u64::from(halves[0]) << 32 | u64::from(halves[1]));
    }
    Ok(())
}
