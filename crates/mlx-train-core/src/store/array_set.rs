//! Named arrays in one safetensors file or in shards with an index, as Hugging Face lays them out.

use super::{
    ArrayFile, HostArray, Mismatch, StoreError,
    array_file::{file_dtype, mlx_dtype, mlx_shape, natural_order},
    error::shown,
    slices::{Region, fill, shared_runs, whole},
};
use crate::{Result, distributed::Placement, file::FileError};
use mlx_rs::{Array, Dtype};
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

/// What the files of a rank are called, which holds some of the arrays, and parts of others.
pub(super) fn rank_stem(stem: &str, rank: usize, ranks: usize) -> String {
    format!("{stem}.rank-{:05}-of-{ranks:05}", rank + 1)
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
    arrays: HashMap<String, Stored>,
}

/// An array, and where it lies.
#[derive(Debug)]
struct Stored {
    shape: Vec<usize>,
    /// One, or what several ranks have written; they fill the array.
    pieces: Vec<Piece>,
}

/// Some of an array, as it is in a file.
#[derive(Debug)]
struct Piece {
    /// The place in the files of the set.
    file: usize,
    /// The name there.
    name: String,
    region: Region,
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
            if set.arrays.get(name).map(|it| shards[it.pieces[0].file]) != Some(shard) {
                let problem = format!("`{shard}` lacks the array `{}`; {AGAIN}", shown(name));
                return Err(damaged(problem).into());
            }
        }
        if let Some(name) = set.arrays.keys().find(|&name| !index.weight_map.contains_key(name)) {
            let problem = format!("it lacks the array `{}` of a shard; {AGAIN}", shown(name));
            return Err(damaged(problem).into());
        }
        Ok(set)
    }

    /// Opens the files that several ranks have written together.
    pub(super) fn open_ranks(folder: &Path, stem: &str, ranks: usize) -> Result<Self> {
        let (mut files, mut arrays) = (Vec::new(), HashMap::<String, Stored>::new());
        for rank in 0..ranks {
            for file in Self::open_stem(folder, &rank_stem(stem, rank, ranks))?.files {
                let slices = file.slices()?;
                for name in file.names() {
                    let (shape, region) = file.place(&name, &slices)?;
                    let piece = Piece { file: files.len(), name: name.clone(), region };
                    let stored = arrays
                        .entry(name)
                        .or_insert_with(|| Stored { shape: shape.clone(), pieces: Vec::new() });
                    if stored.shape != shape {
                        let problem = format!(
                            "it has `{}` as a part of shape {shape:?}, and another file as one of shape {:?}; \
                             {AGAIN}",
                            shown(&piece.name),
                            stored.shape
                        );
                        return Err(
                            StoreError::Damaged { path: file.path().into(), problem }.into()
                        );
                    }
                    stored.pieces.push(piece);
                }
                files.push(file);
            }
        }
        let set = Self { path: folder.to_owned(), files, arrays };
        set.arrays.iter().try_for_each(|(name, stored)| set.check_pieces(name, stored))?;
        Ok(set)
    }

    /// Asserts that the pieces of an array are of one dtype and fill it.
    fn check_pieces(&self, name: &str, stored: &Stored) -> Result<()> {
        let [first, others @ ..] = stored.pieces.as_slice() else { return Ok(()) };
        let dtype = |piece: &Piece| self.files[piece.file].file_dtype(&piece.name);
        let regions: Vec<&Region> = stored.pieces.iter().map(|piece| &piece.region).collect();
        let problem = if others.iter().any(|piece| dtype(piece) != dtype(first)) {
            "are of several dtypes"
        } else if !fill(&whole(&stored.shape), &regions) {
            "overlap or leave gaps"
        } else {
            return Ok(());
        };
        let problem = format!("the parts of `{}` {problem}; {AGAIN}", shown(name));
        Err(StoreError::Damaged { path: self.files[first.file].path().into(), problem }.into())
    }

    fn of_files(path: &Path, files: Vec<ArrayFile>) -> Result<Self> {
        let mut arrays = HashMap::<String, Stored>::new();
        for (place, file) in files.iter().enumerate() {
            for name in file.names() {
                let shape = file.shape(&name).unwrap_or_default().to_vec();
                let piece = Piece { file: place, name: name.clone(), region: whole(&shape) };
                let stored = Stored { shape, pieces: vec![piece] };
                if let Some(other) = arrays.insert(name.clone(), stored) {
                    let problem = format!(
                        "`{}` is in it and in `{}`; {AGAIN}",
                        shown(&name),
                        files[other.pieces[0].file].path().display()
                    );
                    return Err(StoreError::Damaged { path: file.path().into(), problem }.into());
                }
            }
        }
        Ok(Self { path: path.to_owned(), files, arrays })
    }

    /// The arrays of `other` whose names begin with `prefix`, without it, in the place of those of these names.
    pub(super) fn overlaid(mut self, other: Self, prefix: &str) -> Self {
        let first = self.files.len();
        self.files.extend(other.files);
        for (name, mut stored) in other.arrays {
            let replaced = name.strip_prefix(prefix).and_then(|name| self.arrays.get_mut(name));
            if let Some(replaced) = replaced {
                stored.pieces.iter_mut().for_each(|piece| piece.file += first);
                *replaced = stored;
            }
        }
        self
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arrays' names in natural order (`layers.2` before `layers.10`).
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.arrays.keys().cloned().collect();
        names.sort_by(|a, b| natural_order(a, b));
        names
    }

    /// The shape of an array: of the whole, where several files have parts of it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.arrays.get(name).map(|stored| stored.shape.as_slice())
    }

    /// Reads one array, evaluated.
    ///
    /// # Errors
    /// As [`ArrayFile::read`].
    pub fn read(&mut self, name: &str) -> Result<Array> {
        let stored = self.stored(name)?;
        if let [Piece { file, name, .. }] = stored.pieces.as_slice() {
            let (file, name) = (*file, name.clone());
            return self.files[file].read(&name);
        }
        let region = whole(&stored.shape);
        self.read_region(name, &region)
    }

    /// Reads the part of an array that a rank holds, evaluated, and nothing else of it.
    ///
    /// # Errors
    /// As [`ArrayFile::read`]; when the array is of another shape than is placed.
    pub fn read_part(&mut self, name: &str, placement: &Placement) -> Result<Array> {
        if placement.is_whole() {
            return self.read(name);
        }
        let shape: Vec<usize> = placement.shape().iter().map(|&size| size as usize).collect();
        let stored = self.stored(name)?;
        if stored.shape != shape {
            let problem =
                format!("`{}` is of shape {:?}, not {shape:?}", shown(name), stored.shape);
            return Err(self.damaged(problem));
        }
        let ranges = placement.ranges().into_iter();
        let region: Region = ranges.map(|it| it.start as usize..it.end as usize).collect();
        self.read_region(name, &region)
    }

    fn read_region(&mut self, name: &str, region: &Region) -> Result<Array> {
        let sizes: Vec<usize> = region.iter().map(std::ops::Range::len).collect();
        let kind = self.file_dtype(name).and_then(mlx_dtype).zip(mlx_shape(&sizes));
        let (dtype, shape) = kind.ok_or_else(|| {
            self.damaged(format!("MLX cannot hold `{}`; convert or split it", shown(name)))
        })?;
        let width = file_dtype(dtype).bitsize() / 8;
        // The pieces fill the array, so it is no larger than the files.
        let mut bytes = vec![0; sizes.iter().product::<usize>() * width];
        let Self { path, files, arrays } = self;
        for piece in arrays.get(name).iter().flat_map(|stored| &stored.pieces) {
            let runs = shared_runs(&piece.region, region);
            files[piece.file].read_runs(&piece.name, runs, &mut bytes)?;
        }
        if dtype == Dtype::Bool && bytes.iter().any(|&byte| byte > 1) {
            let problem = format!("`{}` has a bool that is neither 0 nor 1; {AGAIN}", shown(name));
            return Err(StoreError::Damaged { path: path.clone(), problem }.into());
        }
        HostArray::new(dtype, &shape, bytes)?.to_array()
    }

    /// How an array differs from what is expected of it, if it does: in shape first.
    pub(crate) fn mismatch(&self, name: &str, shape: &[i32], dtype: Dtype) -> Option<Mismatch> {
        let (saved, saved_dtype) = (self.shape(name)?, self.file_dtype(name)?);
        let name = name.to_owned();
        if mlx_shape(saved).as_deref() != Some(shape) {
            return Some(Mismatch::Shape { name, file: saved.to_vec(), model: shape.to_vec() });
        }
        let [file, model] = [saved_dtype, file_dtype(dtype)].map(|dtype| dtype.to_string());
        (mlx_dtype(saved_dtype) != Some(dtype)).then_some(Mismatch::Dtype { name, file, model })
    }

    /// As [`ArrayFile::check`].
    pub(super) fn check(&mut self, name: &str) -> Result<()> {
        match self.stored(name)?.pieces.as_slice() {
            [Piece { file, name, .. }] => {
                let (file, name) = (*file, name.clone());
                self.files[file].check(&name)
            }
            _ if self.file_dtype(name) == Some(FileDtype::BOOL) => self.read(name).map(drop),
            _ => {
                let dtype = self.file_dtype(name).and_then(mlx_dtype);
                match dtype.zip(self.shape(name).and_then(mlx_shape)) {
                    Some(_) => Ok(()),
                    None => Err(self.damaged(format!("MLX cannot hold `{}`", shown(name)))),
                }
            }
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        let missing = || self.damaged(format!("there is no array `{}` in it", shown(name)));
        self.arrays.get(name).ok_or_else(missing)
    }

    fn damaged(&self, problem: String) -> crate::Error {
        StoreError::Damaged { path: self.path.clone(), problem }.into()
    }

    /// The dtype of an array in safetensors' terms.
    pub(super) fn file_dtype(&self, name: &str) -> Option<FileDtype> {
        let piece = self.arrays.get(name)?.pieces.first()?;
        self.files.get(piece.file)?.file_dtype(&piece.name)
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
}

const AGAIN: &str = "copy, download or save them again";
