//! Named arrays in one safetensors file: 8 bytes of header length, a JSON header, raw arrays.

use super::{
    StoreError,
    error::shown,
    layout::{Described, FileLayout},
    slices::{self, Region, Run, SLICES, Slices},
};
use crate::{
    Error, Result,
    file::{FileError, write_whole_with},
};
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, indexing::TryIndexOp},
};
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::{
    cmp::Ordering,
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    thread,
};

/// The bytes before the header, which hold its length.
pub(super) const LENGTH_BYTES: usize = 8;

/// The longest header that is read, the same as in the `safetensors` packages; millions of arrays.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How much of an array passes through host memory at once; a multiple of every element's size.
pub(super) const PART_BYTES: usize = if cfg!(test) { 16 } else { 1 << 28 };

/// From how many bytes on a thread saves more time than it takes to start.
const WORTH_A_THREAD: usize = if cfg!(test) { 8 } else { 1 << 20 };

// Arrays are copied as MLX keeps them in memory; the format is little-endian.
#[cfg(target_endian = "big")]
compile_error!("mlx-train reads and writes weights on little-endian machines only");

/// A safetensors file whose header has been read and checked; its arrays are still on disk.
///
/// ```
/// # use mlx_train_core::{Array, store::{ArrayFile, save_arrays}};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("a.safetensors");
/// save_arrays([("a", &Array::from_slice(&[1.0_f32, 2.0], &[2]))], &[], &path)?;
/// let mut file = ArrayFile::open(&path)?;
/// assert_eq!(file.names(), ["a"]);
/// assert_eq!(file.read("a")?.shape(), [2]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug)]
pub struct ArrayFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    data_start: u64,
    /// Has seen everything before `data_start`.
    hasher: Sha256,
}

impl ArrayFile {
    /// Opens a file and checks its header against its size; reads no array.
    ///
    /// # Errors
    /// [`FileError`] when the file cannot be read, [`StoreError::Damaged`] when it is not
    /// whole: a header that is no JSON or longer than the file (or than 100 MB), arrays that
    /// overlap, leave gaps, or have other sizes than their shapes and dtypes say.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let damaged =
            |problem: String| StoreError::Damaged { path: path.to_owned(), problem }.into();
        // Before opening: to open a named pipe would wait for its writer.
        let about = fs::metadata(path).map_err(FileError::read(path))?;
        if !about.is_file() {
            return Err(damaged("it is not an ordinary file; name one".into()));
        }
        let mut file = File::open(path).map_err(FileError::read(path))?;
        let file_bytes = file.metadata().map_err(FileError::read(path))?.len();
        if file_bytes < LENGTH_BYTES as u64 {
            return Err(damaged(format!("it has {file_bytes} bytes, a header needs 8; {AGAIN}")));
        }
        let mut length = [0; LENGTH_BYTES];
        file.read_exact(&mut length).map_err(FileError::read(path))?;
        if &length == b"version " {
            return Err(damaged("it is a pointer of Git LFS; run `git lfs pull`".into()));
        }
        let header_bytes = header_bytes(length, file_bytes).map_err(damaged)?;
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(FileError::read(path))?;
        let data_start = LENGTH_BYTES as u64 + header_bytes;
        let hasher = Sha256::new().chain_update(length).chain_update(&header);
        let header = parse_header(&header, file_bytes - data_start).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), file, header, data_start, hasher })
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arrays' names in natural order (`layers.2` before `layers.10`).
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_by(|a, b| natural_order(a, b));
        names
    }

    /// Free text that the file's writer put beside the arrays, `format` for one.
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.header.metadata().as_ref()
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// The dtype of an array in safetensors' terms, which have more dtypes than MLX.
    pub(super) fn file_dtype(&self, name: &str) -> Option<FileDtype> {
        self.header.info(name).map(|info| info.dtype)
    }

    /// Reads one array, evaluated.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file has no array of that name, or one that MLX cannot hold
    /// (8-bit floats, an axis over 2^31 - 1, a bool that is neither 0 nor 1); when reading fails.
    pub fn read(&mut self, name: &str) -> Result<Array> {
        self.read_bytes(name, self.info(name)?, &mut Vec::new(), None)
    }

    /// The parts among the arrays, or what is wrong with what the file says of them.
    pub(super) fn slices(&self) -> Result<Slices> {
        let Some(text) = self.metadata().and_then(|metadata| metadata.get(SLICES)) else {
            return Ok(Slices::new());
        };
        let slices: Slices = serde_json::from_str(text).map_err(|error| {
            self.damaged(format!("what it says of parts is not understood: {error}; {AGAIN}"))
        })?;
        match slices.keys().find(|name| self.header.info(name).is_none()) {
            Some(name) => Err(self.damaged(format!(
                "it tells of a part `{}` that it does not have; {AGAIN}",
                shown(name)
            ))),
            None => Ok(slices),
        }
    }

    /// Where an array lies in the whole that it is a part of.
    pub(super) fn place(&self, name: &str, slices: &Slices) -> Result<(Vec<usize>, Region)> {
        let info = self.info(name)?;
        slices::place(slices.get(name), info)
            .map_err(|problem| self.damaged(format!("`{}`: {problem}; {AGAIN}", shown(name))))
    }

    /// Reads some elements of an array, given by their places in it, to places in `target`.
    pub(super) fn read_runs(
        &mut self,
        name: &str,
        runs: impl Iterator<Item = Run>,
        target: &mut [u8],
    ) -> Result<()> {
        let info = self.info(name)?;
        let width = info.dtype.bitsize() / 8;
        let start = self.data_start + info.data_offsets.0 as u64;
        let mut file = &self.file;
        for Run { from, to, len } in runs {
            let target = target
                .get_mut(to * width..(to + len) * width)
                .ok_or_else(|| Error::message("a part is not within its whole"))?;
            file.seek(SeekFrom::Start(start + (from * width) as u64))
                .and_then(|_| file.read_exact(target))
                .map_err(FileError::read(&self.path))?;
        }
        Ok(())
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| {
            self.damaged(format!(
                "it has no array `{}`; `ArrayFile::names` lists those it has",
                shown(name)
            ))
        })
    }

    /// Finds out whether [`ArrayFile::read`] would succeed, but for the disk and for MLX.
    pub(super) fn check(&mut self, name: &str) -> Result<()> {
        match self.header.info(name) {
            Some(info) if mlx_dtype(info.dtype).zip(mlx_shape(&info.shape)).is_none() => {
                Err(self.damaged(cannot_hold(name, info)))
            }
            // Any value may be in a float; a bool has only two.
            Some(info) if info.dtype != FileDtype::BOOL => Ok(()),
            _ => self.read(name).map(drop),
        }
    }

    /// Reads every array, evaluated, and the SHA-256 of the whole file that they were read from.
    ///
    /// Nothing is read twice, so the hash is that of the very bytes in the arrays.
    pub(super) fn read_all(self) -> Result<(Vec<(String, Array)>, Sha256)> {
        let mut infos: Vec<(String, &TensorInfo)> = self.header.tensors().into_iter().collect();
        infos.sort_by_key(|(_, info)| info.data_offsets);
        let mut hasher = self.hasher.clone();
        let mut buffer = Vec::new();
        let mut arrays = Vec::with_capacity(infos.len());
        for (name, info) in infos {
            let array = self.read_bytes(&name, info, &mut buffer, Some(&mut hasher))?;
            arrays.push((name, array));
        }
        Ok((arrays, hasher))
    }

    /// Reads one array through `buffer`, and shows its bytes to `hasher` on their way.
    fn read_bytes(
        &self,
        name: &str,
        info: &TensorInfo,
        buffer: &mut Vec<u8>,
        mut hasher: Option<&mut Sha256>,
    ) -> Result<Array> {
        let (dtype, shape) = mlx_dtype(info.dtype)
            .zip(mlx_shape(&info.shape))
            .ok_or_else(|| self.damaged(cannot_hold(name, info)))?;
        let (begin, end) = info.data_offsets;

        let mut array = ArrayBuilder::new(dtype);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + begin as u64))
            .map_err(FileError::read(&self.path))?;
        for part in (begin..end).step_by(PART_BYTES) {
            buffer.resize(PART_BYTES.min(end - part), 0);
            file.read_exact(buffer).map_err(FileError::read(&self.path))?;
            // Any other value would be undefined behaviour in whoever reads it as a `bool`.
            if dtype == Dtype::Bool && buffer.iter().any(|&byte| byte > 1) {
                let problem = format!("`{name}` has a bool that is neither 0 nor 1; {AGAIN}");
                return Err(self.damaged(problem));
            }
            let Some(hasher) = hasher.as_deref_mut() else {
                array.push(buffer)?;
                continue;
            };
            // While one thread hashes, this one copies.
            let (is_done, pushed) = thread::scope(|scope| {
                let hash = || hasher.update(&*buffer);
                let is_done = buffer.len() >= WORTH_A_THREAD
                    && thread::Builder::new().spawn_scoped(scope, hash).is_ok();
                (is_done, array.push(buffer))
            });
            if !is_done {
                hasher.update(&*buffer);
            }
            pushed?;
        }
        array.finish(&shape)
    }

    fn damaged(&self, problem: String) -> Error {
        StoreError::Damaged { path: self.path.clone(), problem }.into()
    }
}

/// How long a header is, from the first bytes of a file of `file_bytes`.
pub(super) fn header_bytes(length: [u8; LENGTH_BYTES], file_bytes: u64) -> Result<u64, String> {
    let header_bytes = u64::from_le_bytes(length);
    let longest = file_bytes.saturating_sub(LENGTH_BYTES as u64).min(MAX_HEADER_BYTES);
    if header_bytes > longest {
        return Err(format!(
            "it announces a header of {header_bytes} bytes where at most {longest} can be; {AGAIN}"
        ));
    }
    Ok(header_bytes)
}

/// Reads a header that `data_bytes` of arrays follow.
pub(super) fn parse_header(header: &[u8], data_bytes: u64) -> Result<Metadata, String> {
    let header: Metadata = serde_json::from_slice(header)
        .map_err(|error| format!("its header is refused: {error}; {AGAIN}"))?;
    let promised = header.data_len() as u64;
    if data_bytes != promised {
        return Err(format!(
            "it holds {data_bytes} bytes of arrays, its header promises {promised}; {AGAIN}"
        ));
    }
    Ok(header)
}

/// An array that is made of parts of its bytes, so that they are never all on the host twice.
pub(super) struct ArrayBuilder {
    dtype: Dtype,
    parts: Vec<Array>,
}

impl ArrayBuilder {
    pub(super) fn new(dtype: Dtype) -> Self {
        Self { dtype, parts: Vec::new() }
    }

    /// Adds the next bytes: at most [`PART_BYTES`], and whole elements.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let part = Array::from_slice(bytes, &[bytes.len() as i32]).view_dtype(self.dtype)?;
        part.eval()?;
        self.parts.push(part);
        Ok(())
    }

    /// The array, evaluated.
    pub(super) fn finish(self, shape: &[i32]) -> Result<Array> {
        let flat = match self.parts.as_slice() {
            [] => Array::from_slice::<u8>(&[], &[0]).as_dtype(self.dtype)?,
            [whole] => whole.clone(),
            parts => concatenate(parts, 0)?,
        };
        let array = flat.reshape(shape)?;
        array.eval()?;
        Ok(array)
    }
}

const AGAIN: &str = "copy, download or save it again";

fn cannot_hold(name: &str, info: &TensorInfo) -> String {
    let TensorInfo { dtype, shape, .. } = info;
    format!("MLX has no {dtype} arrays of shape {shape:?}, as `{name}` is; convert or split it")
}

/// Saves named arrays to `path`, whole or not at all, with free text beside them.
///
/// Arrays are evaluated first, may be views, and have any dtype of MLX. They lie in the file in
/// natural order of names, those of wider elements first, so that each is aligned.
///
/// # Errors
/// [`StoreError::Unsavable`] when two arrays have one name, a name is empty or `__metadata__`
/// (the format's own), or an array has more than 2^31 - 1 elements; [`FileError`] when the
/// folder does not exist or the disk fails; when MLX fails.
pub fn save_arrays<'a, S: Into<String>>(
    arrays: impl IntoIterator<Item = (S, &'a Array)>,
    metadata: &[(&str, &str)],
    path: impl AsRef<Path>,
) -> Result<()> {
    let path = path.as_ref();
    let arrays: Vec<(String, &Array)> =
        arrays.into_iter().map(|(name, array)| (name.into(), array)).collect();
    let described: Vec<_> = arrays
        .iter()
        .map(|(name, array)| Described { name, dtype: array.dtype(), shape: array.shape() })
        .collect();
    let layout = FileLayout::new(&described, metadata, path)?;
    write_whole_with(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(FileError::write(path));
        put(&layout.head)?;
        for index in layout.order {
            for_each_part(arrays[index].1, |bytes| Ok(put(bytes)?))?;
        }
        Ok(())
    })
}

/// Hands out the bytes of an array in row-major order, a part at a time.
pub(super) fn for_each_part(array: &Array, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    if array.size() == 0 {
        return Ok(());
    }
    let flat = array.contiguous()?.reshape(&[-1])?;
    let step = PART_BYTES / array.item_size();
    for begin in (0..array.size()).step_by(step) {
        let end = array.size().min(begin + step);
        let part = flat.try_index(begin as i32..end as i32)?.view::<u8>()?;
        put(part.try_as_slice::<u8>()?)?;
    }
    Ok(())
}

/// Numbers in names compare as numbers; equal ones (`01`, `1`) by their characters.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    natord::compare(a, b).then_with(|| a.cmp(b))
}

/// Sizes as MLX counts them, or `None` when an axis or the whole is too long.
pub(super) fn mlx_shape(shape: &[usize]) -> Option<Vec<i32>> {
    let elements = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis))?;
    i32::try_from(elements).ok()?;
    shape.iter().map(|&axis| i32::try_from(axis).ok()).collect()
}

/// Pairs MLX's dtypes with safetensors'.
macro_rules! dtypes {
    ($($mlx:ident = $file:ident),+ $(,)?) => {
        pub(super) fn file_dtype(dtype: Dtype) -> FileDtype {
            match dtype { $(Dtype::$mlx => FileDtype::$file,)+ }
        }

        pub(super) fn mlx_dtype(dtype: FileDtype) -> Option<Dtype> {
            match dtype { $(FileDtype::$file => Some(Dtype::$mlx),)+ _ => None }
        }
    };
}

dtypes! {
    Bool = BOOL,
    Uint8 = U8,
    Uint16 = U16,
    Uint32 = U32,
    Uint64 = U64,
    Int8 = I8,
    Int16 = I16,
    Int32 = I32,
    Int64 = I64,
    Float16 = F16,
    Float32 = F32,
    Float64 = F64,
    Bfloat16 = BF16,
    Complex64 = C64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_several_parts_come_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("parts.safetensors");
        // 16 bytes a part and some over; transposed, so that memory is in another order.
        let numbers: Vec<f32> = (0..22_u8).map(f32::from).collect();
        let numbers = Array::from_slice(&numbers, &[11, 2]).transpose_axes(&[1, 0]).unwrap();
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Complex64, Dtype::Bool] {
            let saved = numbers.as_dtype(dtype).unwrap();
            save_arrays([("a", &saved)], &[], &path).unwrap();
            let loaded = ArrayFile::open(&path).unwrap().read("a").unwrap();
            assert_eq!((loaded.shape(), loaded.dtype()), (&[2, 11][..], dtype));
            assert!(saved.eq_values(&loaded).unwrap());
        }
    }

    #[test]
    fn numbers_in_names_compare_as_numbers() {
        let mut names = ["a.10", "a.2", "a.02", "b", "a", "a.2.x"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a", "a.02", "a.2", "a.2.x", "a.10", "b"]);
    }
}
