//! Fused kernels for GPUs: what would be several passes over memory as MLX's own operations is one.
//!
//! Each has a source in CUDA C++ and one in Metal's language, which MLX compiles at run time, and a gradient of its
//! own. Where there is no kernel, on a CPU above all, MLX's operations compute the same: callers ask
//! [`kernel_form`], and [`without_kernels`] makes it say no. A gradient that a kernel computes has no gradient itself.
//!
//! The variable `MLX_TRAIN_KERNELS` says which are used: `none`, `all`, or some by their names with commas between
//! them, as in `norm,swiglu`. Unless it is set, these are all of them with CUDA, and none with Metal, where none has
//! run yet.

pub mod cross_entropy;
pub mod norm;
pub mod rotary;
pub mod squares;
pub mod swiglu;

use crate::{Error, Result, ffi::KernelForm};
use mlx_rs::Dtype;
use std::{cell::Cell, env, sync::OnceLock};

/// The variable that says which kernels are used.
pub const VARIABLE: &str = "MLX_TRAIN_KERNELS";

/// Kernels that are used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// [`cross_entropy`]
    CrossEntropy,
    /// One product for layers that have one input: [`Outputs`](crate::nn::Outputs), and what [`rotary`] and [`swiglu`]
    /// have for it.
    Joined,
    /// [`norm`]
    Norm,
    /// [`rotary`]
    Rotary,
    /// [`squares`]
    Squares,
    /// [`swiglu`]
    Swiglu,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::CrossEntropy, Self::Joined, Self::Norm, Self::Rotary, Self::Squares, Self::Swiglu];

    /// What it is called in `MLX_TRAIN_KERNELS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::Joined => "joined",
            Self::Norm => "norm",
            Self::Rotary => "rotary",
            Self::Squares => "squares",
            Self::Swiglu => "swiglu",
        }
    }
}

/// Which kernels are used.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// Those in a form that has run.
    Tried,
    /// These, in any form.
    These(Vec<Family>),
}

impl Choice {
    /// That of this process, which stays as it is.
    fn here() -> Result<&'static Self> {
        static CHOICE: OnceLock<Result<Choice, String>> = OnceLock::new();
        let choice = CHOICE.get_or_init(|| match env::var_os(VARIABLE) {
            Some(text) => Choice::parse(&text.to_string_lossy()),
            None => Ok(Choice::Tried),
        });
        choice.as_ref().map_err(Error::message)
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => return Ok(Self::Tried),
            "none" | "0" => return Ok(Self::These(Vec::new())),
            "all" | "1" => return Ok(Self::These(Family::ALL.to_vec())),
            _ => {}
        }
        let names = text.split(',').map(str::trim);
        let families = names.map(|name| {
            Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| {
                let known = Family::ALL.map(Family::name).join(", ");
                format!("{VARIABLE} names `{name}`, which is no kernel; set it to `all`, `none` or some of {known}")
            })
        });
        Ok(Self::These(families.collect::<Result<_, _>>()?))
    }

    fn allows(&self, family: Family, form: KernelForm) -> bool {
        match self {
            Self::Tried => form == KernelForm::Cuda,
            Self::These(families) => families.contains(&family),
        }
    }
}

thread_local! {
    static WITHOUT: Cell<bool> = const { Cell::new(false) };
}

/// The form of these kernels that operations recorded now on this thread can use, if any.
///
/// # Errors
/// When `MLX_TRAIN_KERNELS` is not understood, or MLX fails.
pub fn kernel_form(family: Family) -> Result<Option<KernelForm>> {
    if WITHOUT.get() {
        return Ok(None);
    }
    let choice = Choice::here()?;
    Ok(KernelForm::here()?.filter(|&form| choice.allows(family, form)))
}

/// As [`kernel_form`], for arrays of this dtype: kernels know f32, f16 and bf16.
fn form_for(family: Family, dtype: Dtype) -> Result<Option<KernelForm>> {
    match dtype {
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => kernel_form(family),
        _ => Ok(None),
    }
}

/// How many numbers of `item_size` bytes a thread reads at once: `Pack::size` of the sources.
fn pack_size(form: KernelForm, item_size: usize) -> usize {
    match form {
        KernelForm::Cuda => 16 / item_size,
        KernelForm::Metal => 4,
    }
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
            assert_eq!(kernel_form(Family::Norm).ok(), Some(None));
            without_kernels(|| ());
            assert!(WITHOUT.get());
        });
    }

    #[test]
    fn a_cpu_has_none() {
        let cpu = mlx_rs::Stream::cpu();
        for family in Family::ALL {
            assert_eq!(mlx_rs::with_stream(&cpu, || kernel_form(family).ok()), Some(None));
        }
    }

    #[test]
    fn a_variable_says_which_are_used() {
        let used = |text: &str, form| -> Vec<&str> {
            let choice = Choice::parse(text).expect(text);
            let allowed = Family::ALL.into_iter().filter(|&family| choice.allows(family, form));
            allowed.map(Family::name).collect()
        };
        let all = Family::ALL.map(Family::name);
        for form in [KernelForm::Cuda, KernelForm::Metal] {
            assert_eq!(used("all", form), all);
            assert_eq!(used("1", form), all);
            assert!(used("none", form).is_empty() && used("0", form).is_empty());
            assert_eq!(used(" swiglu, norm", form), ["norm", "swiglu"]);
        }
        assert_eq!(used("", KernelForm::Cuda), all);
        assert!(used("", KernelForm::Metal).is_empty());
        let refused = Choice::parse("norm,rope").expect_err("no such kernel");
        assert!(refused.contains("`rope`") && refused.contains("rotary"), "{refused}");
    }
}
