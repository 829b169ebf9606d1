//! Kernels of our own, which MLX compiles for the GPU that it computes on.

use super::{call::call, device::has_cuda, metal::has_metal, vector::Vector};
use crate::{Array, Error, Result};
use mlx_rs::{Dtype, Stream};
use mlx_sys::{mlx_vector_array, mlx_vector_string};
use std::{
    ffi::{CString, c_char, c_int, c_void},
    sync::OnceLock,
};

/// A language of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelForm {
    /// CUDA C++, for GPUs of NVIDIA.
    Cuda,
    /// The Metal Shading Language, for GPUs of Apple.
    Metal,
}

impl KernelForm {
    /// That of the device which operations recorded now on this thread are for; none on a CPU.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn here() -> Result<Option<Self>> {
        // Both cost a look at the system, and stay as they are.
        static OF_GPU: OnceLock<Option<KernelForm>> = OnceLock::new();
        let of_gpu = *OF_GPU.get_or_init(|| match (has_cuda(), has_metal()) {
            (true, _) => Some(Self::Cuda),
            (false, true) => Some(Self::Metal),
            (false, false) => None,
        });
        Ok(if of_gpu.is_some() && records_for_gpu()? { of_gpu } else { None })
    }
}

/// Whether operations of this thread are recorded for a GPU.
fn records_for_gpu() -> Result<bool> {
    let stream = Stream::thread_local_or_default();
    let mut kind = mlx_sys::mlx_device_type__MLX_CPU;
    // SAFETY: takes nothing; the handle is freed below.
    let mut device = unsafe { mlx_sys::mlx_device_new() };
    // SAFETY: both handles are alive, and `device` is valid to write to.
    let asked =
        call(|| unsafe { mlx_sys::mlx_stream_get_device(&raw mut device, stream.as_ptr()) })
            // SAFETY: `device` is alive and `kind` outlives the call.
            .and_then(|()| call(|| unsafe { mlx_sys::mlx_device_get_type(&raw mut kind, device) }));
    // SAFETY: the handle is ours, and nothing uses it after this.
    unsafe { mlx_sys::mlx_device_free(device) };
    asked.map(|()| kind == mlx_sys::mlx_device_type__MLX_GPU)
}

/// A kernel in one language.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// What comes before the kernel: functions that it calls.
    pub header: &'static str,
    /// What it does, without its signature, which MLX writes.
    pub body: &'static str,
}

/// A kernel in both languages, compiled when it first runs with arguments of some kind.
///
/// It has no gradient: whoever applies it inside of a differentiated function does so in the forward or the
/// backward pass of a [`custom_vjp`](super::custom_vjp()).
#[derive(Debug)]
pub struct Kernel {
    name: &'static str,
    inputs: &'static [&'static str],
    outputs: &'static [&'static str],
    cuda: KernelSource,
    metal: KernelSource,
    /// Whether inputs are copied that are not in the order of their axes.
    in_order: bool,
    made: OnceLock<Made>,
}

/// A constant of a kernel, which is compiled anew for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constant {
    /// A type of elements.
    Dtype(Dtype),
    /// A number that is not negative.
    Int(i32),
    /// A condition.
    Bool(bool),
}

impl Constant {
    /// The bits of a number that is not negative, which the kernel reads as an f32.
    pub fn bits(number: f32) -> Self {
        Self::Int(number.to_bits() as i32)
    }
}

/// How often a kernel runs, and what it makes.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Shape and dtype of each output.
    pub outputs: &'a [(&'a [i32], Dtype)],
    /// The names and values of its constants.
    pub constants: &'a [(&'static str, Constant)],
    /// How many groups of threads there are, along one axis.
    pub groups: usize,
    /// How many threads a group has, along the same axis.
    pub threads: i32,
}

impl Launch<'_> {
    /// How many threads there are, which MLX counts as an int32; the number of groups is refused where it
    /// cannot.
    fn grid(&self, name: &str) -> Result<c_int> {
        let grid = i64::from(self.threads).saturating_mul(self.groups as i64);
        c_int::try_from(grid).map_err(|_| {
            Error::message(format!(
                "the kernel `{name}` would have {grid} threads, more than MLX counts; give it fewer rows at a time"
            ))
        })
    }
}

impl Kernel {
    /// A kernel whose sources call inputs and outputs by these names. MLX knows it by `name`, which has to be
    /// an identifier.
    ///
    /// Inputs are in the order of their axes in memory, copied where they are not. In Metal, one of fewer than
    /// eight elements is in the `constant` address space.
    pub const fn new(
        name: &'static str,
        inputs: &'static [&'static str],
        outputs: &'static [&'static str],
        cuda: KernelSource,
        metal: KernelSource,
    ) -> Self {
        Self { name, inputs, outputs, cuda, metal, in_order: true, made: OnceLock::new() }
    }

    /// The same kernel for inputs as they lie: its sources read `NAME_strides`.
    #[must_use]
    pub const fn of_any_layout(mut self) -> Self {
        self.in_order = false;
        self
    }

    /// Records the kernel for the GPU that operations of this thread are recorded for, whose form it is given
    /// in.
    ///
    /// # Errors
    /// When a constant is negative or there are too many threads; when inputs or outputs are not as many as the
    /// kernel has; or when MLX fails. What a compiler refuses appears where the outputs are evaluated.
    pub fn apply(
        &self,
        form: KernelForm,
        inputs: &[&Array],
        launch: &Launch<'_>,
    ) -> Result<Vec<Array>> {
        let grid = launch.grid(self.name)?;
        let made = if let Some(made) = self.made.get() {
            made
        } else {
            let made = self.make(form)?;
            self.made.get_or_init(|| made)
        };
        if made.form != form {
            return Err(Error::message(format!(
                "the kernel `{}` was made for {:?} and cannot run as {form:?}; one process has one kind of GPU",
                self.name, made.form
            )));
        }
        let config = Config::new(form)?;
        for &(shape, dtype) in launch.outputs {
            config.add_output(shape, dtype)?;
        }
        for &(name, constant) in launch.constants {
            config.add_constant(name, constant)?;
        }
        config.set_threads(grid, launch.threads)?;
        let inputs = Vector::from_arrays(inputs.iter().copied())?;
        let mut outputs = Vector::new();
        made.apply(&mut outputs, inputs.raw(), &config)?;
        outputs.to_arrays()
    }

    fn make(&self, form: KernelForm) -> Result<Made> {
        let KernelSource { header, body } = match form {
            KernelForm::Cuda => self.cuda,
            KernelForm::Metal => self.metal,
        };
        let [name, header, body] = [self.name, header, body].map(text);
        let (name, header, body) = (name?, header?, body?);
        let (inputs, outputs) = (Names::new(self.inputs)?, Names::new(self.outputs)?);
        let mut context = std::ptr::null_mut();
        call(|| {
            // SAFETY: all strings end in zero, and all handles are alive; MLX copies them. The outputs of
            // these kernels are not atomic, and none asks for shared memory of a size of its own.
            context = unsafe {
                match form {
                    KernelForm::Cuda => {
                        mlx_sys::mlx_fast_cuda_kernel_new(
                            name.as_ptr(),
                            inputs.0,
                            outputs.0,
                            body.as_ptr(),
                            header.as_ptr(),
                            self.in_order,
                            0,
                        )
                        .ctx
                    }
                    KernelForm::Metal => {
                        mlx_sys::mlx_fast_metal_kernel_new(
                            name.as_ptr(),
                            inputs.0,
                            outputs.0,
                            body.as_ptr(),
                            header.as_ptr(),
                            self.in_order,
                            false,
                        )
                        .ctx
                    }
                }
            };
            c_int::from(context.is_null())
        })?;
        Ok(Made { form, context })
    }
}

/// A kernel as MLX knows it.
#[derive(Debug)]
struct Made {
    form: KernelForm,
    context: *mut c_void,
}

// SAFETY: behind the handle is a function that has copies of what it was made of and only reads them.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

impl Made {
    fn apply(&self, outputs: &mut Vector, inputs: mlx_vector_array, config: &Config) -> Result<()> {
        let stream = Stream::thread_local_or_default();
        let (ctx, config) = (self.context, config.context);
        // SAFETY: all handles are alive during the call and of the form of the function.
        call(|| unsafe {
            match self.form {
                KernelForm::Cuda => mlx_sys::mlx_fast_cuda_kernel_apply(
                    outputs.out(),
                    mlx_sys::mlx_fast_cuda_kernel { ctx },
                    inputs,
                    mlx_sys::mlx_fast_cuda_kernel_config { ctx: config },
                    stream.as_ptr(),
                ),
                KernelForm::Metal => mlx_sys::mlx_fast_metal_kernel_apply(
                    outputs.out(),
                    mlx_sys::mlx_fast_metal_kernel { ctx },
                    inputs,
                    mlx_sys::mlx_fast_metal_kernel_config { ctx: config },
                    stream.as_ptr(),
                ),
            }
        })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let ctx = self.context;
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe {
            match self.form {
                KernelForm::Cuda => {
                    mlx_sys::mlx_fast_cuda_kernel_free(mlx_sys::mlx_fast_cuda_kernel { ctx });
                }
                KernelForm::Metal => {
                    mlx_sys::mlx_fast_metal_kernel_free(mlx_sys::mlx_fast_metal_kernel { ctx });
                }
            }
        }
    }
}

/// The owned settings of one application.
struct Config {
    form: KernelForm,
    context: *mut c_void,
}

impl Config {
    fn new(form: KernelForm) -> Result<Self> {
        // SAFETY: they take nothing.
        let context = unsafe {
            match form {
                KernelForm::Cuda => mlx_sys::mlx_fast_cuda_kernel_config_new().ctx,
                KernelForm::Metal => mlx_sys::mlx_fast_metal_kernel_config_new().ctx,
            }
        };
        if context.is_null() {
            return Err(Error::message("MLX is out of memory: it could not configure a kernel"));
        }
        Ok(Self { form, context })
    }

    /// Calls the function of its form.
    fn call(
        &self,
        cuda: impl FnOnce(mlx_sys::mlx_fast_cuda_kernel_config) -> c_int,
        metal: impl FnOnce(mlx_sys::mlx_fast_metal_kernel_config) -> c_int,
    ) -> Result<()> {
        let ctx = self.context;
        call(|| match self.form {
            KernelForm::Cuda => cuda(mlx_sys::mlx_fast_cuda_kernel_config { ctx }),
            KernelForm::Metal => metal(mlx_sys::mlx_fast_metal_kernel_config { ctx }),
        })
    }

    fn add_output(&self, shape: &[i32], dtype: Dtype) -> Result<()> {
        use mlx_sys::{
            mlx_fast_cuda_kernel_config_add_output_arg as cuda,
            mlx_fast_metal_kernel_config_add_output_arg as metal,
        };
        let (start, len, dtype) = (shape.as_ptr(), shape.len(), dtype as mlx_sys::mlx_dtype);
        // SAFETY: the handle is alive, and MLX copies the shape.
        self.call(
            |config| unsafe { cuda(config, start, len, dtype) },
            |config| unsafe { metal(config, start, len, dtype) },
        )
    }

    fn set_threads(&self, grid: c_int, group: c_int) -> Result<()> {
        use mlx_sys::{
            mlx_fast_cuda_kernel_config_set_grid as cuda_grid,
            mlx_fast_cuda_kernel_config_set_thread_group as cuda_group,
            mlx_fast_metal_kernel_config_set_grid as metal_grid,
            mlx_fast_metal_kernel_config_set_thread_group as metal_group,
        };
        // SAFETY: the handle is alive.
        self.call(
            |config| unsafe { cuda_grid(config, grid, 1, 1) },
            |config| unsafe { metal_grid(config, grid, 1, 1) },
        )?;
        // SAFETY: as above.
        self.call(
            |config| unsafe { cuda_group(config, group, 1, 1) },
            |config| unsafe { metal_group(config, group, 1, 1) },
        )
    }

    fn add_constant(&self, name: &'static str, constant: Constant) -> Result<()> {
        use mlx_sys::{
            mlx_fast_cuda_kernel_config_add_template_arg_bool as cuda_bool,
            mlx_fast_cuda_kernel_config_add_template_arg_dtype as cuda_dtype,
            mlx_fast_cuda_kernel_config_add_template_arg_int as cuda_int,
            mlx_fast_metal_kernel_config_add_template_arg_bool as metal_bool,
            mlx_fast_metal_kernel_config_add_template_arg_dtype as metal_dtype,
            mlx_fast_metal_kernel_config_add_template_arg_int as metal_int,
        };
        let owned = text(name)?;
        let name_of = owned.as_ptr();
        // SAFETY, for all of them: the handle is alive, and MLX copies the name.
        match constant {
            // MLX makes it a part of the kernel's name, which a sign may not be in.
            Constant::Int(value) if value < 0 => Err(Error::message(format!(
                "the constant `{name}` of a kernel is {value}; it cannot be negative"
            ))),
            Constant::Int(value) => self.call(
                |config| unsafe { cuda_int(config, name_of, value) },
                |config| unsafe { metal_int(config, name_of, value) },
            ),
            Constant::Bool(value) => self.call(
                |config| unsafe { cuda_bool(config, name_of, value) },
                |config| unsafe { metal_bool(config, name_of, value) },
            ),
            Constant::Dtype(dtype) => {
                let dtype = dtype as mlx_sys::mlx_dtype;
                self.call(
                    |config| unsafe { cuda_dtype(config, name_of, dtype) },
                    |config| unsafe { metal_dtype(config, name_of, dtype) },
                )
            }
        }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let ctx = self.context;
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe {
            match self.form {
                KernelForm::Cuda => mlx_sys::mlx_fast_cuda_kernel_config_free(
                    mlx_sys::mlx_fast_cuda_kernel_config { ctx },
                ),
                KernelForm::Metal => mlx_sys::mlx_fast_metal_kernel_config_free(
                    mlx_sys::mlx_fast_metal_kernel_config { ctx },
                ),
            }
        }
    }
}

/// An owned `mlx_vector_string`.
struct Names(mlx_vector_string);

impl Names {
    fn new(names: &[&str]) -> Result<Self> {
        // SAFETY: it takes nothing.
        let vector = Self(unsafe { mlx_sys::mlx_vector_string_new() });
        for name in names {
            let name = text(name)?;
            let start: *const c_char = name.as_ptr();
            // SAFETY: the handle is alive, and MLX copies the string, which ends in zero.
            call(|| unsafe { mlx_sys::mlx_vector_string_append_value(vector.0, start) })?;
        }
        Ok(vector)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_vector_string_free(self.0) };
    }
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::message("a kernel has a zero byte in its text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: KernelSource = KernelSource { header: "", body: "y[0] = x[0];" };
    static COPY: Kernel = Kernel::new("copy", &["x"], &["y"], SOURCE, SOURCE);

    fn refused(launch: &Launch<'_>) -> String {
        let x = Array::from_slice(&[1.0_f32], &[1]);
        COPY.apply(KernelForm::Cuda, &[&x], launch).expect_err("no such kernel").to_string()
    }

    #[test]
    fn a_kernel_that_cannot_run_here_is_an_error_of_its_call() {
        if has_cuda() {
            return;
        }
        let outputs: &[(&[i32], Dtype)] = &[(&[1], Dtype::Float32)];
        let message = refused(&Launch { outputs, constants: &[], groups: 1, threads: 32 });
        assert!(message.contains("CUDA"), "{message}");
    }

    #[test]
    fn more_threads_than_mlx_counts_are_refused() {
        let launch = Launch { outputs: &[], constants: &[], groups: 1 << 22, threads: 1024 };
        assert!(refused(&launch).contains("4294967296 threads"));
    }
}
