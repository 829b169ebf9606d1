//! Fused kernels for GPUs: what would be several passes over memory as MLX's own operations is one.
//!
//! Each has a source in CUDA C++ and one in Metal's language, which MLX compiles at run time, and a gradient of its
//! own. Where there is no kernel, on a CPU above all, MLX's operations compute the same: callers ask
//! [`kernel_form`], and [`without_kernels`] makes it say no.

pub mod cross_entropy;
pub mod norm;
pub mod rotary;
pub mod swiglu;

use crate::{Result, ffi::KernelForm};
use std::cell::Cell;

thread_local! {
    static WITHOUT: Cell<bool> = const { Cell::new(false) };
}

/// The form of kernels that operations recorded now on this thread can use, if any.
///
/// # Errors
/// When MLX fails.
pub fn kernel_form() -> Result<Option<KernelForm>> {
    if WITHOUT.get() { Ok(None) } else { KernelForm::here() }
}

/// Runs `f`, which records MLX's own operations in the place of kernels on this thread: what to compare a kernel
/// with.
///
/// A backward pass belongs to where its gradient is taken, so take that inside of `f` too.
pub fn without_kernels<T>(f: impl FnOnce() -> T) -> T {
    /// Puts back what was, also where `f` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            WITHOUT.set(self.0);
        }
    }
    let _before = Before(WITHOUT.replace(true));
    f()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn kernels_are_back_after_a_panic_without_them() {
        assert!(catch_unwind(|| without_kernels(|| panic!("on purpose"))).is_err());
        assert!(!WITHOUT.get());
        without_kernels(|| {
            assert_eq!(kernel_form().ok(), Some(None));
            without_kernels(|| ());
            assert!(WITHOUT.get());
        });
    }

    #[test]
    fn a_cpu_has_none() {
        let cpu = mlx_rs::Stream::cpu();
        assert_eq!(mlx_rs::with_stream(&cpu, || kernel_form().ok()), Some(None));
    }
}
