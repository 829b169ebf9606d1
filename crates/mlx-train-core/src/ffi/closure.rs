//! A Rust closure as MLX calls it.

use super::{
    call::{call, discard, enter},
    vector::{Vector, arrays_of},
};
use crate::{Array, Error, Result};
use mlx_sys::{mlx_closure, mlx_vector_array};
use std::{
    ffi::{c_int, c_void},
    marker::PhantomData,
    thread::{self, ThreadId},
};

/// A handle of a closure; `'f` is how long what it captured lives.
///
/// MLX counts references to the Rust closure behind the handle, so it is dropped when the last copy
/// inside of MLX is: with this handle for transformations of one call, with the graph for those that
/// a graph keeps. The wrapper of the latter must ask for `Send + 'static`.
pub(super) struct Closure<'f> {
    raw: mlx_closure,
    lifetime: PhantomData<&'f ()>,
}

impl<'f> Closure<'f> {
    /// Makes MLX call `function`.
    pub(super) fn new<F>(function: F) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'f,
    {
        let payload = Payload::into_raw(function);
        // SAFETY: `trampoline` and `drop_payload` are those of this payload's type. MLX owns it from
        // here on, also when the call fails, and drops it once.
        let raw = unsafe {
            mlx_sys::mlx_closure_new_func_payload(
                Some(trampoline::<F>),
                payload,
                Some(drop_payload::<F>),
            )
        };
        if raw.ctx.is_null() {
            return Err(Error::message("MLX is out of memory: it could not make a closure"));
        }
        Ok(Self { raw, lifetime: PhantomData })
    }

    /// What MLX makes of closures: `transform` writes the result into the handle it is given.
    pub(super) fn transformed(
        transform: impl FnOnce(*mut mlx_closure) -> c_int,
    ) -> Result<Closure<'f>> {
        // SAFETY: it takes nothing; an empty handle is valid wherever MLX writes a result.
        let mut closure =
            Self { raw: unsafe { mlx_sys::mlx_closure_new() }, lifetime: PhantomData };
        call(|| transform(&raw mut closure.raw))?;
        Ok(closure)
    }

    /// The handle, for a call that does not outlive `'f`.
    pub(super) fn raw(&self) -> mlx_closure {
        self.raw
    }

    /// Calls the closure through MLX.
    pub(super) fn apply(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let inputs = Vector::from_arrays(inputs)?;
        let mut outputs = Vector::new();
        // SAFETY: all three handles are alive during the call.
        call(|| unsafe { mlx_sys::mlx_closure_apply(outputs.out(), self.raw, inputs.raw()) })?;
        outputs.to_arrays()
    }
}

impl Drop for Closure<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_closure_free(self.raw) };
    }
}

/// What MLX keeps of a Rust closure.
///
/// An array may carry it to another thread, and may be dropped there, but it is not shared: the
/// closure runs on the thread that made it and nowhere else.
pub(super) struct Payload<F> {
    function: F,
    thread: ThreadId,
}

// SAFETY: a shared payload gives its closure to the thread that made it and to no other, so that it is as if
// it were not shared. It may be dropped on another thread, which is what `Send` allows.
unsafe impl<F: Send> Sync for Payload<F> {}

impl<F> Payload<F> {
    pub(super) fn new(function: F) -> Self {
        Self { function, thread: thread::current().id() }
    }

    pub(super) fn into_raw(function: F) -> *mut c_void {
        Box::into_raw(Box::new(Self::new(function))).cast()
    }

    /// The closure, if this is its thread.
    pub(super) fn function(&self) -> Result<&F> {
        if self.thread == thread::current().id() {
            return Ok(&self.function);
        }
        Err(Error::message(
            "a graph was transformed on another thread than the one that built it; \
             take gradients on the thread that ran the forward pass",
        ))
    }
}

/// Drops a payload for MLX.
pub(super) extern "C" fn drop_payload<F>(payload: *mut c_void) {
    // SAFETY: `payload` came from `Payload::<F>::into_raw`, and MLX drops it once.
    discard(unsafe { Box::from_raw(payload.cast::<Payload<F>>()) });
}

/// Calls a payload for MLX; the status.
extern "C" fn trampoline<F>(
    outputs: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>>,
{
    enter(|| {
        // SAFETY: `payload` came from `Payload::<F>::into_raw` and lives while MLX calls it. Only
        // shared references to it exist, so that the closure may be entered again.
        let payload = unsafe { &*payload.cast::<Payload<F>>() };
        let function = payload.function()?;
        // SAFETY: MLX keeps the inputs alive during the call.
        let inputs = unsafe { arrays_of(inputs) }?;
        let arrays = function(&inputs)?;
        // SAFETY: MLX passes a valid place for the outputs.
        unsafe { write_outputs(outputs, &arrays) }
    })
}

/// Puts the outputs of a closure where MLX wants them.
///
/// # Safety
/// `place` must be valid to write to, and hold an empty handle, which has nothing to free.
pub(super) unsafe fn write_outputs(place: *mut mlx_vector_array, arrays: &[Array]) -> Result<()> {
    let vector = Vector::from_arrays(arrays)?;
    // SAFETY: the caller says that it is valid; MLX frees the vector.
    unsafe { *place = vector.into_raw() };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_runs_on_the_thread_that_made_it_only() {
        let payload = Payload::new(7);
        assert_eq!(payload.function().ok(), Some(&7));
        let elsewhere = thread::spawn(move || payload.function().map(|_| ()));
        let error = elsewhere.join().expect("no panic").expect_err("another thread");
        assert!(error.to_string().contains("another thread"), "{error}");
    }
}
