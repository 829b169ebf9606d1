//! `generate`: text from a model that `train` has left in a run folder, finished or not.

use super::{
    Failure::{self, Failed, Refused},
    args::{GenerateArgs, RunSource},
    data::DataKind,
    settings::Settings,
};
use crate::{
    Error, Result,
    generate::{GenerateError, GenerateOptions, Sampler, generate},
    model::BaseModel,
    run::RunFolder,
    store::{CheckpointError, LoadOptions, Location, load_weights},
};
use std::{
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// As in Python's mlx-lm.
const DEFAULT_MAX_TOKENS: usize = 256;

pub(super) fn run(args: &GenerateArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut model = load(args).map_err(Refused)?;
    let model = model.as_language_model().ok_or_else(|| {
        Refused(Error::message(format!(
            "the model in `{}` does not generate text; name the run of one that implements \
             `LanguageModel` and `BaseModel::as_language_model`",
            args.run.display()
        )))
    })?;
    let prompt: Vec<u32> = args.prompt.bytes().map(u32::from).collect();
    let room = model.context_length().saturating_sub(prompt.len());
    let options = GenerateOptions {
        // At least one, so that a prompt without room is refused and not just repeated.
        max_tokens: args.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.min(room).max(1)),
        sampler: Sampler { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p },
        seed: args.seed,
        ..GenerateOptions::default()
    };
    // Waits for the first token, so that nothing is printed when the options are refused.
    let mut text = args.prompt.clone().into_bytes();
    let mut written = Ok(());
    generate(model, &prompt, &options, |token| {
        // A byte at a time, so that the text appears as it grows; the terminal puts UTF-8 together.
        text.extend(u8::try_from(token));
        written = out.write_all(&text).and_then(|()| out.flush());
        text.clear();
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .map_err(|error| match error {
        Error::Generate(
            GenerateError::EmptyPrompt
            | GenerateError::UnknownToken { .. }
            | GenerateError::ContextFull { .. }
            | GenerateError::Option { .. },
        ) => Refused(error),
        _ => Failed(error),
    })?;
    written?;
    out.write_all(&text)?;
    Ok(writeln!(out)?)
}

/// The model of a run that has finished, or of a checkpoint.
fn load(args: &GenerateArgs) -> Result<Box<dyn BaseModel>> {
    let (config, weights) = find(&args.run)?;
    let source = RunSource { config: Some(config), model: None, set: Vec::new() };
    let settings = Settings::resolve(&source)?;
    if settings.data.kind != DataKind::Text {
        return Err(Error::message(format!(
            "the run in `{}` was not trained on text, so it cannot continue one",
            args.run.display()
        )));
    }
    let mut model = settings.model.build()?;
    load_weights(model.as_mut(), weights, &LoadOptions::default())?;
    Ok(model)
}

/// The settings and the weights of a run; those of its latest checkpoint until it has finished.
fn find(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let unfinished = match RunFolder::open(path) {
        Ok(folder) => return Ok((folder.config(), folder.weights())),
        Err(error) => error,
    };
    match Location::find(path).and_then(Location::entry) {
        Ok(checkpoint) => Ok((checkpoint.path.join("config.json"), checkpoint.path)),
        Err(Error::Checkpoint(CheckpointError::NotFound { .. })) => Err(unfinished),
        Err(error) => Err(error),
    }
}
