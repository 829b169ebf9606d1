//! The sum of the squares of an array, in f32: one read of it in its own dtype.
//!
//! MLX's operations write the numbers in f32, then their squares, and read those twice. Here each block of threads adds
//! up a part of them, in an order that is always the same, and what blocks have is added up after them.

use super::{Family, form_for, pack_size};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};
use mlx_rs::Dtype;

const CUDA: &str = concat!(include_str!("packs.cu"), include_str!("squares.cu"));
const METAL: &str = concat!(include_str!("packs.metal"), include_str!("squares.metal"));

const THREADS: i32 = 256;

static SUM_OF_SQUARES: Kernel = Kernel::new(
    "sum_of_squares",
    &["x"],
    &["parts"],
    KernelSource {
        header: CUDA,
        body: "
  sum_of_squares<THREADS>(x, parts, x_shape[0], x_shape[1], x_strides[0], x_strides[1]);",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float of_simds[THREADS / 32];
  sum_of_squares<THREADS>(
      x, parts, x_shape[0], x_shape[1], x_strides[0], x_strides[1],
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x,
      of_simds);",
    },
)
.of_any_layout();

/// The kernel for an array, where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Squares {
    form: KernelForm,
}

impl Squares {
    /// That for arrays of this dtype; none on a CPU, inside of [`without_kernels`](super::without_kernels()), for f64,
    /// and for what is no float.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(dtype: Dtype) -> Result<Option<Self>> {
        Ok(form_for(Family::Squares, dtype)?.map(|form| Self { form }))
    }

    /// The sum of the squares of `x`, of any shape: `()` f32.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn sum(self, x: &Array) -> Result<Array> {
        let forward = move |inputs: &[Array]| Ok(vec![self.run(&inputs[0])?]);
        let backward = move |pass: ffi::Backward<'_>| {
            let ([x], [cotangent]) = (pass.inputs, pass.cotangents) else {
                return Err(Error::message("MLX lost the input of a sum of squares"));
            };
            let slope = cotangent.multiply(Array::from_f32(2.0))?;
            Ok(vec![x.multiply(slope)?.as_dtype(x.dtype())?])
        };
        Ok(ffi::custom_vjp(forward, backward, std::slice::from_ref(x))?.swap_remove(0))
    }

    fn run(self, x: &Array) -> Result<Array> {
        // Enough to fill a large GPU a few times, and so few that their sums are added up in no time.
        const MOST_GROUPS: usize = 512;
        // How many packs a thread reads before there are more threads.
        const PACKS: usize = 4;
        let rows = match x.shape() {
            [_, _] => x.clone(),
            [] | [_] => x.reshape(&[1, -1])?,
            [.., last] => x.reshape(&[-1, *last])?,
        };
        let at_once = pack_size(self.form, x.item_size());
        let groups = x.size().div_ceil(at_once * PACKS * THREADS as usize).clamp(1, MOST_GROUPS);
        let parts = [groups as i32];
        let launch = Launch {
            outputs: &[(&parts, Dtype::Float32)],
            constants: &[("THREADS", Constant::Int(THREADS))],
            groups,
            threads: THREADS,
        };
        let parts = SUM_OF_SQUARES.apply(self.form, &[&rows], &launch)?.swap_remove(0);
        Ok(if groups == 1 { parts.reshape(&[])? } else { parts.sum(None)? })
    }
}
