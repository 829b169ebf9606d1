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
    model::BaseModel,
    profile::Memory,
    progress::Progress,
    rng,
    run::RunFolder,
    summary::Summary,
    train::{Curve, Trainer, accuracy},
};
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
        check_vocabulary(&settings, model.as_mut())?;

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
        let progress = Progress::new(data.unit);
        let began = Instant::now();
        Memory::reset_peak()?;
        let mut trainer = Trainer::new(&mut model, settings.train.clone())?
            .evaluate_on(&*data.held_out)
            .on_event(|event| progress.show(event));
        if settings.data.kind == DataKind::Idx {
            trainer = trainer.metric("accuracy", accuracy);
        }
        let history = trainer.run(data.training)?;

        let name = settings.model.model().name();
        let peak_bytes = Memory::now()?.peak_bytes;
        let mut curve = Curve::new(&history).title(name);
        let mut summary =
            Summary::new(format!("Trained {name}")).history(&history, began.elapsed(), peak_bytes);
        if let Some((label, loss)) = data.reference {
            curve = curve.reference(label, loss);
            summary = summary.row(label, format!("{loss:.4}"));
        }
        folder.finish(model.as_ref(), &history, &curve)?;

        let path = folder.path().display();
        let summary = summary.row("run folder", &path);
        Ok(match model.as_language_model() {
            Some(_) => format!("{summary}\nNext: {} generate {path}", program_name()),
            None => summary.to_string(),
        })
    }
}

/// Bytes out of the vocabulary would be read as its last token, and make the loss NaN.
fn check_vocabulary(settings: &Settings, model: &mut dyn BaseModel) -> Result<()> {
    match (settings.data.kind, model.as_language_model()) {
        (DataKind::Text, Some(model)) if model.vocab_size() < 256 => Err(Error::message(format!(
            "the model's vocabulary has {} tokens and a text has 256 different bytes; \
             set model.vocab_size=256",
            model.vocab_size()
        ))),
        _ => Ok(()),
    }
}
