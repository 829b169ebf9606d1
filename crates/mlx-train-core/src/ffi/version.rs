//! Which MLX is linked.

use super::call::call;
use crate::Result;
use std::ffi::CStr;

/// The version of the MLX library that runs, such as `0.32.2`.
///
/// # Errors
/// When MLX fails.
pub fn mlx_version() -> Result<String> {
    // SAFETY: takes nothing and returns an empty string that is freed below.
    let mut text = unsafe { mlx_sys::mlx_string_new() };
    // SAFETY: `text` is a valid string that the call fills.
    let outcome = call(|| unsafe { mlx_sys::mlx_version(&raw mut text) });
    // SAFETY: the pointer is null or a C string that lives as long as `text`, which is freed after.
    let version = unsafe {
        let data = mlx_sys::mlx_string_data(text);
        let version =
            (!data.is_null()).then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_sys::mlx_string_free(text);
        version
    };
    outcome?;
    Ok(version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_three_numbers() {
        let version = super::mlx_version().unwrap();
        assert_eq!(version.split('.').count(), 3, "{version}");
    }
}
