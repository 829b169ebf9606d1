//! A run on disk: one folder with its settings, weights, numbers and pictures.

use crate::{
    Error, Result,
    chart::Chart,
    config::ModelConfig,
    file::FileError,
    model::BaseModel,
    registry::{ModelEntry, ResolvedConfig},
    store::{save_weights, write_whole},
    train::{History, TrainConfig},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of one run.
///
/// | file | holds |
/// |---|---|
/// | `config.toml` | every setting, resolved |
/// | `weights.safetensors` | the trained parameters |
/// | `metrics.jsonl` | one JSON object a report or evaluation, by step |
/// | `loss.png`, `loss.svg` | the loss curve |
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder, and those above it.
    ///
    /// # Errors
    /// When it already holds the weights of a run and `replace` is false, or cannot be made.
    pub fn create(path: impl Into<PathBuf>, replace: bool) -> Result<Self> {
        let run = Self { path: path.into() };
        if !replace && run.weights().exists() {
            return Err(Error::message(format!(
                "`{}` holds a finished run; name another folder, or allow to replace it with --force",
                run.path.display()
            )));
        }
        fs::create_dir_all(&run.path)
            .map_err(|source| FileError::Folder { path: run.path.clone(), source })?;
        Ok(run)
    }

    /// The folder of a run that has finished.
    ///
    /// # Errors
    /// When its settings or weights are not there.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let run = Self { path: path.into() };
        match [run.config(), run.weights()].iter().find(|file| !file.is_file()) {
            None => Ok(run),
            Some(missing) => Err(Error::message(format!(
                "`{}` is not the folder of a finished run: it has no {}; name one that `train` wrote",
                run.path.display(),
                missing.file_name().unwrap_or_default().display()
            ))),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings, resolved.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The trained parameters.
    pub fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    /// The numbers of every report and evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The loss curve, as `png` or `svg`.
    pub fn curve(&self, extension: &str) -> PathBuf {
        self.path.join("loss").with_extension(extension)
    }

    /// Writes the settings: [`config_text`], and what else there is to say.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_config(&self, text: &str) -> Result<()> {
        Ok(write_whole(self.config(), text)?)
    }

    /// Writes numbers, pictures and, last, the weights, which make the run a finished one.
    ///
    /// # Errors
    /// When the disk or MLX fails.
    pub fn finish(&self, model: &dyn BaseModel, history: &History, curve: &Chart) -> Result<()> {
        write_whole(self.metrics(), metrics(history))?;
        // A run of a single report has no line to draw.
        if curve.has_line() {
            for extension in ["png", "svg"] {
                curve.save(self.curve(extension))?;
            }
        }
        save_weights(model, self.weights())
    }
}

/// A config file's sections `[model]`, with the model's name, and `[train]`; every key has its docs.
///
/// A run folder with it can be used by name: `generate FOLDER`, and `train --config` trains such a
/// model again on data that its `[data]` section or `--set data.path=…` names.
///
/// # Errors
/// As [`ModelConfig::to_toml_section`], and when the model's own config has a key `name`.
pub fn config_text(model: &ResolvedConfig, train: &TrainConfig) -> Result<String> {
    check_keys(model.model())?;
    let name = model.model().name();
    // The name is not part of the model's own config, so it has no line in its section yet.
    let named = format!("[model]\nname = {name:?}\n");
    let model = model.to_toml_section("model")?.replacen("[model]\n", &named, 1);
    let train = train.to_toml_section("train")?;
    Ok(format!("{}\n\n{}\n", model.trim(), train.trim()))
}

/// Refuses a model whose own `name` would be a second one in the `[model]` section.
pub(crate) fn check_keys(model: &ModelEntry) -> Result<()> {
    if model.schema().fields.iter().all(|field| field.name != "name") {
        return Ok(());
    }
    Err(Error::message(format!(
        "the config of `{}` has a key `name`, which is the model's name in a config file; give the \
         field of {} another key with #[config(rename = \"…\")]",
        model.name(),
        model.config_type()
    )))
}

/// One JSON object a line: the reports, then the evaluations, each in the order of the steps.
fn metrics(history: &History) -> String {
    let reports = history.training.iter().map(|point| {
        json!({
            "step": point.step,
            "loss": point.loss,
            "learning_rate": point.learning_rate,
            "grad_norm": point.grad_norm,
            "tokens_per_second": point.tokens_per_second,
        })
    });
    let evaluations = history.held_out.iter().map(|point| {
        let mut line = json!({ "step": point.step, "held_out_loss": point.evaluation.loss });
        for (name, value) in &point.evaluation.metrics {
            line[format!("held_out_{name}")] = json!(value);
        }
        line
    });
    let lines: Vec<String> = reports.chain(evaluations).map(|line| line.to_string()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use crate::{prelude::*, run::config_text};

    /// A config that a file could not hold beside the model's name.
    #[derive(Debug, Clone, ModelConfig)]
    struct NamedConfig {
        #[config(default = "x")]
        name: String,
    }

    #[register_model("named")]
    #[derive(Debug, ModuleParameters)]
    struct Named {
        #[param]
        weight: Param<Array>,
    }

    impl FromConfig for Named {
        type Config = NamedConfig;
        fn from_config(config: &NamedConfig) -> Result<Self> {
            Ok(Self { weight: Param::new(Array::from_f32(config.name.len() as f32)) })
        }
    }

    impl BaseModel for Named {
        fn forward(&mut self, x: &Array) -> Result<Array> {
            Ok(x.multiply(&self.weight.value)?)
        }
        fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
            loss::mse(&self.forward(x)?, y)
        }
    }

    #[test]
    fn a_key_of_the_model_that_is_taken_is_refused_with_the_way_out() -> Result<()> {
        let resolved = ModelRegistry::get_model("named")?.resolve_config(())?;
        let refused = config_text(&resolved, &TrainConfig::default()).map_err(|e| e.to_string());
        assert!(refused.is_err_and(|text| text.contains("NamedConfig") && text.contains("rename")));
        Ok(())
    }
}
