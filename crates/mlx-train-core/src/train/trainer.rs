//! The training loop.

use super::{
    Evaluation, Event, Finished, HeldOutPoint, History, Metric, Started, StepOutput, StepReport,
    TrainConfig, TrainError, TrainState,
    evaluate::{Mean, evaluate, number},
    step::train_step,
};
use crate::{
    Result,
    config::ModelConfig,
    data::{Dataset, Stream},
    model::BaseModel,
    optim::{Optimizer, Schedule},
    profile::{Memory, Throughput},
};
use mlx_rs::module::ModuleParameters;
use std::{fmt, mem, time::Instant};

/// Trains a model on data, as a [`TrainConfig`] says.
///
/// ```no_run
/// # use mlx_train_core::{Result, data::Dataset, model::BaseModel, train::*};
/// # fn example(mut model: Box<dyn BaseModel>, training: impl Dataset, test: impl Dataset) -> Result<()> {
/// let history = Trainer::new(&mut model, TrainConfig { steps: 500, ..TrainConfig::default() })?
///     .evaluate_on(&test)
///     .metric("accuracy", accuracy)
///     .on_event(|event| if let Event::Step(report) = event { println!("{}", report.loss) })
///     .run(&training)?;
/// # Ok(()) }
/// ```
pub struct Trainer<'a, M: BaseModel + ?Sized> {
    model: &'a mut M,
    config: TrainConfig,
    schedule: Schedule,
    optimizer: Box<dyn Optimizer + 'a>,
    held_out: Option<&'a dyn Dataset>,
    metrics: Vec<Metric<'a, M>>,
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
            schedule: config.learning_rates()?,
            optimizer: Box::new(config.adamw()?),
            config,
            held_out: None,
            metrics: Vec::new(),
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
        Self { schedule, ..self }
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
        measure: impl FnMut(&mut M, &crate::data::Batch) -> Result<crate::model::Loss> + 'a,
    ) -> Self {
        self.metrics.push(Metric::new(name, measure));
        self
    }

    /// Tells `f` what happens; it replaces an earlier one.
    #[must_use]
    pub fn on_event(self, f: impl FnMut(&Event<'_>) + 'a) -> Self {
        Self { on_event: Box::new(f), ..self }
    }

    /// Trains for all the steps of the config, and leaves the model in evaluation mode.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when loss or gradients stop being numbers, noticed at the next report;
    /// what the model and the data return.
    pub fn run(mut self, training: impl Dataset) -> Result<History> {
        let mut state = TrainState::new(self.model, &*self.optimizer, self.config.seed)?;
        let mut stream = Stream::new(training, self.config.seed)?;
        let mut run = Run::new();
        self.start(stream.dataset().len());

        self.model.training_mode(true);
        while state.step() < self.config.steps {
            let learning_rate = self.schedule.at(state.step());
            let began = Instant::now();
            let micro_batches =
                (0..self.config.accumulation).map(|_| stream.next_batch(self.config.batch_size));
            let output = train_step(
                self.model,
                &mut state,
                &*self.optimizer,
                micro_batches,
                learning_rate,
                self.config.max_grad_norm,
            )?;
            run.window.push((learning_rate, output, began.elapsed()));

            let step = state.step();
            if self.is_due(step, self.config.log_every) {
                let report = run.report(step, self.config.steps, stream.epochs())?;
                (self.on_event)(&Event::Step(report));
            }
            if self.is_due(step, self.config.eval_every) {
                self.evaluate(step, &mut run.history)?;
                self.model.training_mode(true);
            }
        }
        self.model.training_mode(false);
        (self.on_event)(&Event::Finished(Finished {
            step: state.step(),
            num_targets: run.num_targets,
            elapsed_seconds: run.began.elapsed().as_secs_f64(),
            history: &run.history,
        }));
        Ok(run.history)
    }

    /// Whether something that is done every so many steps is done after this one; the last always counts.
    fn is_due(&self, step: u64, every: u64) -> bool {
        step == self.config.steps || (every > 0 && step.is_multiple_of(every))
    }

    fn start(&mut self, num_rows: usize) {
        let count = |parameters: mlx_rs::module::ModuleParamRef<'_>| {
            parameters.flatten().values().map(|array| array.size() as u64).sum()
        };
        let num_parameters = count(self.model.parameters());
        let num_trainable = count(self.model.trainable_parameters());
        let started = Started { config: &self.config, num_parameters, num_trainable, num_rows };
        (self.on_event)(&Event::Started(started));
    }

    fn evaluate(&mut self, step: u64, history: &mut History) -> Result<()> {
        let Some(held_out) = self.held_out else {
            return Ok(());
        };
        let began = Instant::now();
        let evaluation: Evaluation =
            evaluate(self.model, held_out, self.config.batch_size, &mut self.metrics)?;
        let seconds = began.elapsed().as_secs_f64();
        (self.on_event)(&Event::Evaluated { step, evaluation: &evaluation, seconds });
        history.held_out.push(HeldOutPoint { step, evaluation });
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

/// What is measured while a run goes on.
struct Run {
    began: Instant,
    /// Steps that are not reported yet: learning rate, output, duration.
    window: Vec<(f64, StepOutput, std::time::Duration)>,
    num_targets: f64,
    history: History,
}

impl Run {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            window: Vec::new(),
            num_targets: 0.0,
            history: History::default(),
        }
    }

    /// Reads the numbers of the window, the last step of which is `step`.
    fn report(&mut self, step: u64, steps: u64, epochs: f64) -> Result<StepReport> {
        let window = mem::take(&mut self.window);
        let first = step - window.len() as u64 + 1;
        let mut throughput = Throughput::default();
        let mut mean = Mean::default();
        let mut last = (0.0, 0.0);
        for (step, (learning_rate, output, time)) in (first..).zip(window) {
            let (loss, weight) = (number(&output.loss.value)?, number(&output.loss.weight)?);
            let grad_norm = number(&output.grad_norm)?;
            if !(loss.is_finite() && grad_norm.is_finite()) {
                return Err(TrainError::NotFinite { step, loss, grad_norm, learning_rate }.into());
            }
            mean.add_number(loss, weight);
            throughput.add(weight, time);
            last = (learning_rate, grad_norm);
        }
        self.num_targets += mean.weight;
        let report = StepReport {
            step,
            steps,
            epochs,
            loss: mean.value(),
            learning_rate: last.0,
            grad_norm: last.1,
            tokens_per_second: throughput.take_per_second(),
            elapsed_seconds: self.began.elapsed().as_secs_f64(),
            memory: Memory::now()?,
        };
        self.history.push(&report);
        Ok(report)
    }
}
