//! Rotary positions: one read and one write, forward and backward, of heads that lie behind each other.
//!
//! A rotation by `position * theta^(-2 i / D)` of features `i` and `i + D/2` of a head; its gradient is the rotation
//! the other way around. MLX's kernel reads and writes two numbers at a time, and takes the cosine and the sine of
//! an angle again for every four heads of every row of a batch. Here a block of threads has one position, takes its
//! D/2 angles once, and turns all heads of some rows, 16 bytes at a time. Queries, keys and values that one product has
//! made lie beside each other: then one pass takes them apart as well, and its gradient puts them together.
//!
//! Source: Su et al., arXiv:2104.09864, section 3.4.2; the order of features is that of Hugging Face's Llama.
//! Shape letters: B rows, T positions, H heads, D features of a head.

use super::{Family, form_for};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};
use mlx_rs::Dtype;

const CUDA: &str = concat!(include_str!("packs.cu"), include_str!("rotary.cu"));
const METAL: &str = concat!(include_str!("packs.metal"), include_str!("rotary.metal"));

const THREADS: i32 = 128;

static ROTATION: Kernel = Kernel::new(
    "rotary",
    &["x"],
    &["result"],
    KernelSource {
        header: CUDA,
        body: "
  rotary<THREADS, H, D, INVERSE>(
      x, result, x_shape[0], x_shape[1], __int_as_float(LOG2_BASE));",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float cosines[D / 2];
  threadgroup float sines[D / 2];
  rotary<THREADS, H, D, INVERSE>(
      x, result, x_shape[0], x_shape[1], as_type<float>(LOG2_BASE),
      threadgroup_position_in_grid.x, threadgroups_per_grid.x, thread_position_in_threadgroup.x,
      cosines, sines);",
    },
);

static APART: Kernel = Kernel::new(
    "rotary_apart",
    &["joined"],
    &["queries", "keys", "values"],
    KernelSource {
        header: CUDA,
        body: "
  rotary_joined<THREADS, H, K, D, false>(
      const_cast<T*>(joined), queries, keys, values, joined_shape[0], joined_shape[1],
      __int_as_float(LOG2_BASE));",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float cosines[D / 2];
  threadgroup float sines[D / 2];
  rotary_joined<THREADS, H, K, D, false>(
      const_cast<device T*>(joined), queries, keys, values, joined_shape[0], joined_shape[1],
      as_type<float>(LOG2_BASE), threadgroup_position_in_grid.x, threadgroups_per_grid.x,
      thread_position_in_threadgroup.x, cosines, sines);",
    },
);

static TOGETHER: Kernel = Kernel::new(
    "rotary_together",
    &["queries", "keys", "values"],
    &["joined"],
    KernelSource {
        header: CUDA,
        body: "
  rotary_joined<THREADS, H, K, D, true>(
      joined, const_cast<T*>(queries), const_cast<T*>(keys), const_cast<T*>(values),
      queries_shape[0], queries_shape[1], __int_as_float(LOG2_BASE));",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float cosines[D / 2];
  threadgroup float sines[D / 2];
  rotary_joined<THREADS, H, K, D, true>(
      joined, const_cast<device T*>(queries), const_cast<device T*>(keys),
      const_cast<device T*>(values), queries_shape[0], queries_shape[1],
      as_type<float>(LOG2_BASE), threadgroup_position_in_grid.x, threadgroups_per_grid.x,
      thread_position_in_threadgroup.x, cosines, sines);",
    },
);

/// The kernel for heads of some shape, where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    form: KernelForm,
    /// The logarithm of theta, to base 2.
    log2_base: f32,
}

impl Rotation {
    /// That for `x` `(B, T, H, D)` at positions from 0 on; none on a CPU, inside of
    /// [`without_kernels`](super::without_kernels()), for f64, for an odd D or one beyond 1024, and for a theta below 1.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(x: &Array, theta: f32) -> Result<Option<Self>> {
        let &[batch, _, num_heads, head_dim] = x.shape() else { return Ok(None) };
        let fits = x.size() > 0
            && head_dim % 2 == 0
            && head_dim <= 1024
            && (1.0..f32::INFINITY).contains(&theta)
            // What a block has is counted in an int32.
            && i64::from(batch) * i64::from(num_heads) * i64::from(head_dim) <= i64::from(i32::MAX);
        if !fits {
            return Ok(None);
        }
        Ok(form_for(Family::Rotary, x.dtype())?.map(|form| Self { form, log2_base: theta.log2() }))
    }

    /// `x` `(B, T, H, D)` rotated, of its shape and dtype.
    ///
    /// # Errors
    /// When there are more than 16 million positions, or MLX fails.
    pub fn apply(self, x: &Array) -> Result<Array> {
        let forward = move |inputs: &[Array]| self.rotate(&inputs[0], false);
        let backward = move |pass: ffi::Backward<'_>| self.rotate(&pass.cotangents[0], true);
        Ok(ffi::custom_vjp(forward, backward, std::slice::from_ref(x))?.swap_remove(0))
    }

    /// Queries `(B, T, H, D)` and keys `(B, T, K, D)`, rotated, and values `(B, T, K, D)` as they are, of the heads
    /// `joined` `(B, T, H + 2 K, D)` of all of them one after the other, for which the kernel is.
    ///
    /// # Errors
    /// When H and K do not make up the heads, a head has fewer than eight numbers in all rows, or MLX fails.
    pub fn apply_apart(self, joined: &Array, [h, k]: [i32; 2]) -> Result<[Array; 3]> {
        let &[batch, positions, num_heads, head_dim] = joined.shape() else { return Err(lost()) };
        if h < 1 || k < 1 || i64::from(h) + 2 * i64::from(k) != i64::from(num_heads) {
            return Err(Error::message(format!(
                "{num_heads} heads are not {h} of queries and {k} each of keys and values"
            )));
        }
        // Metal has the pointer to fewer than eight elements in an address space of its own.
        if joined.size() / (num_heads as usize) < 8 {
            return Err(Error::message("heads of fewer than eight numbers are rotated one by one"));
        }
        let own = [("H", Constant::Int(h)), ("K", Constant::Int(k))];
        let forward = move |inputs: &[Array]| {
            let [q, kv] = [h, k].map(|heads| [batch, positions, heads, head_dim]);
            self.run(&APART, &[&inputs[0]], &[&q, &kv, &kv], &own)
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let [q, k, v] = pass.cotangents else { return Err(lost()) };
            self.run(&TOGETHER, &[q, k, v], &[pass.inputs[0].shape()], &own)
        };
        let parts = ffi::custom_vjp(forward, backward, std::slice::from_ref(joined))?;
        parts.try_into().map_err(|_| lost())
    }

    fn rotate(self, x: &Array, inverse: bool) -> Result<Vec<Array>> {
        let own = [("H", Constant::Int(x.dim(2))), ("INVERSE", Constant::Bool(inverse))];
        self.run(&ROTATION, &[x], &[x.shape()], &own)
    }

    /// What a kernel makes of heads `(B, T, ..., D)`, with constants of its own beside those that all have.
    fn run(
        self,
        kernel: &Kernel,
        inputs: &[&Array],
        outputs: &[&[i32]],
        own: &[(&'static str, Constant)],
    ) -> Result<Vec<Array>> {
        let (dtype, &[batch, num_positions, _, head_dim]) = (inputs[0].dtype(), inputs[0].shape())
        else {
            return Err(lost());
        };
        let outputs: Vec<(&[i32], Dtype)> = outputs.iter().map(|&shape| (shape, dtype)).collect();
        let constants = [
            ("T", Constant::Dtype(dtype)),
            ("D", Constant::Int(head_dim)),
            ("THREADS", Constant::Int(THREADS)),
            ("LOG2_BASE", Constant::bits(self.log2_base)),
        ];
        let launch = Launch {
            outputs: &outputs,
            constants: &[&constants, own].concat(),
            groups: num_positions as usize * parts(batch, num_positions),
            threads: THREADS,
        };
        kernel.apply(self.form, inputs, &launch)
    }
}

fn lost() -> Error {
    Error::message("MLX lost an axis of heads that are rotated")
}

/// How many blocks share the rows at one position: so many that a GPU has enough of them.
fn parts(batch: i32, num_positions: i32) -> usize {
    const ENOUGH: i32 = 4096;
    (ENOUGH / num_positions).clamp(1, batch) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_many_where_there_are_few_positions_and_never_without_a_row() {
        assert_eq!(parts(16, 1024), 4);
        assert_eq!(parts(16, 100_000), 1);
        assert_eq!(parts(4, 1), 4);
        assert_eq!(parts(1, 7), 1);
    }
}
