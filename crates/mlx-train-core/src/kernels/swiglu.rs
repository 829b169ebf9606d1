//! `silu(gate) * up` with `silu(x) = x * sigmoid(x)`: one read of both and one write, and as much for the gradients.
//!
//! ```text
//! d gate = g up s (1 + gate (1 - s))        d up = g gate s        with s = sigmoid(gate)
//! ```
//!
//! MLX's operations pass over memory three times for the value and five times for the gradients: its compiler
//! fuses none of them that is used by the backward pass as well. Here the sigmoid is taken anew instead of kept.
//! Gates and what they let through may also be the halves of one array, as one product makes both.
//! Computed in f32 whatever the dtype. Source: Shazeer, arXiv:2002.05202, section 2.

use super::{Family, form_for, pack_size};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};
use mlx_rs::Dtype;
use std::slice::from_ref;

const CUDA: &str = concat!(include_str!("packs.cu"), include_str!("swiglu.cu"));
const METAL: &str = concat!(include_str!("packs.metal"), include_str!("swiglu.metal"));

const THREADS: i32 = 256;

static VALUE: Kernel = Kernel::new(
    "swiglu",
    &["gate", "up"],
    &["result"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t size = static_cast<int64_t>(gate_shape[0]) * gate_shape[1];
  swiglu<THREADS>(gate, up, result, 1, size, size);",
    },
    KernelSource {
        header: METAL,
        body: "
  int64_t size = static_cast<int64_t>(gate_shape[0]) * gate_shape[1];
  swiglu<THREADS>(
      gate, up, result, 1, size, size,
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x);",
    },
);

static GRADIENTS: Kernel = Kernel::new(
    "swiglu_gradient",
    &["gate", "up", "cotangent"],
    &["of_gate", "of_up"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t size = static_cast<int64_t>(gate_shape[0]) * gate_shape[1];
  T* nowhere = nullptr;
  swiglu_gradient<THREADS, false>(
      gate, up, cotangent, of_gate, of_up, nowhere, 1, size, size);",
    },
    KernelSource {
        header: METAL,
        body: "
  int64_t size = static_cast<int64_t>(gate_shape[0]) * gate_shape[1];
  device T* nowhere = nullptr;
  swiglu_gradient<THREADS, false>(
      gate, up, cotangent, of_gate, of_up, nowhere, 1, size, size,
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x);",
    },
);

static VALUE_OF_JOINED: Kernel = Kernel::new(
    "swiglu_of_joined",
    &["joined"],
    &["result"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t width = joined_shape[1] / 2;
  swiglu<THREADS>(joined, joined + width, result, joined_shape[0], width, 2 * width);",
    },
    KernelSource {
        header: METAL,
        body: "
  int64_t width = joined_shape[1] / 2;
  swiglu<THREADS>(
      joined, joined + width, result, joined_shape[0], width, 2 * width,
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x);",
    },
);

static GRADIENT_OF_JOINED: Kernel = Kernel::new(
    "swiglu_gradient_of_joined",
    &["joined", "cotangent"],
    &["of_joined", "result"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t width = joined_shape[1] / 2;
  swiglu_gradient<THREADS, true>(
      joined, joined + width, cotangent, of_joined, of_joined + width, result,
      joined_shape[0], width, 2 * width);",
    },
    KernelSource {
        header: METAL,
        body: "
  int64_t width = joined_shape[1] / 2;
  swiglu_gradient<THREADS, true>(
      joined, joined + width, cotangent, of_joined, of_joined + width, result,
      joined_shape[0], width, 2 * width,
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x);",
    },
);

/// The kernels for gates and what they let through, where there are some.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Swiglu {
    form: KernelForm,
}

impl Swiglu {
    /// Those for arrays `(..., F)` of one shape and dtype; none on a CPU, inside of
    /// [`without_kernels`](super::without_kernels()), and for f64.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(gate: &Array, up: &Array) -> Result<Option<Self>> {
        if gate.shape() != up.shape() || gate.dtype() != up.dtype() {
            return Ok(None);
        }
        Self::of_one(gate)
    }

    /// Those for an array `(..., 2 F)` of gates and, behind those of each row, what they let through; none where
    /// [`Swiglu::of`] has none.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of_joined(joined: &Array) -> Result<Option<Self>> {
        if joined.ndim() == 0 || joined.dim(-1) % 2 != 0 {
            return Ok(None);
        }
        Self::of_one(joined)
    }

    fn of_one(x: &Array) -> Result<Option<Self>> {
        if x.ndim() == 0 || x.size() == 0 {
            return Ok(None);
        }
        // MLX counts along an axis in an int32, and so do the kernels packs, of which a row may have one that is not
        // whole.
        let num_rows = x.size() / x.dim(-1) as usize;
        if i32::try_from(x.size() / 4 + num_rows).is_err() {
            return Ok(None);
        }
        Ok(form_for(Family::Swiglu, x.dtype())?.map(|form| Self { form }))
    }

    /// `silu(gate) * up`, of their shape and dtype.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply(self, gate: &Array, up: &Array) -> Result<Array> {
        let forward = move |inputs: &[Array]| {
            let shape = inputs[0].shape();
            self.run(&VALUE, inputs, &[shape])
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let ([gate, up], [cotangent]) = (pass.inputs, pass.cotangents) else {
                return Err(lost());
            };
            let shape = gate.shape();
            self.run(&GRADIENTS, &[gate.clone(), up.clone(), cotangent.clone()], &[shape, shape])
        };
        let inputs = [gate.clone(), up.clone()];
        Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
    }

    /// `silu(gate) * up` `(..., F)` of an array `joined` `(..., 2 F)` for which the kernels are. It has no gradient of its
    /// own.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn value_of(self, joined: &Array) -> Result<Array> {
        Ok(self.run(&VALUE_OF_JOINED, from_ref(joined), &[&half(joined)])?.swap_remove(0))
    }

    /// The gradient of `joined` `(..., 2 F)` from that of its value `(..., F)`, and the value, which nobody has to keep.
    ///
    /// # Errors
    /// When the shapes do not fit, or MLX fails.
    pub fn gradient_of(self, joined: &Array, cotangent: &Array) -> Result<[Array; 2]> {
        let (inputs, shapes) =
            ([joined.clone(), cotangent.clone()], [joined.shape(), &half(joined)]);
        let outputs = self.run(&GRADIENT_OF_JOINED, &inputs, &shapes)?;
        outputs.try_into().map_err(|_| lost())
    }

    /// The outputs of a kernel, of these shapes and the dtype of its inputs.
    fn run(self, kernel: &Kernel, inputs: &[Array], outputs: &[&[i32]]) -> Result<Vec<Array>> {
        // Some more rounds of fewer blocks take as long, and threads are counted in an int32.
        const MOST_GROUPS: usize = 1 << 20;
        let rows: Vec<Array> =
            inputs.iter().map(|x| x.reshape(&[-1, x.dim(-1)])).collect::<Result<_, _>>()?;
        let first = &rows[0];
        let width = |shape: &[i32]| shape.last().copied().unwrap_or(1);
        let matrices: Vec<[i32; 2]> =
            outputs.iter().map(|shape| [first.dim(0), width(shape)]).collect();
        let flat: Vec<(&[i32], Dtype)> =
            matrices.iter().map(|matrix| (&matrix[..], first.dtype())).collect();
        let narrowest = matrices.iter().map(|[_, width]| *width as usize).min().unwrap_or(1);
        let packs = narrowest.div_ceil(pack_size(self.form, first.item_size()));
        let groups = (first.dim(0) as usize * packs).div_ceil(THREADS as usize).min(MOST_GROUPS);
        let constants =
            [("T", Constant::Dtype(first.dtype())), ("THREADS", Constant::Int(THREADS))];
        let launch = Launch { outputs: &flat, constants: &constants, groups, threads: THREADS };
        let inputs: Vec<&Array> = rows.iter().collect();
        let results = kernel.apply(self.form, &inputs, &launch)?;
        results.iter().zip(outputs).map(|(result, shape)| Ok(result.reshape(shape)?)).collect()
    }
}

/// The shape `(..., F)` of what is made of `(..., 2 F)`.
fn half(joined: &Array) -> Vec<i32> {
    let mut shape = joined.shape().to_vec();
    if let Some(width) = shape.last_mut() {
        *width /= 2;
    }
    shape
}

fn lost() -> Error {
    Error::message("MLX lost an input of SwiGLU")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::{ops::sigmoid, random};

    #[test]
    fn the_formulas_are_those_of_mlxs_gradients() -> Result<()> {
        let draw = |seed| random::normal::<f32>(&[4, 50], None, Some(3.0), &random::key(seed)?);
        let [gate, up, g] = [draw(1)?, draw(2)?, draw(3)?];
        let plain = |x: &[Array]| Ok(vec![x[0].multiply(sigmoid(&x[0])?)?.multiply(&x[1])?]);
        let inputs = [gate.clone(), up.clone()];
        let (_, expected) = ffi::vjp(plain, &inputs, from_ref(&g))?;
        let (s, one) = (sigmoid(&gate)?, Array::from_f32(1.0));
        let slope = s.multiply(one.add(gate.multiply(one.subtract(&s)?)?)?)?;
        let formula = [g.multiply(up)?.multiply(slope)?, g.multiply(gate)?.multiply(s)?];
        for (index, (ours, own)) in formula.iter().zip(&expected).enumerate() {
            let apart = ours.subtract(own)?.abs()?.max(None)?.try_item_exact::<f32>()?;
            assert!(apart < 1e-4, "{index}: {apart}");
        }
        Ok(())
    }
}
