//! The weights of a checkpoint, in a folder that other tools read.

use super::{
    Check, CheckpointError, Entry, Manifest,
    entry::{AVERAGED, Opened, Whole},
    names::{CONFIG, step_name},
};
use crate::{
    Error, Result,
    config::{Document, ModelConfig},
    file::{FileError, write_whole, write_whole_with},
    nn::{LoraConfig, LoraLinear, lora::merged},
    store::{
        array_file::{for_each_part, mlx_dtype, mlx_shape},
        array_set::ArraySet,
        error::shown,
        layout::{Described, FileLayout},
    },
};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

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
    from: Place,
    /// Where the matrices A and B of its adapter are, if it has one.
    adapter: Option<[Place; 2]>,
    dtype: Dtype,
    shape: Vec<i32>,
}

/// Which array of a checkpoint.
#[derive(Clone)]
enum Place {
    Weights(String),
    /// An averaged one.
    Training(String),
}

/// The arrays of a checkpoint.
struct Arrays {
    weights: ArraySet,
    training: ArraySet,
}

impl Arrays {
    fn read(&mut self, place: &Place) -> Result<Array> {
        match place {
            Place::Weights(name) => self.weights.read(name),
            Place::Training(name) => self.training.read(name),
        }
    }

    /// The dtype and shape of an array, unless MLX cannot hold it.
    fn kind(&self, place: &Place) -> Option<(Dtype, Vec<i32>)> {
        let (set, name) = match place {
            Place::Weights(name) => (&self.weights, name),
            Place::Training(name) => (&self.training, name),
        };
        set.file_dtype(name).and_then(mlx_dtype).zip(set.shape(name).and_then(mlx_shape))
    }
}

impl Entry {
    /// Writes `model.safetensors` and `config.json` into a folder, each whole or not at all.
    ///
    /// Names and shapes are those of the model. Adapters ([`LoraLinear`](crate::nn::LoraLinear)) are added to the weights that they are
    /// beside, at the scale of the config's section `lora`, so that the result is a model without. One array at a
    /// time is in memory. The config is the model's section of the run's, with `model_type` (its name in the registry) and
    /// `torch_dtype`, the keys that Hugging Face's tools look at first.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when the checkpoint is not whole;
    /// [`CheckpointError::Unexportable`] when it has no averaged weights, adapters without such a section, or a value beyond what
    /// `dtype` holds; [`FileError`] when the folder cannot be written; when MLX fails.
    pub fn export(&self, folder: impl AsRef<Path>, options: ExportOptions) -> Result<Exported> {
        let manifest = self.verify(Check::Hashes)?;
        let whole = Whole::open(&self.path, Some(&manifest.run_id))?;
        let mut arrays = Arrays {
            weights: whole.array_set("model").map_err(|error| whole.blame(error))?,
            training: whole.array_set("training").map_err(|error| whole.blame(error))?,
        };
        let sources = self.sources(&arrays, options)?;
        let run = whole.json(CONFIG)?;
        let scale = lora_of(&run).map(|lora| lora.scale());
        if scale.is_none() && sources.iter().any(|source| source.adapter.is_some()) {
            return Err(self.unexportable(
                "has adapters, and its config no section `lora` of the model that says their scale",
            ));
        }

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
                let mut array = arrays.read(&source.from)?;
                if let (Some([a, b]), Some(scale)) = (&source.adapter, scale) {
                    array = merged(&array, &arrays.read(a)?, &arrays.read(b)?, scale)?;
                }
                let array = self.converted(&array, source)?;
                for_each_part(&array, |bytes| Ok(put(bytes)?))?;
            }
            Ok::<(), Error>(())
        })?;

        let config = folder.join("config.json");
        let content = config_of(&run, &manifest, &sources, options);
        write_whole(&config, format!("{content:#}\n"))?;
        let num_bytes = (layout.head.len() + arrays_bytes) as u64;
        Ok(Exported { weights: path, config, num_arrays: sources.len(), num_bytes })
    }

    /// Writes the weights into a file as the run had them, whole or not at all: adapters stay beside the weights. With
    /// `averaged`, the averaged ones are in the place of those that are averaged, in the dtypes of these.
    ///
    /// One array at a time is in memory, also where several ranks have saved parts. The run that has just saved it is
    /// the one who asks, so that its bytes are not compared with their hashes.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when the checkpoint is not whole; [`FileError`] when the file cannot be written;
    /// when MLX fails.
    pub fn save_weights(&self, path: impl AsRef<Path>, averaged: bool) -> Result<()> {
        let path = path.as_ref();
        let Opened { weights, training, .. } = self.open_arrays(Check::Sizes, 0, 1)?;
        let kinds = weights.names().into_iter().map(|name| {
            let kind = weights.file_dtype(&name).and_then(mlx_dtype);
            match kind.zip(weights.shape(&name).and_then(mlx_shape)) {
                Some((dtype, shape)) => Ok((name, dtype, shape)),
                None => Err(self.unexportable(&format!(
                    "has an array `{}` that MLX cannot hold",
                    shown(&name)
                ))),
            }
        });
        let kinds = kinds.collect::<Result<Vec<_>>>()?;
        let mut arrays = if averaged { weights.overlaid(training, AVERAGED) } else { weights };
        let described: Vec<_> = kinds
            .iter()
            .map(|(name, dtype, shape)| Described { name, dtype: *dtype, shape })
            .collect();
        let layout = FileLayout::new(&described, &[("format", "pt")], path)?;
        write_whole_with(path, |file| {
            let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(FileError::write(path));
            put(&layout.head)?;
            for (name, dtype, _) in layout.order.iter().map(|&index| &kinds[index]) {
                let array = arrays.read(name)?.as_dtype(*dtype)?;
                for_each_part(&array, |bytes| Ok(put(bytes)?))?;
            }
            Ok::<(), Error>(())
        })
    }

    fn sources(&self, arrays: &Arrays, options: ExportOptions) -> Result<Vec<Source>> {
        let Arrays { weights, training } = arrays;
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
        // Parameters that do not train are not averaged.
        let place = |name: String| match averaged.get(&name).filter(|_| options.averaged) {
            Some(key) => Place::Training(key.clone()),
            None => Place::Weights(name),
        };
        let names: BTreeSet<String> = weights.names().into_iter().collect();
        let source = |name: &String| {
            let from = place(name.clone());
            let (dtype, shape) = arrays.kind(&from).ok_or_else(|| {
                self.unexportable(&format!("has an array `{name}` that MLX cannot hold"))
            })?;
            let dtype = options.dtype.filter(|_| dtype.is_float()).unwrap_or(dtype);
            let adapter = name
                .strip_suffix(".weight")
                .map(|layer| ["lora_a", "lora_b"].map(|matrix| format!("{layer}.{matrix}")));
            let adapter = adapter.filter(|adapter| adapter.iter().all(|name| names.contains(name)));
            Ok(Source {
                name: name.clone(),
                from,
                adapter: adapter.map(|it| it.map(place)),
                dtype,
                shape,
            })
        };
        names.iter().filter(|name| !LoraLinear::is_adapter(name)).map(source).collect()
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

/// The adapters that a model was trained with.
fn lora_of(run: &Value) -> Option<LoraConfig> {
    let lora = model_of(run).get("lora").filter(|lora| lora.is_object())?;
    LoraConfig::from_document(&Document::from_value(lora.clone())).ok()
}

/// The model's section, or all there is.
fn model_of(run: &Value) -> &Value {
    run.get("model").filter(|section| section.is_object()).unwrap_or(run)
}

/// The model's own settings, and what other tools ask first.
fn config_of(
    run: &Value,
    manifest: &Manifest,
    sources: &[Source],
    options: ExportOptions,
) -> Value {
    let settings = model_of(run);
    let mut config = Map::from_iter([("model_type".to_owned(), json!(manifest.model))]);
    if let Some(dtype) = sources.iter().find(|source| source.dtype.is_float()) {
        config.insert("torch_dtype".into(), json!(format!("{:?}", dtype.dtype).to_lowercase()));
    }
    config.extend(settings.as_object().cloned().unwrap_or_default());
    // The adapters are part of the weights.
    if let Some(lora) = config.get_mut("lora") {
        *lora = Value::Null;
    }
    let origin = json!({
        "run_id": manifest.run_id,
        "checkpoint": step_name(manifest.step),
        "averaged": options.averaged,
    });
    config.insert("mlx_train".into(), origin);
    config.into()
}
