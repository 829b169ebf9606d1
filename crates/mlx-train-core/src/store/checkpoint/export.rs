//! The weights of a checkpoint, in a folder that other tools read.

use super::{
    Check, CheckpointError, Entry, Manifest,
    entry::Whole,
    names::{CONFIG, step_name},
};
use crate::{
    Error, Result,
    file::{FileError, write_whole, write_whole_with},
    store::{
        array_file::{for_each_part, mlx_dtype, mlx_shape},
        array_set::ArraySet,
        layout::{Described, FileLayout},
    },
};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What averaged weights are called among the arrays of training: this and the parameter's name.
const AVERAGED: &str = "ema.";

/// Which weights are exported, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// The averaged weights (EMA) in place of those of the last step.
    pub averaged: bool,
    /// What floats are converted to; `None` leaves every dtype as it is. Integers stay integers.
    pub dtype: Option<Dtype>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// `model.safetensors`.
    pub weights: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    /// How many arrays there are.
    pub num_arrays: usize,
    /// The size of `model.safetensors` in bytes.
    pub num_bytes: u64,
}

/// An array of the export, and where it comes from.
struct Source {
    name: String,
    /// Its name among the arrays of training, when it is an averaged one.
    averaged: Option<String>,
    dtype: Dtype,
    shape: Vec<i32>,
}

impl Entry {
    /// Writes `model.safetensors` and `config.json` into a folder, each whole or not at all.
    ///
    /// Names and shapes are those of the model. One array at a time is in memory. The config is the
    /// model's section of the run's, with `model_type` (its name in the registry) and
    /// `torch_dtype`, the keys that Hugging Face's tools look at first.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when the checkpoint is not whole;
    /// [`CheckpointError::Unexportable`] when it has no averaged weights, or a value is beyond what
    /// `dtype` holds; [`FileError`] when the folder cannot be written; when MLX fails.
    pub fn export(&self, folder: impl AsRef<Path>, options: ExportOptions) -> Result<Exported> {
        let manifest = self.verify(Check::Hashes)?;
        let whole = Whole::open(&self.path, Some(&manifest.run_id))?;
        let mut weights = whole.array_set("model").map_err(|error| whole.blame(error))?;
        let mut training = whole.array_set("training").map_err(|error| whole.blame(error))?;
        let sources = self.sources(&weights, &training, options)?;

        let folder = folder.as_ref();
        fs::create_dir_all(folder)
            .map_err(|source| FileError::Folder { path: folder.to_owned(), source })?;
        let path = folder.join("model.safetensors");
        let described: Vec<_> = sources
            .iter()
            .map(|it| Described { name: &it.name, dtype: it.dtype, shape: &it.shape })
            .collect();
        let layout = FileLayout::new(&described, &[("format", "pt")], &path)?;
        let arrays_bytes: usize = described.iter().map(Described::num_bytes).sum();
        write_whole_with(&path, |file| {
            let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(FileError::write(&path));
            put(&layout.head)?;
            for source in layout.order.iter().map(|&index| &sources[index]) {
                let array = match &source.averaged {
                    Some(name) => training.read(name)?,
                    None => weights.read(&source.name)?,
                };
                let array = self.converted(&array, source)?;
                for_each_part(&array, |bytes| Ok(put(bytes)?))?;
            }
            Ok::<(), Error>(())
        })?;

        let config = folder.join("config.json");
        let content = config_of(&whole.json(CONFIG)?, &manifest, &sources, options);
        write_whole(&config, format!("{content:#}\n"))?;
        let num_bytes = (layout.head.len() + arrays_bytes) as u64;
        Ok(Exported { weights: path, config, num_arrays: sources.len(), num_bytes })
    }

    fn sources(
        &self,
        weights: &ArraySet,
        training: &ArraySet,
        options: ExportOptions,
    ) -> Result<Vec<Source>> {
        let averaged: BTreeMap<String, String> = training
            .names()
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(AVERAGED)?.to_owned(), name)))
            .collect();
        if options.averaged && averaged.is_empty() {
            return Err(self.unexportable(
                "has no averaged weights; train with an EMA, or export those \
                 of the last step",
            ));
        }
        let source = |name: String| {
            // Parameters that do not train are not averaged.
            let averaged = averaged.get(&name).filter(|_| options.averaged).cloned();
            let (set, key) = averaged.as_ref().map_or((weights, &name), |key| (training, key));
            let (dtype, shape) = set
                .file_dtype(key)
                .and_then(mlx_dtype)
                .zip(set.shape(key).and_then(mlx_shape))
                .ok_or_else(|| {
                    self.unexportable(&format!("has an array `{name}` that MLX cannot hold"))
                })?;
            let dtype = options.dtype.filter(|_| dtype.is_float()).unwrap_or(dtype);
            Ok(Source { name, averaged, dtype, shape })
        };
        weights.names().into_iter().map(source).collect()
    }

    /// The array in the dtype of the export, unless that would turn a number into an infinity.
    fn converted(&self, array: &Array, source: &Source) -> Result<Array> {
        if array.dtype() == source.dtype {
            return Ok(array.clone());
        }
        let converted = array.as_dtype(source.dtype)?;
        let overflows = converted.is_inf()?.ne(&array.is_inf()?)?.any(None)?;
        if overflows.try_item_exact::<bool>()? {
            let problem = format!(
                "has numbers in `{}` that {:?} cannot hold; export it as bf16 or f32",
                source.name, source.dtype
            );
            return Err(self.unexportable(&problem));
        }
        Ok(converted)
    }

    fn unexportable(&self, problem: &str) -> Error {
        CheckpointError::Unexportable { path: self.path.clone(), problem: problem.into() }.into()
    }
}

/// The model's own settings, and what other tools ask first.
fn config_of(
    run: &Value,
    manifest: &Manifest,
    sources: &[Source],
    options: ExportOptions,
) -> Value {
    let settings = run.get("model").filter(|section| section.is_object()).unwrap_or(run);
    let mut config = Map::from_iter([("model_type".to_owned(), json!(manifest.model))]);
    if let Some(dtype) = sources.iter().find(|source| source.dtype.is_float()) {
        config.insert("torch_dtype".into(), json!(format!("{:?}", dtype.dtype).to_lowercase()));
    }
    config.extend(settings.as_object().cloned().unwrap_or_default());
    let origin = json!({
        "run_id": manifest.run_id,
        "checkpoint": step_name(manifest.step),
        "averaged": options.averaged,
    });
    config.insert("mlx_train".into(), origin);
    config.into()
}
