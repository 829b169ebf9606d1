//! mlx-c's vector of arrays.

use super::call::call;
use crate::{Array, Result};
use mlx_sys::{mlx_array, mlx_vector_array};

/// An owned `mlx_vector_array`.
pub(super) struct Vector(mlx_vector_array);

impl Vector {
    /// An empty vector, for MLX to fill.
    pub(super) fn new() -> Self {
        // SAFETY: it takes nothing; an empty handle is valid wherever MLX writes a result.
        Self(unsafe { mlx_sys::mlx_vector_array_new() })
    }

    /// New references to `arrays`, in order.
    pub(super) fn from_arrays<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<Self> {
        let vector = Self::new();
        for array in arrays {
            // SAFETY: both handles are alive, and the vector takes a reference of its own.
            call(|| unsafe { mlx_sys::mlx_vector_array_append_value(vector.0, array.as_ptr()) })?;
        }
        Ok(vector)
    }

    /// The handle, for a call that does not keep it.
    pub(super) fn raw(&self) -> mlx_vector_array {
        self.0
    }

    /// Where MLX puts a result.
    pub(super) fn out(&mut self) -> *mut mlx_vector_array {
        &raw mut self.0
    }

    /// The handle, for a caller that frees it.
    pub(super) fn into_raw(self) -> mlx_vector_array {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    /// New references to the arrays of this vector.
    pub(super) fn to_arrays(&self) -> Result<Vec<Array>> {
        // SAFETY: the handle is alive for as long as `self` is.
        unsafe { arrays_of(self.0) }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

/// New references to the arrays of a vector.
///
/// # Safety
/// `vector` must be alive.
pub(super) unsafe fn arrays_of(vector: mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the caller says that it is alive. One without elements may be a null handle, which
    // the size function refuses, so that is looked at first.
    let len =
        if vector.ctx.is_null() { 0 } else { unsafe { mlx_sys::mlx_vector_array_size(vector) } };
    (0..len)
        .map(|index| {
            // SAFETY: an empty handle takes nothing and is valid to write to.
            let mut handle: mlx_array = unsafe { mlx_sys::mlx_array_new() };
            // SAFETY: `index` is below the size, and `handle` is alive and ours.
            call(|| unsafe { mlx_sys::mlx_vector_array_get(&raw mut handle, vector, index) })?;
            // SAFETY: the handle now holds a reference of its own, which the array takes over.
            Ok(unsafe { Array::from_ptr(handle) })
        })
        .collect()
}
