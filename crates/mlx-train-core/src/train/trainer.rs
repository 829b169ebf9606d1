//! A run as its user sets it up.

use super::{
    Event, Metric, ProfileOptions, Resume, RunDescription, StopSignal, TrainConfig, Trained,
    run::Run,
};
use crate::{
    Result,
    batch::Batch,
    config::ModelConfig,
    data::{DataLoader, Dataset, LoaderOptions},
    distributed::Mesh,
    model::{BaseModel, Loss},
    optim::{Optimizer, Schedule},
    store::{Checkpoints, StoredWeights},
};
use mlx_rs::Array;
use std::fmt;

/// Trains a model on data, as a [`TrainConfig`] says.
///
/// ```no_run
/// # use mlx_train_core::{Result, data::Dataset, model::BaseModel, store::Checkpoints, train::*};
/// # fn example(mut model: Box<dyn BaseModel>, training: impl Dataset + 'static, test: impl Dataset) -> Result<()> {
/// let trained = Trainer::new(&mut model, TrainConfig { steps: 500, ..TrainConfig::default() })?
///     .evaluate_on(&test)
///     .metric("accuracy", accuracy)
///     .checkpoints(Checkpoints::create("runs/first/checkpoints")?)
///     .on_event(|event| if let Event::Step(report) = event { println!("{}", report.loss) })
///     .run(training)?;
/// # Ok(()) }
/// ```
///
/// Later, in another process, `.checkpoints(Checkpoints::open(…)?).resume(Resume::Latest)` goes on
/// where it stopped, and ends in the same weights to the last bit.
pub struct Trainer<'a, M: BaseModel + ?Sized> {
    pub(super) model: &'a mut M,
    pub(super) config: TrainConfig,
    pub(super) schedule: Option<Schedule>,
    pub(super) optimizer: Option<Box<dyn Optimizer + 'a>>,
    pub(super) held_out: Option<&'a dyn Dataset>,
    pub(super) metrics: Vec<Metric<'a>>,
    pub(super) weights: Option<StoredWeights>,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) resume: Option<Resume>,
    pub(super) allowed: Vec<String>,
    pub(super) description: RunDescription,
    pub(super) profile: Option<ProfileOptions>,
    pub(super) stop: StopSignal,
    pub(super) mesh: Mesh,
    pub(super) on_event: Box<dyn FnMut(&Event<'_>) + 'a>,
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
            config,
            schedule: None,
            optimizer: None,
            held_out: None,
            metrics: Vec::new(),
            weights: None,
            checkpoints: None,
            resume: None,
            allowed: Vec::new(),
            description: RunDescription::default(),
            profile: None,
            stop: StopSignal::new(),
            mesh: Mesh::alone(),
            on_event: Box::new(|_| ()),
        })
    }

    /// Trains as one of the ranks of a mesh, all of which call the same methods.
    ///
    /// `batch_size` is that of all ranks together: each has its part of the rows that one process would have, in
    /// training and in evaluation, and the losses are those of one process. It has to be a multiple of the ranks that
    /// share rows. (In torchtitan's terms it is `global_batch_size` of one micro-batch; `local_batch_size` is what it
    /// leaves for a rank.)
    ///
    /// Rank 0 alone tells events and writes the trace; its checkpoints count, and its stop signal is that of all, as is
    /// that of any other rank. All ranks write the arrays of a checkpoint, so its folder has to be one that they
    /// share. A checkpoint of any layout can be resumed under any other. At the end the model of each rank has what
    /// its rank holds.
    #[must_use]
    pub fn mesh(self, mesh: Mesh) -> Self {
        Self { mesh, ..self }
    }

    /// Uses this optimizer in the place of the config's.
    #[must_use]
    pub fn optimizer(self, optimizer: impl Optimizer + 'a) -> Self {
        Self { optimizer: Some(Box::new(optimizer)), ..self }
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

    /// Starts with weights on disk in the place of the model's own.
    ///
    /// They are read one after the other, by rank 0, and each rank keeps its parts: with this, and a model of which
    /// nothing is computed yet (layers only record how their weights are drawn), a run over ranks starts in the memory
    /// of its parts and of one whole parameter. A run that is [resumed](Trainer::resume) does not need them.
    #[must_use]
    pub fn weights(self, weights: StoredWeights) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Saves to this folder, when `checkpoint` of the config says so, at the end, and when the run stops.
    #[must_use]
    pub fn checkpoints(self, checkpoints: Checkpoints) -> Self {
        Self { checkpoints: Some(checkpoints), ..self }
    }

    /// Goes on from a checkpoint, in the place of starting with the model as it is.
    ///
    /// The config has to be that of the checkpoint, but for fields that change nothing in a step and what
    /// [`Trainer::allow`] names.
    #[must_use]
    pub fn resume(self, resume: Resume) -> Self {
        Self { resume: Some(resume), ..self }
    }

    /// Lets these fields of the config differ from those of the checkpoint: globs such as
    /// `train.learning_rate` or `data.*`.
    #[must_use]
    pub fn allow<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.allowed.extend(fields.into_iter().map(Into::into));
        self
    }

    /// Says for the checkpoints which model and data they are of.
    #[must_use]
    pub fn describe(self, description: RunDescription) -> Self {
        Self { description, ..self }
    }

    /// Records some steps, and every evaluation and save, into a trace; measures the layers after them.
    ///
    /// The steps that are recorded, and two before them, compute gradients before the update begins: they
    /// take a little longer, hold the gradients in f32 at once, and give the numbers of other steps.
    #[must_use]
    pub fn profile(self, options: ProfileOptions) -> Self {
        Self { profile: Some(options), ..self }
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

    /// Trains on a dataset, in an order that follows from the seed, and leaves the model in evaluation
    /// mode; with `ema_decay`, it has the averaged weights.
    ///
    /// # Errors
    /// [`super::TrainError`], which lists why runs do not start or go on; what the model, the data and the
    /// checkpoints return.
    pub fn run(self, training: impl Dataset + 'static) -> Result<Trained> {
        let TrainConfig { batch_size, seed, num_workers, prefetch, .. } = self.config;
        // Batches that come again have no last epoch.
        let epochs = self.config.epochs.filter(|_| self.config.overfit_batches == 0);
        let options =
            LoaderOptions { batch_size, seed, epochs, num_workers, prefetch, ..Default::default() };
        self.run_loader(DataLoader::new(training, options)?)
    }

    /// Trains on the batches of a loader, which has an order and a batch size of its own; those of the
    /// config are for the held-out data alone.
    ///
    /// The config says when the run ends, by `steps` or `epochs`.
    ///
    /// # Errors
    /// As [`Trainer::run`]; [`crate::data::DataError::Ended`] when the loader ends before the run does.
    pub fn run_loader(self, training: DataLoader) -> Result<Trained> {
        Run::start(self, training)?.train()
    }
}

impl<M: BaseModel + ?Sized> fmt::Debug for Trainer<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("schedule", &self.schedule)
            .field("optimizer", &self.optimizer)
            .field("metrics", &self.metrics)
            .field("weights", &self.weights)
            .field("checkpoints", &self.checkpoints)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}
