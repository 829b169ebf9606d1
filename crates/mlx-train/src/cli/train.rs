//! `train`: a model by name, on data from files, into a run folder.

use super::{
    Failure,
    args::TrainArgs,
    data::{Data, DataKind},
    program_name,
    settings::Settings,
};
use crate::{
    Error, Result,
    mlx_rs::{memory::memory_limit, module::ModuleParamRef},
    model::BaseModel,
    profile::{Bytes, Memory, TransformerFlops},
    rng,
    run::{RunFolder, RunRecorder},
    store::save_weights,
    summary::Summary,
    train::{Trainer, accuracy},
};
use serde_json::Value;
use std::{io::Write, path::PathBuf, time::Instant};

pub(super) fn run(args: &TrainArgs, out: &mut impl Write) -> Result<(), Failure> {
    let run = Run::prepare(args).map_err(Failure::Refused)?;
    let report = run.train().map_err(Failure::Failed)?;
    Ok(writeln!(out, "{report}")?)
}

/// Everything that a run needs, checked.
struct Run {
    settings: Settings,
    data: Data,
    model: Box<dyn BaseModel>,
    folder: RunFolder,
}

impl Run {
    fn prepare(args: &TrainArgs) -> Result<Self> {
        let settings = Settings::resolve(&args.run)?;
        let data = settings.data.load()?;
        let mut model = rng::scope(&rng::key(settings.train.seed)?, || settings.model.build())?;
        check_language_model(&settings, model.as_mut())?;
        check_memory(model.as_ref())?;
        check_data(&settings, &data, model.as_mut())?;

        let default = || {
            let name = settings.model.model().name();
            PathBuf::from("runs").join(format!("{name}-{}", settings.hash()))
        };
        let folder = args.output.clone().unwrap_or_else(default);
        let folder = RunFolder::create(folder, args.force)?;
        folder.write_config(&settings.to_toml()?)?;
        Ok(Self { settings, data, model, folder })
    }

    /// Trains, saves, and tells the results.
    fn train(self) -> Result<String> {
        let Self { settings, data, mut model, folder } = self;
        let name = settings.model.model().name();
        let mut recorder = RunRecorder::new(folder.clone()).title(name).unit(data.unit);
        if let Some((label, loss)) = &data.reference {
            recorder = recorder.reference(*label, *loss);
        }
        if model.as_language_model().is_some() {
            recorder = recorder.perplexity();
        }
        if let Some(flops) = flops(&settings, model.as_ref()) {
            recorder = recorder.flops_per_token(flops.per_token());
        }
        let began = Instant::now();
        Memory::reset_peak()?;
        let mut trainer = Trainer::new(&mut model, settings.train.clone())?
            .evaluate_on(&*data.held_out)
            .on_event(|event| recorder.record(event));
        if settings.data.kind == DataKind::Idx {
            trainer = trainer.metric("accuracy", accuracy);
        }
        let history = recorder.end(trainer.run(data.training))?.history;
        save_weights(model.as_ref(), folder.weights())?;

        let peak_bytes = Memory::now()?.peak_bytes;
        let mut summary =
            Summary::new(format!("Trained {name}")).history(&history, began.elapsed(), peak_bytes);
        if let Some((label, loss)) = data.reference {
            summary = summary.row(label, format!("{loss:.4}"));
        }

        let path = folder.path().display();
        let report = folder.report();
        let summary = summary.row("run folder", &path).row("report", report.display());
        Ok(match model.as_language_model() {
            Some(_) => format!("{summary}\nNext: {} generate {path}", program_name()),
            None => summary.to_string(),
        })
    }
}

/// Bytes out of the vocabulary would be read as its last token, and make the loss NaN; positions out
/// of the context would be whatever the model makes of them.
fn check_language_model(settings: &Settings, model: &mut dyn BaseModel) -> Result<()> {
    let (DataKind::Text, Some(model)) = (settings.data.kind, model.as_language_model()) else {
        return Ok(());
    };
    let (vocab_size, context) = (model.vocab_size(), model.context_length());
    if vocab_size < 256 {
        return Err(Error::message(format!(
            "the model's vocabulary has {vocab_size} tokens and a text has 256 different bytes; \
             set model.vocab_size=256"
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
