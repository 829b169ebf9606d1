//! The training loop: [`Run::train`] and what it calls, in the order in which it happens.

use super::{
    Evaluation, Event, Finished, Metric, NonFinite, Outcome, Resume, SpikeAction, Started,
    StepAhead, StepOutput, StopReason, StopSignal, TrainConfig, TrainError, TrainStep, Trained,
    Trainer,
    checkpointing::Checkpointing,
    clock::Clock,
    events::SkippedStep,
    feed::Feed,
    memory_check::check_memory,
    profiling::Profiling,
    progress::{Progress, SavedRun, StepNumbers},
    ranks::{Question, Ranks, Signs},
    restore_point::{RestorePoint, RunState},
    resume::{self, Difference},
    shared_loading,
    shared_saving::{Holdings, SharedSaver},
    stages::StageCut,
    step::Origin,
};
use crate::{
    Error, Result,
    batch::Batch,
    checkpoint::with_policy,
    config::ModelConfig,
    data::{self, DataLoader, Dataset},
    distributed::{Mesh, Parallelism, PipelineBlocks},
    estimate::{Machine, Rows},
    ffi::{MetalCapture, device_info},
    model::{self, BaseModel},
    optim::{Optimizer, Schedule},
    profile::{self, Growing, LeakDetector, MemoryCheck, MemoryLimits, OpenSpan, Phase},
    store::{Check, Checkpoints, Entry, Loaded, Manifest, SaveOutcome, SharedFolder, Snapshot},
};
use mlx_rs::module::{ModuleParamRef, ModuleParameters};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How many steps a `fast_dev_run` has.
const FAST_DEV_STEPS: u64 = 3;

/// How many times a layer is measured; the fastest counts.
const LAYER_REPEATS: usize = 3;

/// More steps in a row that are not finite have a cause that goes on.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

/// A run that goes on: the model in its step, the data, and what was counted.
pub(super) struct Run<'a, M: BaseModel + ?Sized> {
    config: TrainConfig,
    mesh: Mesh,
    ranks: Ranks,
    /// What all ranks hold together, where there are several.
    holdings: Holdings,
    step: TrainStep<'a, M>,
    feed: Feed,
    schedule: Schedule,
    /// How many steps there are.
    steps: u64,
    held_out: Option<&'a dyn Dataset>,
    metrics: Vec<Metric<'a>>,
    progress: Progress,
    /// The metric of the checkpoints, where this step was evaluated.
    metric: Option<f64>,
    checkpointing: Option<Checkpointing>,
    restore_point: Option<RestorePoint>,
    model_name: String,
    /// The config of everything, for checkpoints.
    resolved: Value,
    leaks: LeakDetector,
    profiling: Option<Profiling>,
    stop: StopSignal,
    began: Instant,
    clock: Clock,
    /// What all ranks knew after the last step.
    agreed: Signs,
    deadline: Option<Instant>,
    on_event: Box<dyn FnMut(&Event<'_>) + 'a>,
    /// Where a `fast_dev_run` saves.
    temporary: Option<TempDir>,
}

/// A step whose loss the device computes; its numbers are not read yet.
struct Begun {
    step: u64,
    learning_rate: f64,
    ahead: StepAhead,
    /// Ends when the step does.
    span: OpenSpan,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    Stopped(StopReason),
}

/// Where a run goes on from.
struct Resumed {
    step: u64,
    checkpoint: PathBuf,
    differences: Vec<Difference>,
}

/// What an evaluation leads to.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    is_best: bool,
    stops: bool,
}

impl<M: BaseModel + ?Sized> Run<'_, M> {
    /// Trains until the run ends.
    pub(super) fn train(mut self) -> Result<Trained> {
        // A run that is resumed may have no step left.
        let mut end = self.is_over().then_some(End::Completed);
        let mut ahead = None;
        while end.is_none() {
            let begun = if let Some(begun) = ahead.take() {
                begun?
            } else {
                self.clock = Clock::start(&self.feed);
                self.begin_step()?
            };
            if self.may_run_ahead() {
                let question = self.ranks.ask(self.signs())?;
                // What is wrong with the next step is told after this one.
                ahead = Some(self.begin_step());
                self.end_step(begun)?;
                self.heed(question)?;
                continue;
            }
            let numbers = self.end_step(begun)?;
            self.end_profile_if_due()?;
            let question = self.ranks.ask(self.signs())?;
            self.heed(question)?;
            let signs = self.agreed;
            end = self.end(signs);
            match numbers {
                Some(numbers) => self.report_if_due(&numbers, end)?,
                // The run went back, where all that was due is done, unless it ends with that.
                None if end.is_none() => continue,
                None => {}
            }
            let verdict = self.evaluate_if_due(end)?;
            if verdict.stops {
                end = end.or(Some(End::Stopped(StopReason::EarlyStopping)));
            }
            self.save_if_due(end.is_some(), verdict.is_best, signs.is_late)?;
        }
        self.finish(end.unwrap_or(End::Completed))
    }

    /// Gives a step to the device.
    fn begin_step(&mut self) -> Result<Begun> {
        let learning_rate = self.schedule.at(self.step_number());
        let feed = &mut self.feed;
        let profiling = &mut self.profiling;
        if let Some(profiling) = profiling {
            profiling.before_step(self.step.state().step() + 1)?;
        }
        let span = profile::span(Phase::Step);
        let micro_batches = (0..self.config.accumulation).map_while(|_| {
            let _span = profile::span(Phase::Data);
            let batch = feed.next();
            if let (Some(profiling), Some(Ok(batch))) = (&mut *profiling, &batch) {
                profiling.see(batch);
            }
            batch
        });
        let ahead = self.step.run_ahead(micro_batches, learning_rate)?;
        Ok(Begun { step: self.step_number(), learning_rate, ahead, span })
    }

    /// Whether the next step may be begun before the numbers of this one are read: nothing is done between them, and
    /// nothing that the numbers can say changes what the next one is. Ranks decide the same, by what all know.
    fn may_run_ahead(&self) -> bool {
        let step = self.step_number();
        let &TrainConfig { run_ahead, log_every, eval_every, .. } = &self.config;
        // Of several ranks, what they agreed on after the step before.
        let signs = if self.ranks.is_alone() { self.signs() } else { self.agreed };
        let is_saved = self
            .checkpointing
            .as_ref()
            .is_some_and(|it| it.is_due(step, false, false, signs.is_late));
        run_ahead
            && self.restore_point.is_none()
            && self.profiling.is_none()
            && !(is_due(step, log_every, self.is_over()) || is_due(step, eval_every, false))
            && !is_saved
            && signs.stop.is_none()
    }

    /// Waits for the numbers of a step and looks at them; `None` when the run goes back to an earlier one.
    fn end_step(&mut self, begun: Begun) -> Result<Option<StepNumbers>> {
        let Begun { step, learning_rate, ahead, span } = begun;
        let output = ahead.wait()?;
        if let Some(warning) = &output.warning {
            (self.on_event)(&Event::Warning(warning));
        }
        let numbers = StepNumbers::read(step, learning_rate, &output)?;
        drop(span);
        let (waited, computed) = self.clock.lap(&self.feed);
        self.progress.count_time(waited.as_secs_f64(), computed.as_secs_f64());
        self.watch_memory(Growing::Arrays, Some(profile::active_bytes()?));
        self.metric = None;

        let goes_on = if numbers.is_finite {
            self.progress.count(&numbers);
            self.watch_for_spikes(&numbers)?
        } else {
            self.guard(&numbers, &output)?
        };
        Ok(goes_on.then_some(numbers))
    }

    /// What this rank knows that all have to act on.
    fn signs(&self) -> Signs {
        let checkpointing = self.checkpointing.as_ref();
        Signs {
            stop: self.stop_reason(),
            is_late: checkpointing.is_some_and(Checkpointing::is_late),
            is_saving: checkpointing.is_some_and(Checkpointing::is_busy),
        }
    }

    /// Waits for what all ranks know.
    fn heed(&mut self, question: Question) -> Result<()> {
        self.agreed = question.answer()?;
        match &mut self.checkpointing {
            Some(checkpointing) if !self.agreed.is_saving => checkpointing.advance(),
            _ => Ok(()),
        }
    }

    /// When the last step that is recorded is over, measures the layers and writes the trace.
    fn end_profile_if_due(&mut self) -> Result<()> {
        let step = self.step_number();
        let Some(profiling) = &mut self.profiling else { return Ok(()) };
        if !profiling.after_step()? {
            return Ok(());
        }
        // A layer that is divided among ranks waits for the others.
        if let Some(batch) = profiling.take_batch().filter(|_| self.ranks.is_alone()) {
            let batch = self.config.precision.batch_to_compute(batch)?;
            let policy = self.step.options().gradient_checkpointing.clone();
            let measure = |model: &mut M| {
                with_policy(&policy, || profile::profile_layers(model, &batch, LAYER_REPEATS))
            };
            match self.step.with_evaluation_weights(measure) {
                Ok(layers) => profiling.set_layers(layers),
                Err(error) => {
                    let text = format!("the layers could not be measured one by one: {error}");
                    (self.on_event)(&Event::Warning(&text));
                }
            }
        }
        if self.ranks.is_first() {
            profiling.write(step, &mut self.on_event);
        }
        Ok(())
    }

    /// Tells a spike of the loss; false when the run went back because of it.
    fn watch_for_spikes(&mut self, numbers: &StepNumbers) -> Result<bool> {
        let spike = self.progress.spikes.observe(&self.config.spike, numbers.step, numbers.loss);
        let Some(spike) = spike else { return Ok(true) };
        (self.on_event)(&Event::Spike(spike));
        if self.config.spike.action == SpikeAction::Report {
            return Ok(true);
        }
        let reason =
            format!("its loss {:.4} is far above the median {:.4}", spike.loss, spike.median);
        self.roll_back(&reason).map(|()| false)
    }

    /// Tells memory that grows from step to step.
    fn watch_memory(&mut self, what: Growing, bytes: Option<u64>) {
        let step = self.step_number();
        let leak = bytes.and_then(|bytes| self.leaks.observe(what, step, bytes));
        if let Some(leak) = leak {
            (self.on_event)(&Event::SuspectedLeak(leak));
        }
    }

    /// Does what `non_finite` says; false when the run went back.
    fn guard(&mut self, numbers: &StepNumbers, output: &StepOutput) -> Result<bool> {
        let &StepNumbers { step, loss, grad_norm, learning_rate, .. } = numbers;
        let gradients = || Ok::<_, Error>(output.not_finite_gradients()?.to_string());
        match self.config.non_finite {
            NonFinite::Stop => {
                let gradients = gradients()?;
                Err(TrainError::NotFinite { step, loss, grad_norm, learning_rate, gradients }
                    .into())
            }
            NonFinite::Skip => {
                self.progress.count_skipped();
                let in_a_row = self.progress.skipped_in_a_row;
                let skipped = SkippedStep { step, loss, grad_norm, learning_rate, in_a_row };
                (self.on_event)(&Event::Skipped(skipped));
                if in_a_row < MAX_SKIPPED_IN_A_ROW {
                    return Ok(true);
                }
                let gradients = gradients()?;
                Err(TrainError::TooManySkipped { step, in_a_row, loss, learning_rate, gradients }
                    .into())
            }
            NonFinite::Rollback => {
                let reason = format!("its loss is {loss} and its gradient norm {grad_norm}");
                self.roll_back(&reason).map(|()| false)
            }
        }
    }

    /// Goes back to the last state that was kept. The data goes on, so that what failed does not come again.
    fn roll_back(&mut self, reason: &str) -> Result<()> {
        let from = self.step_number();
        // What is being written is a state before this step, to which the run can go back when it is there. If it
        // came afterwards, `latest` would be a step that the run has left.
        if let Some(checkpointing) = &mut self.checkpointing {
            let outcomes = checkpointing.settle()?;
            self.tell_outcomes(outcomes);
        }
        let Some(mut point) = self.restore_point.take() else { return Ok(()) };
        // This run wrote it, so its bytes are not compared with their hashes again.
        let taken = point.take(from, reason, |path| self.load(path, Check::Sizes));
        self.restore_point = Some(point);
        let RunState { step: to, arrays, progress } = taken?;
        self.step.restore(&arrays, to)?;
        self.progress = progress;
        if let Some(checkpointing) = &mut self.checkpointing {
            checkpointing.went_back();
        }
        (self.on_event)(&Event::RolledBack { from, to, reason });
        Ok(())
    }

    fn report_if_due(&mut self, numbers: &StepNumbers, end: Option<End>) -> Result<()> {
        // A run that stops takes its unreported steps along in its checkpoint.
        if is_due(numbers.step, self.config.log_every, end == Some(End::Completed)) {
            let (epochs, elapsed) = (self.feed.epochs(), self.began.elapsed());
            let report = self.progress.report(numbers, self.steps, epochs, elapsed)?;
            let process = report.memory.anonymous_bytes;
            (self.on_event)(&Event::Step(report));
            self.watch_memory(Growing::Process, process);
        }
        Ok(())
    }

    fn evaluate_if_due(&mut self, end: Option<End>) -> Result<Verdict> {
        let step = self.step_number();
        // Who asks a run to stop does not want to wait for an evaluation.
        let is_due = is_due(step, self.config.eval_every, end == Some(End::Completed));
        let Some(held_out) = self.held_out.filter(|_| is_due) else {
            return Ok(Verdict::default());
        };
        let began = Instant::now();
        let span = profile::span(Phase::Evaluation);
        let batches = held_out_batches(held_out, &self.config, &self.mesh);
        let batches = batches.take(if self.config.fast_dev_run { 1 } else { usize::MAX });
        let evaluation = self.step.evaluate_parts(batches, &mut self.metrics)?;
        self.step.model().training_mode(true);
        drop(span);
        let seconds = began.elapsed().as_secs_f64();
        (self.on_event)(&Event::Evaluated { step, evaluation: &evaluation, seconds });

        let checkpoint = &self.config.checkpoint;
        let metric = evaluation.named("checkpoint.metric", &checkpoint.metric)?;
        let best = self.progress.best;
        let is_best = best.is_none_or(|best| checkpoint.mode.is_better(metric, best));
        let is_best = is_best && metric.is_finite();
        self.metric = Some(metric);
        if is_best {
            self.progress.best = Some(metric);
        }
        let mut stops = false;
        if let Some(config) = &self.config.early_stopping
            && let Some(best) = self.progress.early_stopping.observe(config, step, &evaluation)?
        {
            (self.on_event)(&Event::StoppedEarly { step, metric: &config.metric, best });
            stops = true;
        }
        self.progress.history.push_evaluation(step, evaluation);
        Ok(Verdict { is_best, stops })
    }

    fn save_if_due(&mut self, is_last: bool, is_best: bool, is_late: bool) -> Result<()> {
        self.tell_saves();
        let step = self.step_number();
        let Some(checkpointing) = &mut self.checkpointing else {
            return self.keep_in_memory_if_due();
        };
        if !checkpointing.is_due(step, is_last, is_best, is_late) {
            return Ok(());
        }
        let (train_step, feed, progress) = (&self.step, &self.feed, &self.progress);
        let (model, config, metric) = (&self.model_name, &self.resolved, self.metric);
        let share = checkpointing.share().cloned();
        let take = || {
            let arrays = train_step.snapshot()?;
            let arrays = match &share {
                Some(share) => share.of(arrays),
                None => arrays,
            };
            let saved = SavedRun {
                data: feed.position(),
                progress: progress.clone(),
                pipeline_blocks: train_step.options().pipeline.blocks.clone(),
            };
            Ok(Snapshot {
                model: model.clone(),
                progress: serde_json::to_value(saved).map_err(|e| Error::message(e.to_string()))?,
                config: config.clone(),
                metric,
                ..arrays.to_host(step)?
            })
        };
        let span = profile::span(Phase::Save);
        let saved = checkpointing.save(step, take);
        drop(span);
        match saved {
            Ok(held_up) => {
                self.progress.count_saving(held_up.as_secs_f64());
                if let Some(profiling) = &mut self.profiling {
                    profiling.saving();
                }
            }
            Err(error) => {
                let error = &error.to_string();
                (self.on_event)(&Event::CheckpointFailed { step, error });
            }
        }
        Ok(())
    }

    /// Without a folder of checkpoints, a run that may go back keeps a copy of its state.
    fn keep_in_memory_if_due(&mut self) -> Result<()> {
        let step = self.step_number();
        let every = self.config.checkpoint.every_steps;
        if self.restore_point.is_some() && is_due(step, every, false) {
            self.restore_point = Some(RestorePoint::in_memory(self.state()?));
        }
        Ok(())
    }

    /// Tells what became of the saves in the background.
    fn tell_saves(&mut self) {
        let outcomes = self.checkpointing.as_mut().map(Checkpointing::finished);
        self.tell_outcomes(outcomes.unwrap_or_default());
    }

    fn tell_outcomes(&mut self, outcomes: Vec<SaveOutcome>) {
        for outcome in outcomes {
            if let (Ok(saved), Some(point)) = (&outcome.result, &mut self.restore_point) {
                *point = RestorePoint::on_disk(saved.path.clone());
            }
            if let Some(profiling) = &mut self.profiling {
                profiling.saved(&outcome.timing);
            }
            tell_save(&outcome, &mut self.on_event);
        }
    }

    /// Why the run ends now, if it does.
    fn end(&self, signs: Signs) -> Option<End> {
        if self.is_over() { Some(End::Completed) } else { signs.stop.map(End::Stopped) }
    }

    /// Why this rank asks for a stop, if it does.
    fn stop_reason(&self) -> Option<StopReason> {
        if self.stop.is_requested() {
            return Some(StopReason::Signal);
        }
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        is_over.then_some(StopReason::MaxMinutes)
    }

    /// Whether all steps were taken.
    fn is_over(&self) -> bool {
        self.step_number() >= self.steps || self.feed.is_over()
    }

    fn step_number(&self) -> u64 {
        self.step.state().step()
    }

    /// Loads what this rank holds of a checkpoint.
    fn load(&self, checkpoint: &Path, check: Check) -> Result<Loaded> {
        let entry = Entry::open(checkpoint);
        if self.ranks.is_alone() {
            return entry?.load(check);
        }
        let opened = shared_loading::open(&self.ranks, entry, check)?;
        shared_loading::read(&self.ranks, opened, &self.step, &self.holdings)
    }

    fn state(&self) -> Result<RunState> {
        let (step, arrays) = (self.step_number(), self.step.snapshot()?);
        Ok(RunState { step, arrays, progress: self.progress.clone() })
    }
}

/// How a run begins and how it is over.
impl<'a, M: BaseModel + ?Sized> Run<'a, M> {
    /// Checks what can be checked before the first step, and goes to the checkpoint to resume from.
    pub(super) fn start(mut trainer: Trainer<'a, M>, loader: DataLoader) -> Result<Self> {
        let ranks = Ranks::of(&trainer.mesh);
        if !ranks.is_first() {
            // They do the same, and one of them tells it.
            trainer.on_event = Box::new(|_| ());
            trainer.profile.iter_mut().for_each(|profile| profile.metal_capture = None);
        }
        // What one rank is refused for ends all, before they wait for each other.
        let prepared = Prepared::of(&mut trainer, loader);
        let prepared = ranks.agree(prepared)?;
        let Prepared { loader, optimizer, given, sanity, first, warnings } = prepared;
        let Trainer { model, mut config, schedule, held_out, metrics, mesh, weights, .. } = trainer;
        if !ranks.is_alone() {
            // Each rank chose for itself what `auto` stands for.
            let policy = ranks.text_of_first(|| config.gradient_checkpointing.to_string())?;
            config.gradient_checkpointing = policy.parse()?;
        }
        let feed = Feed::new(loader, &config);
        let batches = feed.num_batches();
        let steps = batches.map_or(config.steps, |it| it.div_ceil(config.accumulation as u64));
        let schedule = schedule.map_or_else(|| config.learning_rates(steps), Ok)?;
        let (num_parameters, num_trainable) =
            (count(model.parameters()), count(model.trainable_parameters()));
        let mut options = config.step_options()?;
        options.pipeline.rows = first.as_ref().map(Rows::of);
        let mut cut = None;
        if !mesh.pipeline().is_alone() && config.pipeline_blocks == PipelineBlocks::Measured {
            let resume = trainer.resume.as_ref().filter(|_| !config.fast_dev_run);
            let saved = saved_cut(&ranks, resume, trainer.checkpoints.as_ref())?;
            let decided = StageCut::decide(&ranks, &mesh, model, first.as_ref(), &options, saved)?;
            options.pipeline.blocks = Some(cut.insert(decided).blocks.clone());
        }
        let is_resumed = trainer.resume.is_some() && !config.fast_dev_run;
        let origin = match weights {
            _ if is_resumed => Origin::Checkpoint,
            Some(weights) => Origin::Weights(weights),
            None => Origin::Model,
        };
        let step = TrainStep::from_origin(&mesh, model, optimizer, config.seed, options, origin)?;
        let holdings = if ranks.is_alone() {
            Holdings::default()
        } else {
            Holdings::of(&ranks, &step.snapshot()?, &step.placements()?)?
        };
        if config.fast_dev_run {
            (config.log_every, config.eval_every) = (1, 0);
        }
        let (began, clock) = (Instant::now(), Clock::start(&feed));
        // A time that no clock can tell never comes.
        let limit = |minutes: f64| Duration::try_from_secs_f64(60.0 * minutes).ok();
        let deadline = config.max_minutes.and_then(limit).and_then(|time| began.checked_add(time));
        let mut run = Self {
            steps: if config.fast_dev_run { steps.min(FAST_DEV_STEPS) } else { steps },
            config,
            mesh,
            ranks,
            holdings,
            step,
            feed,
            schedule,
            held_out,
            metrics,
            progress: Progress::default(),
            metric: None,
            checkpointing: None,
            restore_point: None,
            model_name: trainer.description.model,
            resolved: given,
            leaks: LeakDetector::default(),
            profiling: None,
            stop: trainer.stop,
            began,
            clock,
            agreed: Signs::default(),
            deadline,
            on_event: trainer.on_event,
            temporary: None,
        };
        let resumed =
            run.open_checkpoints(trainer.checkpoints, trainer.resume.as_ref(), &trainer.allowed)?;
        if !sanity.is_empty() {
            // As evaluations are, with as much of the model on each rank.
            run.step.evaluate_parts(sanity.into_iter().map(Ok), &mut run.metrics)?;
        }
        let (config, steps, num_rows) = (&run.config, run.steps, run.feed.num_rows());
        let started = Started { config, steps, num_parameters, num_trainable, num_rows };
        (run.on_event)(&Event::Started(started));
        if let Some(resumed) = resumed {
            resumed.tell(&mut run.on_event);
        }
        if let Some(StageCut { blocks, seconds }) = &cut {
            (run.on_event)(&Event::PipelineCut { blocks, seconds: *seconds });
        }
        for warning in &warnings {
            (run.on_event)(&Event::Warning(warning));
        }
        if let Some(options) = trainer.profile {
            let steps_left = run.steps.saturating_sub(run.step_number());
            run.profiling = Some(Profiling::new(options, steps_left));
        }
        run.step.model().training_mode(true);
        Ok(run)
    }

    /// Prepares to save, and goes to the checkpoint to resume from.
    fn open_checkpoints(
        &mut self,
        checkpoints: Option<Checkpoints>,
        resume: Option<&Resume>,
        allowed: &[String],
    ) -> Result<Option<Resumed>> {
        let mut checkpoints = checkpoints.filter(|_| self.ranks.is_first());
        let mut resumed = None;
        if self.config.fast_dev_run {
            let made = self.ranks.is_first().then(temporary_checkpoints).transpose();
            let (folder, in_it) = self.ranks.agree(made)?.unzip();
            (self.temporary, checkpoints) = (folder, in_it);
        } else if let Some(resume) = resume {
            resumed = Some(self.resume_from(resume, checkpoints.as_ref(), allowed)?);
        }
        if !self.ranks.is_alone() {
            checkpoints = shared_loading::folder_of_first(&self.ranks, checkpoints)?;
        }
        let rolls_back = self.config.non_finite == NonFinite::Rollback
            || self.config.spike.action == SpikeAction::Rollback;
        if rolls_back {
            self.restore_point = Some(match &resumed {
                Some(resumed) => RestorePoint::on_disk(resumed.checkpoint.clone()),
                None => RestorePoint::in_memory(self.state()?),
            });
        }
        if let Some(checkpoints) = checkpoints {
            let config = &self.config.checkpoint;
            let saved = resumed.as_ref().map(|it| (it.step, it.checkpoint.clone()));
            self.checkpointing = Some(if self.ranks.is_alone() {
                Checkpointing::new(checkpoints, config, saved)?
            } else {
                let folder = SharedFolder { checkpoints, config: config.clone() };
                let share = self.holdings.share.clone();
                let shared = SharedSaver::new(self.ranks.clone(), folder, share)?;
                Checkpointing::shared(shared, config, saved)
            });
        }
        Ok(resumed)
    }

    /// Puts everything where it was when the checkpoint was saved.
    fn resume_from(
        &mut self,
        resume: &Resume,
        checkpoints: Option<&Checkpoints>,
        allowed: &[String],
    ) -> Result<Resumed> {
        let compare = |manifest: &Manifest, config: &Value, checkpoint: &Path| {
            let saved = resume::Described { model: &manifest.model, config };
            let now = resume::Described { model: &self.model_name, config: &self.resolved };
            resume::compare(&saved, &now, allowed, checkpoint)
        };
        let blame = |step: u64, error: Error| resume.blame(checkpoints, step, error);
        let (loaded, differences) = if self.ranks.is_alone() {
            let entry = resume.find(checkpoints)?;
            let loaded = entry.load(Check::Hashes).map_err(|error| blame(entry.step, error))?;
            let differences = compare(&loaded.manifest, &loaded.config, &loaded.path)?;
            (loaded, differences)
        } else {
            // Rank 0 chooses, so that all go on from the same.
            let ranks = &self.ranks;
            let found = ranks.is_first().then(|| resume.find(checkpoints)).transpose();
            let found = ranks.agree(found)?.map(|entry| entry.path);
            let entry = shared_loading::entry_of_first(ranks, found)?;
            let step = entry.as_ref().map_or(0, |entry| entry.step);
            let opened = shared_loading::open(ranks, entry, Check::Hashes);
            let opened = opened.map_err(|error| blame(step, error))?;
            let differences = compare(&opened.manifest, &opened.config, &opened.path)?;
            (shared_loading::read(ranks, opened, &self.step, &self.holdings)?, differences)
        };
        let checkpoint = loaded.path.clone();
        let (RunState { step, arrays, progress }, data) = RunState::of(loaded)?;
        self.feed.resume_at(&data)?;
        self.step.restore(&arrays, step)?;
        self.progress = progress;
        Ok(Resumed { step, checkpoint, differences })
    }

    /// Waits for the last checkpoint, and tells how it went.
    fn finish(mut self, end: End) -> Result<Trained> {
        let mut checkpoint = None;
        if let Some(mut checkpointing) = self.checkpointing.take() {
            let outcomes = checkpointing.settle()?;
            self.tell_outcomes(outcomes);
            checkpoint = checkpointing.newest().cloned();
        }
        let step = self.step_number();
        if let Some(profiling) = self.profiling.as_mut().filter(|_| self.ranks.is_first()) {
            profiling.write(step, &mut self.on_event);
        }
        if self.config.fast_dev_run {
            let path = checkpoint.take().ok_or(TrainError::NoCheckpointSaved)?;
            let (state, _) = RunState::of(self.load(&path, Check::Hashes)?)?;
            self.step.restore(&state.arrays, state.step)?;
        }
        self.step.model().training_mode(false);
        self.step.adopt_averaged_weights()?;
        let outcome = match end {
            End::Completed => Outcome::Completed,
            End::Stopped(reason) => Outcome::Stopped { reason, checkpoint },
        };
        let (step, history) = (self.step_number(), self.progress.history);
        (self.on_event)(&Event::Finished(Finished {
            step,
            num_targets: self.progress.num_targets,
            elapsed_seconds: self.began.elapsed().as_secs_f64(),
            history: &history,
            outcome: &outcome,
        }));
        Ok(Trained { history, step, outcome })
    }
}

/// What is known before ranks wait for each other.
struct Prepared<'a> {
    loader: DataLoader,
    optimizer: Box<dyn Optimizer + 'a>,
    /// The config of everything, as it was given.
    given: Value,
    /// This rank's part of what is evaluated before the first step.
    sanity: Vec<(Batch, bool)>,
    /// What the stages of a pipeline look at the model with.
    first: Option<Batch>,
    warnings: Vec<String>,
}

impl<'a> Prepared<'a> {
    /// Checks what a rank can check by itself, and chooses what `auto` in the config stands for.
    fn of<M: BaseModel + ?Sized>(trainer: &mut Trainer<'a, M>, loader: DataLoader) -> Result<Self> {
        let Trainer { model, config, held_out, metrics, mesh, .. } = trainer;
        let parallelism = mesh.parallelism();
        if ![Parallelism::NONE, parallelism].contains(&config.parallel) {
            let asked = config.parallel;
            return Err(TrainError::OtherMesh { asked, mesh: parallelism }.into());
        }
        check_metrics(config, held_out.is_some(), metrics)?;
        let (limits, memory_warning) = MemoryLimits::of(&config.memory, &device_info()?)?;
        limits.apply()?;
        if let Some(path) = trainer.profile.as_ref().and_then(|it| it.metal_capture.as_ref()) {
            MetalCapture::check(path)?;
        }
        let optimizer = trainer.optimizer.take();
        let optimizer = optimizer.map_or_else(|| config.optimizer.build(&config.groups), Ok)?;
        let given = trainer.description.with_train(config.to_value());
        // Before ranks wait for each other, and as one refusal of all.
        model::splits(*model, mesh.tensor().world_size())?;
        let data = mesh.data();
        let loader = loader.part(data.rank(), data.world_size())?;
        // What is wrong with the data, the first step says.
        let batch = || loader.peek()?.ok();
        // A rank that holds a part of the model needs less than the estimate, which is of all of it.
        let checks = config.memory.memory_check;
        if parallelism != Parallelism::data(data.world_size()) {
            config.memory.memory_check = MemoryCheck::Off;
        }
        let does_not_fit = check_memory(*model, config, &optimizer, batch, Machine::here()?);
        config.memory.memory_check = checks;
        let does_not_fit = does_not_fit?;
        let sanity = held_out.iter().flat_map(|held_out| {
            held_out_batches(*held_out, config, mesh).take(config.sanity_batches)
        });
        let sanity = sanity.collect::<Result<_>>()?;
        let is_pipelined = !mesh.pipeline().is_alone();
        let first = is_pipelined.then(|| loader.peek()).flatten().transpose()?;
        let warnings = memory_warning.into_iter().chain(does_not_fit).collect();
        Ok(Self { loader, optimizer, given, sanity, first, warnings })
    }
}

/// This rank's part of the batches of held-out data, and whether each counts.
fn held_out_batches<'d>(
    held_out: &'d dyn Dataset,
    config: &TrainConfig,
    mesh: &Mesh,
) -> impl Iterator<Item = Result<(Batch, bool)>> + use<'d> {
    let (part, parts) = (mesh.data().rank(), mesh.data().world_size());
    // As in a step, or float inputs would take the computation to f32.
    let precision = config.precision;
    data::parts_of_batches(held_out, config.batch_size, part, parts).map(move |batch| {
        let (batch, counts) = batch?;
        Ok((precision.batch_to_compute(batch)?, counts))
    })
}

/// How the run that goes on was cut, as its checkpoint says, to rank 0; what is wrong with that is told when it is
/// loaded.
fn saved_cut(
    ranks: &Ranks,
    resume: Option<&Resume>,
    checkpoints: Option<&Checkpoints>,
) -> Result<Option<Vec<usize>>> {
    let saved = ranks.text_of_first(|| {
        let progress = resume.and_then(|it| it.find(checkpoints).ok()?.progress().ok());
        progress.map(|it| it["pipeline_blocks"].to_string()).unwrap_or_default()
    })?;
    Ok(serde_json::from_str(&saved).ok())
}

/// A folder that goes at the end, and the checkpoints of a new run in it.
fn temporary_checkpoints() -> Result<(TempDir, Checkpoints)> {
    let folder = TempDir::with_prefix("fast_dev_run-")
        .map_err(|error| Error::message(format!("cannot make a temporary folder: {error}")))?;
    let checkpoints = Checkpoints::create(folder.path())?;
    Ok((folder, checkpoints))
}

impl Resumed {
    fn tell(&self, on_event: &mut dyn FnMut(&Event<'_>)) {
        let Self { step, checkpoint, differences } = self;
        on_event(&Event::Resumed { step: *step, checkpoint });
        if !differences.is_empty() {
            let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
            let lines = lines.join(", ");
            on_event(&Event::Warning(&format!("the config is not the checkpoint's: {lines}")));
        }
    }
}

/// Whether something that is done every so many steps is done after this one; after the last it is.
fn is_due(step: u64, every: u64, is_last: bool) -> bool {
    is_last || (every > 0 && step.is_multiple_of(every))
}

/// How many numbers there are in these arrays.
fn count(parameters: ModuleParamRef<'_>) -> u64 {
    parameters.flatten().values().map(|array| array.size() as u64).sum()
}

/// Refuses settings that watch what no evaluation will measure.
fn check_metrics(config: &TrainConfig, is_evaluated: bool, metrics: &[Metric<'_>]) -> Result<()> {
    let early_stopping = config.early_stopping.as_ref().map(|it| it.metric.as_str());
    if early_stopping.is_some() && !is_evaluated {
        return Err(TrainError::NoHeldOut { setting: "early_stopping".into() }.into());
    }
    let watched = [
        ("early_stopping.metric", early_stopping),
        ("checkpoint.metric", is_evaluated.then_some(config.checkpoint.metric.as_str())),
    ];
    let known: Vec<&str> =
        [Evaluation::LOSS].into_iter().chain(metrics.iter().map(Metric::name)).collect();
    for (setting, name) in watched {
        if let Some(name) = name.filter(|name| !known.contains(name)) {
            return Err(TrainError::unknown_metric(setting, name, &known).into());
        }
    }
    Ok(())
}

fn tell_save(outcome: &SaveOutcome, on_event: &mut dyn FnMut(&Event<'_>)) {
    let SaveOutcome { step, result, timing } = outcome;
    match result {
        Ok(saved) => {
            let (path, bytes) = (saved.path.as_path(), saved.num_bytes);
            let seconds = timing.written.as_secs_f64();
            on_event(&Event::CheckpointSaved { step: *step, path, bytes, seconds });
            if let Some(warning) = &saved.warning {
                on_event(&Event::Warning(warning));
            }
        }
        Err(error) => {
            on_event(&Event::CheckpointFailed { step: *step, error: &error.to_string() });
        }
    }
}
