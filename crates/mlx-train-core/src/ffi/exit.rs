//! The end of the process.

use crate::{Error, Result};
use std::ffi::c_int;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Calls `function` when the process ends by `exit` or the end of `main`: before the destructors of what is made up to
/// now, such as MLX's groups. It must not panic.
pub(crate) fn at_exit(function: extern "C" fn()) -> Result<()> {
    // SAFETY: a function lives as long as the program.
    match unsafe { atexit(function) } {
        0 => Ok(()),
        _ => Err(Error::message("the system has no room for a function that is called at the end")),
    }
}
