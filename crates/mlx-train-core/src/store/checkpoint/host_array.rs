//! Arrays as bytes in host memory, which any thread may hold.

use crate::{
    Error, Result,
    ffi::Elements,
    store::{
        CheckpointError,
        array_file::{ArrayBuilder, PART_BYTES, for_each_part},
        layout::Described,
    },
};
use mlx_rs::{Array, Dtype};
use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    thread,
};

/// An array's elements in host memory, row-major and little-endian.
///
/// The array that they were taken from may go, and another thread may write the bytes to disk in the
/// meantime. On CUDA they are a copy. Where the host reads what the device computes with (CPU, Metal)
/// they are MLX's own, which MLX keeps until this goes, and taking them costs no time.
///
/// ```
/// # use mlx_train_core::{Array, store::HostArray};
/// let array = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]).transpose_axes(&[1, 0])?;
/// let copy = HostArray::take(&array)?;
/// assert_eq!(copy.shape(), [2, 2]);
/// assert_eq!(copy.bytes()[4..8], 3.0_f32.to_le_bytes());
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Clone)]
pub struct HostArray {
    dtype: Dtype,
    shape: Vec<i32>,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Copied(Vec<u8>),
    /// Still where MLX has put them.
    Held(Arc<Elements>),
}

impl HostArray {
    /// Evaluates an array of any shape and dtype, and holds or copies its elements.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn take(array: &Array) -> Result<Self> {
        let content = match Elements::of(array)? {
            Some(elements) => Content::Held(Arc::new(elements)),
            None => Content::Copied(copy(array)?),
        };
        Ok(Self { dtype: array.dtype(), shape: array.shape().to_vec(), content })
    }

    /// An array from its bytes.
    ///
    /// # Errors
    /// [`CheckpointError::HostArray`] when there are more or fewer bytes than shape and dtype say,
    /// an axis is negative, or a bool is neither 0 nor 1.
    pub fn new(dtype: Dtype, shape: &[i32], bytes: Vec<u8>) -> Result<Self> {
        let wanted = shape
            .iter()
            .try_fold(1_usize, |product, &axis| product.checked_mul(usize::try_from(axis).ok()?));
        let wanted = wanted
            .filter(|&elements| i32::try_from(elements).is_ok())
            .map(|_| Described { name: "", dtype, shape }.num_bytes());
        let is_bool = dtype != Dtype::Bool || bytes.iter().all(|&byte| byte < 2);
        if wanted != Some(bytes.len()) || !is_bool {
            return Err(CheckpointError::HostArray {
                dtype,
                shape: shape.to_vec(),
                num_bytes: bytes.len(),
            }
            .into());
        }
        Ok(Self { dtype, shape: shape.to_vec(), content: Content::Copied(bytes) })
    }

    /// The array as MLX's, evaluated.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn to_array(&self) -> Result<Array> {
        let mut array = ArrayBuilder::new(self.dtype);
        for part in self.bytes().chunks(PART_BYTES) {
            array.push(part)?;
        }
        array.finish(&self.shape)
    }

    /// The elements' dtype.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &[i32] {
        &self.shape
    }

    /// The elements, row-major and little-endian.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Copied(bytes) => bytes,
            Content::Held(elements) => elements.bytes(),
        }
    }
}

impl PartialEq for HostArray {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.shape(), self.bytes()) == (other.dtype, other.shape(), other.bytes())
    }
}

impl Eq for HostArray {}

/// The fewest bytes that are worth a thread of their own.
const COPIED_BYTES: usize = if cfg!(test) { 3 } else { 1 << 20 };

/// More threads than this do not copy faster.
const MAX_COPIERS: usize = 8;

fn copy(array: &Array) -> Result<Vec<u8>> {
    // Asking reads files of the system, and a checkpoint has hundreds of arrays.
    static COPIERS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(MAX_COPIERS));
    let mut bytes = vec![0; array.nbytes()];
    let mut rest = &mut bytes[..];
    for_each_part(array, |part| {
        let to = rest.split_off_mut(..part.len());
        let to = to.ok_or_else(|| Error::message("MLX gave more bytes than there are"))?;
        copy_together(to, part, *COPIERS);
        Ok(())
    })?;
    Ok(bytes)
}

/// Copies `from`, of the same length, with several threads: what takes the time are pages that a device and the system
/// hand over one at a time, to whoever touches them first.
fn copy_together(to: &mut [u8], from: &[u8], copiers: usize) {
    let piece = from.len().div_ceil(copiers).max(COPIED_BYTES);
    let pieces = Mutex::new(to.chunks_mut(piece).zip(from.chunks(piece)));
    let copy_pieces = || {
        loop {
            // Not in the head of the loop, where the lock would last until the piece is copied.
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((to, from)) = next else { return };
            to.copy_from_slice(from);
        }
    };
    thread::scope(|scope| {
        for _ in 1..from.len().div_ceil(piece) {
            // Those that do not start leave their pieces to the others.
            _ = thread::Builder::new().spawn_scoped(scope, copy_pieces);
        }
        copy_pieces();
    });
}

// Elements would flood a log.
impl std::fmt::Debug for HostArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostArray({:?}, {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_copy_all_bytes_however_many_there_are() {
        let from: Vec<u8> = (1..=40).collect();
        for (length, copiers) in
            (0..=40).flat_map(|length| [1, 2, 7].map(|copiers| (length, copiers)))
        {
            let mut to = vec![0; length];
            copy_together(&mut to, &from[..length], copiers);
            assert_eq!(to, from[..length], "{copiers} threads");
        }
    }

    #[test]
    fn a_copy_has_the_elements_in_their_order() -> Result<()> {
        // Several parts, which are of 16 bytes here.
        let numbers: Vec<i32> = (0..15).collect();
        let array = Array::from_slice(&numbers, &[3, 5]).transpose_axes(&[1, 0])?;
        let expected: Vec<u8> =
            (0..15).flat_map(|at| (at % 3 * 5 + at / 3_i32).to_le_bytes()).collect();
        assert_eq!(copy(&array)?, expected);
        assert!(copy(&Array::from_slice::<f32>(&[], &[0]))?.is_empty());
        Ok(())
    }
}
