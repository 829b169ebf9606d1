//! The gradients of RMS norm and layer norm: one read of the rows and of what comes back to them, and one write.
//!
//! With `n = (x - mean(x)) r` for a row `x` of C features, `r = 1 / sqrt(mean((x - mean(x))^2) + epsilon)`, and the
//! gradient `g` of `w n + b`,
//!
//! ```text
//! dx = r (w g - mean(w g) - n mean(w g n))
//! dw = sum of g n over all rows        db = sum of g over all rows
//! ```
//!
//! and in an RMS norm without `mean(x)`, `mean(w g)` and `b`. Where C is no multiple of 512 (of 256 in f32), MLX 0.32.2
//! with CUDA writes `g n` of every row in the dtype of `x`, and has few blocks add up many rows: 24 for 16,384
//! rows of 768, which takes six times as long as the rest (257 and 40 us on an H200). Here each block of threads keeps the
//! sums of its rows in registers, f32, and what blocks have is added up after them.
//!
//! The forward pass is MLX's own. Sources: Zhang and Sennrich, arXiv:1910.07467; Ba et al., arXiv:1607.06450.
//! Shape letters: N rows, C features.

use super::{Family, form_for, pack_size};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};
use mlx_rs::{
    Dtype,
    fast::{layer_norm, rms_norm},
};

const CUDA: &str = concat!(include_str!("packs.cu"), include_str!("norm.cu"));
const METAL: &str = concat!(include_str!("packs.metal"), include_str!("norm.metal"));

/// How many threads a block has at most, which the rows share that it has at a time.
const THREADS: i32 = 256;

static RMS_NORM_GRADIENT: Kernel = Kernel::new(
    "rms_norm_gradient",
    &["x", "weight", "cotangent"],
    &["gradient", "weight_parts"],
    KernelSource {
        header: CUDA,
        body: "
  norm_gradient<THREADS, GROUP, PACKS, false, false>(Gradients<T>{
      x, weight, cotangent, nullptr, gradient, weight_parts, nullptr, x_shape[0], C,
      __int_as_float(EPSILON)});",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float of_simds[2 * (THREADS / 32) * 2];
  threadgroup float columns[GROUP < THREADS ? GROUP * PACKS * 4 : 1];
  norm_gradient<T, THREADS, GROUP, PACKS, false, false>(
      x, weight, cotangent, cotangent, gradient, weight_parts, weight_parts, x_shape[0], C,
      as_type<float>(EPSILON), threadgroup_position_in_grid.x, threadgroups_per_grid.x,
      thread_position_in_threadgroup.x, of_simds, columns);",
    },
);

/// What comes back to the rows past their norm is added to the gradient.
static RMS_NORM_BRANCH_GRADIENT: Kernel = Kernel::new(
    "rms_norm_branch_gradient",
    &["x", "weight", "cotangent", "other"],
    &["gradient", "weight_parts"],
    KernelSource {
        header: CUDA,
        body: "
  norm_gradient<THREADS, GROUP, PACKS, false, true>(Gradients<T>{
      x, weight, cotangent, other, gradient, weight_parts, nullptr, x_shape[0], C,
      __int_as_float(EPSILON)});",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float of_simds[2 * (THREADS / 32) * 2];
  threadgroup float columns[GROUP < THREADS ? GROUP * PACKS * 4 : 1];
  norm_gradient<T, THREADS, GROUP, PACKS, false, true>(
      x, weight, cotangent, other, gradient, weight_parts, weight_parts, x_shape[0], C,
      as_type<float>(EPSILON), threadgroup_position_in_grid.x, threadgroups_per_grid.x,
      thread_position_in_threadgroup.x, of_simds, columns);",
    },
);

static LAYER_NORM_GRADIENT: Kernel = Kernel::new(
    "layer_norm_gradient",
    &["x", "weight", "cotangent"],
    &["gradient", "weight_parts", "bias_parts"],
    KernelSource {
        header: CUDA,
        body: "
  norm_gradient<THREADS, GROUP, PACKS, true, false>(Gradients<T>{
      x, weight, cotangent, nullptr, gradient, weight_parts, bias_parts, x_shape[0], C,
      __int_as_float(EPSILON)});",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup float of_simds[2 * (THREADS / 32) * 4];
  threadgroup float columns[GROUP < THREADS ? GROUP * PACKS * 4 : 1];
  norm_gradient<T, THREADS, GROUP, PACKS, true, false>(
      x, weight, cotangent, cotangent, gradient, weight_parts, bias_parts, x_shape[0], C,
      as_type<float>(EPSILON), threadgroup_position_in_grid.x, threadgroups_per_grid.x,
      thread_position_in_threadgroup.x, of_simds, columns);",
    },
);

/// The kernels for rows of some width, where there are some.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    form: KernelForm,
    tiling: Tiling,
    epsilon: f32,
}

impl Rows {
    /// Those for `x` `(..., C)` and a weight `(C,)` of the same dtype; none on a CPU, inside of
    /// [`without_kernels`](super::without_kernels()), for f64, for an epsilon below zero, and for more features than a
    /// block of threads keeps: 6144 of 2 bytes, 3072 of 4.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(x: &Array, weight: &Array, epsilon: f32) -> Result<Option<Self>> {
        let is_rows = x.ndim() > 0 && x.size() > 0 && weight.shape() == [x.dim(-1)];
        let fits =
            is_rows && weight.dtype() == x.dtype() && (0.0..f32::INFINITY).contains(&epsilon);
        // MLX counts along an axis in an int32.
        if !fits || i32::try_from(x.size() / x.dim(-1) as usize).is_err() {
            return Ok(None);
        }
        Ok(form_for(Family::Norm, x.dtype())?.and_then(|form| {
            let tiling = Tiling::of(form, x.dim(-1), x.item_size())?;
            Some(Self { form, tiling, epsilon })
        }))
    }

    /// `w x / sqrt(mean(x^2) + epsilon)`: of the shape and dtype of `x` `(..., C)`.
    ///
    /// # Errors
    /// When shapes or dtypes are not those that these kernels are for, or MLX fails.
    pub fn rms_norm(self, x: &Array, weight: &Array) -> Result<Array> {
        if self.mlx_is_faster(x) {
            return Ok(rms_norm(x, Some(weight), self.epsilon)?);
        }
        let forward = move |inputs: &[Array]| {
            let [x, weight] = inputs else { return Err(lost()) };
            Ok(vec![rms_norm(x, Some(weight), self.epsilon)?])
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let [x, weight] = pass.inputs else { return Err(lost()) };
            self.gradients(&RMS_NORM_GRADIENT, 1, &[x, weight, &pass.cotangents[0]])
        };
        let inputs = [x.clone(), weight.clone()];
        Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
    }

    /// `x` `(..., C)` and [its norm](Self::rms_norm), the gradient of both in one pass.
    ///
    /// # Errors
    /// As [`Rows::rms_norm`].
    pub fn rms_norm_branch(self, x: &Array, weight: &Array) -> Result<(Array, Array)> {
        if self.mlx_is_faster(x) {
            return Ok((x.clone(), self.rms_norm(x, weight)?));
        }
        let forward = move |inputs: &[Array]| {
            let [x, weight] = inputs else { return Err(lost()) };
            Ok(vec![x.clone(), rms_norm(x, Some(weight), self.epsilon)?])
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let ([x, weight], [past, of_norm]) = (pass.inputs, pass.cotangents) else {
                return Err(lost());
            };
            self.gradients(&RMS_NORM_BRANCH_GRADIENT, 1, &[x, weight, of_norm, past])
        };
        let inputs = [x.clone(), weight.clone()];
        let [x, norm]: [Array; 2] =
            ffi::custom_vjp(forward, backward, &inputs)?.try_into().map_err(|_| lost())?;
        Ok((x, norm))
    }

    /// Whether the backward pass of MLX's RMS norm is the faster one: on an H200 it takes 0.6 to 1.0 of the time for these
    /// widths.
    fn mlx_is_faster(self, x: &Array) -> bool {
        let step = if x.item_size() == 4 { 256 } else { 512 };
        self.form == KernelForm::Cuda && x.dim(-1) % step == 0
    }

    /// `w (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) + b`: of the shape and dtype of `x` `(..., C)`, which is
    /// that of the bias `(C,)`, too.
    ///
    /// # Errors
    /// When shapes or dtypes are not those that these kernels are for, or MLX fails.
    pub fn layer_norm(self, x: &Array, weight: &Array, bias: &Array) -> Result<Array> {
        let forward = move |inputs: &[Array]| {
            let [x, weight, bias] = inputs else { return Err(lost()) };
            Ok(vec![layer_norm(x, weight, bias, self.epsilon)?])
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let [x, weight, _] = pass.inputs else { return Err(lost()) };
            self.gradients(&LAYER_NORM_GRADIENT, 2, &[x, weight, &pass.cotangents[0]])
        };
        let inputs = [x.clone(), weight.clone(), bias.clone()];
        Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
    }

    /// The gradients of `x` and of as many parameters, by a kernel of `x`, the weight and what comes back to rows.
    fn gradients(
        self,
        kernel: &Kernel,
        num_parameters: usize,
        inputs: &[&Array],
    ) -> Result<Vec<Array>> {
        let x = inputs[0];
        let size = x.dim(-1);
        let mut inputs: Vec<Array> =
            inputs.iter().map(|x| x.reshape(&[-1, size])).collect::<Result<_, _>>()?; // (N, C)
        inputs[1] = inputs[1].reshape(&[size])?;
        let inputs: Vec<&Array> = inputs.iter().collect();
        let rows = inputs[0];
        let groups = self.tiling.num_blocks(rows.dim(0));
        let parts = [groups, size];
        let of_x = (rows.shape(), x.dtype());
        let of_parts = (&parts[..], Dtype::Float32);
        let outputs = [of_x, of_parts, of_parts];
        let constants = [
            ("T", Constant::Dtype(x.dtype())),
            ("C", Constant::Int(size)),
            ("THREADS", Constant::Int(self.tiling.threads)),
            ("GROUP", Constant::Int(self.tiling.group)),
            ("PACKS", Constant::Int(self.tiling.packs)),
            ("EPSILON", Constant::bits(self.epsilon)),
        ];
        let launch = Launch {
            outputs: &outputs[..=num_parameters],
            constants: &constants,
            groups: groups as usize,
            threads: self.tiling.threads,
        };
        let mut gradients = kernel.apply(self.form, &inputs, &launch)?;
        gradients[0] = gradients[0].reshape(x.shape())?;
        for sums in &mut gradients[1..] {
            *sums = sums.sum_axis(0, false)?.as_dtype(x.dtype())?;
        }
        Ok(gradients)
    }
}

fn lost() -> Error {
    Error::message("MLX lost an input of a norm")
}

/// How the threads of a block share rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tiling {
    /// How many threads a block has.
    threads: i32,
    /// How many of them have a row.
    group: i32,
    /// How many packs of neighbours each of them keeps.
    packs: i32,
}

impl Tiling {
    /// The fewest threads that keep a row of `size` numbers in their registers, in whole warps or SIMD groups: one does
    /// not wait for others to add up. On an H200, rows of a warp take the least time in small blocks, and in few.
    fn of(form: KernelForm, size: i32, item_size: usize) -> Option<Self> {
        let most = match form {
            // With more, a multiprocessor has registers for one block and nothing to do while that waits.
            KernelForm::Cuda => 3,
            KernelForm::Metal => 6,
        };
        let at_once = pack_size(form, item_size) as i32;
        let packs_of_row = (size + at_once - 1) / at_once;
        let group =
            [32, 64, 128, THREADS].into_iter().find(|group| packs_of_row <= group * most)?;
        let threads = if form == KernelForm::Cuda && group == 32 { 128 } else { THREADS };
        Some(Self { threads, group, packs: (packs_of_row + group - 1) / group })
    }

    /// How many blocks there are for `num_rows`: so few that their sums are added up in no time, with as many threads for
    /// each of an H200's 132 multiprocessors as take the least time.
    fn num_blocks(self, num_rows: i32) -> i32 {
        let most = if self.threads == 128 { 132 } else { 264 };
        let rows_at_a_time = self.threads / self.group;
        (num_rows / rows_at_a_time + i32::from(num_rows % rows_at_a_time > 0)).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_a_row_keep_all_of_it_and_no_register_more_than_they_have() {
        for (form, item_size, at_once, most) in [
            (KernelForm::Cuda, 2, 8, 3),
            (KernelForm::Cuda, 4, 4, 3),
            (KernelForm::Metal, 2, 4, 6),
            (KernelForm::Metal, 4, 4, 6),
        ] {
            let largest = THREADS * most * at_once;
            for size in [1, 7, 8, 9, 255, 256, 257, 768, 1000, 1024, 1025, largest - 1, largest] {
                let tiling = Tiling::of(form, size, item_size).expect("it fits");
                let Tiling { threads, group, packs } = tiling;
                assert!(
                    group * packs * at_once >= size && packs <= most,
                    "{size}: {group} {packs}"
                );
                assert!((group - 1) * packs * at_once < size + packs * at_once * group);
                assert_eq!(threads % group, 0);
            }
            assert_eq!(Tiling::of(form, largest + 1, item_size), None);
        }
        let small = Tiling::of(KernelForm::Cuda, 768, 2).expect("it fits");
        assert_eq!(small, Tiling { threads: 128, group: 32, packs: 3 });
    }

    #[test]
    fn few_rows_have_few_blocks() {
        for (tiling, expected) in [
            (Tiling { threads: 128, group: 32, packs: 3 }, [1, 2, 3, 132, 132]),
            (Tiling { threads: 256, group: 32, packs: 3 }, [1, 1, 2, 264, 264]),
        ] {
            let rows = [1, 8, 9, 16384, i32::MAX];
            assert_eq!(rows.map(|rows| tiling.num_blocks(rows)), expected);
        }
    }

    /// Rows of features, drawn anew for each seed.
    fn normal(shape: &[i32], seed: u64) -> Array {
        let key = mlx_rs::random::key(seed).unwrap();
        mlx_rs::random::normal::<f32>(shape, None, None, Some(&key)).unwrap()
    }

    /// What the formulas at the top of this file say.
    fn by_formula(x: &Array, weight: &Array, g: &Array, is_centred: bool) -> Result<[Array; 3]> {
        let mean = |x: &Array| x.mean_axis(-1, true);
        let centred = if is_centred { x.subtract(mean(x)?)? } else { x.clone() };
        let r = mean(&centred.square()?)?.add(Array::from_f32(EPSILON))?.rsqrt()?;
        let n = centred.multiply(&r)?;
        let wg = weight.multiply(g)?;
        let mut along = wg.subtract(n.multiply(mean(&wg.multiply(&n)?)?)?)?;
        if is_centred {
            along = along.subtract(mean(&wg)?)?;
        }
        Ok([along.multiply(&r)?, g.multiply(n)?.sum_axis(0, false)?, g.sum_axis(0, false)?])
    }

    const EPSILON: f32 = 1e-5;

    #[test]
    fn the_formulas_are_those_of_mlxs_gradients() -> Result<()> {
        let (x, weight, bias) = (normal(&[9, 33], 1), normal(&[33], 2), normal(&[33], 3));
        let g = normal(&[9, 33], 4);
        let inputs = [x.clone(), weight.clone(), bias];
        let rms = |x: &[Array]| Ok(vec![rms_norm(&x[0], Some(&x[1]), EPSILON)?]);
        let layer = |x: &[Array]| Ok(vec![layer_norm(&x[0], &x[1], &x[2], EPSILON)?]);
        let (_, of_rms) = ffi::vjp(rms, &inputs[..2], std::slice::from_ref(&g))?;
        let (_, of_layer) = ffi::vjp(layer, &inputs, std::slice::from_ref(&g))?;
        for (is_centred, expected) in [(false, of_rms), (true, of_layer)] {
            let formula = by_formula(&x, &weight, &g, is_centred)?;
            for (index, (ours, own)) in formula.iter().zip(&expected).enumerate() {
                let apart = ours.subtract(own)?.abs()?.max(None)?.try_item_exact::<f32>()?;
                assert!(apart < 1e-5, "{is_centred}, {index}: {apart}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_cpu_has_no_kernel() {
        let x = Array::from_slice(&[1.0_f32; 8], &[2, 4]);
        let weight = Array::from_slice(&[1.0_f32; 4], &[4]);
        let cpu = mlx_rs::Stream::cpu();
        let rows = mlx_rs::with_stream(&cpu, || Rows::of(&x, &weight, 1e-5));
        assert_eq!(rows.ok(), Some(None));
    }
}
