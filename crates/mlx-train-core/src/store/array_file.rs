//! Named arrays in one safetensors file: 8 bytes of header length, a JSON header, raw arrays.

use super::{
    Checksums, StoreError,
    checksums::Summing,
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
use std::{
    cmp::Ordering,
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

/// The bytes before the header, which hold its length.
pub(super) const LENGTH_BYTES: usize = 8;

/// The longest header that is read, the same as in the `safetensors` packages; millions of arrays.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How much of an array passes through host memory at once; a multiple of every element's size.
pub(super) const PART_BYTES: usize = if cfg!(test) { 16 } else { 1 << 28 };

/// How much of a file is added up at once: what fits into the cache of a core.
pub(super) const SUMMED_BYTES: usize = if cfg!(test) { 16 } else { 1 << 19 };

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
    /// Everything before `data_start`.
    head: Vec<u8>,
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
        let data_start = LENGTH_BYTES as u64 + header_bytes;
        let mut head = length.to_vec();
        head.resize(data_start as usize, 0);
        file.read_exact(&mut head[LENGTH_BYTES..]).map_err(FileError::read(path))?;
        let header =
            parse_header(&head[LENGTH_BYTES..], file_bytes - data_start).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), file, header, data_start, head })
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
        let info = self.info(name)?;
        let (dtype, shape) = self.kind(name, info)?;
        let (begin, end) = info.data_offsets;
        let mut array = ArrayBuilder::new(dtype);
        let mut buffer = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + begin as u64))
            .map_err(FileError::read(&self.path))?;
        for part in (begin..end).step_by(PART_BYTES) {
            buffer.resize(PART_BYTES.min(end - part), 0);
            self.fill(&mut buffer, None)?;
            self.check_bytes(name, dtype, &buffer)?;
            array.push(&buffer)?;
        }
        array.finish(&shape)
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

    /// Reads every array, evaluated, and finds out what the file adds up to if that is asked.
    ///
    /// Nothing is read twice, so the checksums are those of the very bytes in the arrays.
    pub(super) fn read_all(self, summing: Option<Summing>) -> Result<AllRead> {
        let infos = self.in_order();
        let kinds = infos.iter().map(|(name, info)| self.kind(name, info));
        let kinds = kinds.collect::<Result<Vec<_>>>()?;
        let parts = |info: &TensorInfo| {
            let (begin, end) = info.data_offsets;
            (begin..end).step_by(PART_BYTES).map(move |part| PART_BYTES.min(end - part))
        };
        // While one thread reads and adds up, this one gives what was read to MLX. Two buffers go to and fro.
        thread::scope(|scope| {
            let (full, filled) = mpsc::sync_channel::<Vec<u8>>(0);
            let (empty, emptied) = mpsc::channel::<Vec<u8>>();
            let read = || {
                let (full, emptied, mut summing) = (full, emptied, summing);
                self.start(summing.as_mut())?;
                for (name, info) in &infos {
                    if let Some(summing) = &mut summing {
                        summing.begin(name);
                    }
                    for num_bytes in parts(info) {
                        let mut buffer = emptied.try_recv().unwrap_or_default();
                        buffer.resize(num_bytes, 0);
                        self.fill(&mut buffer, summing.as_mut())?;
                        if full.send(buffer).is_err() {
                            // An array could not be made, which is told by whom it happened to.
                            return Ok(None);
                        }
                    }
                }
                Ok(summing.map(Summing::finish))
            };
            let reader = thread::Builder::new().spawn_scoped(scope, read);
            let reader = reader.map_err(FileError::read(&self.path))?;
            let mut arrays = Vec::with_capacity(infos.len());
            'arrays: for ((name, info), (dtype, shape)) in infos.iter().zip(kinds) {
                let mut array = ArrayBuilder::new(dtype);
                for _ in parts(info) {
                    // The reader says why there is no more.
                    let Ok(bytes) = filled.recv() else { break 'arrays };
                    self.check_bytes(name, dtype, &bytes)?;
                    array.push(&bytes)?;
                    _ = empty.send(bytes);
                }
                arrays.push((name.clone(), array.finish(&shape)?));
            }
            let panicked = |_| Err(Error::message("the thread that reads has panicked"));
            Ok((arrays, reader.join().unwrap_or_else(panicked)?))
        })
    }

    /// What the file adds up to.
    pub(super) fn checksums(self, mut summing: Summing) -> Result<Checksums> {
        self.start(Some(&mut summing))?;
        let mut buffer = Vec::new();
        for (name, info) in self.in_order() {
            summing.begin(&name);
            let (begin, end) = info.data_offsets;
            for piece in (begin..end).step_by(SUMMED_BYTES) {
                buffer.resize(SUMMED_BYTES.min(end - piece), 0);
                self.fill(&mut buffer, Some(&mut summing))?;
            }
        }
        Ok(summing.finish())
    }

    /// Adds the header up, and goes to what follows it.
    fn start(&self, summing: Option<&mut Summing>) -> Result<()> {
        if let Some(summing) = summing {
            summing.update(&self.head);
        }
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start)).map_err(FileError::read(&self.path))?;
        Ok(())
    }

    /// Reads the next bytes of the file, and adds each piece up while it is in the cache.
    fn fill(&self, buffer: &mut [u8], mut summing: Option<&mut Summing>) -> Result<()> {
        let mut file = &self.file;
        for piece in buffer.chunks_mut(SUMMED_BYTES) {
            file.read_exact(piece).map_err(FileError::read(&self.path))?;
            if let Some(summing) = summing.as_deref_mut() {
                summing.update(piece);
            }
        }
        Ok(())
    }

    /// The arrays as they follow one another behind the header, without gaps.
    fn in_order(&self) -> Vec<(String, &TensorInfo)> {
        let mut infos: Vec<(String, &TensorInfo)> = self.header.tensors().into_iter().collect();
        infos.sort_by_key(|(_, info)| info.data_offsets);
        infos
    }

    /// The dtype and shape of an array in MLX's terms.
    fn kind(&self, name: &str, info: &TensorInfo) -> Result<(Dtype, Vec<i32>)> {
        let kind = mlx_dtype(info.dtype).zip(mlx_shape(&info.shape));
        kind.ok_or_else(|| self.damaged(cannot_hold(name, info)))
    }

    /// Refuses a bool that is neither 0 nor 1: it would be undefined behaviour in whoever reads it as a `bool`.
    fn check_bytes(&self, name: &str, dtype: Dtype, bytes: &[u8]) -> Result<()> {
        if dtype == Dtype::Bool && bytes.iter().any(|&byte| byte > 1) {
            let problem = format!("`{name}` has a bool that is neither 0 nor 1; {AGAIN}");
            return Err(self.damaged(problem));
        }
        Ok(())
    }

    fn damaged(&self, problem: String) -> Error {
        StoreError::Damaged { path: self.path.clone(), problem }.into()
    }
}

/// Arrays by name, and what their file adds up to if that was asked.
type AllRead = (Vec<(String, Array)>, Option<Checksums>);

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
