//! One training step: gradients of the loss, clipping, the optimizer's update, as one traced function.

mod costs;
mod data_parallel;
mod evaluated;
mod gradients;
mod layout;
mod lent;
mod options;
mod origin;
mod output;
mod pipelined;
mod precision;
mod program;
mod reader;
mod rest;
mod stage;
mod state;
mod traced;
mod update;

pub(super) use costs::count_blocks;
pub use layout::StatePlacements;
pub use options::{Communication, CompileMode, NonFinite, StepOptions};
pub(super) use origin::Origin;
pub use output::{NotFiniteGradients, StageTimes, StepAhead, StepOutput};
pub use precision::Precision;
pub use state::{StateArrays, TrainState};

use self::{
    gradients::Mean,
    layout::Layout,
    lent::Lent,
    program::{Program, batch_inputs},
    reader::Reader,
    rest::Rest,
    state::Carried,
    traced::{Function, Traced},
    update::Report,
};
use super::{TrainError, parameters};
use crate::{
    Result,
    data::Batch,
    distributed::{Group, Mesh, Parallelism, gather},
    ffi,
    model::BaseModel,
    optim::Optimizer,
    profile::{self, OpenSpan, Phase},
};
use mlx_rs::Array;
use std::{
    cell::{Cell, RefCell, RefMut},
    fmt,
    iter::once,
    rc::Rc,
    time::{Duration, Instant},
};

/// A model in training: each [`TrainStep::run`] updates it once.
///
/// The gradient is that of the mean loss over all micro-batches by
/// [`Loss::weight`](crate::model::Loss::weight): unequal micro-batches give the update of one large batch.
/// Each micro-batch is computed before the next, so that memory does not grow with their number. Draws
/// (dropout) come from the state's key, which moves on. Arrays are computed at the end of the step, and nothing
/// is read back; [`TrainStep::run_ahead`] does not wait for that.
///
/// The step is one function of arrays, with several micro-batches three, whose inputs hold all that changes
/// from step to step. It runs as it is, or MLX traces it once for each kind of batch ([`CompileMode`]). What
/// the model does besides computing arrays, it does in a compiled step only while that is traced.
///
/// [`Loss::weight`]: crate::model::Loss::weight
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
    program: Rc<Program<'a, M>>,
    whole: Traced<'a>,
    accumulate: Traced<'a>,
    finish: Traced<'a>,
    state: TrainState,
    /// How long the micro-batches of the last step took, on a stage of a pipeline.
    stage_times: Option<StageTimes>,
    /// What the device does not have of the last step.
    rest: Option<Rest>,
    /// For how many steps the device gets all that there is before a batch is asked for.
    expects_late_data: u32,
}

impl<'a, M: BaseModel + ?Sized> TrainStep<'a, M> {
    /// Trains the parameters of `model` that are not frozen now; all randomness follows from `seed`.
    ///
    /// Trained parameters get the dtype that the precision keeps them in: f32 for [`Precision::Mixed`], bf16 for
    /// [`Precision::Bf16`]. Others keep theirs, and are computed with as bf16 in both, but for those that the
    /// loss moves.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`] when all are frozen; when an option is out of range or MLX fails.
    pub fn new(
        model: &'a mut M,
        optimizer: impl Optimizer + 'a,
        seed: u64,
        options: StepOptions,
    ) -> Result<Self> {
        Self::parallel(&Mesh::alone(), model, optimizer, seed, options)
    }

    /// As [`TrainStep::new`], of all ranks of a group together (data parallelism).
    ///
    /// # Errors
    /// As [`TrainStep::parallel`].
    pub fn data_parallel(
        group: &Group,
        model: &'a mut M,
        optimizer: impl Optimizer + 'a,
        seed: u64,
        options: StepOptions,
    ) -> Result<Self> {
        let mesh = Mesh::new(group, Parallelism::data(group.world_size()))?;
        Self::parallel(&mesh, model, optimizer, seed, options)
    }

    /// As [`TrainStep::new`], of all ranks of a mesh together.
    ///
    /// Each rank passes its own rows to [`TrainStep::run`], the same as its neighbours that hold other parts of the
    /// same layers, and all make the same update: that of the mean loss over the rows of all ranks, by
    /// [`Loss::weight`](crate::model::Loss::weight). Ranks begin with the parameters of rank 0, of which the model
    /// then holds this rank's parts ([`TrainStep::placements`]), and take as many micro-batches as each other in a
    /// step. Dropout differs between ranks with other rows. A rank that waits longer for the others than the group's
    /// limit ends. A model of parts cannot begin anew before [`TrainStep::gather_parameters`] has made it whole.
    ///
    /// In a pipeline (`pp`) the micro-batches of a step pass from stage to stage as [`StepOptions::pipeline`] says, and
    /// the model of each rank keeps the parameters that its stage needs. Its other parameters have their shapes and no
    /// values, so that it computes as a stage and in no other way.
    ///
    /// # Errors
    /// [`PipelineError`](crate::distributed::PipelineError) when the model cannot be cut into stages.
    /// As [`TrainStep::new`]; [`TrainError::NeedsWhole`] when the optimizer cannot update parts of a parameter;
    /// as [`model::shard`](crate::model::shard) when the layers of the model cannot be divided.
    pub fn parallel(
        mesh: &Mesh,
        model: &'a mut M,
        optimizer: impl Optimizer + 'a,
        seed: u64,
        options: StepOptions,
    ) -> Result<Self> {
        Self::from_origin(mesh, model, optimizer, seed, options, Origin::Model)
    }

    /// As [`TrainStep::parallel`], with parameters that may come from elsewhere.
    pub(super) fn from_origin(
        mesh: &Mesh,
        model: &'a mut M,
        optimizer: impl Optimizer + 'a,
        seed: u64,
        options: StepOptions,
        mut origin: Origin,
    ) -> Result<Self> {
        options.check()?;
        let limit = options.limit(!mesh.pipeline().is_alone())?;
        let StepOptions { precision, ema_decay, .. } = options;
        let layout = Layout::new(mesh, model, &optimizer, &options)?;
        // Before the state, whose averaged weights begin with them.
        layout.begin(model, &mut origin)?;
        let holds = |name: &str| layout.holds(name);
        let state =
            TrainState::new(model, &optimizer, seed, precision, ema_decay.is_some(), holds)?;
        let trained = parameters::get(model, &state.names)?;
        let trained = trained.iter().map(|value| precision.to_parameter(value));
        let trained = trained.collect::<Result<Vec<_>>>()?;
        if !matches!(origin, Origin::Checkpoint) {
            let arrays = state.carried.arrays();
            ffi::eval(trained.iter().chain(&arrays))?;
        }
        parameters::set(model, &state.names, &trained)?;

        let others = layout.names(model).into_iter();
        let others: Vec<_> = others.filter(|name| !state.names.contains(name)).collect();
        let program = Rc::new(Program {
            optimizer: Box::new(optimizer),
            options,
            num_trained: state.names.len(),
            in_blocks: vec![Cell::new(true); state.names.len()],
            moving: vec![Cell::new(false); others.len()],
            names: state.names.iter().cloned().chain(others).collect(),
            reported: if layout.stage.is_some() {
                Rc::clone(&layout.trained)
            } else {
                Rc::clone(&state.names)
            },
            carried: state.carried.layout()?,
            layout,
            model: RefCell::new(model),
        });
        let traced = |f: fn(&Program<'a, M>, &[Array]) -> Result<Vec<Array>>| {
            let program = Rc::clone(&program);
            let function: Function<'a> = Rc::new(move |inputs| f(&program, inputs));
            Traced::new(function, limit)
        };
        let (whole, accumulate, finish) =
            (traced(Program::whole)?, traced(Program::accumulate)?, traced(Program::finish)?);
        Ok(Self {
            program,
            whole,
            accumulate,
            finish,
            state,
            stage_times: None,
            rest: None,
            expects_late_data: 0,
        })
    }

    /// Updates the model once, with the gradient of the mean loss over all micro-batches.
    ///
    /// When a step is refused (data that does not come, shapes that do not fit) or the model panics, model and
    /// state are as they were before. When MLX fails in the computation at the end (no memory, say), both are
    /// lost: new values take the memory of the old ones.
    ///
    /// Where loss or gradients are not finite, parameters and state keep their values; only
    /// [`TrainState::step`] and [`TrainState::key`] move on, so that the next step draws anew.
    ///
    /// # Errors
    /// [`TrainError::NoBatch`] without a micro-batch; [`TrainError::MissingParameter`] when the model has lost
    /// a parameter; [`TrainError::TooManyTraces`]; what the model, the optimizer and the batches return.
    pub fn run(
        &mut self,
        micro_batches: impl IntoIterator<Item = Result<Batch>>,
        learning_rate: f64,
    ) -> Result<StepOutput> {
        self.take(micro_batches, learning_rate, Wait::ForAll)
    }

    /// As [`TrainStep::run`], but returns while the device still computes, so that the next step can be given to it
    /// meanwhile and it never waits for the host.
    ///
    /// The backward pass and the update of a compiled step of one micro-batch, in one process, are given to the device when
    /// the next step is begun or this one is waited for, so that the host builds the graph of the next while the device
    /// computes the loss.
    ///
    /// The numbers are those of [`TrainStep::run`] to the last bit. Where spans are recorded it waits as that does.
    /// All ranks of a group run ahead by as much as each other.
    ///
    /// ```no_run
    /// # use mlx_train_core::{Result, data::Batch, model::BaseModel, train::TrainStep};
    /// # fn example(mut step: TrainStep<'_, dyn BaseModel>, batches: Vec<Batch>) -> Result<()> {
    /// let mut before = None;
    /// for batch in batches {
    ///     let ahead = step.run_ahead([Ok(batch)], 1e-3)?;
    ///     // The loss of the step before, while this one is computed.
    ///     if let Some(before) = before.replace(ahead) {
    ///         println!("{}", before.wait()?.loss.value);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`TrainStep::run`].
    pub fn run_ahead(
        &mut self,
        micro_batches: impl IntoIterator<Item = Result<Batch>>,
        learning_rate: f64,
    ) -> Result<StepAhead> {
        let wait = if profile::splits_steps() { Wait::ForAll } else { Wait::ForNothing };
        let output = self.take(micro_batches, learning_rate, wait)?;
        let group = self.program.layout.mesh.all().clone();
        Ok(StepAhead { output, rest: self.rest.clone(), group })
    }

    /// Takes a step, and waits for as much of it as it is told.
    fn take(
        &mut self,
        micro_batches: impl IntoIterator<Item = Result<Batch>>,
        learning_rate: f64,
        wait: Wait,
    ) -> Result<StepOutput> {
        let mut batches = micro_batches.into_iter();
        if self.expects_late_data > 0 {
            self.start_rest()?;
        }
        let asked = Instant::now();
        let first = batches.next().ok_or(TrainError::NoBatch)??;
        let is_late = asked.elapsed() > WAITED_FOR;
        self.expects_late_data =
            if is_late { STEPS_AFTER_LATE } else { self.expects_late_data.saturating_sub(1) };
        let learning_rate = Array::from_f32(learning_rate as f32);
        // The same number of micro-batches always takes the same way, so that a resumed run does too.
        let second = batches.next();
        let is_one = second.is_none() && !profile::splits_steps() && !self.is_pipelined();
        let next = if is_one {
            let next = self.one(&first, learning_rate)?;
            self.start_rest()?;
            next
        } else {
            self.start_rest()?;
            self.several([Ok(first)].into_iter().chain(second).chain(batches), learning_rate)?
        };
        let Next { values, carried, report, span: _computed_below } = next;
        parameters::set(&mut **self.program.borrow()?, &self.program.names, &values)?;
        // Nobody holds the old values now, so MLX computes the new ones in their memory.
        self.state =
            TrainState { step: self.state.step + 1, names: self.state.names.clone(), carried };

        let Report { loss, grad_norm, finite, squared_grad_norms } = report;
        let mut output = StepOutput {
            loss,
            grad_norm,
            squared_grad_norms,
            finite,
            parameter_names: Rc::clone(&self.program.reported),
            traces: 0,
            warning: None,
            stage_times: self.stage_times,
        };
        for function in [&mut self.whole, &mut self.accumulate, &mut self.finish] {
            output.traces += function.num_traces();
            let refused = function.take_refusal().map(|refused| {
                format!("{refused}; this batch and others of new kinds run without")
            });
            output.warning = output.warning.or(refused);
        }

        let all = self.program.layout.mesh.all();
        let _deadline = all.deadline("the gradients of all ranks")?;
        let state = self.state.carried.arrays();
        let computed = values.iter().chain(&state).chain(output.arrays());
        // Ranks give each other what is in the graph, in one order, and eager models may read numbers of it.
        let may_delay = is_one && self.whole.is_compiled() && all.is_alone();
        if may_delay && wait == Wait::ForNothing {
            ffi::async_eval([&output.loss.value, &output.loss.weight])?;
            self.rest = Some(Rest::new(computed.cloned().collect()));
            return Ok(output);
        }
        if !self.whole.is_compiled() {
            self.start_in_order(&values, output.arrays())?;
        }
        match wait {
            Wait::ForAll => ffi::eval(computed)?,
            Wait::ForNothing => ffi::async_eval(computed)?,
        }
        Ok(output)
    }

    /// Gives the device what it does not have of the step before.
    fn start_rest(&mut self) -> Result<()> {
        self.rest.take().map_or(Ok(()), |rest| rest.start())
    }

    /// Starts to compute the update a few parameters at a time, so that only these have temporary arrays. MLX
    /// goes through the graph of a step by its depth, and would have those of all.
    ///
    /// With compilation there are none: one kernel makes the new arrays of a parameter, and the old ones go with it.
    fn start_in_order<'v>(
        &self,
        values: &[Array],
        reported: impl Iterator<Item = &'v Array>,
    ) -> Result<()> {
        let Carried { optimizer, ema, .. } = &self.state.carried;
        ffi::async_eval(reported)?;
        let mut together = Vec::new();
        let mut bytes = 0;
        for (index, (value, moments)) in values.iter().zip(optimizer.by_parameter()).enumerate() {
            together.extend(once(value).chain(moments).chain(ema.get(index)));
            bytes += value.nbytes();
            if bytes >= STARTED_TOGETHER {
                ffi::async_eval(together.drain(..))?;
                bytes = 0;
            }
        }
        ffi::async_eval(together)
    }

    /// A step of one micro-batch.
    fn one(&mut self, batch: &Batch, learning_rate: Array) -> Result<Next> {
        let span = profile::span(Phase::Compute);
        let values = self.values()?;
        let num_values = values.len();
        let state = self.state.carried.arrays();
        let batch = batch_inputs(batch);
        let inputs = [values, state, vec![learning_rate], arrays(&batch)].concat();
        let mut outputs = Reader::new(self.whole.call(&inputs, &batch)?);
        Ok(Next {
            values: outputs.take(num_values)?,
            carried: self.state.carried.with_arrays(&mut outputs)?,
            report: Report::read(&mut outputs, self.program.reported.len())?,
            span,
        })
    }

    /// A step of several micro-batches, each of which is computed before the next.
    fn several(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        learning_rate: Array,
    ) -> Result<Next> {
        let mut parameters = self.values()?;
        let others = parameters.split_off(self.program.num_trained);
        let accumulated = if self.is_pipelined() {
            self.pipelined(batches, &parameters, &others)?
        } else {
            self.accumulated(batches, &parameters, &others)?
        };
        self.finished(parameters, others, accumulated, learning_rate)
    }

    /// The mean over micro-batches, one after the other.
    fn accumulated(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        parameters: &[Array],
        others: &[Array],
    ) -> Result<Accumulated> {
        let program = Rc::clone(&self.program);
        let compute = program.to_compute(parameters)?;
        let mut others = others.to_vec();
        let mut mean = Mean::zero(parameters)?.into_arrays();
        let mut key = self.state.carried.key.clone();
        for batch in batches {
            let batch = batch?;
            let _span = profile::span(Phase::ForwardBackward);
            let batch = batch_inputs(&batch);
            let num_others = others.len();
            let inputs = [compute.clone(), others, mean, vec![key], arrays(&batch)].concat();
            let outputs = self.accumulate.call(&inputs, &batch)?;
            // The next mean takes the memory of this one.
            drop(inputs);
            program.layout.mesh.all().eval("a micro-batch of all ranks", &outputs)?;
            let mut outputs = Reader::new(outputs);
            others = outputs.take(num_others)?;
            mean = outputs.take(program.num_trained + 2)?;
            key = outputs.one()?;
        }
        let mean = Mean::read(&mut Reader::new(mean), program.num_trained)?;
        Ok(Accumulated { mean, others, key })
    }

    /// The update after all micro-batches; `before` are the parameters that are not trained, as they were.
    fn finished(
        &mut self,
        parameters: Vec<Array>,
        before: Vec<Array>,
        accumulated: Accumulated,
        learning_rate: Array,
    ) -> Result<Next> {
        let program = Rc::clone(&self.program);
        let span = profile::span(Phase::Optimizer);
        let Accumulated { mean, others, key } = accumulated;
        let carried = Carried { key, ..self.state.carried.clone() };
        let is_moving: Vec<bool> = program.moving.iter().map(Cell::get).collect();
        let pairs = before.iter().zip(&others).zip(&is_moving).filter(|(_, moving)| **moving);
        let pairs = pairs.flat_map(|((before, now), _)| [before.clone(), now.clone()]).collect();
        let (mean, rate) = (mean.into_arrays(), vec![learning_rate]);
        let inputs = [parameters, carried.arrays(), mean, rate, pairs].concat();
        let mut outputs = Reader::new(self.finish.call(&inputs, &[])?);

        let mut values = outputs.take(program.num_trained)?;
        let carried = self.state.carried.with_arrays(&mut outputs)?;
        let report = Report::read(&mut outputs, program.reported.len())?;
        for (before, moving) in before.into_iter().zip(is_moving) {
            values.push(if moving { outputs.one()? } else { before });
        }
        Ok(Next { values, carried, report, span })
    }

    /// Every parameter of the model, in the order of the program's names.
    fn values(&self) -> Result<Vec<Array>> {
        parameters::get(&**self.program.borrow()?, &self.program.names)
    }

    /// What the run carries from step to step.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// How it computes.
    pub fn options(&self) -> &StepOptions {
        &self.program.options
    }

    /// The model, with the parameters that are trained; give the guard back before the next step.
    pub fn model(&mut self) -> RefMut<'_, M> {
        RefMut::map(self.program.model.borrow_mut(), |model| &mut **model)
    }

    /// Runs `f` on the model with the weights that are evaluated: the averaged ones if weights are averaged, in
    /// the dtype that the model computes in. What `f` does to the weights is lost. A stage of a pipeline has those of
    /// its own parameters alone, so that the model is of use to [`TrainStep::evaluate`] and to nobody else.
    ///
    /// Where ranks hold parts of them, weights are whole in `f`, those of a block while it runs: all ranks have to
    /// compute the same there.
    ///
    /// # Errors
    /// What `f` returns, or when MLX fails.
    pub fn with_evaluation_weights<T>(&mut self, f: impl FnOnce(&mut M) -> Result<T>) -> Result<T> {
        let Program { names, options, layout, num_trained, .. } = &*self.program;
        let mut values = self.values()?;
        if let Some(averages) = self.state.averaged_weights() {
            for (value, average) in values.iter_mut().zip(averages) {
                *value = average.as_dtype(value.dtype())?;
            }
        }
        for value in &mut values {
            *value = options.precision.to_compute(value)?;
        }
        // Once, and not for each batch.
        ffi::eval(&values)?;
        let mut model = self.program.borrow()?;
        let mut model = Lent::new(&mut **model, names)?;
        let others = values.split_off(*num_trained);
        let shares = self.state.names.iter().map(|name| layout.share_of_part(name));
        let shares = shares.collect::<Result<Vec<_>>>()?;
        gather::scope(|| {
            let is_outside = |at: usize| !self.program.in_blocks[at].get();
            model.set(gather::lend(&values, &shares, is_outside)?.iter().chain(&others))?;
            drop((values, others));
            f(&mut model)
        })
    }

    /// Leaves the averaged weights in the model, in the dtypes of its weights, at the end of a run; does nothing
    /// if none are averaged.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn adopt_averaged_weights(&mut self) -> Result<()> {
        let Some(averages) = self.state.averaged_weights() else { return Ok(()) };
        let mut values = parameters::get(&**self.program.borrow()?, &self.state.names)?;
        for (value, average) in values.iter_mut().zip(averages) {
            *value = average.as_dtype(value.dtype())?;
        }
        ffi::eval(&values)?;
        parameters::set(&mut **self.program.borrow()?, &self.state.names, &values)
    }

    /// Every array that a run needs to go on from here exactly; they share the memory of the run until its
    /// next step, which has to copy them as long as the snapshot lives.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn snapshot(&self) -> Result<StateArrays> {
        let model = self.program.borrow()?;
        StateArrays::of(&**model, &self.program.layout.names(&**model), &self.state)
    }

    /// Which part of each array of [`TrainStep::snapshot`] this rank holds.
    ///
    /// # Errors
    /// [`TrainError::MissingParameter`] when the model has got a parameter since.
    pub fn placements(&self) -> Result<StatePlacements> {
        self.program.layout.placements(&**self.program.borrow()?, &self.state)
    }

    /// The whole of which `part` is what this rank holds, of a parameter or of an array that is placed as it is
    /// (averaged weights, running means). All ranks have to call it, and get the same.
    ///
    /// # Errors
    /// [`TrainError::MissingParameter`] when there is no such parameter; when MLX fails.
    pub fn whole(&self, parameter: &str, part: &Array) -> Result<Array> {
        self.program.layout.whole(parameter, part)
    }

    /// Leaves the parameters whole in the model, at the end of a run in which ranks that share a batch held parts of
    /// them; layers that ranks divide stay divided. All ranks have to call it.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn gather_parameters(self) -> Result<()> {
        self.program.layout.gather(&mut **self.program.borrow()?)
    }

    /// Goes on from a snapshot that was taken after `step` steps, or changes nothing.
    ///
    /// # Errors
    /// [`TrainError::StateMismatch`] with every array that is missing, unexpected, or of another shape or dtype.
    pub fn restore(&mut self, arrays: &StateArrays, step: u64) -> Result<()> {
        let mut model = self.program.borrow()?;
        let names = self.program.layout.names(&**model);
        arrays.restore(&mut **model, &names, &mut self.state, step)?;
        // Nobody needs what comes of the step before, unless it is waited for.
        self.rest = None;
        Ok(())
    }
}

/// The model then has weights that are on their way, and no graph of the last step.
impl<M: BaseModel + ?Sized> Drop for TrainStep<'_, M> {
    fn drop(&mut self) {
        // What fails here fails again where a weight is read.
        _ = self.start_rest();
    }
}

/// How many bytes of parameters are updated together. Each start costs a GPU a submission of work, and the
/// temporary arrays are about four times as large.
pub(crate) const STARTED_TOGETHER: usize = 32 << 20;

/// A batch that takes longer was waited for, and some of the next may be, too.
const WAITED_FOR: Duration = Duration::from_micros(200);

/// For how many steps.
const STEPS_AFTER_LATE: u32 = 16;

/// What is computed when a step returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    ForAll,
    /// Its loss is on its way, if not all of it.
    ForNothing,
}

/// What a step leaves, not computed yet.
struct Next {
    /// Every parameter, in the order of the program's names.
    values: Vec<Array>,
    carried: Carried,
    report: Report,
    /// Ends when it is computed.
    span: OpenSpan,
}

/// What the micro-batches of a step leave for its update.
struct Accumulated {
    /// Over the rows of this rank's data, of what it holds of each trained parameter.
    mean: Mean,
    /// The parameters that are not trained, as the losses have left them.
    others: Vec<Array>,
    /// The key from which the draws after these come.
    key: Array,
}

fn arrays(batch: &[(&'static str, &Array)]) -> Vec<Array> {
    batch.iter().map(|&(_, array)| array.clone()).collect()
}

impl<M: BaseModel + ?Sized> fmt::Debug for TrainStep<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainStep")
            .field("optimizer", &self.program.optimizer)
            .field("options", &self.program.options)
            .field("step", &self.state.step)
            .finish_non_exhaustive()
    }
}
