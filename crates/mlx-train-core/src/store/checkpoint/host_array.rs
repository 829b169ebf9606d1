//! Arrays as bytes in host memory, which any thread may hold.

use crate::{
    Result,
    ffi::Elements,
    store::{
        CheckpointError,
        array_file::{ArrayBuilder, PART_BYTES, for_each_part},
        layout::Described,
    },
};
use mlx_rs::{Array, Dtype};
use std::sync::Arc;

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

fn copy(array: &Array) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(array.nbytes());
    for_each_part(array, |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}

// Elements would flood a log.
impl std::fmt::Debug for HostArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostArray({:?}, {:?})", self.dtype, self.shape)
    }
}
