//! The settings of a run: a config file's three sections, with overrides, resolved.

use super::{args::RunSource, data::DataConfig};
use crate::{
    Error, Result,
    config::{ConfigError, Document, ModelConfig},
    registry::{ModelRegistry, ResolvedConfig},
    run::{check_keys, config_text},
    train::TrainConfig,
};
use serde_json::{Value, json};

/// Everything that decides a run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) model: ResolvedConfig,
    pub(super) train: TrainConfig,
    pub(super) data: DataConfig,
}

impl Settings {
    /// Reads the file, if there is one, puts the overrides over it, and checks every section.
    pub(super) fn resolve(source: &RunSource) -> Result<Self> {
        let mut document =
            source.config.as_ref().map(Document::load).transpose()?.unwrap_or_default();
        for set in &source.set {
            document.set(set)?;
        }
        document.expect_sections(&["model", "train", "data"])?;
        let [mut model, train, data] =
            ["model", "train", "data"].map(|name| document.section(name).unwrap_or_default());
        let in_file = model.take_string("name")?;
        let name = source.model.clone().or(in_file).ok_or_else(|| {
            Error::message(
                "no model was named; say --model NAME, or write name = \"NAME\" in the [model] \
                 section of the config file (`models list` shows the names)",
            )
        })?;
        let entry = ModelRegistry::get_model(&name)?;
        check_keys(entry)?;
        let model = entry.resolve_config(model);
        let train = TrainConfig::from_document(&train).map_err(Error::from);
        let data = DataConfig::from_document(&data).map_err(Error::from);
        match (model, train, data) {
            (Ok(model), Ok(train), Ok(data)) => Ok(Self { model, train, data }),
            (model, train, data) => {
                Err(together([model.err(), train.err(), data.err()].into_iter().flatten()))
            }
        }
    }

    /// A config file that resolves to these settings, with the docs of every key.
    pub(super) fn to_toml(&self) -> Result<String> {
        let data = self.data.to_toml_section("data")?;
        Ok(format!("{}\n{}\n", config_text(&self.model, &self.train)?, data.trim()))
    }

    pub(super) fn to_json(&self) -> Value {
        let model = self.model.to_section();
        json!({ "model": model, "train": self.train.to_value(), "data": self.data.to_value() })
    }

    /// Eight digits that are the same for the same model and settings.
    pub(super) fn hash(&self) -> String {
        let hashes = [self.model.hash(), self.train.stable_hash(), self.data.stable_hash()];
        hashes.iter().map(|hash| &hash[..hash.len().min(4)]).collect()
    }
}

/// One error that tells the problems of all sections, in the order of the file.
fn together(errors: impl Iterator<Item = Error>) -> Error {
    let (mut problems, mut omitted) = (Vec::new(), 0);
    for error in errors {
        match error {
            Error::Config(ConfigError::Invalid { problems: found, omitted: more }) => {
                problems.extend(found);
                omitted += more;
            }
            other => return other,
        }
    }
    problems.sort_by_key(|problem| problem.place().line_and_column());
    ConfigError::Invalid { problems, omitted }.into()
}
