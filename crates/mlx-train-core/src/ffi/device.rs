//! What MLX says of the device that it computes on.

use super::call::call;
use crate::Result;
use std::{
    ffi::{CStr, c_char},
    ptr::null,
};

/// What is known of the default device; a backend leaves out what it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Whether it is a GPU.
    pub is_gpu: bool,
    /// What its maker calls it.
    pub name: Option<String>,
    /// The maker's name of its instruction set.
    pub architecture: Option<String>,
    /// All of its memory.
    pub memory_bytes: Option<u64>,
    /// How much of it the system recommends to use at most: Metal's recommended working set.
    pub working_set_bytes: Option<u64>,
}

/// Asks MLX about its default device.
///
/// # Errors
/// When MLX fails.
pub fn device_info() -> Result<DeviceInfo> {
    // SAFETY: takes nothing; the handle is freed below.
    let mut device = unsafe { mlx_sys::mlx_device_new() };
    // SAFETY: as above.
    let mut info = unsafe { mlx_sys::mlx_device_info_new() };
    let asked = ask(&mut device, &mut info);
    // SAFETY: both handles are ours, and nothing that was read borrows from them.
    unsafe {
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
    }
    asked
}

/// Whether the default device is a CPU.
///
/// # Errors
/// When MLX fails.
pub fn is_on_cpu() -> Result<bool> {
    // SAFETY: takes nothing; the handle is freed below.
    let mut device = unsafe { mlx_sys::mlx_device_new() };
    let kind = kind_of_default(&mut device);
    // SAFETY: the handle is ours, and nothing uses it after this.
    unsafe { mlx_sys::mlx_device_free(device) };
    Ok(kind? == mlx_sys::mlx_device_type__MLX_CPU)
}

/// Whether this MLX computes with CUDA where there is such a GPU. Asking starts nothing on the device.
pub fn has_cuda() -> bool {
    let mut has_cuda = false;
    // Not through `call`, whose preparations make an array, which starts the device.
    // SAFETY: `has_cuda` outlives the call, which writes to it alone and cannot fail.
    let status = unsafe { mlx_sys::mlx_cuda_is_available(&raw mut has_cuda) };
    status == 0 && has_cuda
}

fn ask(
    device: &mut mlx_sys::mlx_device,
    info: &mut mlx_sys::mlx_device_info,
) -> Result<DeviceInfo> {
    let kind = kind_of_default(device)?;
    // SAFETY: both handles are valid.
    call(|| unsafe { mlx_sys::mlx_device_info_get(info, *device) })?;
    Ok(DeviceInfo {
        is_gpu: kind == mlx_sys::mlx_device_type__MLX_GPU,
        name: text(*info, c"device_name"),
        architecture: text(*info, c"architecture"),
        memory_bytes: size(*info, c"memory_size").or_else(|| size(*info, c"total_memory")),
        working_set_bytes: size(*info, c"max_recommended_working_set_size"),
    })
}

/// Points `device` at the default device, and says what kind that is.
fn kind_of_default(device: &mut mlx_sys::mlx_device) -> Result<mlx_sys::mlx_device_type> {
    let mut kind = mlx_sys::mlx_device_type__MLX_CPU;
    // SAFETY: `device` is a valid handle that the call points at the default device.
    call(|| unsafe { mlx_sys::mlx_get_default_device(device) })?;
    // SAFETY: `device` is valid and `kind` outlives the call.
    call(|| unsafe { mlx_sys::mlx_device_get_type(&raw mut kind, *device) })?;
    Ok(kind)
}

fn text(info: mlx_sys::mlx_device_info, key: &CStr) -> Option<String> {
    let mut value: *const c_char = null();
    // SAFETY: `info` is valid, `key` ends in zero, `value` outlives the call.
    let status = unsafe { mlx_sys::mlx_device_info_get_string(&raw mut value, info, key.as_ptr()) };
    if status != 0 || value.is_null() {
        return None;
    }
    // SAFETY: the string ends in zero and belongs to `info`, which outlives this function.
    Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().trim().to_owned())
}

fn size(info: mlx_sys::mlx_device_info, key: &CStr) -> Option<u64> {
    let mut value = 0;
    // SAFETY: `info` is valid, `key` ends in zero, `value` outlives the call.
    let status = unsafe { mlx_sys::mlx_device_info_get_size(&raw mut value, info, key.as_ptr()) };
    (status == 0).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_device_has_a_name() {
        let info = super::device_info().unwrap();
        assert!(info.name.is_some_and(|name| !name.is_empty()));
    }
}
