//! The functions that are traced: a whole step, or the parts of one with several micro-batches.
//!
//! Their inputs and outputs are lists of arrays; each function says in its first lines what is in them.
//! All that changes from step to step is among them, so that a trace freezes nothing.
//! Letters: P trained parameters, O other parameters, S arrays of the state.

use super::{
    StepOptions,
    data_parallel::{draws_of_rank, mean_of_moved},
    gradients::{Gradients, Mean, Reduced},
    layout::Layout,
    reader::Reader,
    state::Carried,
    update::Update,
};
use crate::{Error, Result, batch::Batch, model::BaseModel, optim::Optimizer, rng};
use mlx_rs::Array;
use std::{
    cell::{Cell, RefCell, RefMut},
    rc::Rc,
};

/// What the functions of a step are made of; nothing in it changes the numbers of a trace.
pub(super) struct Program<'a, M: ?Sized> {
    /// The model is borrowed while a function runs, and between the steps by whoever wants to see it.
    pub(super) model: RefCell<&'a mut M>,
    pub(super) optimizer: Box<dyn Optimizer + 'a>,
    pub(super) options: StepOptions,
    /// The ranks that take each step together, and what this one holds.
    pub(super) layout: Layout,
    /// The names of all parameters: the trained ones, then the others.
    pub(super) names: Vec<Rc<str>>,
    pub(super) num_trained: usize,
    /// The names of the parameters whose gradients are reported: the trained ones of all stages.
    pub(super) reported: Rc<[Rc<str>]>,
    /// Which of the trained parameters a block of a stack may use: all, until a loss has been seen.
    pub(super) in_blocks: Vec<Cell<bool>>,
    /// Which of the others the loss has been seen to move: running statistics.
    pub(super) moving: Vec<Cell<bool>>,
    /// The state with a scalar in the place of each array.
    pub(super) carried: Carried,
}

/// The inputs of a batch, by name: what decides whether a trace fits.
pub(super) fn batch_inputs(batch: &Batch) -> Vec<(&'static str, &Array)> {
    let segments = batch.segments.as_ref().map(|segments| ("batch.segments", segments));
    [("batch.x", &batch.x), ("batch.y", &batch.y)].into_iter().chain(segments).collect()
}

fn read_batch(mut inputs: Reader) -> Result<Batch> {
    let batch = Batch::new(inputs.one()?, inputs.one()?);
    match inputs.rest().pop() {
        None => Ok(batch),
        Some(segments) => Ok(batch.with_segments(segments)),
    }
}

impl<'a, M: BaseModel + ?Sized> Program<'a, M> {
    /// The model, for as long as a function runs.
    pub(super) fn borrow(&self) -> Result<RefMut<'_, &'a mut M>> {
        self.model.try_borrow_mut().map_err(|_| {
            Error::message(
                "the model is borrowed while a training step runs; let go of what `TrainStep::model` returned \
                 before the step",
            )
        })
    }

    /// A step of one micro-batch.
    ///
    /// In: P, O, S, learning rate, batch. Out: P, O, S, report.
    pub(super) fn whole(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut inputs = Reader::new(inputs.to_vec());
        let parameters = inputs.take(self.num_trained)?;
        let others = inputs.take(self.moving.len())?;
        let mut state = self.carried.with_arrays(&mut inputs)?;
        let learning_rate = inputs.one()?;
        let batch = read_batch(inputs)?;

        let draws;
        (state.key, draws) = rng::split(&state.key)?;
        let compute = self.to_compute(&parameters)?;
        let draws = draws_of_rank(self.layout.mesh.data(), &draws)?;
        let Gradients { mean, others: moved } =
            self.gradients(&compute, &others, &batch, &draws, Reduced::Now)?;
        let update = self.update(&parameters, &state, &mean, &learning_rate)?;
        let guarded = |(moving, (now, before)): (&Cell<bool>, (&Array, &Array))| {
            if moving.get() {
                update.guard(&mean_of_moved(self.layout.mesh.data(), now)?, before)
            } else {
                Ok(before.clone())
            }
        };
        let others = self.moving.iter().zip(moved.iter().zip(&others)).map(guarded);
        let others = others.collect::<Result<Vec<_>>>()?;
        let Update { parameters, state, report, .. } = update;
        Ok([parameters, others, state.arrays(), report.into_arrays()].concat())
    }

    /// Adds a micro-batch to the mean gradient.
    ///
    /// In: P in the dtype that the model computes in, O, mean, key, batch. Out: O, mean, key.
    pub(super) fn accumulate(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut inputs = Reader::new(inputs.to_vec());
        let compute = inputs.take(self.num_trained)?;
        let others = inputs.take(self.moving.len())?;
        let mean = Mean::read(&mut inputs, self.num_trained)?;
        let key = inputs.one()?;
        let batch = read_batch(inputs)?;

        let (key, draws) = rng::split(&key)?;
        let draws = draws_of_rank(self.layout.mesh.data(), &draws)?;
        // Parts are of sums. What all ranks have is added up once, after all micro-batches.
        let reduced = if self.layout.is_sharded() { Reduced::Now } else { Reduced::Later };
        let gradients = self.gradients(&compute, &others, &batch, &draws, reduced)?;
        let mean = mean.merge(&gradients.mean)?;
        Ok([gradients.others, mean.into_arrays(), vec![key]].concat())
    }

    /// The update after all micro-batches.
    ///
    /// In: P, S, mean, learning rate, and for each other parameter that moves its value before and now.
    /// Out: P, S, report, and those values.
    pub(super) fn finish(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut inputs = Reader::new(inputs.to_vec());
        let parameters = inputs.take(self.num_trained)?;
        let state = self.carried.with_arrays(&mut inputs)?;
        let mean = Mean::read(&mut inputs, self.num_trained)?;
        let learning_rate = inputs.one()?;
        let pairs = inputs.rest();

        let dtype = self.options.communication.dtype();
        let data = self.layout.mesh.data();
        let mean = if self.layout.is_sharded() { mean } else { mean.over(data, dtype)? };
        let update = self.update(&parameters, &state, &mean, &learning_rate)?;
        let moved = pairs
            .chunks_exact(2)
            .map(|pair| update.guard(&mean_of_moved(self.layout.mesh.data(), &pair[1])?, &pair[0]));
        let moved = moved.collect::<Result<Vec<_>>>()?;
        let Update { parameters, state, report, .. } = update;
        Ok([parameters, state.arrays(), report.into_arrays(), moved].concat())
    }

    /// Trained parameters in the dtype that the model computes in: cast once, outside of what is
    /// differentiated, so that gradients are with respect to the copies.
    pub(super) fn to_compute(&self, parameters: &[Array]) -> Result<Vec<Array>> {
        let precision = self.options.precision;
        parameters.iter().map(|parameter| precision.to_compute(parameter)).collect()
    }
}
