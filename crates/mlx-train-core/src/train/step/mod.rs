//! One training step: gradients of the loss, clipping, the optimizer's update.

mod options;
mod output;
mod state;

pub use options::{CompileMode, NonFinite, Precision, StepOptions};
pub use output::StepOutput;
pub use state::{StateArrays, TrainState};

use super::{TrainError, parameters};
use crate::{
    Error, Result,
    data::Batch,
    ffi,
    model::{BaseModel, Loss},
    optim::{self, Clipped, GradientNorms, Optimizer},
    rng,
};
use mlx_rs::{Array, Dtype, ops::maximum};
use std::{
    cell::{RefCell, RefMut},
    fmt,
    rc::Rc,
};

/// A model in training: each [`TrainStep::run`] updates it once.
///
/// The gradient is that of the mean loss over all micro-batches by [`Loss::weight`]: unequal micro-batches
/// give the update of one large batch. Each micro-batch is computed before the next, so that memory does not
/// grow with their number. Draws (dropout) come from the state's key, which moves on. Arrays are computed at
/// the end of the step, and nothing is read back.
///
/// ```no_run
/// # use mlx_train_core::{Result, data::Batch, model::BaseModel, optim::AdamW, train::*};
/// # fn example(mut model: Box<dyn BaseModel>, batches: Vec<Batch>) -> Result<()> {
/// let mut step = TrainStep::new(&mut model, AdamW::default(), 0, StepOptions::default())?;
/// for batch in batches {
///     let output = step.run([Ok(batch)], 1e-3)?;
///     println!("{}: {}", step.state().step(), output.loss.value);
/// }
/// # Ok(()) }
/// ```
pub struct TrainStep<'a, M: BaseModel + ?Sized> {
    model: Rc<RefCell<&'a mut M>>,
    optimizer: Rc<dyn Optimizer + 'a>,
    options: StepOptions,
    state: TrainState,
}

impl<'a, M: BaseModel + ?Sized> TrainStep<'a, M> {
    /// Trains the parameters of `model` that are not frozen now; all randomness follows from `seed`.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`] when all are frozen; when an option is out of range or MLX fails.
    pub fn new(
        model: &'a mut M,
        optimizer: impl Optimizer + 'a,
        seed: u64,
        options: StepOptions,
    ) -> Result<Self> {
        if options.precision != Precision::F32
            || options.compile == CompileMode::On
            || options.ema_decay.is_some()
        {
            return Err(Error::message(
                "only the eager step in f32 without averaged weights is there yet",
            ));
        }
        let state = TrainState::new(model, &optimizer, seed)?;
        Ok(Self {
            model: Rc::new(RefCell::new(model)),
            optimizer: Rc::new(optimizer),
            options,
            state,
        })
    }

    /// Updates the model once, with the gradient of the mean loss over all micro-batches.
    ///
    /// When a step is refused (data that does not come, shapes that do not fit) or the model panics, model and
    /// state are as they were before. When MLX fails in the computation at the end (no memory, say), both are
    /// lost: new values take the memory of the old ones.
    ///
    /// # Errors
    /// [`TrainError::NoBatch`] without a micro-batch; [`TrainError::MissingParameter`] when the model has lost
    /// a parameter; what the model, the optimizer and the batches return.
    pub fn run(
        &mut self,
        micro_batches: impl IntoIterator<Item = Result<Batch>>,
        learning_rate: f64,
    ) -> Result<StepOutput> {
        let model = &mut **self.model.borrow_mut();
        let from = parameters::get(model, &self.state.names)?;
        let recorded = record(
            &from,
            model,
            &self.state,
            &*self.optimizer,
            micro_batches,
            learning_rate,
            &self.options,
        );
        let (output, next) = match recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                // The model may hold half of the update, or values of a trace that is over.
                parameters::set(model, &self.state.names, &from)?;
                return Err(error);
            }
        };
        // Nobody holds the old values now, so MLX computes the new ones in their memory.
        drop(from);
        self.state = next;
        // All parameters: frozen ones may be running statistics that the loss has moved.
        let parameters = model.parameters().flatten();
        let StepOutput { loss, grad_norm, grad_norms, finite, .. } = &output;
        let outputs = [&loss.value, &loss.weight, grad_norm, grad_norms, finite, &self.state.key];
        let arrays = outputs.into_iter().chain(parameters.values().copied());
        ffi::eval(arrays.chain(self.state.optimizer.arrays()))?;
        Ok(output)
    }

    /// What the run carries from step to step.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// How it computes.
    pub fn options(&self) -> &StepOptions {
        &self.options
    }

    /// The model; give the guard back before the next step.
    pub fn model(&mut self) -> RefMut<'_, M> {
        RefMut::map(self.model.borrow_mut(), |model| &mut **model)
    }

    /// Runs `f` on the model with the weights that are evaluated: the averaged ones, if weights are averaged.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn with_evaluation_weights<T>(&mut self, f: impl FnOnce(&mut M) -> Result<T>) -> Result<T> {
        f(&mut self.model())
    }

    /// Every array that a run needs to go on from here exactly; they share the memory of the run until its
    /// next step, which has to copy them as long as the snapshot lives.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn snapshot(&self) -> Result<StateArrays> {
        Ok(StateArrays::of(&**self.model.borrow(), &self.state))
    }

    /// Goes on from a snapshot that was taken after `step` steps, or changes nothing.
    ///
    /// # Errors
    /// [`TrainError::StateMismatch`] with every array that is missing, unexpected, or of another shape or dtype.
    pub fn restore(&mut self, arrays: &StateArrays, step: u64) -> Result<()> {
        arrays.restore(&mut **self.model.borrow_mut(), &mut self.state, step)
    }
}

impl<M: BaseModel + ?Sized> fmt::Debug for TrainStep<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainStep")
            .field("optimizer", &self.optimizer)
            .field("options", &self.options)
            .field("step", &self.state.step)
            .finish_non_exhaustive()
    }
}

/// Records a step that starts `from` these parameters: the model has the new ones, not computed yet.
fn record<M>(
    from: &[Array],
    model: &mut M,
    state: &TrainState,
    optimizer: &dyn Optimizer,
    micro_batches: impl IntoIterator<Item = Result<Batch>>,
    learning_rate: f64,
    options: &StepOptions,
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

    let Clipped { gradients, norms } = options.clip.apply(&arrays)?;
    let GradientNorms { total: grad_norm, per_parameter: grad_norms } = norms;
    let finite = is_finite(&loss.value)?.logical_and(is_finite(&grad_norm)?)?;
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
    let parameter_names = Rc::clone(&state.names);
    Ok((StepOutput { loss, grad_norm, grad_norms, finite, parameter_names, traces: 0 }, next))
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

/// Whether a scalar `()` is finite, `()` bool; NaN is not below anything.
fn is_finite(scalar: &Array) -> Result<Array> {
    Ok(scalar.abs()?.le(Array::from_f32(f32::MAX))?)
}
