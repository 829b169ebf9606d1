//! The training loop.

use super::{
    Best, Evaluation, Event, Finished, HeldOutPoint, History, Metric, Outcome, Started,
    StepOptions, StepOutput, StepReport, StepSeconds, StopReason, StopSignal, TrainConfig,
    TrainError, TrainStep, Trained,
    early_stopping::EarlyStopping,
    evaluate::{Mean, evaluate, evaluate_batches, number},
    spike::SpikeDetector,
};
use crate::{
    Result,
    config::ModelConfig,
    data::{self, Batch, DataLoader, Dataset, LoaderOptions},
    model::{BaseModel, Loss},
    optim::{Clip, Optimizer, Schedule},
    profile::{Memory, Throughput},
};
use mlx_rs::{Array, module::ModuleParameters};
use std::{
    fmt, mem,
    time::{Duration, Instant},
};

/// Trains a model on data, as a [`TrainConfig`] says.
///
/// ```no_run
/// # use mlx_train_core::{Result, data::Dataset, model::BaseModel, train::*};
/// # fn example(mut model: Box<dyn BaseModel>, training: impl Dataset + 'static, test: impl Dataset) -> Result<()> {
/// let trained = Trainer::new(&mut model, TrainConfig { steps: 500, ..TrainConfig::default() })?
///     .evaluate_on(&test)
///     .metric("accuracy", accuracy)
///     .on_event(|event| if let Event::Step(report) = event { println!("{}", report.loss) })
///     .run(training)?;
/// # Ok(()) }
/// ```
pub struct Trainer<'a, M: BaseModel + ?Sized> {
    model: &'a mut M,
    config: TrainConfig,
    schedule: Option<Schedule>,
    optimizer: Box<dyn Optimizer + 'a>,
    held_out: Option<&'a dyn Dataset>,
    metrics: Vec<Metric<'a>>,
    stop: StopSignal,
    on_event: Box<dyn FnMut(&Event<'_>) + 'a>,
}

impl<'a, M: BaseModel + ?Sized> Trainer<'a, M> {
    /// A trainer with the optimizer and the schedule of the config.
    ///
    /// # Errors
    /// [`crate::config::ConfigError`] when a setting is out of range.
    pub fn new(model: &'a mut M, config: TrainConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            model,
            schedule: None,
            optimizer: Box::new(config.adamw()?),
            config,
            held_out: None,
            metrics: Vec::new(),
            stop: StopSignal::new(),
            on_event: Box::new(|_| ()),
        })
    }

    /// Uses this optimizer in the place of the config's.
    #[must_use]
    pub fn optimizer(self, optimizer: impl Optimizer + 'a) -> Self {
        Self { optimizer: Box::new(optimizer), ..self }
    }

    /// Uses this schedule in the place of the config's.
    #[must_use]
    pub fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule: Some(schedule), ..self }
    }

    /// Evaluates on this data every `eval_every` steps and at the end.
    #[must_use]
    pub fn evaluate_on(self, held_out: &'a dyn Dataset) -> Self {
        Self { held_out: Some(held_out), ..self }
    }

    /// Measures this on the held-out data besides the loss; see [`Metric::new`].
    #[must_use]
    pub fn metric(
        mut self,
        name: impl Into<String>,
        measure: impl FnMut(&Array, &Batch) -> Result<Loss> + 'a,
    ) -> Self {
        self.metrics.push(Metric::new(name, measure));
        self
    }

    /// Ends the run, after the step that it is in, when this signal is given.
    #[must_use]
    pub fn stop_on(self, stop: StopSignal) -> Self {
        Self { stop, ..self }
    }

    /// Tells `f` what happens; it replaces an earlier one.
    #[must_use]
    pub fn on_event(self, f: impl FnMut(&Event<'_>) + 'a) -> Self {
        Self { on_event: Box::new(f), ..self }
    }

    /// Trains for all the steps of the config, and leaves the model in evaluation mode.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when loss or gradients stop being numbers; what the model and the data
    /// return.
    pub fn run(mut self, training: impl Dataset + 'static) -> Result<Trained> {
        let mut loader = DataLoader::new(
            training,
            LoaderOptions {
                batch_size: self.config.batch_size,
                seed: self.config.seed,
                epochs: self.config.epochs,
                ..LoaderOptions::default()
            },
        )?;
        let num_rows = loader.num_rows();
        let mut run = Run::new(&self.config, num_rows);
        let schedule = match self.schedule.take() {
            Some(schedule) => schedule,
            None => self.config.learning_rates(run.steps)?,
        };
        self.start(run.steps, num_rows)?;

        let Self { model, config, optimizer, held_out, mut metrics, stop, mut on_event, .. } = self;
        model.training_mode(true);
        let mut clip = Clip::default();
        if let Some(max_norm) = config.max_grad_norm {
            clip = clip.global_norm(max_norm)?;
        }
        let options = StepOptions { clip, ..StepOptions::default() };
        let mut training = TrainStep::new(model, optimizer, config.seed, options)?;
        let outcome = loop {
            let learning_rate = schedule.at(training.state().step());
            let began = Instant::now();
            let waited_before = loader.waited();
            let micro_batches = loader.by_ref().take(config.accumulation);
            let output = training.run(micro_batches, learning_rate)?;
            let step = training.state().step();
            let numbers = StepNumbers::read(step, learning_rate, &output)?;
            if let Some(spike) = run.spikes.observe(step, numbers.loss) {
                on_event(&Event::Spike(spike));
            }
            let waited = loader.waited().saturating_sub(waited_before);
            run.add(&numbers, waited, began.elapsed());

            let ended = run.ended(step, &stop);
            if is_due(step, config.log_every, ended.is_some()) {
                let report = run.report(&numbers, loader.epochs())?;
                on_event(&Event::Step(report));
            }
            let mut stopped_early = false;
            // Who asks a run to stop does not want to wait for an evaluation.
            let completed = matches!(ended, Some(Outcome::Completed));
            if let Some(held_out) = held_out
                && is_due(step, config.eval_every, completed)
            {
                let began = Instant::now();
                let evaluation = training.with_evaluation_weights(|model| {
                    evaluate(model, held_out, config.batch_size, &mut metrics)
                })?;
                training.model().training_mode(true);
                let seconds = began.elapsed().as_secs_f64();
                on_event(&Event::Evaluated { step, evaluation: &evaluation, seconds });
                if let Some((metric, best)) = run.observe(step, evaluation)? {
                    on_event(&Event::StoppedEarly { step, metric, best });
                    stopped_early = true;
                }
            }
            match ended {
                Some(outcome) => break outcome,
                None if stopped_early => {
                    let reason = StopReason::EarlyStopping;
                    break Outcome::Stopped { reason, checkpoint: None };
                }
                None => {}
            }
        };
        training.model().training_mode(false);
        on_event(&Event::Finished(Finished {
            step: training.state().step(),
            num_targets: run.num_targets,
            elapsed_seconds: run.began.elapsed().as_secs_f64(),
            history: &run.history,
            outcome: &outcome,
        }));
        Ok(Trained { history: run.history, step: training.state().step(), outcome })
    }

    /// Looks at the held-out data before anything is trained, and tells that the run begins.
    fn start(&mut self, steps: u64, num_rows: usize) -> Result<()> {
        match self.held_out {
            None if self.config.early_stopping.is_some() => {
                let setting = "early_stopping".to_owned();
                return Err(TrainError::NoHeldOut { setting }.into());
            }
            Some(held_out) if self.config.sanity_batches > 0 => {
                let batches = data::batches(held_out, self.config.batch_size);
                let some = batches.take(self.config.sanity_batches);
                let evaluation = evaluate_batches(self.model, some, &mut self.metrics)?;
                if let Some(config) = &self.config.early_stopping {
                    evaluation.named("early_stopping.metric", &config.metric)?;
                }
            }
            _ => {}
        }
        let count = |parameters: mlx_rs::module::ModuleParamRef<'_>| {
            parameters.flatten().values().map(|array| array.size() as u64).sum()
        };
        let num_parameters = count(self.model.parameters());
        let num_trainable = count(self.model.trainable_parameters());
        let config = &self.config;
        let started = Started { config, steps, num_parameters, num_trainable, num_rows };
        (self.on_event)(&Event::Started(started));
        Ok(())
    }
}

impl<M: BaseModel + ?Sized> fmt::Debug for Trainer<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("schedule", &self.schedule)
            .field("optimizer", &self.optimizer)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

/// Whether something that is done every so many steps is done after this one; after the last it is.
fn is_due(step: u64, every: u64, is_last: bool) -> bool {
    is_last || (every > 0 && step.is_multiple_of(every))
}

/// The numbers of one step, read back.
struct StepNumbers {
    step: u64,
    learning_rate: f64,
    loss: f64,
    num_targets: f64,
    grad_norm: f64,
}

impl StepNumbers {
    /// Reads what is computed already, which costs little.
    fn read(step: u64, learning_rate: f64, output: &StepOutput) -> Result<Self> {
        let (loss, num_targets) = (number(&output.loss.value)?, number(&output.loss.weight)?);
        let grad_norm = number(&output.grad_norm)?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::NotFinite { step, loss, grad_norm, learning_rate }.into());
        }
        Ok(Self { step, learning_rate, loss, num_targets, grad_norm })
    }
}

/// What a run carries along besides model and state.
struct Run {
    began: Instant,
    /// How many steps there are.
    steps: u64,
    deadline: Option<Instant>,
    spikes: SpikeDetector,
    early_stopping: Option<EarlyStopping>,
    /// The steps that are not reported yet.
    window: Window,
    num_targets: f64,
    history: History,
}

#[derive(Default)]
struct Window {
    num_steps: u64,
    loss: Mean,
    seconds: StepSeconds,
    throughput: Throughput,
}

impl Run {
    fn new(config: &TrainConfig, num_rows: usize) -> Self {
        let began = Instant::now();
        // A time that no clock can tell never comes.
        let limit = |minutes: f64| Duration::try_from_secs_f64(60.0 * minutes).ok();
        Self {
            began,
            steps: config.total_steps(num_rows),
            deadline: config.max_minutes.and_then(limit).and_then(|time| began.checked_add(time)),
            spikes: SpikeDetector::new(config.spike.clone()),
            early_stopping: config.early_stopping.clone().map(EarlyStopping::new),
            window: Window::default(),
            num_targets: 0.0,
            history: History::default(),
        }
    }

    /// How the run ends after this step, if it does.
    fn ended(&self, step: u64, signal: &StopSignal) -> Option<Outcome> {
        let stopped = |reason| Some(Outcome::Stopped { reason, checkpoint: None });
        if step >= self.steps {
            Some(Outcome::Completed)
        } else if signal.is_requested() {
            stopped(StopReason::Signal)
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            stopped(StopReason::MaxMinutes)
        } else {
            None
        }
    }

    /// Counts a step that took `time` in all, of which it `waited` for data.
    fn add(&mut self, numbers: &StepNumbers, waited: Duration, time: Duration) {
        self.window.num_steps += 1;
        self.window.loss.add_number(numbers.loss, numbers.num_targets);
        self.window.seconds.data += waited.as_secs_f64();
        self.window.seconds.compute += time.saturating_sub(waited).as_secs_f64();
        self.window.throughput.add(numbers.num_targets, time);
    }

    /// Notes an evaluation: why the run should stop early, if it should.
    fn observe(&mut self, step: u64, evaluation: Evaluation) -> Result<Option<(&str, Best)>> {
        let stopped = match &mut self.early_stopping {
            Some(stopping) => stopping.observe(step, &evaluation)?,
            None => None,
        };
        self.history.held_out.push(HeldOutPoint { step, evaluation });
        Ok(stopped)
    }

    /// Tells about the window, the last step of which has these `numbers`.
    fn report(&mut self, numbers: &StepNumbers, epochs: f64) -> Result<StepReport> {
        let Window { num_steps, loss, seconds, mut throughput } = mem::take(&mut self.window);
        self.num_targets += loss.weight;
        let report = StepReport {
            step: numbers.step,
            steps: self.steps,
            epochs,
            num_steps,
            num_targets: loss.weight,
            loss: loss.value(),
            learning_rate: numbers.learning_rate,
            grad_norm: numbers.grad_norm,
            tokens_per_second: throughput.take_per_second(),
            seconds,
            num_skipped: 0,
            num_traces: 0,
            elapsed_seconds: self.began.elapsed().as_secs_f64(),
            memory: Memory::now()?,
        };
        self.history.push(&report);
        Ok(report)
    }
}
