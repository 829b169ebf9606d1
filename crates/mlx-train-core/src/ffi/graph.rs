//! Questions about a graph that is recorded and not computed.

use super::{call::call, vector::Vector};
use crate::{Array, Result};
use mlx_sys::mlx_node_namer;
use std::ffi::CStr;

/// Whether two handles are one node of the graph: one is a copy of the other, or both of a third.
///
/// Nothing is computed. It tells whether a function has put another array in the place of one that it was
/// given, also while the function is traced and no array has a value.
///
/// ```
/// use mlx_train_core::{Array, ffi};
/// let x = Array::from_f32(1.0);
/// assert!(ffi::is_same_node(&x, &x.clone())?);
/// assert!(!ffi::is_same_node(&x, &Array::from_f32(1.0))?);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// When MLX fails.
pub fn is_same_node(a: &Array, b: &Array) -> Result<bool> {
    // MLX tells the identity of a node by the name that a namer gives it, and no other way.
    const NAME: &CStr = c"the same";
    let namer = Namer::new();
    // SAFETY: both handles are alive during the call, which copies the name.
    call(|| unsafe { mlx_sys::mlx_node_namer_set_name(namer.0, a.as_ptr(), NAME.as_ptr()) })?;
    let mut name = std::ptr::null();
    // SAFETY: as above; `name` is valid to write to.
    call(|| unsafe { mlx_sys::mlx_node_namer_get_name(&raw mut name, namer.0, b.as_ptr()) })?;
    // SAFETY: the call has succeeded, so the pointer is to a string of the namer, which is alive.
    Ok(unsafe { CStr::from_ptr(name) } == NAME)
}

/// `arrays` themselves, which are computed after `dependencies`.
///
/// Each output shares the memory of its array and is never a constant, whatever the array is.
///
/// # Errors
/// When MLX fails.
pub fn depends(arrays: &[Array], dependencies: &[Array]) -> Result<Vec<Array>> {
    let (arrays, dependencies) = (Vector::from_arrays(arrays)?, Vector::from_arrays(dependencies)?);
    let mut outputs = Vector::new();
    // SAFETY: all handles are alive during the call.
    call(|| unsafe { mlx_sys::mlx_depends(outputs.out(), arrays.raw(), dependencies.raw()) })?;
    outputs.to_arrays()
}

/// An owned `mlx_node_namer`.
struct Namer(mlx_node_namer);

impl Namer {
    fn new() -> Self {
        // SAFETY: it takes nothing.
        Self(unsafe { mlx_sys::mlx_node_namer_new() })
    }
}

impl Drop for Namer {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_node_namer_free(self.0) };
    }
}
