//! `silu(gate) * up` with `silu(x) = x * sigmoid(x)`: one read of both and one write, and as much for the gradients.
//!
//! ```text
//! d gate = g up s (1 + gate (1 - s))        d up = g gate s        with s = sigmoid(gate)
//! ```
//!
//! MLX's operations pass over memory three times for the value and five times for the gradients: its compiler
//! fuses none of them that is used by the backward pass as well. Here the sigmoid is taken anew instead of kept.
//! Computed in f32 whatever the dtype. Source: Shazeer, arXiv:2002.05202, section 2.

use super::{Family, form_for, pack_size};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};

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
  swiglu<THREADS>(gate, up, result, static_cast<int64_t>(gate_shape[0]) * gate_shape[1]);",
    },
    KernelSource {
        header: METAL,
        body: "
  swiglu<THREADS>(
      gate, up, result, static_cast<int64_t>(gate_shape[0]) * gate_shape[1],
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
  swiglu_gradient<THREADS>(
      gate, up, cotangent, of_gate, of_up, static_cast<int64_t>(gate_shape[0]) * gate_shape[1]);",
    },
    KernelSource {
        header: METAL,
        body: "
  swiglu_gradient<THREADS>(
      gate, up, cotangent, of_gate, of_up, static_cast<int64_t>(gate_shape[0]) * gate_shape[1],
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x);",
    },
);

/// The kernels for two arrays, where there are some.
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
        let are_alike = gate.shape() == up.shape() && gate.dtype() == up.dtype();
        if !are_alike || gate.size() == 0 || gate.ndim() == 0 {
            return Ok(None);
        }
        // MLX counts along an axis in an int32.
        if i32::try_from(gate.size() / gate.dim(-1) as usize).is_err() {
            return Ok(None);
        }
        Ok(form_for(Family::Swiglu, gate.dtype())?.map(|form| Self { form }))
    }

    /// `silu(gate) * up`, of their shape and dtype.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply(self, gate: &Array, up: &Array) -> Result<Array> {
        let forward = move |inputs: &[Array]| self.run(&VALUE, inputs, 1);
        let backward = move |pass: ffi::Backward<'_>| {
            let ([gate, up], [cotangent]) = (pass.inputs, pass.cotangents) else {
                return Err(Error::message("MLX lost an input of SwiGLU"));
            };
            self.run(&GRADIENTS, &[gate.clone(), up.clone(), cotangent.clone()], 2)
        };
        let inputs = [gate.clone(), up.clone()];
        Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
    }

    /// The outputs of a kernel, each of the shape and dtype of its inputs.
    fn run(self, kernel: &Kernel, inputs: &[Array], num_outputs: usize) -> Result<Vec<Array>> {
        // Some more rounds of fewer blocks take as long, and threads are counted in an int32.
        const MOST_GROUPS: usize = 1 << 20;
        let shape = inputs[0].shape();
        let rows: Vec<Array> =
            inputs.iter().map(|x| x.reshape(&[-1, x.dim(-1)])).collect::<Result<_, _>>()?;
        let first = &rows[0];
        let at_once = pack_size(self.form, first.item_size());
        let groups = first.size().div_ceil(at_once * THREADS as usize).min(MOST_GROUPS);
        let outputs = [(first.shape(), first.dtype()); 2];
        let constants =
            [("T", Constant::Dtype(first.dtype())), ("THREADS", Constant::Int(THREADS))];
        let launch = Launch {
            outputs: &outputs[..num_outputs],
            constants: &constants,
            groups,
            threads: THREADS,
        };
        let inputs: Vec<&Array> = rows.iter().collect();
        let outputs = kernel.apply(self.form, &inputs, &launch)?;
        outputs.iter().map(|output| Ok(output.reshape(shape)?)).collect()
    }
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
        let (_, expected) = ffi::vjp(plain, &inputs, std::slice::from_ref(&g))?;
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
