//! What Metal's GPU does, captured for Xcode.

use super::call::call;
use crate::{Error, Result};
use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

/// A capture of all that Metal's GPU does, until this is dropped or [`MetalCapture::stop`] ends it.
#[derive(Debug)]
pub struct MetalCapture {
    path: PathBuf,
}

/// Whether this MLX computes with Metal where there is such a GPU. Asking starts nothing on the device.
pub fn has_metal() -> bool {
    let mut has_metal = false;
    // Not through `call`, whose preparations make an array, which starts the device.
    // SAFETY: `has_metal` outlives the call, which writes to it alone and cannot fail.
    let status = unsafe { mlx_sys::mlx_metal_is_available(&raw mut has_metal) };
    status == 0 && has_metal
}

impl MetalCapture {
    /// Begins to capture into a file that ends in `.gputrace`, which Xcode opens.
    ///
    /// Metal captures where the environment has `MTL_CAPTURE_ENABLED=1` when the process starts; see
    /// [`MlxEnvironment`](crate::profile::MlxEnvironment).
    ///
    /// # Errors
    /// Without Metal; when the file is there or has another ending; when Metal refuses.
    pub fn start(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        Self::check(&path)?;
        let name = CString::new(path.to_string_lossy().as_bytes()).map_err(|_| {
            Error::message(format!("`{}` is no path: it has a zero in it", path.display()))
        })?;
        // SAFETY: the string ends in zero and outlives the call, which copies it.
        call(|| unsafe { mlx_sys::mlx_metal_start_capture(name.as_ptr()) })?;
        Ok(Self { path })
    }

    /// Whether such a capture could begin, as far as that is known before.
    ///
    /// # Errors
    /// As [`MetalCapture::start`], but for what Metal itself refuses.
    pub fn check(path: &Path) -> Result<()> {
        check_path(path)?;
        if has_metal() {
            return Ok(());
        }
        Err(Error::message(format!(
            "`{}` cannot be captured: this MLX does not compute with Metal, and nothing else can be captured; \
             leave --metal-capture out",
            path.display()
        )))
    }

    /// Ends the capture, and returns its file.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn stop(self) -> Result<PathBuf> {
        let path = self.path.clone();
        std::mem::forget(self);
        stop()?;
        Ok(path)
    }
}

impl Drop for MetalCapture {
    fn drop(&mut self) {
        // A capture that cannot be ended ends with the process.
        drop(stop());
    }
}

fn stop() -> Result<()> {
    // SAFETY: it takes nothing.
    call(|| unsafe { mlx_sys::mlx_metal_stop_capture() })
}

/// Metal itself tells neither of these so that one would understand it.
fn check_path(path: &Path) -> Result<()> {
    if path.extension().is_none_or(|extension| extension != "gputrace") {
        return Err(Error::message(format!(
            "`{}` does not end in .gputrace, which Xcode opens; name such a file",
            path.display()
        )));
    }
    if path.exists() {
        return Err(Error::message(format!(
            "`{}` is there already, and Metal replaces no capture; remove it, or name another file",
            path.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_cannot_be_says_why() {
        let refused =
            |path: &str| MetalCapture::start(path).map_err(|error| error.to_string()).err();
        assert!(refused("a.json").is_some_and(|text| text.contains(".gputrace")));
        if !has_metal() {
            assert!(refused("a.gputrace").is_some_and(|text| text.contains("Metal")));
        }
    }
}
