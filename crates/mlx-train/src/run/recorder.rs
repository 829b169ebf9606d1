//! One type that writes down what a run does.

use super::{
    About, Environment, RunFolder, Session,
    charts::HELD_OUT,
    journal::{Entry, EventKind},
    lines::{Line, Lines},
};
use crate::{
    Error, Result, clock,
    ffi::device_info,
    mlx_rs::Dtype,
    profile::{Memory, peak_flops},
    progress::Progress,
    tensorboard::EventFile,
    train::{Evaluation, Event, Precision, Started, StepReport},
};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

/// Writes a training run down while it goes on, and shows it on standard error.
///
/// It consumes the events of a [`Trainer`](crate::train::Trainer) and writes what [`RunFolder`]
/// lists: numbers at each report, the report page now and then and at the end. A run that fails has
/// all of it too. Trouble with writing is told once and does not end the run.
///
/// ```no_run
/// # use mlx_train::{prelude::*, data::Dataset, run::{RunFolder, RunRecorder}, train::{TrainConfig, Trainer}};
/// # fn example(mut model: Box<dyn BaseModel>, data: impl Dataset + 'static) -> Result<()> {
/// let recorder = RunRecorder::new(RunFolder::create("runs/first", false)?).unit("bytes");
/// let trainer = Trainer::new(&mut model, TrainConfig::default())?;
/// let trained = recorder.end(trainer.on_event(|event| recorder.record(event)).run(data))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RunRecorder {
    folder: RunFolder,
    progress: Option<Progress>,
    about: About,
    has_perplexity: bool,
    flops_per_token: Option<f64>,
    peak_flops: Option<f64>,
    state: RefCell<State>,
}

/// What changes while the run goes on.
#[derive(Debug, Default)]
struct State {
    /// The run that began and of which nothing is written yet: it may go on from a checkpoint.
    begun: Option<Begun>,
    files: Option<Files>,
    last_step: u64,
    /// What is known to be wrong with writing, so that it is told once.
    troubles: HashSet<String>,
    /// When the page may be written again.
    next_page: Option<Instant>,
    is_over: bool,
}

/// The beginning of a run, for `run.json` and for the journal.
#[derive(Debug)]
struct Begun {
    session: Session,
    entry: Option<Entry>,
    /// In which it computes.
    dtype: Dtype,
    /// The step that it goes on from, if it does.
    resumed_at: Option<u64>,
}

/// The files that grow.
#[derive(Debug)]
struct Files {
    metrics: Lines,
    journal: Lines,
    tensorboard: EventFile,
    /// Of the device, in floating-point operations per second.
    peak_flops: Option<f64>,
}

/// How long a page stays as it is while a run goes on, at least.
const PAGE_AGE: Duration = Duration::from_secs(30);
/// How many times longer than it takes to write: long runs have many numbers, and the step waits.
const PAGE_SHARE: u32 = 100;

impl RunRecorder {
    /// A recorder that writes into a folder and shows progress on standard error.
    pub fn new(folder: RunFolder) -> Self {
        Self {
            folder,
            progress: Some(Progress::new("targets")),
            about: About::default(),
            has_perplexity: false,
            flops_per_token: None,
            peak_flops: None,
            state: RefCell::default(),
        }
    }

    /// Sets what the run is called in its report, such as the name of the model.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.about.title = title.into();
        self
    }

    /// Sets what a target is: "tokens", "images".
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.about.unit = unit.into();
        if let Some(progress) = &mut self.progress {
            *progress = Progress::new(&self.about.unit);
        }
        self
    }

    /// Shows nothing on standard error.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.progress = None;
        self
    }

    /// Adds a loss to compare with, which charts show as a line.
    #[must_use]
    pub fn reference(mut self, label: impl Into<String>, loss: f64) -> Self {
        self.about.references.push((label.into(), loss));
        self
    }

    /// Records the perplexity, `exp(loss)`, besides the loss: for losses in nats per token.
    #[must_use]
    pub fn perplexity(mut self) -> Self {
        self.has_perplexity = true;
        self
    }

    /// Records the share of the device's peak that training uses, where the peak is known.
    ///
    /// `flops` is what one target takes, forward and backward, in floating-point operations; see
    /// [`TransformerFlops`](crate::profile::TransformerFlops). The share is that of
    /// Chowdhery et al., arXiv:2204.02311, appendix B: what is recomputed does not count.
    #[must_use]
    pub fn flops_per_token(mut self, flops: f64) -> Self {
        self.flops_per_token = Some(flops);
        self
    }

    /// Sets the device's peak in floating-point operations per second, unless it is that of
    /// [`peak_flops`] for the precision of the run.
    #[must_use]
    pub fn peak_flops(mut self, flops_per_second: f64) -> Self {
        self.peak_flops = Some(flops_per_second);
        self
    }

    /// The folder that is written to.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Writes down what happened, and shows it.
    pub fn record(&self, event: &Event<'_>) {
        if let Some(progress) = &self.progress {
            progress.show(event);
        }
        let mut state = self.state.borrow_mut();
        let outcome = self.write(&mut state, event);
        self.tell_trouble(&mut state, outcome);
    }

    /// Writes down how the run ended, and the last page; returns `result` as it is.
    ///
    /// # Errors
    /// That of `result`.
    pub fn end<T>(&self, result: Result<T>) -> Result<T> {
        let failure = result.as_ref().err().map(|error| format!("{error:?}"));
        self.conclude(failure.as_deref());
        result
    }

    fn conclude(&self, failure: Option<&str>) {
        if let Some(progress) = &self.progress {
            progress.close();
        }
        let mut state = self.state.borrow_mut();
        let has_begun = state.begun.is_some() || state.files.is_some();
        if state.is_over || !has_begun {
            return;
        }
        state.is_over = true;
        if let Some(text) = failure {
            let outcome = self.write_failure(&mut state, text);
            self.tell_trouble(&mut state, outcome);
        }
        let outcome = self.write_page(&mut state);
        self.tell_trouble(&mut state, outcome);
    }

    fn write(&self, state: &mut State, event: &Event<'_>) -> Result<()> {
        if let Event::Started(started) = event {
            let begun = Begun {
                session: session(started),
                entry: Entry::of(event),
                dtype: match started.config.precision {
                    Precision::F32 => Dtype::Float32,
                    Precision::Mixed | Precision::Bf16 { .. } => Dtype::Bfloat16,
                },
                resumed_at: None,
            };
            *state = State { begun: Some(begun), ..State::default() };
            return Ok(());
        }
        if let Some(begun) = &mut state.begun {
            if let Event::Resumed { step, .. } = event {
                begun.resumed_at = Some(*step);
            }
            // What fails now may work at the next event.
            state.files = Some(self.open(begun)?);
            state.begun = None;
            self.write_page(state)?;
        }
        let State { files: Some(files), last_step, .. } = state else {
            return Ok(());
        };
        match event {
            Event::Step(report) => {
                *last_step = report.step;
                let numbers = self.of_report(report, files.peak_flops);
                files.numbers(report.step, numbers)?;
            }
            Event::Evaluated { step, evaluation, seconds } => {
                files.numbers(*step, self.of_evaluation(evaluation, *seconds))?;
            }
            // The lines of the steps that are taken again would come twice.
            Event::RolledBack { to, .. } => {
                let told = files.event_of(event, *last_step);
                *last_step = *to;
                files.metrics = self.metrics_up_to(Some(*to))?;
                files.tensorboard.restart(to + 1).and(told)?;
            }
            _ => files.event_of(event, *last_step)?,
        }
        match event {
            Event::CheckpointSaved { .. } => {
                // What a resume goes on from is to be there after a power cut as well.
                files.metrics.sync()?;
                self.refresh_page(state)
            }
            Event::Evaluated { .. } => self.refresh_page(state),
            Event::Finished(_) => {
                files.metrics.sync()?;
                state.is_over = true;
                self.write_page(state)
            }
            _ => Ok(()),
        }
    }

    /// Opens the files of a run that goes on after some steps, or of a new one.
    fn open(&self, begun: &Begun) -> Result<Files> {
        let resumed_at = begun.resumed_at;
        let first_step = resumed_at.unwrap_or(0);
        let session = Session { first_step, ..begun.session.clone() };
        let started = begun.entry.clone().map(|entry| Entry { step: Some(first_step), ..entry });
        let mut entries: Vec<_> = started.into_iter().collect();
        let mut about = About { sessions: Vec::new(), ..self.about.clone() };
        if resumed_at.is_some() {
            // A damaged file is replaced: the run matters more than what is known of its past.
            match About::read(&self.folder.about()) {
                Ok(before) => about.sessions = before.sessions,
                Err(error) => {
                    entries.push(Entry::now(EventKind::Warning, resumed_at, error.to_string()));
                }
            }
        } else {
            self.folder.remove_records()?;
        }
        let environment = &session.environment;
        let environment: Vec<_> = environment.rows().iter().map(markdown_row).collect();
        about.sessions.push(session);
        about.write(&self.folder.about())?;

        let metrics = self.metrics_up_to(resumed_at)?;
        let mut journal = Lines::open(self.folder.events(), |_| true)?;
        for entry in entries {
            journal.append(&line_of(&entry)?)?;
        }
        let mut tensorboard = EventFile::create(self.folder.path())?;
        if let Some(step) = resumed_at {
            tensorboard.restart(step + 1)?;
        }
        // The run is what matters; a config is there if somebody has written it.
        if let Ok(config) = fs::read_to_string(self.folder.config()) {
            tensorboard.text(first_step, "config", &format!("```toml\n{config}\n```"))?;
        }
        let table = format!("| | |\n|---|---|\n{}", environment.concat());
        tensorboard.text(first_step, "environment", &table)?;
        let peak_flops = self.peak_flops.or_else(|| peak_flops(&device_info().ok()?, begun.dtype));
        Ok(Files { metrics, journal, tensorboard, peak_flops })
    }

    /// The metrics, without what comes after `step`; without any for a new run.
    fn metrics_up_to(&self, step: Option<u64>) -> Result<Lines> {
        let keep = |line: &Line| {
            let of_line = line.get("step").and_then(Value::as_u64);
            step.zip(of_line).is_some_and(|(step, of_line)| of_line <= step)
        };
        Lines::open(self.folder.metrics(), keep)
    }

    fn of_report(&self, report: &StepReport, peak_flops: Option<f64>) -> Vec<(String, f64)> {
        let StepReport { loss, seconds, memory, tokens_per_second, .. } = report;
        let Memory { active_bytes, peak_bytes, cache_bytes, resident_bytes, swap_bytes, .. } =
            *memory;
        let per_step = |seconds: f64| seconds / report.num_steps.max(1) as f64;
        let utilization = self.flops_per_token.zip(peak_flops);
        let utilization = utilization.map(|(flops, peak)| flops * tokens_per_second / peak);
        let numbers = [
            ("loss", Some(*loss)),
            ("perplexity", self.has_perplexity.then(|| loss.exp())),
            ("learning_rate", Some(report.learning_rate)),
            ("grad_norm", Some(report.grad_norm)),
            ("epochs", Some(report.epochs)),
            ("tokens_per_second", Some(*tokens_per_second)),
            ("model_flops_utilization", utilization),
            ("data_seconds", Some(per_step(seconds.data))),
            ("compute_seconds", Some(per_step(seconds.compute))),
            ("save_seconds", Some(per_step(seconds.save))),
            ("elapsed_seconds", Some(report.elapsed_seconds)),
            ("active_bytes", Some(active_bytes as f64)),
            ("peak_bytes", Some(peak_bytes as f64)),
            ("cache_bytes", Some(cache_bytes as f64)),
            ("resident_bytes", resident_bytes.map(|bytes| bytes as f64)),
            ("swap_bytes", swap_bytes.map(|bytes| bytes as f64)),
        ];
        let known = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        known.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn of_evaluation(&self, evaluation: &Evaluation, seconds: f64) -> Vec<(String, f64)> {
        let loss = evaluation.loss;
        let held_out = |(name, value): (&str, f64)| (format!("{HELD_OUT}{name}"), value);
        let perplexity = self.has_perplexity.then(|| ("perplexity", loss.exp()));
        let metrics = evaluation.metrics.iter().map(|(name, value)| (name.as_str(), *value));
        let numbers = [("loss", loss)].into_iter().chain(perplexity).chain(metrics);
        let seconds = ("evaluation_seconds".to_owned(), seconds);
        numbers.map(held_out).chain([seconds]).collect()
    }

    fn write_failure(&self, state: &mut State, text: &str) -> Result<()> {
        let entry = Entry::now(EventKind::Failed, Some(state.last_step), text);
        if let Some(begun) = state.begun.take() {
            // It failed before anything told whether it is a new run: what is there stays.
            let mut journal = Lines::open(self.folder.events(), |_| true)?;
            let mut entries = begun.entry.into_iter().chain([entry]);
            return entries.try_for_each(|entry| journal.append(&line_of(&entry)?));
        }
        state.files.as_mut().map_or(Ok(()), |files| files.event(&entry))
    }

    fn refresh_page(&self, state: &mut State) -> Result<()> {
        match state.next_page {
            Some(next) if Instant::now() < next => Ok(()),
            _ => self.write_page(state),
        }
    }

    fn write_page(&self, state: &mut State) -> Result<()> {
        let began = Instant::now();
        let plots =
            if state.is_over { self.folder.draw(self.folder.plots()).map(drop) } else { Ok(()) };
        let page = self.folder.write_report().map(drop);
        // Also when it failed: a full disk is not asked again at each event.
        state.next_page = Some(Instant::now() + PAGE_AGE.max(began.elapsed() * PAGE_SHARE));
        plots.and(page)
    }

    fn tell_trouble(&self, state: &mut State, outcome: Result<()>) {
        let Err(error) = outcome else { return };
        let text = format!("the run goes on, but its record is not complete: {error}");
        if !state.troubles.insert(text.clone()) {
            return;
        }
        if let Some(progress) = &self.progress {
            progress.line(&format!("warning: {text}"));
        }
        let entry = Entry::now(EventKind::Warning, Some(state.last_step), text);
        // What cannot be written either was told already.
        _ = state.files.as_mut().map(|files| files.event(&entry));
    }
}

impl Drop for RunRecorder {
    fn drop(&mut self) {
        self.conclude(Some(
            "the run ended before its last step; pass its result to `RunRecorder::end` to record why",
        ));
    }
}

impl Files {
    fn numbers(&mut self, step: u64, numbers: Vec<(String, f64)>) -> Result<()> {
        let tags: Vec<_> = numbers.iter().map(|(name, value)| (tag(name), *value)).collect();
        let tags = tags.iter().map(|(tag, value)| (tag.as_str(), *value));
        let shown = self.tensorboard.scalars(step, tags);
        let mut line = Line::new();
        line.insert("step".into(), step.into());
        line.insert("time".into(), clock::now().into());
        // JSON has no NaN, so a number that is none becomes null.
        line.extend(numbers.into_iter().map(|(name, value)| (name, Value::from(value))));
        self.metrics.append(&line).and(shown)
    }

    /// Writes an event of the trainer, at `last_step` unless it tells its own step.
    fn event_of(&mut self, event: &Event<'_>, last_step: u64) -> Result<()> {
        match Entry::of(event) {
            Some(entry) => self.event(&Entry { step: entry.step.or(Some(last_step)), ..entry }),
            None => Ok(()),
        }
    }

    fn event(&mut self, entry: &Entry) -> Result<()> {
        self.journal.append(&line_of(entry)?)
    }
}

/// The process that begins to work on a run.
fn session(started: &Started<'_>) -> Session {
    Session {
        started: clock::now(),
        first_step: 0,
        steps: started.steps,
        num_parameters: started.num_parameters,
        num_trainable: started.num_trainable,
        num_rows: started.num_rows as u64,
        environment: Environment::here(),
    }
}

fn line_of(entry: &Entry) -> Result<Line> {
    let line = serde_json::to_value(entry).and_then(serde_json::from_value);
    line.map_err(|error| Error::message(format!("cannot describe the event {entry:?}: {error}")))
}

/// The tag of a metric in TensorBoard, where what comes before the `/` groups charts.
fn tag(metric: &str) -> String {
    let group = match metric {
        name if name.starts_with(HELD_OUT) => return name.replacen(HELD_OUT, "held_out/", 1),
        name if name.ends_with("_bytes") => "memory",
        name if name.contains("second") || name == "model_flops_utilization" => "speed",
        _ => "train",
    };
    format!("{group}/{metric}")
}

fn markdown_row((label, value): &(&str, String)) -> String {
    let value = value.replace('|', "\\|").replace('\n', " ");
    format!("| {label} | {value} |\n")
}
