//! `generate`: text from a model that `train` has left in a run folder, finished or not.

use super::{
    Failure::{self, Failed, Refused},
    args::{GenerateArgs, RunSource},
    settings::Settings,
};
use crate::{
    Error, Result,
    data::{Decoder, Tokenizer},
    generate::{GenerateError, GenerateOptions, Sampler, generate},
    model::BaseModel,
    run::RunFolder,
    store::{CheckpointError, LoadOptions, Location, load_weights},
};
use std::{
    io::Write,
    ops::ControlFlow,
    path::{self, Path, PathBuf},
};

/// As in Python's mlx-lm.
const DEFAULT_MAX_TOKENS: usize = 256;

pub(super) fn run(args: &GenerateArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (mut model, tokenizer) = load(args).map_err(Refused)?;
    let model = model.as_language_model().ok_or_else(|| {
        Refused(Error::message(format!(
            "the model in `{}` does not generate text; name the run of one that implements \
             `LanguageModel` and `BaseModel::as_language_model`",
            args.run.display()
        )))
    })?;
    let prompt = tokenizer.encode(&args.prompt).map_err(Refused)?;
    let room = model.context_length().saturating_sub(prompt.len());
    let options = GenerateOptions {
        // At least one, so that a prompt without room is refused and not just repeated.
        max_tokens: args.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.min(room).max(1)),
        sampler: Sampler { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p },
        seed: args.seed,
        stop_tokens: tokenizer.eos().into_iter().collect(),
    };
    let mut text = GrowingText::new(&args.prompt, &prompt, &tokenizer, out).map_err(Refused)?;
    let mut written = Ok(());
    generate(model, &prompt, &options, |token| {
        written = text.write(token);
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
    text.finish()
}

/// The prompt and what follows it, written as it comes.
struct GrowingText<'a, W> {
    tokenizer: &'a Tokenizer,
    decoder: Decoder<'a>,
    /// What is not written yet: first the prompt, which waits for the first token, so that nothing is
    /// printed when the options are refused.
    bytes: Vec<u8>,
    out: &'a mut W,
}

impl<'a, W: Write> GrowingText<'a, W> {
    fn new(prompt: &str, tokens: &[u32], tokenizer: &'a Tokenizer, out: &'a mut W) -> Result<Self> {
        let mut decoder = tokenizer.decoder();
        // How a token is written may depend on the one before it, which at first is the prompt's last.
        for &token in tokens {
            decoder.push(token)?;
        }
        Ok(Self { tokenizer, decoder, bytes: prompt.as_bytes().to_vec(), out })
    }

    fn write(&mut self, token: u32) -> Result<(), Failure> {
        // A model may have more tokens than its tokenizer; those have no text.
        if token < self.tokenizer.vocab_size() {
            self.bytes.extend(self.decoder.push(token).map_err(Failed)?);
        }
        self.flush()
    }

    /// Bytes as they come: the terminal puts those of a character together.
    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(self.out.flush()?)
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.bytes.extend(self.decoder.finish().map_err(Failed)?);
        self.bytes.push(b'\n');
        self.flush()
    }
}

/// The model of a run that has finished, or of a checkpoint, and what makes its tokens.
fn load(args: &GenerateArgs) -> Result<(Box<dyn BaseModel>, Tokenizer)> {
    let (config, weights) = find(&args.run)?;
    let tokenizer = tokenizer_of(&config)?;
    let source = RunSource { config: Some(config), model: None, set: Vec::new() };
    let settings = Settings::resolve(&source)?;
    if !settings.data.has_tokens() {
        return Err(Error::message(format!(
            "the run in `{}` was not trained on text, so it cannot continue one",
            args.run.display()
        )));
    }
    if let Some(trained_with) = settings.data.tokenizer.filter(|_| tokenizer.is_bytes()) {
        return Err(Error::message(format!(
            "`{}` has no tokenizer.json, and the run was trained with `{}`; copy that file into the folder",
            args.run.display(),
            trained_with.display()
        )));
    }
    let mut model = settings.model.build()?;
    // The averaged weights are what a finished run leaves, and what its evaluations measure.
    let options = LoadOptions { averaged: true, cast: true, ..LoadOptions::default() };
    load_weights(model.as_mut(), weights, &options)?;
    Ok((model, tokenizer))
}

/// The tokenizer beside the settings, or in the folder of the run that a checkpoint is of.
fn tokenizer_of(config: &Path) -> Result<Tokenizer> {
    let path = path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let folders: Vec<&Path> = path.ancestors().skip(1).collect();
    let beside = folders.first().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::of_folder)?;
    match folders[..] {
        [_, checkpoints, run, ..] if beside.is_bytes() && checkpoints.ends_with("checkpoints") => {
            Tokenizer::of_folder(run)
        }
        _ => Ok(beside),
    }
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
