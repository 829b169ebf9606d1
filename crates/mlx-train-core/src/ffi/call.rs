//! One call into MLX, and where its failure ends up.
//!
//! mlx-c reports a failure as a status and hands the message to one global handler. mlx-rs installs
//! its own and keeps the message where only mlx-rs can read it. The handler here keeps the message
//! if the innermost call on this thread is one of ours, and otherwise passes it on to mlx-rs's.

use crate::{Error, Result};
use mlx_rs::{Array, error::Exception};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    ffi::{CStr, CString, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::null_mut,
    sync::Once,
};

unsafe extern "C" {
    /// mlx-rs's handler: it stashes the message for the mlx-rs call that is about to fail.
    fn default_mlx_error_handler(message: *const c_char, data: *mut c_void);
}

/// What a Rust closure that MLX called failed with.
enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

/// What one of our calls has left behind by the time that it returns.
#[derive(Default)]
struct Frame {
    failure: Option<Failure>,
    message: Option<String>,
}

thread_local! {
    /// The innermost call into MLX of this thread, if it is ours; `None` while a closure runs.
    static FRAME: RefCell<Option<Frame>> = const { RefCell::new(None) };
    /// Why a closure of ours failed inside of a call that is not ours, until MLX reports that call.
    static FOREIGN: Cell<Option<CString>> = const { Cell::new(None) };
}

/// Calls mlx-c; `function` returns its status.
///
/// A panic of a closure resumes here, behind MLX; a closure's error is returned as it was.
#[track_caller]
pub(super) fn call(function: impl FnOnce() -> c_int) -> Result<()> {
    install_handler();
    let outer = FRAME.replace(Some(Frame::default()));
    let status = function();
    let frame = FRAME.replace(outer).unwrap_or_default();
    match frame.failure {
        Some(Failure::Panic(panic)) => resume_unwind(panic),
        Some(Failure::Error(error)) => Err(error),
        None if status == 0 => Ok(()),
        None => {
            let message = frame.message.unwrap_or_else(|| format!("failed with status {status}"));
            Err(Exception::custom(message).into())
        }
    }
}

/// Runs a Rust closure that MLX has called; the status that MLX wants.
///
/// While it runs, messages of MLX belong to whatever the closure calls.
pub(super) fn enter(closure: impl FnOnce() -> Result<()>) -> c_int {
    let frame = FRAME.take();
    // The caller of `call` sees the panic resume, so it decides what the panic leaves broken.
    let outcome = catch_unwind(AssertUnwindSafe(closure));
    let failure = match outcome {
        Ok(Ok(())) => {
            FRAME.set(frame);
            return 0;
        }
        Ok(Err(error)) => Failure::Error(error),
        Err(panic) => Failure::Panic(panic),
    };
    if let Some(mut frame) = frame {
        frame.failure.get_or_insert(failure);
        FRAME.set(Some(frame));
    } else {
        // mlx-rs drives this closure (a checkpoint inside of mlx-rs's own `grad`, say). It can carry
        // no error of ours, so the handler puts the text in the place of MLX's.
        FOREIGN.set(Some(describe(&failure)));
    }
    1
}

/// Drops what a closure captured, when MLX lets go of it: at any time, below any call.
pub(super) fn discard<T>(value: T) {
    // A destructor that panics has printed its message by now; MLX has no way to pass it on.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        std::mem::forget(panic);
    }
}

fn describe(failure: &Failure) -> CString {
    let text = match failure {
        Failure::Error(error) => error.to_string(),
        Failure::Panic(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            format!("a closure panicked: {}", message.unwrap_or("(no message)"))
        }
    };
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // mlx-rs sets its handler before its first fallible operation and never again: after this
        // one, which is cheap, ours stays.
        drop(Array::from_int(0).clone());
        // SAFETY: `handle` is a function for the whole run and takes no data. mlx-c keeps it in a
        // plain global, so installing it races with an operation that fails on another thread at
        // this very moment, as mlx-rs's own installation does; once installed it never changes.
        unsafe { mlx_sys::mlx_set_error_handler(Some(handle), null_mut(), None) };
    });
}

/// Keeps the message of our innermost call, or passes it on to mlx-rs.
extern "C" fn handle(message: *const c_char, data: *mut c_void) {
    // SAFETY: mlx-c passes a string that ends in zero and lives until this function returns.
    let text = unsafe { CStr::from_ptr(message) };
    // Nothing here may unwind into C++, so storage that is gone or in use is passed over.
    let ours = FRAME.try_with(|frame| {
        let Ok(mut frame) = frame.try_borrow_mut() else { return false };
        let Some(frame) = frame.as_mut() else { return false };
        frame.message = Some(text.to_string_lossy().into_owned());
        true
    });
    if ours == Ok(true) {
        return;
    }
    let foreign = if text.to_bytes().windows(CLOSURE_FAILED.len()).any(|at| at == CLOSURE_FAILED) {
        FOREIGN.try_with(Cell::take).ok().flatten()
    } else {
        None
    };
    let message = foreign.as_ref().map_or(message, |text| text.as_ptr());
    // SAFETY: mlx-rs's handler copies the string, which lives until the call returns, and ignores
    // `data`.
    unsafe { default_mlx_error_handler(message, data) };
}

/// What mlx-c says when a closure returned a status other than zero.
const CLOSURE_FAILED: &[u8] = b"returned a non-zero value";
