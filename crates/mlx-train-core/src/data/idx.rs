//! IDX files: the format of MNIST, Fashion-MNIST and their relatives.
//!
//! Two zero bytes, a type code, the number of axes, each axis as a big-endian u32, then the values
//! in row-major order. Source: <https://yann.lecun.com/exdb/mnist/> (section "The IDX file format").
//! Files may be compressed with gzip, as they are distributed.

use super::{DataError, InMemory};
use crate::{Result, file::FileError};
use flate2::read::MultiGzDecoder;
use mlx_rs::Array;
use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// An array of unsigned bytes, as an IDX file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The axes, such as `[60000, 28, 28]` for images and `[60000]` for labels.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub bytes: Vec<u8>,
}

/// DEFLATE makes no file smaller than this: 258 bytes from two bits, which is 1032 to 1.
const LARGEST_RATIO: u64 = 1032;
/// The code of unsigned bytes in the header.
const UNSIGNED_BYTE: u8 = 8;

/// Reads an IDX file of unsigned bytes, compressed with gzip or not.
///
/// The header is not believed: before memory is reserved, its axes are compared with how much the file can hold.
///
/// # Errors
/// [`FileError`] when the file cannot be read, [`DataError::Malformed`] when it is no IDX file of
/// unsigned bytes, is cut short, or is longer than its header says.
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    parse(path).map_err(|problem| match problem {
        Problem::Io(source) if source.kind() == ErrorKind::UnexpectedEof => {
            malformed(path, "the file ends inside of its header: get it again".into())
        }
        Problem::Io(source) => FileError::read(path)(source).into(),
        Problem::Content(problem) => malformed(path, problem),
    })
}

/// Reads images and their labels: features `(N, rows * columns)` f32 in 0 to 1, labels `(N,)` int32.
///
/// # Errors
/// As [`read`]; when one is no image file or the other no label file, they differ in number, or a
/// label is not below `num_classes`.
pub fn load_pair(images: &Path, labels: &Path, num_classes: usize) -> Result<InMemory> {
    let (pixels, classes) = (read(images)?, read(labels)?);
    let [num_images, height, width] = pixels.shape[..] else {
        let problem = format!("images have three axes, and this file has {:?}", pixels.shape);
        return Err(malformed(images, problem));
    };
    if classes.shape != [num_images] {
        let problem = format!(
            "{num_images} images of {} need labels of shape [{num_images}], and this file has {:?}",
            images.display(),
            classes.shape
        );
        return Err(malformed(labels, problem));
    }
    let num_features = height * width;
    let (Ok(rows @ 1..), Ok(columns @ 1..)) =
        (i32::try_from(num_images), i32::try_from(num_features))
    else {
        let problem = format!("there is nothing to learn from images of shape {:?}", pixels.shape);
        return Err(malformed(images, problem));
    };
    let features: Vec<f32> = pixels.bytes.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let classes: Vec<i32> = classes.bytes.iter().map(|&class| i32::from(class)).collect();
    let features = Array::from_slice(&features, &[rows, columns]);
    InMemory::with_labels(features, &classes, num_classes, &labels.display().to_string())
}

/// Reads the training and the test set from a folder with the four files of MNIST.
///
/// They are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same with `t10k-`; a dot
/// may stand for the dash before `idx`, and each may end in `.gz`.
///
/// # Errors
/// [`DataError::Invalid`] when one is not there; as [`load_pair`].
pub fn load_folder(folder: impl AsRef<Path>, num_classes: usize) -> Result<(InMemory, InMemory)> {
    let folder = folder.as_ref();
    let pair = |part: &str| -> Result<InMemory> {
        let images = find(folder, &format!("{part}-images"), "idx3-ubyte")?;
        let labels = find(folder, &format!("{part}-labels"), "idx1-ubyte")?;
        load_pair(&images, &labels, num_classes)
    };
    Ok((pair("train")?, pair("t10k")?))
}

fn find(folder: &Path, name: &str, format: &str) -> Result<PathBuf> {
    let names = ["-", "."].map(|dash| format!("{name}{dash}{format}"));
    let candidates = names.iter().flat_map(|name| [name.clone(), format!("{name}.gz")]);
    candidates.map(|name| folder.join(name)).find(|path| path.exists()).ok_or_else(|| {
        DataError::Invalid(format!(
            "{} has no file {} (nor {}, nor either with .gz): name the folder with the four files of the dataset",
            folder.display(),
            names[0],
            names[1]
        ))
        .into()
    })
}

enum Problem {
    Io(std::io::Error),
    Content(String),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn parse(path: &Path) -> Result<Idx, Problem> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut file = BufReader::new(file);
    if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        parse_values(MultiGzDecoder::new(file), file_bytes.saturating_mul(LARGEST_RATIO))
    } else {
        parse_values(file, file_bytes)
    }
}

/// `most_bytes` is how many bytes `reader` can give at most.
fn parse_values(mut reader: impl Read, most_bytes: u64) -> Result<Idx, Problem> {
    let mut magic = [0; 4];
    reader.read_exact(&mut magic)?;
    let [0, 0, code, num_axes @ 1..=u8::MAX] = magic else {
        return Err(Problem::Content(format!(
            "this is no IDX file: it starts with {magic:02x?} instead of 00 00, a type and a number of axes"
        )));
    };
    if code != UNSIGNED_BYTE {
        return Err(Problem::Content(format!(
            "its values are of type {code:#04x}, and only unsigned bytes ({UNSIGNED_BYTE:#04x}) are read: convert it"
        )));
    }
    let mut shape = Vec::with_capacity(usize::from(num_axes));
    for _ in 0..num_axes {
        let mut axis = [0; 4];
        reader.read_exact(&mut axis)?;
        shape.push(u32::from_be_bytes(axis) as usize);
    }
    let expected = shape
        .iter()
        .try_fold(1_u64, |product, &axis| product.checked_mul(axis as u64))
        .filter(|&expected| expected <= most_bytes)
        .ok_or_else(|| {
            Problem::Content(format!(
                "its header promises {shape:?} values, more than the file can hold: it is damaged or cut short"
            ))
        })?;
    // No room is reserved from the header: the buffer grows with what really comes.
    let mut bytes = Vec::new();
    reader.take(expected + 1).read_to_end(&mut bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            Problem::Content(format!("it does not decompress ({error}): get it again"))
        }
        _ => Problem::Io(error),
    })?;
    let found = bytes.len() as u64;
    if found != expected {
        let found = if found > expected { "more".to_owned() } else { found.to_string() };
        return Err(Problem::Content(format!(
            "its header promises {shape:?}, which is {expected} values, and it has {found}: get it again"
        )));
    }
    Ok(Idx { shape, bytes })
}

fn malformed(path: &Path, problem: String) -> crate::Error {
    DataError::Malformed { path: path.to_owned(), problem }.into()
}
