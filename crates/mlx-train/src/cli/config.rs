//! `config`: config files written, checked and shown.

use super::{
    Failure::{self, Failed, Refused},
    args::{ConfigCommand, RunSource, ShowFormat},
    models::print_json,
    settings::Settings,
};
use crate::{Error, store::write_whole};
use std::{io::Write, path::Path};

pub(super) fn run(command: ConfigCommand, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        ConfigCommand::Init { name, output, preset, force } => {
            let set = preset.map(|preset| format!("model.preset={preset:?}"));
            let source =
                RunSource { config: None, model: Some(name), set: set.into_iter().collect() };
            Settings::resolve(&source)
                .and_then(|settings| init(&settings, &output, force))
                .map_err(Refused)?;
            Ok(writeln!(out, "wrote {}", output.display())?)
        }
        ConfigCommand::Check { run } => {
            let settings = Settings::resolve(&run).map_err(Refused)?;
            Ok(writeln!(out, "ok: {} ({})", settings.model.model().name(), settings.hash())?)
        }
        ConfigCommand::Show { run, format } => {
            let settings = Settings::resolve(&run).map_err(Refused)?;
            match format {
                ShowFormat::Toml => Ok(write!(out, "{}", settings.to_toml().map_err(Failed)?)?),
                ShowFormat::Json => print_json(&settings.to_json(), out),
            }
        }
    }
}

fn init(settings: &Settings, output: &Path, force: bool) -> Result<(), Error> {
    if output.exists() && !force {
        return Err(Error::message(format!(
            "`{}` exists; name another file with --output, or replace it with --force",
            output.display()
        )));
    }
    if output.extension().is_none_or(|extension| extension != "toml") {
        return Err(Error::message(format!(
            "`{}` does not end in .toml, the format that config files are written in",
            output.display()
        )));
    }
    let text = settings.to_toml()?;
    Ok(write_whole(output, text)?)
}
