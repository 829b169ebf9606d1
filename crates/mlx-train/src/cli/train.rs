//! `train`: a model by name, on data from files, into a run folder.

use super::{
    Failure,
    args::{Layout, RunSource, TrainArgs},
    batch_size,
    data::Data,
    origin::{Origin, RUNS, new_folder, resume_command},
    plan, program_name,
    settings::Settings,
    signals::stop_on_signal,
};
use crate::{
    Error, Result,
    data::DataError,
    distributed::{Backend, Group, Mesh, Parallelism},
    ffi::MetalCapture,
    mlx_rs::{memory::memory_limit, module::ModuleParamRef},
    model::BaseModel,
    nn::LoraLinear,
    plan::Choice,
    profile::{Bytes, Memory, TransformerFlops},
    rng,
    run::{RunFolder, RunRecorder},
    store::{Checkpoints, LoadOptions, StoredWeights, save_weights},
    summary::Summary,
    train::{
        Event, Outcome, ProfileOptions, Resume, RunDescription, StopReason, TrainError, Trained,
        Trainer, accuracy,
    },
};
use serde_json::{Value, json};
use std::{
    io::{Write, stderr},
    path::{Path, PathBuf},
    time::Instant,
};
use tempfile::TempDir;

/// The settings of the run.
///
/// # Errors
/// When they are refused, or there is no run to go on with.
pub(super) fn settings(args: &TrainArgs) -> Result<Settings> {
    let origin = Origin::of(args)?;
    Settings::resolve(&source(args, origin.as_ref()))
}

pub(super) fn run(args: &TrainArgs, out: &mut impl Write) -> Result<(), Failure> {
    if let Some(batch_size) = args.try_batch_size {
        let tried = batch_size::try_out(&settings(args).map_err(Failure::Refused)?, batch_size);
        return Ok(writeln!(out, "{}", json!(tried.map_err(Failure::Failed)?))?);
    }
    let mut args = args.clone();
    if args.find_batch_size {
        refuse_ranks().map_err(Failure::Refused)?;
        let settings = settings(&args).map_err(Failure::Refused)?;
        let batch_size = batch_size::find(settings).map_err(Failure::Failed)?;
        _ = writeln!(stderr(), "trains with train.batch_size = {batch_size}");
        args.run.set.push(format!("train.batch_size={batch_size}"));
    }
    let group = Group::of_environment().map_err(Failure::Refused)?;
    let planned = group.agree(planned(&args, &group)).map_err(Failure::Refused)?;
    args.run.set.extend(planned.iter().flat_map(Choice::overrides));
    // What one rank is refused for ends all, before they wait for each other.
    let run = group.agree(Run::prepare(&args, &group)).map_err(Failure::Refused)?;
    match run.train().map_err(failure)? {
        Some(report) => Ok(writeln!(out, "{report}")?),
        None => Ok(()),
    }
}

/// The settings that a plan decides: one from a file, or one of these ranks.
fn planned(args: &TrainArgs, group: &Group) -> Result<Option<Choice>> {
    let choice = match (&args.plan, args.parallel) {
        (Some(path), _) => {
            let choice = Choice::load(path)?;
            let model = settings(args)?.model.model().name();
            if choice.model != model {
                return Err(Error::message(format!(
                    "`{}` is a plan for the model {} and this is {model}; make one with `{} plan --model {model}`",
                    path.display(),
                    choice.model,
                    program_name()
                )));
            }
            choice
        }
        (None, Some(Layout::Auto)) => plan::of_ranks(&settings(args)?, group)?,
        (None, _) => return Ok(None),
    };
    if group.is_first() {
        _ = writeln!(stderr(), "trains with {}", choice.overrides().join(" "));
    }
    Ok(Some(choice))
}

/// A try is a process of its own, which would be none of the ranks.
fn refuse_ranks() -> Result<()> {
    match Backend::of_environment() {
        None => Ok(()),
        Some(backend) => Err(Error::message(format!(
            "this process is a rank of a group over {backend}, and --find-batch-size tries steps of one process; find \
             the batch size without `launch`, and multiply it by the number of ranks that share rows"
        ))),
    }
}

/// The ranks in the layout of the settings; without one, several ranks have copies of the model.
fn mesh_of(settings: &Settings, group: &Group) -> Result<Mesh> {
    let parallelism = match settings.train.parallel {
        Parallelism::NONE => Parallelism::data(group.world_size()),
        parallelism => parallelism,
    };
    if group.is_alone() && parallelism.num_ranks() > 1 {
        let ranks = parallelism.num_ranks();
        return Err(Error::message(format!(
            "train.parallel is `{parallelism}`, which takes {ranks} ranks, and this is one process; start it with \
             `{} launch -n {ranks} -- {} train …`",
            program_name(),
            program_name()
        )));
    }
    Mesh::new(group, parallelism)
}

/// A checkpoint that does not fit is refused before anything is computed or written.
fn failure(error: Error) -> Failure {
    match error {
        Error::Train(
            TrainError::ConfigChanged { .. }
            | TrainError::StateMismatch { .. }
            | TrainError::DoesNotFit { .. },
        )
        | Error::Data(DataError::Position { .. })
        | Error::Checkpoint(_)
        | Error::CheckpointPolicy(_) => Failure::Refused(error),
        _ => Failure::Failed(error),
    }
}

/// Everything that a run needs, checked.
struct Run {
    settings: Settings,
    data: Data,
    model: Box<dyn BaseModel>,
    /// What the model starts with in the place of weights that are drawn.
    weights: Option<StoredWeights>,
    mesh: Mesh,
    /// Of rank 0, which writes for all.
    place: Option<Place>,
    resume: Option<Resume>,
    allowed: Vec<String>,
    profile: Option<ProfileOptions>,
}

/// Where a run is written to.
struct Place {
    folder: RunFolder,
    checkpoints: Checkpoints,
    /// The folder of a trial, which goes when this does.
    _trial: Option<TempDir>,
}

impl Place {
    /// The folder of a run that goes on, or a new one with the settings.
    fn of(
        args: &TrainArgs,
        origin: Option<Origin>,
        settings: &Settings,
        data: &Data,
    ) -> Result<Self> {
        if let Some(Origin { folder, checkpoints, .. }) = origin {
            return Ok(Self { folder, checkpoints, _trial: None });
        }
        let mut trial = None;
        let path = if settings.train.fast_dev_run {
            trial.insert(trial_folder()?).path().to_owned()
        } else {
            args.output.clone().unwrap_or_else(|| default_folder(settings))
        };
        let (folder, checkpoints) = new_folder(path, args.force)?;
        folder.write_config(&settings.to_toml()?)?;
        if let Some(tokenizer) = &data.tokenizer {
            tokenizer.save(folder.path(), args.force)?;
        }
        Ok(Self { folder, checkpoints, _trial: trial })
    }
}

impl Run {
    fn prepare(args: &TrainArgs, group: &Group) -> Result<Self> {
        let origin = Origin::of(args)?;
        let settings = Settings::resolve(&source(args, origin.as_ref()))?;
        let mesh = mesh_of(&settings, group)?;
        let data = settings.data.load()?;
        let mut model = rng::scope(&rng::key(settings.train.seed)?, || settings.model.build())?;
        let weights = args.weights.as_deref().map(|path| weights_for(model.as_ref(), path));
        let weights = weights.transpose()?;
        check_language_model(&settings, &data, model.as_mut())?;
        if has_copies(&mesh) {
            check_memory(model.as_ref())?;
        }
        check_data(&settings, &data, model.as_mut())?;

        if let Some(path) = &args.metal_capture {
            MetalCapture::check(path)?;
        }
        let resume = origin.as_ref().map(|origin| origin.resume.clone());
        let place = group.is_first().then(|| Place::of(args, origin, &settings, &data));
        let place = place.transpose()?;
        // All ranks take the steps that are recorded, in the same way; rank 0 writes the trace.
        let profile = args.profile.map(|steps| ProfileOptions {
            steps,
            trace: place.as_ref().map(|place| place.folder.trace()).unwrap_or_default(),
            metal_capture: args.metal_capture.clone(),
        });
        let allowed = args.allow.clone();
        Ok(Self { settings, data, model, weights, mesh, place, resume, allowed, profile })
    }

    /// Trains; rank 0 saves, and tells the results.
    fn train(self) -> Result<Option<String>> {
        let Self { settings, data, mut model, weights, mesh, place, resume, allowed, profile } =
            self;
        let name = settings.model.model().name();
        let is_language_model = model.as_language_model().is_some();
        let flops = flops(&settings, model.as_ref());
        let mut trainer = Trainer::new(&mut model, settings.train.clone())?
            .mesh(mesh.clone())
            .evaluate_on(&*data.held_out)
            .describe(RunDescription::new(name, settings.to_json()))
            .allow(allowed)
            .stop_on(stop_on_signal(place.is_some())?);
        if let Some(weights) = weights {
            trainer = trainer.weights(weights);
        }
        if let Some(resume) = resume {
            trainer = trainer.resume(resume);
        }
        if let Some(profile) = profile {
            trainer = trainer.profile(profile);
        }
        if data.has_classes {
            trainer = trainer.metric("accuracy", accuracy);
        }
        let Some(Place { folder, checkpoints, _trial }) = place else {
            trainer.run(data.training)?;
            return Ok(None);
        };

        let ranks = mesh.all().world_size();
        let mut recorder = RunRecorder::new(folder.clone()).title(name).unit(data.unit);
        if let Some((label, loss)) = &data.reference {
            recorder = recorder.reference(*label, *loss);
        }
        if is_language_model {
            recorder = recorder.perplexity();
        }
        if let Some(flops) = flops {
            recorder = recorder.flops_per_token(flops.per_token());
        }
        let began = Instant::now();
        Memory::reset_peak()?;
        let mut unsaved = None;
        let trainer = trainer.checkpoints(checkpoints.clone()).on_event(|event| {
            recorder.record(event);
            match event {
                Event::Resumed { .. } => keep_config(&folder, &settings),
                Event::CheckpointFailed { step, .. } => unsaved = Some(*step),
                Event::CheckpointSaved { .. } => unsaved = None,
                _ => {}
            }
        });
        let Trained { history, step, outcome } = recorder.end(trainer.run(data.training))?;

        if settings.train.fast_dev_run {
            return Ok(Some(format!("Tried {name}: it trains, and nothing of the trial was kept")));
        }
        if let Outcome::Stopped { reason: StopReason::Signal, .. } = outcome {
            return stopped(step, unsaved, &folder, ranks).map(Some);
        }
        if has_copies(&mesh) {
            save_weights(model.as_ref(), folder.weights())?;
        } else {
            let averaged = settings.train.ema_decay.is_some();
            gather_weights(&checkpoints, step, averaged, folder.weights())?;
        }
        let peak_bytes = Memory::now()?.peak_bytes;
        let mut summary =
            Summary::new(format!("Trained {name}")).history(&history, began.elapsed(), peak_bytes);
        if let Some((label, loss)) = data.reference {
            summary = summary.row(label, format!("{loss:.4}"));
        }
        if let Outcome::Stopped { reason, .. } = outcome {
            summary = summary.row(
                "stopped",
                format!("{reason}; go on with {}", resume_command(folder.path(), ranks)),
            );
        }
        let path = folder.path().display();
        let report = folder.report();
        let summary = summary.row("run folder", &path).row("report", report.display());
        Ok(Some(if is_language_model {
            format!("{summary}\nNext: {} generate {path}", program_name())
        } else {
            summary.to_string()
        }))
    }
}

/// Whether every rank has all of the model.
fn has_copies(mesh: &Mesh) -> bool {
    mesh.parallelism() == Parallelism::data(mesh.data().world_size())
}

/// Puts together the weights of which each rank has a part: from the last checkpoint, one array at a time.
fn gather_weights(
    checkpoints: &Checkpoints,
    step: u64,
    averaged: bool,
    weights: PathBuf,
) -> Result<()> {
    let last = checkpoints.latest()?.filter(|entry| entry.step == step).ok_or_else(|| {
        Error::message(format!(
            "step {step} could not be saved, and each rank has a part of the weights, so `{}` is not written; go on \
             from the checkpoint before it with --resume",
            weights.display()
        ))
    })?;
    last.save_weights(weights, averaged)
}

/// What a run that was asked to stop leaves.
fn stopped(step: u64, unsaved: Option<u64>, folder: &RunFolder, ranks: usize) -> Result<String> {
    let command = resume_command(folder.path(), ranks);
    if unsaved == Some(step) {
        return Err(Error::message(format!(
            "the run stopped after step {step}, which could not be saved; `{command}` goes on from the \
             checkpoint before it"
        )));
    }
    Ok(format!("Stopped after step {step} and saved it\n\nGo on with:\n  {command}"))
}

/// Weights of any float dtype, which need not hold the adapters of the model; nothing of them is read yet.
fn weights_for(model: &dyn BaseModel, path: &Path) -> Result<StoredWeights> {
    // Llama's older files hold wavelengths, which are computed here.
    let rename = |name: &str| (!name.ends_with("rotary_emb.inv_freq")).then(|| name.to_owned());
    let options = LoadOptions {
        cast: true,
        rename: Some(&rename),
        optional: Some(&LoraLinear::is_adapter),
        one_by_one: true,
        averaged: false,
    };
    StoredWeights::open(model, path, &options)
}

/// Where the settings come from: a run that goes on has those of its checkpoint.
fn source(args: &TrainArgs, origin: Option<&Origin>) -> RunSource {
    let mut source = args.run.clone();
    if let Some(origin) = origin.filter(|_| source.config.is_none() && source.model.is_none()) {
        source.config = Some(origin.config.clone());
    }
    source.set.extend(args.fast_dev_run.then(|| "train.fast_dev_run=true".into()));
    let policy = args.gradient_checkpointing.as_ref();
    source.set.extend(policy.map(|policy| format!("train.gradient_checkpointing={policy}")));
    if let Some(Layout::Given(parallel)) = args.parallel {
        source.set.push(format!("train.parallel='{parallel}'"));
    }
    let overfit = args.overfit_batches;
    source.set.extend(overfit.map(|batches| format!("train.overfit_batches={batches}")));
    source.set.extend(args.memory.overrides());
    source
}

pub(super) fn default_folder(settings: &Settings) -> PathBuf {
    let name = settings.model.model().name();
    Path::new(RUNS).join(format!("{name}-{}", settings.hash()))
}

fn trial_folder() -> Result<TempDir> {
    TempDir::with_prefix("mlx-train-").map_err(|error| {
        Error::message(format!("cannot make a temporary folder for a trial: {error}"))
    })
}

/// Writes the settings that a run goes on with; checkpoints have them too, so the run does not depend on it.
fn keep_config(folder: &RunFolder, settings: &Settings) {
    let written = settings.to_toml().and_then(|text| folder.write_config(&text));
    if let Err(error) = written {
        _ = writeln!(
            stderr(),
            "warning: the run goes on, but its config file is not written: {error}"
        );
    }
}

/// Tokens out of the vocabulary would be read as its last token, and make the loss NaN; positions out
/// of the context would be whatever the model makes of them.
fn check_language_model(settings: &Settings, data: &Data, model: &mut dyn BaseModel) -> Result<()> {
    let (Some(tokenizer), Some(model)) = (&data.tokenizer, model.as_language_model()) else {
        return Ok(());
    };
    let (vocab_size, context) = (model.vocab_size(), model.context_length());
    let needed = tokenizer.vocab_size() as usize;
    if vocab_size < needed {
        let unit = data.unit;
        return Err(Error::message(format!(
            "the model's vocabulary has {vocab_size} tokens and the data is of {needed} different \
             {unit}; set model.vocab_size={needed}"
        )));
    }
    let seq_len = settings.data.seq_len;
    if seq_len > context {
        return Err(Error::message(format!(
            "data.seq_len is {seq_len} and the model sees {context} tokens at once; lower \
             data.seq_len, or build a model with a longer context"
        )));
    }
    Ok(())
}

/// What a token takes in a model whose config has the sizes of a transformer.
fn flops(settings: &Settings, model: &dyn BaseModel) -> Option<TransformerFlops> {
    let config = settings.model.value();
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let parameters = model.parameters().flatten();
    Some(TransformerFlops {
        num_parameters: parameters.values().map(|array| array.size() as u64).sum(),
        num_layers: size("num_layers")?,
        attention_width: size("hidden_size")?,
        seq_len: settings.data.seq_len as u64,
    })
}

/// Refuses a model whose parameters, gradients and two moments each cannot be in memory together.
fn check_memory(model: &dyn BaseModel) -> Result<()> {
    let count = |parameters: ModuleParamRef<'_>| -> u64 {
        parameters.flatten().values().map(|array| array.nbytes() as u64).sum()
    };
    let (all, trainable) = (count(model.parameters()), count(model.trainable_parameters()));
    let (needed, limit) = (all + 3 * trainable, memory_limit()? as u64);
    if needed > limit {
        return Err(Error::message(format!(
            "the model's parameters, gradients and optimizer state need {} and MLX has {} here; \
             lower the sizes in the [model] section",
            Bytes(needed),
            Bytes(limit)
        )));
    }
    Ok(())
}

/// Lets the model see a batch, so that data of a wrong shape is refused before anything is written.
///
/// MLX checks shapes when it builds a graph; nothing is computed.
fn check_data(settings: &Settings, data: &Data, model: &mut dyn BaseModel) -> Result<()> {
    let (batch_size, num_rows) = (settings.train.batch_size, data.training.len());
    if batch_size > num_rows {
        return Err(Error::message(format!(
            "train.batch_size is {batch_size} and there are {num_rows} rows to train on; set \
             train.batch_size={num_rows} or less"
        )));
    }
    let rows: Vec<usize> = (0..batch_size).collect();
    let batch = data.training.batch(&rows)?;
    // Layers with a mode of their own would count this batch among those that they were trained on.
    model.training_mode(false);
    model.batch_loss(&batch).map(drop)
}
