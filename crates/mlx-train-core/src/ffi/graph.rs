//! Questions about a graph that is recorded and not computed.

use super::{call::call, vector::Vector};
use crate::{Array, Error, Result};
use mlx_sys::{FILE, mlx_node_namer, mlx_vector_array};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    panic::resume_unwind,
    ptr::null_mut,
    slice,
    thread::{self, Builder},
};

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
    Nodes::of([a])?.contains(b)
}

/// Some nodes of the graph in order. It holds no arrays: they have to live for as long as it is asked.
pub(crate) struct Nodes(Namer);

impl Nodes {
    /// The nodes of these arrays.
    pub(crate) fn of<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<Self> {
        // MLX tells the identity of a node by the name that a namer gives it, and no other way. Its own names are
        // letters.
        let namer = Namer::new();
        for (position, array) in arrays.into_iter().enumerate() {
            let name = CString::new(position.to_string());
            namer.name(array, &name.map_err(|_| Error::message("a number holds a zero byte"))?)?;
        }
        Ok(Self(namer))
    }

    /// Whether the node of `array` is one of them.
    pub(crate) fn contains(&self, array: &Array) -> Result<bool> {
        Ok(self.position(array)?.is_some())
    }

    /// Which of them the node of `array` is: the last, where several are one.
    pub(crate) fn position(&self, array: &Array) -> Result<Option<usize>> {
        let mut name = std::ptr::null();
        // SAFETY: both handles are alive during the call; `name` is valid to write to.
        call(|| unsafe {
            mlx_sys::mlx_node_namer_get_name(&raw mut name, self.0.0, array.as_ptr())
        })?;
        // SAFETY: the call has succeeded, so the pointer is to a string of the namer, which is alive.
        let name = unsafe { CStr::from_ptr(name) };
        Ok(name.to_str().ok().and_then(|name| name.parse().ok()))
    }
}

/// The same array as a node of its own, in the same memory.
///
/// What the gradient gets from uses of the new node is added up there, before it joins what it gets from other
/// uses of the array: the order of a sum is a matter of its last bits. A compiled function has no such nodes.
///
/// # Errors
/// When MLX fails.
pub fn branch(array: &Array) -> Result<Array> {
    // SAFETY: it takes nothing; an empty handle is valid wherever MLX writes a result.
    let mut node = unsafe { mlx_sys::mlx_array_new() };
    let stream = mlx_rs::Stream::thread_local_or_default();
    // SAFETY: all handles are alive during the call.
    call(|| unsafe { mlx_sys::mlx_copy(&raw mut node, array.as_ptr(), stream.as_ref().as_ptr()) })?;
    // SAFETY: the handle holds a reference of its own now, which the array takes over.
    Ok(unsafe { Array::from_ptr(node) })
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

/// MLX's description of the graph behind `outputs`, in which arrays have the given names.
///
/// Nothing is computed. The text has a line `Inputs: ` with the arrays that have values, a line `Outputs: `,
/// and one `Operation inputs -> outputs` for each operation, in an order in which it can be computed. An
/// array is written `name [(2,3), float32]`; one without a given name has capital letters of MLX's choice.
///
/// # Errors
/// When a name holds a zero byte, the system has no memory for the text, or MLX fails.
pub fn graph_text<'a>(
    outputs: &[Array],
    names: impl IntoIterator<Item = (&'a Array, &'a str)>,
) -> Result<String> {
    // MLX goes down the graph by recursion, and the stack of a thread of tests is 2 MiB.
    const STACK_BYTES: usize = 1 << 28;
    let print = Print { namer: Namer::new(), outputs: Vector::from_arrays(outputs)? };
    for (array, name) in names {
        let name = CString::new(name).map_err(|_| {
            Error::message(format!("the name {name:?} of an array holds a zero byte; leave it out"))
        })?;
        print.namer.name(array, &name)?;
    }
    thread::scope(|scope| {
        let thread = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || print.text());
        let thread = thread.map_err(|error| {
            Error::message(format!("cannot start a thread that describes a graph: {error}"))
        })?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// What MLX is asked to describe.
struct Print {
    namer: Namer,
    outputs: Vector,
}

// SAFETY: one thread has it at a time: the other one waits. MLX counts references atomically.
unsafe impl Sync for Print {}

impl Print {
    fn text(&self) -> Result<String> {
        let (namer, outputs): (_, mlx_vector_array) = (self.namer.0, self.outputs.raw());
        in_memory(|file| {
            // SAFETY: the file is open, and both handles are alive during the call.
            call(|| unsafe { mlx_sys::mlx_print_graph(file, namer, outputs) })
        })
    }
}

unsafe extern "C" {
    fn open_memstream(text: *mut *mut c_char, len: *mut usize) -> *mut FILE;
    fn fclose(file: *mut FILE) -> c_int;
    fn free(memory: *mut c_void);
}

/// What `write` writes to a file of the C library, which is in memory and not on a disk.
fn in_memory(write: impl FnOnce(*mut FILE) -> Result<()>) -> Result<String> {
    let (mut start, mut len) = (null_mut(), 0);
    // SAFETY: both places outlive the file, which is closed below.
    let file = unsafe { open_memstream(&raw mut start, &raw mut len) };
    if file.is_null() {
        return Err(no_memory());
    }
    let written = write(file);
    // SAFETY: the file is open, and nothing uses it after this.
    let status = unsafe { fclose(file) };
    let text = if status == 0 && !start.is_null() {
        // SAFETY: closing has left `len` bytes there, which nobody else knows.
        let bytes = unsafe { slice::from_raw_parts(start.cast::<u8>(), len) };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    } else {
        Err(no_memory())
    };
    // SAFETY: it is null, or memory that the C library has allocated for us.
    unsafe { free(start.cast()) };
    written.and(text)
}

fn no_memory() -> Error {
    Error::message("the system has no memory for the description of a graph; close other programs")
}

/// An owned `mlx_node_namer`.
struct Namer(mlx_node_namer);

impl Namer {
    fn new() -> Self {
        // SAFETY: it takes nothing.
        Self(unsafe { mlx_sys::mlx_node_namer_new() })
    }

    fn name(&self, array: &Array, name: &CStr) -> Result<()> {
        // SAFETY: both handles are alive during the call, which copies the name.
        call(|| unsafe { mlx_sys::mlx_node_namer_set_name(self.0, array.as_ptr(), name.as_ptr()) })
    }
}

impl Drop for Namer {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_node_namer_free(self.0) };
    }
}
