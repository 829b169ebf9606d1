//! A model's parameters, to and from a safetensors file.

use super::{
    ArraySet, Mismatch, StoreError,
    array_file::{file_dtype, mlx_dtype, natural_order},
    checkpoint::{Location, is_step},
    save_arrays,
};
use crate::Result;
use mlx_rs::{Array, Dtype, module::ModuleParameters};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    rc::Rc,
};

/// Saves every parameter of a model to a safetensors file, whole or not at all.
///
/// The keys are the parameters' names. Weight matrices are `(out, in)`, as PyTorch keeps them, so
/// the file carries the metadata `format = "pt"`, without which Hugging Face's loaders refuse it.
///
/// ```no_run
/// # fn save(model: &dyn mlx_train_core::model::BaseModel) -> mlx_train_core::Result<()> {
/// mlx_train_core::store::save_weights(model, "runs/today/model.safetensors")
/// # }
/// ```
///
/// # Errors
/// As [`save_arrays`]; what was at `path` is then still there.
pub fn save_weights(
    model: &(impl ModuleParameters + ?Sized),
    path: impl AsRef<Path>,
) -> Result<()> {
    let parameters = model.parameters().flatten();
    let arrays = parameters.iter().map(|(name, &array)| (name.to_string(), array));
    save_arrays(arrays, &[("format", "pt")], path)
}

/// How a weight file may differ from the model that it is loaded into.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Converts floating-point arrays to the dtypes of the model's parameters; integers never.
    pub cast: bool,
    /// Maps names of another tool to the model's.
    pub rename: Option<&'a Rename<'a>>,
    /// Says of a parameter that the file does not hold whether it stays as it is, such as a fresh adapter;
    /// without this, each is an error.
    pub optional: Option<&'a IsOptional<'a>>,
    /// Takes the averaged weights of a checkpoint that has them, as a finished run leaves them, in the place of those
    /// of its last step; averages are f32, so this goes with `cast` where the model is not.
    pub averaged: bool,
    /// Replaces each parameter as soon as it is read, so that old and new weights are never in
    /// memory together. What can be checked is checked before the first one; if the disk fails in
    /// between, [`StoreError::Mixture`] says so.
    pub one_by_one: bool,
}

/// Gives the parameter's name for a name in the file, or `None` to leave that array out.
pub type Rename<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Whether the parameter of a name may be missing.
pub type IsOptional<'a> = dyn Fn(&str) -> bool + 'a;

/// Loads every parameter of a model from safetensors, or changes nothing.
///
/// `path` is a file, an index of shards, or a folder: a download from Hugging Face, a checkpoint
/// (verified first), or the checkpoints of a run, of which the latest is taken. It must hold exactly
/// the model's parameters, with equal shapes and dtypes, but for what `options` allows. It may come
/// from elsewhere: a hostile one is an error like any other.
///
/// ```no_run
/// # use mlx_train_core::store::{LoadOptions, load_weights};
/// # fn load(model: &mut dyn mlx_train_core::model::BaseModel) -> mlx_train_core::Result<()> {
/// let options = LoadOptions {
///     cast: true,
///     rename: Some(&|name| Some(name.trim_start_matches("_orig_mod.").to_owned())),
///     ..LoadOptions::default()
/// };
/// load_weights(model, "downloads/model.safetensors", &options)
/// # }
/// ```
///
/// # Errors
/// [`StoreError::Mismatch`] with every missing, unexpected, doubled and differing array;
/// [`StoreError::Damaged`] when the file is not whole; [`FileError`](crate::file::FileError) when it cannot be read.
/// The model is unchanged in each case.
pub fn load_weights(
    model: &mut (impl ModuleParameters + ?Sized),
    path: impl AsRef<Path>,
    options: &LoadOptions<'_>,
) -> Result<()> {
    let path = path.as_ref();
    let mut weights = if options.one_by_one {
        StoredWeights::open(model, path, options)?
    } else {
        StoredWeights::matched(model, path, options)?
    };
    let mut parameters = model.parameters_mut().flatten();
    if options.one_by_one {
        for (name, parameter) in &mut parameters {
            let read = weights.read(name, parameter.dtype()).map_err(|source| {
                let (path, source) = (path.to_owned(), Box::new(source));
                StoreError::Mixture { path, source }
            })?;
            if let Some(array) = read {
                **parameter = array;
            }
        }
        return Ok(());
    }
    // Nothing is assigned until all is read: the last array may be the one that cannot be.
    let mut loaded = Vec::with_capacity(parameters.len());
    for (name, parameter) in parameters {
        let array = weights.read(&name, parameter.dtype())?;
        loaded.extend(array.map(|array| (parameter, array)));
    }
    for (parameter, array) in loaded {
        *parameter = array;
    }
    Ok(())
}

/// Weights on disk that fit a model, of which nothing is read yet: [`load_weights`] for a model that need not be in
/// memory whole.
///
/// ```no_run
/// # use mlx_train_core::{Result, data::InMemory, model::BaseModel, store::{LoadOptions, StoredWeights}, train::*};
/// # fn example(mut model: Box<dyn BaseModel>, training: InMemory) -> Result<()> {
/// let weights = StoredWeights::open(&model, "downloads/model.safetensors", &LoadOptions::default())?;
/// Trainer::new(&mut model, TrainConfig::default())?.weights(weights).run(training)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct StoredWeights {
    file: ArraySet,
    /// The name in the file of each parameter that it holds.
    sources: BTreeMap<String, String>,
}

impl StoredWeights {
    /// Opens weights for a model, as [`load_weights`] does, and checks what can be checked before they are read.
    ///
    /// `options.one_by_one` has no effect.
    ///
    /// # Errors
    /// As [`load_weights`], of which only a disk that fails is left for later.
    pub fn open(
        model: &(impl ModuleParameters + ?Sized),
        path: impl AsRef<Path>,
        options: &LoadOptions<'_>,
    ) -> Result<Self> {
        let mut weights = Self::matched(model, path.as_ref(), options)?;
        for in_file in weights.sources.values() {
            weights.file.check(in_file)?;
        }
        Ok(weights)
    }

    fn matched(
        model: &(impl ModuleParameters + ?Sized),
        path: &Path,
        options: &LoadOptions<'_>,
    ) -> Result<Self> {
        let file = open(path, options.averaged)?;
        let sources = match_names(&file, path, &model.parameters().flatten(), options)?;
        Ok(Self { file, sources })
    }

    /// Whether they hold a parameter; those that may be missing keep their values.
    pub(crate) fn holds(&self, parameter: &str) -> bool {
        self.sources.contains_key(parameter)
    }

    /// A parameter in this dtype, evaluated; `None` where they do not hold it.
    ///
    /// # Errors
    /// As [`ArraySet::read`].
    pub(crate) fn read(&mut self, parameter: &str, dtype: Dtype) -> Result<Option<Array>> {
        let Some(in_file) = self.sources.get(parameter) else { return Ok(None) };
        let array = self.file.read(in_file)?.as_dtype(dtype)?;
        array.eval()?;
        Ok(Some(array))
    }
}

/// The arrays of weights that a path stands for.
fn open(path: &Path, averaged: bool) -> Result<ArraySet> {
    let has_weights = ["model.safetensors", "model.safetensors.index.json"]
        .iter()
        .any(|name| path.join(name).exists());
    if !path.is_dir() || (has_weights && !is_step(path)) {
        return ArraySet::open(path);
    }
    match Location::find(path) {
        Ok(location) if averaged => location.entry()?.averaged_weights(),
        Ok(location) => location.entry()?.weights(),
        // Neither weights nor checkpoints: the missing file is what a person understands.
        Err(_) if !is_step(path) => ArraySet::open(path),
        Err(error) => Err(error),
    }
}

/// Pairs every parameter's name with its name in the file, or says all that is in the way.
fn match_names(
    file: &ArraySet,
    path: &Path,
    parameters: &HashMap<Rc<str>, &Array>,
    options: &LoadOptions<'_>,
) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    let mut problems = Vec::new();
    for in_file in file.names() {
        let renamed = match options.rename {
            Some(rename) => rename(&in_file),
            None => Some(in_file.clone()),
        };
        let Some(name) = renamed else { continue };
        let Some(parameter) = parameters.get(name.as_str()) else {
            problems.push((name.clone(), Mismatch::Unexpected { name }));
            continue;
        };
        problems.extend(
            difference(&name, file, &in_file, parameter, options).map(|it| (name.clone(), it)),
        );
        if sources.insert(name.clone(), in_file).is_some() {
            problems.push((name.clone(), Mismatch::Twice { name }));
        }
    }
    let stays = |name: &str| options.optional.is_some_and(|is_optional| is_optional(name));
    for name in parameters.keys().filter(|name| !sources.contains_key(&***name) && !stays(name)) {
        problems.push((name.to_string(), Mismatch::Missing { name: name.to_string() }));
    }
    if problems.is_empty() {
        return Ok(sources);
    }
    problems.sort_by(|(a, _), (b, _)| natural_order(a, b));
    let problems = problems.into_iter().map(|(_, problem)| problem).collect();
    Err(StoreError::Mismatch { path: path.to_owned(), problems }.into())
}

/// How an array of the file differs from its parameter, if it does: in shape first, then in dtype.
fn difference(
    name: &str,
    file: &ArraySet,
    in_file: &str,
    parameter: &Array,
    options: &LoadOptions<'_>,
) -> Option<Mismatch> {
    let (shape, dtype) = (file.shape(in_file)?, file.file_dtype(in_file)?);
    let name = name.to_owned();
    let same_axis = |(&file, &model): (&usize, &i32)| i32::try_from(file) == Ok(model);
    if shape.len() != parameter.ndim() || !shape.iter().zip(parameter.shape()).all(same_axis) {
        let model = parameter.shape().to_vec();
        return Some(Mismatch::Shape { name, file: shape.to_vec(), model });
    }
    let wanted = parameter.dtype();
    let castable =
        options.cast && wanted.is_float() && mlx_dtype(dtype).is_some_and(|dtype| dtype.is_float());
    if mlx_dtype(dtype) == Some(wanted) || castable {
        return None;
    }
    Some(Mismatch::Dtype { name, file: dtype.to_string(), model: file_dtype(wanted).to_string() })
}
