//! Named arrays in one safetensors file or in shards with an index, as Hugging Face lays them out.

use super::{ArrayFile, StoreError, array_file::natural_order, error::shown};
use crate::{Result, file::FileError};
use mlx_rs::Array;
use safetensors::tensor::Dtype as FileDtype;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// The longest index that is read; millions of arrays.
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// The name of a file of arrays: the only one, or one of several.
pub(super) fn shard_name(stem: &str, index: usize, count: usize) -> String {
    match count {
        1 => format!("{stem}.safetensors"),
        _ => format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// The name of the file that says which shard holds which array.
pub(super) fn index_name(stem: &str) -> String {
    format!("{stem}.safetensors.index.json")
}

/// Which shard holds which array.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub(super) metadata: IndexMetadata,
    pub(super) weight_map: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexMetadata {
    /// The bytes of all arrays; other tools count in their own ways, so it is written, never used.
    #[serde(default, skip_deserializing)]
    pub(super) total_size: u64,
}

impl Index {
    /// Reads an index from the bytes of its file, or says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let index: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("is not understood: {error}"))?;
        if index.weight_map.is_empty() {
            return Err("lists no arrays".into());
        }
        if let Some(name) = index.weight_map.values().find(|name| !is_shard_name(name)) {
            return Err(format!(
                "names the file `{}`; only a `.safetensors` file beside it can be a shard",
                shown(name)
            ));
        }
        Ok(index)
    }

    /// The shards, each once.
    pub(super) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Nothing but a name: a path could lead out of the folder.
fn is_shard_name(name: &str) -> bool {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(is_plain)
}

/// Files of arrays whose headers have been read and checked; the arrays are still on disk.
///
/// ```
/// # use mlx_train_core::{Array, store::{ArraySet, save_arrays}};
/// # let folder = tempfile::tempdir().unwrap();
/// save_arrays([("a", &Array::from_f32(1.0))], &[], folder.path().join("model.safetensors"))?;
/// let mut arrays = ArraySet::open(folder.path())?;
/// assert_eq!(arrays.names(), ["a"]);
/// assert!(arrays.read("a")?.shape().is_empty());
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug)]
pub struct ArraySet {
    path: PathBuf,
    files: Vec<ArrayFile>,
    /// The place in `files` of each array.
    places: HashMap<String, usize>,
}

impl ArraySet {
    /// Opens a `.safetensors` file, an index of shards (`….safetensors.index.json`), or a folder
    /// with a `model.safetensors` or its index.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a file is not whole, the index and its shards disagree, or the
    /// index names a file elsewhere; [`FileError`] when a file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_stem(path, "model");
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_index(path);
        }
        Self::of_files(path, vec![ArrayFile::open(path)?])
    }

    /// Opens `stem.safetensors` in a folder, or the shards in its place.
    pub(super) fn open_stem(folder: &Path, stem: &str) -> Result<Self> {
        let index = folder.join(index_name(stem));
        if index.exists() {
            return Self::open_index(&index);
        }
        let path = folder.join(shard_name(stem, 0, 1));
        Self::of_files(folder, vec![ArrayFile::open(path)?])
    }

    fn open_index(path: &Path) -> Result<Self> {
        let damaged = |problem| StoreError::Damaged { path: path.to_owned(), problem };
        let about = fs::metadata(path).map_err(FileError::read(path))?;
        if !about.is_file() || about.len() > MAX_INDEX_BYTES {
            return Err(damaged("it is no file of at most 100 MB; download it again".into()).into());
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes))
            .map_err(FileError::read(path))?;
        let index = Index::parse(&bytes)
            .map_err(|problem| damaged(format!("it {problem}; download it again")))?;

        let folder = path.parent().unwrap_or(Path::new(""));
        let shards = index.shards();
        let files = shards.iter().map(|name| ArrayFile::open(folder.join(name)));
        let set = Self::of_files(path, files.collect::<Result<_>>()?)?;
        let shards: Vec<&str> = shards.into_iter().collect();
        for (name, shard) in &index.weight_map {
            if set.places.get(name).map(|&place| shards[place]) != Some(shard) {
                let problem = format!("`{shard}` lacks the array `{}`; {AGAIN}", shown(name));
                return Err(damaged(problem).into());
            }
        }
        if let Some(name) = set.places.keys().find(|&name| !index.weight_map.contains_key(name)) {
            let problem = format!("it lacks the array `{}` of a shard; {AGAIN}", shown(name));
            return Err(damaged(problem).into());
        }
        Ok(set)
    }

    fn of_files(path: &Path, files: Vec<ArrayFile>) -> Result<Self> {
        let mut places = HashMap::new();
        for (place, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = places.insert(name.clone(), place) {
                    let problem = format!(
                        "`{}` is in it and in `{}`; {AGAIN}",
                        shown(&name),
                        files[other].path().display()
                    );
                    return Err(StoreError::Damaged { path: file.path().into(), problem }.into());
                }
            }
        }
        Ok(Self { path: path.to_owned(), files, places })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arrays' names in natural order (`layers.2` before `layers.10`).
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.places.keys().cloned().collect();
        names.sort_by(|a, b| natural_order(a, b));
        names
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file_of(name)?.shape(name)
    }

    /// Reads one array, evaluated.
    ///
    /// # Errors
    /// As [`ArrayFile::read`].
    pub fn read(&mut self, name: &str) -> Result<Array> {
        self.with(name)?.read(name)
    }

    /// As [`ArrayFile::check`].
    pub(super) fn check(&mut self, name: &str) -> Result<()> {
        self.with(name)?.check(name)
    }

    /// The file with an array.
    fn with(&mut self, name: &str) -> Result<&mut ArrayFile> {
        let file = self.places.get(name).and_then(|&place| self.files.get_mut(place));
        file.ok_or_else(|| {
            let problem = format!("there is no array `{}` in it", shown(name));
            StoreError::Damaged { path: self.path.clone(), problem }.into()
        })
    }

    /// The dtype of an array in safetensors' terms.
    pub(super) fn file_dtype(&self, name: &str) -> Option<FileDtype> {
        self.file_of(name)?.file_dtype(name)
    }

    /// The names of the files.
    pub(super) fn file_names(&self) -> Vec<String> {
        let name =
            |file: &ArrayFile| file.path().file_name().map(|it| it.to_string_lossy().into_owned());
        self.files.iter().filter_map(name).collect()
    }

    /// The files, in the order of their names.
    pub(super) fn into_files(self) -> Vec<ArrayFile> {
        self.files
    }

    fn file_of(&self, name: &str) -> Option<&ArrayFile> {
        self.files.get(*self.places.get(name)?)
    }
}

const AGAIN: &str = "copy, download or save them again";
