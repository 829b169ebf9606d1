//! `generate`: text from a model that `train` has left in a run folder.

use super::{
    Failure::{self, Failed, Refused},
    args::{GenerateArgs, RunSource},
    data::DataKind,
    settings::Settings,
};
use crate::{
    Error, Result,
    generate::{GenerateOptions, Sampler, generate},
    model::BaseModel,
    run::RunFolder,
    store::{LoadOptions, load_weights},
};
use std::{io::Write, ops::ControlFlow};

pub(super) fn run(args: &GenerateArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut model = load(args).map_err(Refused)?;
    let model = model.as_language_model().ok_or_else(|| {
        Refused(Error::message(format!(
            "`{}` holds a model that does not generate text; name the run of a language model",
            args.run.display()
        )))
    })?;
    let prompt: Vec<u32> = args.prompt.bytes().map(u32::from).collect();
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampler: Sampler { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p },
        seed: args.seed,
        ..GenerateOptions::default()
    };
    out.write_all(args.prompt.as_bytes())?;
    let mut written = Ok(());
    generate(model, &prompt, &options, |token| {
        // A byte at a time, so that the text appears as it grows; the terminal puts UTF-8 together.
        written = u8::try_from(token)
            .map_or(Ok(()), |byte| out.write_all(&[byte]).and_then(|()| out.flush()));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .map_err(Failed)?;
    written?;
    Ok(writeln!(out)?)
}

/// The trained model of a run folder.
fn load(args: &GenerateArgs) -> Result<Box<dyn BaseModel>> {
    let folder = RunFolder::open(&args.run)?;
    let source = RunSource { config: Some(folder.config()), model: None, set: Vec::new() };
    let settings = Settings::resolve(&source)?;
    if settings.data.kind != DataKind::Text {
        return Err(Error::message(format!(
            "the run in `{}` was not trained on text, so it cannot continue one",
            args.run.display()
        )));
    }
    let mut model = settings.model.build()?;
    load_weights(model.as_mut(), folder.weights(), &LoadOptions::default())?;
    Ok(model)
}
