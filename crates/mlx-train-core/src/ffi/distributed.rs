//! Groups of processes and their collectives.

use super::call::call;
use crate::{Array, Error, Result};
use mlx_rs::Stream;
use mlx_sys::{mlx_array, mlx_distributed_group, mlx_stream};
use std::{
    ffi::{CStr, c_int},
    sync::Mutex,
};

/// An owned `mlx_distributed_group`.
#[derive(Debug)]
pub(crate) struct RawGroup(mlx_distributed_group);

// SAFETY: the handle holds a shared pointer, which is counted atomically, and the functions here only read the
// group behind it; MLX itself uses it from the threads of its streams.
unsafe impl Send for RawGroup {}
// SAFETY: as above.
unsafe impl Sync for RawGroup {}

/// An operation in which all processes of a group take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collective {
    AllSum,
    AllMax,
    AllMin,
    AllGather,
    SumScatter,
}

/// Whether this MLX has the backend at all.
pub(crate) fn has_backend(name: &CStr) -> bool {
    // SAFETY: the string ends in zero and outlives the call, which copies it.
    unsafe { mlx_sys::mlx_distributed_is_available(name.as_ptr()) }
}

impl RawGroup {
    /// The group of all processes of a backend, which waits until they are connected.
    pub(crate) fn init(backend: &CStr) -> Result<Self> {
        // MLX keeps its groups in a map without a lock.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard =
            ONE_AT_A_TIME.lock().map_err(|_| Error::message("starting a group panicked"))?;
        let mut group = Self::empty();
        // SAFETY: the string outlives the call, and the handle is valid to write to.
        call(|| unsafe {
            mlx_sys::mlx_distributed_init(&raw mut group.0, true, backend.as_ptr())
        })?;
        Ok(group)
    }

    /// The part of the group whose processes give the same `color`, in the order of their keys.
    pub(crate) fn split(&self, color: i32, key: i32) -> Result<Self> {
        let mut group = Self::empty();
        // SAFETY: both handles are alive during the call.
        call(|| unsafe {
            mlx_sys::mlx_distributed_group_split(&raw mut group.0, self.0, color, key)
        })?;
        Ok(group)
    }

    pub(crate) fn rank(&self) -> i32 {
        // SAFETY: the handle is alive.
        unsafe { mlx_sys::mlx_distributed_group_rank(self.0) }
    }

    pub(crate) fn size(&self) -> i32 {
        // SAFETY: the handle is alive.
        unsafe { mlx_sys::mlx_distributed_group_size(self.0) }
    }

    /// Records a collective on `stream`.
    pub(crate) fn collective(
        &self,
        collective: Collective,
        x: &Array,
        stream: &Stream,
    ) -> Result<Array> {
        let function = match collective {
            Collective::AllSum => mlx_sys::mlx_distributed_all_sum,
            Collective::AllMax => mlx_sys::mlx_distributed_all_max,
            Collective::AllMin => mlx_sys::mlx_distributed_all_min,
            Collective::AllGather => mlx_sys::mlx_distributed_all_gather,
            Collective::SumScatter => mlx_sys::mlx_distributed_sum_scatter,
        };
        // SAFETY: all handles are alive during the call.
        array(stream, |result, stream| unsafe { function(result, x.as_ptr(), self.0, stream) })
    }

    /// Records that `x` goes to another process; it does when the result, `x` itself, is computed.
    pub(crate) fn send(&self, x: &Array, to: i32, stream: &Stream) -> Result<Array> {
        // SAFETY: all handles are alive during the call.
        array(stream, |result, stream| unsafe {
            mlx_sys::mlx_distributed_send(result, x.as_ptr(), to, self.0, stream)
        })
    }

    /// Records that an array of the shape and dtype of `like` comes from another process.
    pub(crate) fn receive(&self, like: &Array, from: i32, stream: &Stream) -> Result<Array> {
        // SAFETY: all handles are alive during the call, which reads the shape of `like` alone.
        array(stream, |result, stream| unsafe {
            mlx_sys::mlx_distributed_recv_like(result, like.as_ptr(), from, self.0, stream)
        })
    }

    fn empty() -> Self {
        // SAFETY: it takes nothing; an empty handle is valid wherever MLX writes a result.
        Self(unsafe { mlx_sys::mlx_distributed_group_new() })
    }
}

impl Drop for RawGroup {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_distributed_group_free(self.0) };
    }
}

/// The array that `function` writes.
fn array(
    stream: &Stream,
    function: impl FnOnce(*mut mlx_array, mlx_stream) -> c_int,
) -> Result<Array> {
    // SAFETY: it takes nothing; an empty handle is valid to write to.
    let mut handle = unsafe { mlx_sys::mlx_array_new() };
    let called = call(|| function(&raw mut handle, stream.as_ptr()));
    // SAFETY: the handle is ours, empty or not, and the array takes it over.
    let array = unsafe { Array::from_ptr(handle) };
    called.map(|()| array)
}
