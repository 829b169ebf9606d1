//! A run on disk: one folder with its settings, weights, numbers, pictures and a report of them.
//!
//! [`RunRecorder`] writes it while the run goes on. Whoever opens [`RunFolder::report`] in a browser
//! needs nothing else, no network and no other file.

mod about;
mod charts;
mod environment;
mod journal;
mod lines;
mod metrics;
mod recorder;
mod report;

pub use about::{About, Session};
pub use charts::Plot;
pub use environment::Environment;
pub(crate) use environment::quoted;
pub use journal::{Entry, EventKind, Status};
pub use metrics::Metrics;
pub use recorder::RunRecorder;

use crate::{
    Error, Result,
    config::ModelConfig,
    file::{FileError, write_whole},
    registry::{ModelEntry, ResolvedConfig},
    store::{CheckpointConfig, Checkpoints, Saver},
    tensorboard::EventFile,
    train::TrainConfig,
};
use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// The folder of one run.
///
/// | file | holds |
/// |---|---|
/// | `config.toml` | every setting, resolved |
/// | `run.json` | what the run is; machine, versions and command of each process that worked on it |
/// | `metrics.jsonl` | one JSON object a report or evaluation, by step; readable while it grows |
/// | `events.jsonl` | one JSON object for whatever else happened, by time |
/// | `events.out.tfevents.*` | the same numbers for TensorBoard |
/// | `trace.json` | the steps that were recorded, if some were: [Perfetto](https://ui.perfetto.dev) opens it |
/// | `checkpoints/` | what the run can go on from |
/// | `plots/` | every curve as PNG and SVG |
/// | `index.html` | the report: a page that needs no network |
/// | `weights.safetensors` | the trained parameters, of a finished run |
///
/// `metrics.jsonl` never goes backwards: a run that is resumed after a step, or rolled back to it,
/// first cuts the lines of later steps. `events.jsonl` keeps everything.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder for a new run, and those above it.
    ///
    /// With `replace`, the records of an earlier run make place for those of the new one once it begins.
    ///
    /// # Errors
    /// When it already holds the weights or numbers of a run and `replace` is false, or cannot be made.
    pub fn create(path: impl Into<PathBuf>, replace: bool) -> Result<Self> {
        let run = Self { path: path.into() };
        let holds = |what: &str| {
            Error::message(format!(
                "`{}` holds {what}; name another folder, or allow to replace it with --force",
                run.path.display()
            ))
        };
        if !replace && run.weights().exists() {
            return Err(holds("a finished run"));
        }
        if !replace && run.metrics().exists() {
            return Err(holds("a run that has not finished"));
        }
        fs::create_dir_all(&run.path)
            .map_err(|source| FileError::Folder { path: run.path.clone(), source })?;
        Ok(run)
    }

    /// Starts the checkpoints of a new run; those of an earlier one go, and its weights.
    ///
    /// # Errors
    /// [`CheckpointError::Busy`](crate::store::CheckpointError::Busy) while another process saves
    /// there; when the disk fails.
    pub fn new_checkpoints(&self) -> Result<Checkpoints> {
        let path = self.checkpoints();
        if let Ok(earlier) = Checkpoints::open(&path) {
            // To ask whether another process saves there.
            drop(Saver::new(earlier, &CheckpointConfig::default())?);
        }
        remove(&path, |path| fs::remove_dir_all(path))?;
        remove(&self.weights(), |path| fs::remove_file(path))?;
        Checkpoints::create(path)
    }

    /// The folder of a run, however it stands: growing, killed, failed or finished.
    ///
    /// # Errors
    /// When it is not there, or holds neither settings nor numbers.
    pub fn find(path: impl Into<PathBuf>) -> Result<Self> {
        let run = Self { path: path.into() };
        if [run.config(), run.metrics(), run.about()].iter().any(|file| file.is_file()) {
            return Ok(run);
        }
        let why = if run.path.is_dir() {
            "it has no config.toml, metrics.jsonl or run.json"
        } else {
            "there is no such folder"
        };
        Err(Error::message(format!(
            "`{}` is not the folder of a run: {why}; name one that `train` wrote",
            run.path.display()
        )))
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

    /// What the run is, and where it ran.
    pub fn about(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// What happened besides the numbers.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The trace of steps that were recorded.
    pub fn trace(&self) -> PathBuf {
        self.path.join("trace.json")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of curves.
    pub fn plots(&self) -> PathBuf {
        self.path.join("plots")
    }

    /// The report.
    pub fn report(&self) -> PathBuf {
        self.path.join("index.html")
    }

    /// Writes the settings: [`config_text`], and what else there is to say.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_config(&self, text: &str) -> Result<()> {
        Ok(write_whole(self.config(), text)?)
    }

    /// Draws every curve into a folder, as PNG and SVG, from the numbers that there are.
    ///
    /// # Errors
    /// When the numbers cannot be read, or the disk fails.
    pub fn draw(&self, folder: impl AsRef<Path>) -> Result<Vec<Plot>> {
        let about = About::read(&self.about())?;
        charts::save(&about, &Metrics::read(self.metrics())?, folder.as_ref())
    }

    /// Writes the report anew, from whatever the folder has, and returns its path.
    ///
    /// # Errors
    /// When a file of the run cannot be read, or the disk fails.
    pub fn write_report(&self) -> Result<PathBuf> {
        let path = self.report();
        write_whole(&path, report::page(self)?)?;
        Ok(path)
    }

    /// Removes what an earlier run recorded; not its settings, weights and checkpoints.
    fn remove_records(&self) -> Result<()> {
        EventFile::remove_all(&self.path)?;
        let plots = fs::read_dir(self.plots()).into_iter().flatten().flatten();
        let plots = plots.map(|entry| entry.path());
        let is_picture = |path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| ["svg", "png"].map(OsStr::new).contains(&extension))
        };
        let records = [self.metrics(), self.events(), self.about(), self.report(), self.trace()];
        for path in plots.filter(is_picture).chain(records) {
            remove(&path, |path| fs::remove_file(path))?;
        }
        Ok(())
    }
}

/// Removes what is there; what is not there need not be removed.
fn remove(path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    match remove(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(FileError::Write { path: path.to_owned(), source }.into())
        }
        _ => Ok(()),
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
