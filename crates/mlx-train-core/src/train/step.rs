//! One training step: gradients of the loss, clipping, the optimizer's update.

use super::{TrainError, parameters};
use crate::{
    Error, Result,
    data::Batch,
    ffi,
    model::{BaseModel, Loss},
    optim::{self, Clip, Clipped, Optimizer, OptimizerState, Parameter},
    rng,
};
use mlx_rs::{Array, Dtype, ops::maximum};
use std::rc::Rc;

/// What a run carries from one step to the next, besides the model's parameters.
#[derive(Debug, Clone)]
pub struct TrainState {
    step: u64,
    names: Rc<[Rc<str>]>,
    optimizer: OptimizerState,
    key: Array,
}

impl TrainState {
    /// The state before the first step. It trains the parameters that are not frozen now.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`] when all are frozen; when MLX fails.
    pub fn new<M>(model: &M, optimizer: &dyn Optimizer, seed: u64) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        let names = parameters::trainable_names(model);
        let values = parameters::get(model, &names)?;
        let parameters = names.iter().zip(&values).map(|(name, value)| Parameter { name, value });
        let optimizer = OptimizerState::new(optimizer, parameters)?;
        // Those that a group of the optimizer freezes are not among them.
        let names: Rc<[_]> = optimizer.parameter_names().cloned().collect();
        if names.is_empty() {
            return Err(TrainError::NothingToTrain.into());
        }
        Ok(Self { step: 0, names, optimizer, key: rng::key(seed)? })
    }

    /// How many steps were taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The names of the parameters that are trained, in natural order.
    pub fn parameter_names(&self) -> &[Rc<str>] {
        &self.names
    }

    /// The state of the optimizer.
    pub fn optimizer(&self) -> &OptimizerState {
        &self.optimizer
    }

    /// The random key `(2,)` uint32 from which the draws of the next step come.
    pub fn key(&self) -> &Array {
        &self.key
    }
}

/// What a step leaves for a report; the arrays are evaluated, and reading them costs little.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The loss before the update, averaged over all micro-batches by weight.
    pub loss: Loss,
    /// The global norm of the gradients before clipping: a scalar `()` f32.
    pub grad_norm: Array,
}

/// Updates the model once, with the gradient of the mean loss over all micro-batches.
///
/// The mean is by [`Loss::weight`]: unequal micro-batches give the update of one large batch. Each
/// micro-batch is computed before the next, so that memory does not grow with their number. Draws
/// (dropout) come from the state's key, which moves on. Arrays are computed at the end of the step, and
/// nothing is read back.
///
/// When a step is refused (data that does not come, shapes that do not fit), model and state are as they
/// were before. When MLX fails in the computation at the end (no memory, say), both are lost: new values
/// take the memory of the old ones.
///
/// `max_grad_norm` clips as [`Clip::global_norm`] does.
///
/// # Errors
/// [`TrainError::NoBatch`] without a micro-batch; [`TrainError::MissingParameter`] when the model is
/// not that of the state; what the model, the optimizer and the batches return.
pub fn train_step<M>(
    model: &mut M,
    state: &mut TrainState,
    optimizer: &dyn Optimizer,
    micro_batches: impl IntoIterator<Item = Result<Batch>>,
    learning_rate: f64,
    max_grad_norm: Option<f64>,
) -> Result<StepOutput>
where
    M: BaseModel + ?Sized,
{
    let from = parameters::get(model, &state.names)?;
    let recorded =
        record(&from, model, state, optimizer, micro_batches, learning_rate, max_grad_norm);
    let (output, next) = match recorded {
        Ok(recorded) => recorded,
        Err(error) => {
            // The model may hold half of the update, or values of a trace that is over.
            parameters::set(model, &state.names, &from)?;
            return Err(error);
        }
    };
    // Nobody holds the old values now, so MLX computes the new ones in their memory.
    drop(from);
    *state = next;
    // All parameters: frozen ones may be running statistics that the loss has moved.
    let parameters = model.parameters().flatten();
    let outputs = [&output.loss.value, &output.loss.weight, &output.grad_norm, &state.key];
    let arrays = outputs.into_iter().chain(parameters.values().copied());
    ffi::eval(arrays.chain(state.optimizer.arrays()))?;
    Ok(output)
}

/// Records a step that starts `from` these parameters: the model has the new ones, not computed yet.
fn record<M>(
    from: &[Array],
    model: &mut M,
    state: &TrainState,
    optimizer: &dyn Optimizer,
    micro_batches: impl IntoIterator<Item = Result<Batch>>,
    learning_rate: f64,
    max_grad_norm: Option<f64>,
) -> Result<(StepOutput, TrainState)>
where
    M: BaseModel + ?Sized,
{
    let (next_key, mut key) = rng::split(&state.key)?;
    let mut mean: Option<Gradients> = None;
    for batch in micro_batches {
        let draws;
        (key, draws) = rng::split(&key)?;
        let gradients = Gradients::of(model, &state.names, from, &batch?, &draws)?;
        mean = Some(match mean.take() {
            None => gradients,
            Some(mean) => mean.merge(&gradients)?,
        });
    }
    let Gradients { loss, arrays } = mean.ok_or(TrainError::NoBatch)?;

    let mut clip = Clip::default();
    if let Some(max_norm) = max_grad_norm {
        clip = clip.global_norm(max_norm)?;
    }
    let Clipped { gradients, norms } = clip.apply(&arrays)?;
    let step = state.step + 1;
    let (updated, optimizer) = optim::apply(
        optimizer,
        from,
        &gradients,
        &state.optimizer,
        &Array::from_f32(learning_rate as f32),
        // As f32, the type that powers of the betas are taken in; exact to 16 million steps.
        &Array::from_f32(step as f32),
    )?;
    parameters::set(model, &state.names, &updated)?;
    let next = TrainState { step, names: Rc::clone(&state.names), optimizer, key: next_key };
    Ok((StepOutput { loss, grad_norm: norms.total }, next))
}

/// A mean loss and its gradients, in the order of the names.
struct Gradients {
    loss: Loss,
    arrays: Vec<Array>,
}

impl Gradients {
    /// Differentiates the loss of one micro-batch with respect to the parameters.
    fn of<M>(
        model: &mut M,
        names: &[Rc<str>],
        parameters: &[Array],
        batch: &Batch,
        key: &Array,
    ) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        let loss = |parameters: &[Array]| -> Result<Vec<Array>> {
            parameters::set(model, names, parameters)?;
            let Loss { value, weight } = rng::scope(key, || model.batch_loss(batch))?;
            Ok(vec![value, weight])
        };
        let argnums: Vec<usize> = (0..parameters.len()).collect();
        let (values, arrays) = ffi::value_and_grad(loss, parameters, &argnums)?;
        let Ok([value, weight]) = <[Array; 2]>::try_from(values) else {
            return Err(Error::message("MLX lost an output of the loss function"));
        };
        Ok(Self { loss: Loss { value, weight }, arrays })
    }

    /// The mean over the targets of both, computed at once: what it was made of can be freed.
    fn merge(self, other: &Self) -> Result<Self> {
        let weight = self.loss.weight.add(&other.loss.weight)?;
        // Where all targets of both are masked, nothing is added.
        let positive = maximum(&weight, Array::from_f32(f32::MIN_POSITIVE))?;
        let share = other.loss.weight.divide(positive)?.as_dtype(Dtype::Float32)?;
        let mean = |a: &Array, b: &Array| -> Result<Array> {
            let a = a.as_dtype(Dtype::Float32)?;
            Ok(a.add(b.subtract(&a)?.multiply(&share)?)?)
        };
        let arrays = self.arrays.iter().zip(&other.arrays);
        let arrays = arrays.map(|(a, b)| mean(a, b)).collect::<Result<Vec<_>>>()?;
        let loss = Loss { value: mean(&self.loss.value, &other.loss.value)?, weight };
        ffi::eval([&loss.value, &loss.weight].into_iter().chain(&arrays))?;
        Ok(Self { loss, arrays })
    }
}
