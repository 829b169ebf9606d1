//! The elements of an array where MLX keeps them, for any thread to read.

use super::has_cuda;
use crate::{Array, Result};
use std::{ptr::NonNull, slice};

/// Row-major elements that stay as they are for as long as this is there.
///
/// MLX never changes an array: an operation writes to the memory of an old one only when nothing else holds that
/// memory, and this holds it.
#[derive(Debug)]
pub(crate) struct Elements {
    start: NonNull<u8>,
    num_bytes: usize,
    /// Holds the memory, and is used for nothing else.
    _array: Array,
}

// SAFETY: the memory is only read, and nothing writes to it while `_array` holds it. The array itself is never
// looked at, and may be dropped on any thread, as `Array: Send` says.
unsafe impl Send for Elements {}
// SAFETY: as above.
unsafe impl Sync for Elements {}

impl Elements {
    /// Evaluates an array and holds its elements, or `None` where there are none, or the GPU's memory is not the
    /// host's (CUDA). An array that is not row-major in memory is copied to one that is.
    ///
    /// # Errors
    /// When MLX fails.
    pub(crate) fn of(array: &Array) -> Result<Option<Self>> {
        if array.size() == 0 || has_cuda() {
            return Ok(None);
        }
        let array = array.contiguous()?;
        array.eval()?;
        // SAFETY: the handle is valid and the array evaluated; the pointer is that of its first byte, whatever its
        // dtype.
        let start = unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) };
        let num_bytes = array.nbytes();
        Ok(NonNull::new(start.cast_mut()).map(|start| Self { start, num_bytes, _array: array }))
    }

    /// The bytes, in the order of the machine.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to this many bytes of a row-major array, which `_array` holds and nothing changes.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.num_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::ops::ones;

    #[test]
    fn elements_outlive_the_array_and_are_read_by_other_threads() {
        let array = ones::<f32>(&[1 << 12]).unwrap();
        let Some(elements) = Elements::of(&array).unwrap() else { return };
        // Its memory would be taken for the result if nothing else held it.
        let mut next = array;
        for _ in 0..4 {
            next = next.add(Array::from_f32(1.0)).unwrap();
            next.eval().unwrap();
        }
        let ones = 1_f32.to_le_bytes().repeat(1 << 12);
        std::thread::spawn(move || assert!(elements.bytes() == ones)).join().unwrap();
        assert_eq!(
            next.max(None).unwrap().try_item_exact::<f32>().unwrap().to_bits(),
            5_f32.to_bits()
        );
    }

    #[test]
    fn a_view_is_read_in_its_own_order() {
        let array = Array::from_slice(&[1_u8, 2, 3, 4, 5, 6], &[2, 3]).transpose_axes(&[1, 0]);
        if let Some(elements) = Elements::of(&array.unwrap()).unwrap() {
            assert_eq!(elements.bytes(), [1, 4, 2, 5, 3, 6]);
        }
    }

    #[test]
    fn elements_are_held_where_they_are_unless_the_gpu_has_memory_of_its_own() {
        let array = ones::<f32>(&[3, 5]).unwrap();
        assert_eq!(Elements::of(&array).unwrap().is_none(), has_cuda());
        let Some(elements) = Elements::of(&array).unwrap() else { return };
        let again = Elements::of(&array).unwrap().unwrap();
        assert_eq!(elements.bytes().as_ptr(), again.bytes().as_ptr());
    }
}
