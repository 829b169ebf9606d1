//! Softmax cross-entropy of rows of logits: one read for the losses, one read and one write for their gradient.
//!
//! With smoothing `s`, z-loss `z` and `Z = sum(exp(x))` over a row `x` of V logits with target `t`,
//!
//! ```text
//! loss = log(Z) - (1 - s) x[t] - s mean(x) + z log(Z)^2
//! d loss / dx = (1 + 2 z log(Z)) exp(x - log(Z)) - (1 - s) onehot(t) - s / V
//! ```
//!
//! MLX's operations make an f32 copy of half logits, read it for the normaliser, and pass over the whole again for
//! the softmax and for each term. Here a group of threads has a row, keeps the maximum and the sum of exponentials
//! as it goes through, and computes in f32 whatever the dtype. Source: Milakov and Gimelshein, arXiv:1805.02867,
//! algorithm 3.
//!
//! Shape letters: N rows, V classes.

use super::{Family, form_for, pack_size};
use crate::{
    Array, Error, Result,
    ffi::{self, Constant, Kernel, KernelForm, KernelSource, Launch},
};
use mlx_rs::Dtype;

/// What the loss of a row consists of besides that of its target.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Terms {
    /// How much of the target's probability is spread evenly over all classes, in `[0, 1)`.
    pub label_smoothing: f32,
    /// The weight of `log(Z)^2`, not negative.
    pub z_loss: f32,
}

const CUDA: &str =
    concat!(include_str!("packs.cu"), include_str!("rows.cu"), include_str!("cross_entropy.cu"));
const METAL: &str = include_str!("cross_entropy.metal");

/// The losses and the logarithms of the normalisers of all rows.
static LOSSES: Kernel = Kernel::new(
    "cross_entropy",
    &["logits", "targets"],
    &["losses", "log_z"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t at = blockIdx.x;
  const T* row = logits + at * V;
  Sums sums = sums_of<THREADS, SMOOTHING != 0>(row, V);
  if (threadIdx.x == 0) {
    log_z[at] = log_z_of(sums);
    losses[at] = loss_of<SMOOTHING, Z_LOSS>(row, V, targets[at], sums, log_z[at]);
  }",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup Sums of_simds[32];
  int64_t at = threadgroup_position_in_grid.x;
  int thread_index = thread_position_in_threadgroup.x;
  auto row = logits + at * V;
  Sums sums = sums_of<THREADS>(row, V, thread_index, of_simds);
  if (thread_index == 0) {
    log_z[at] = log_z_of(sums);
    losses[at] = loss_of<SMOOTHING, Z_LOSS>(row, V, targets[at], sums, log_z[at]);
  }",
    },
);

/// The gradient of losses, each times a number.
static GRADIENT: Kernel = Kernel::new(
    "cross_entropy_gradient",
    &["logits", "targets", "log_z", "scales"],
    &["gradient"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t at = blockIdx.x;
  write_gradient<THREADS, SMOOTHING, Z_LOSS>(
      logits + at * V, gradient + at * V, V, targets[at], log_z[at], scales[at]);",
    },
    KernelSource {
        header: METAL,
        body: "
  int64_t at = threadgroup_position_in_grid.x;
  write_gradient<T, THREADS, SMOOTHING, Z_LOSS>(
      logits + at * V, gradient + at * V, V, targets[at], log_z[at], scales[at],
      thread_position_in_threadgroup.x);",
    },
);

/// The losses and their gradient. The second read of a row finds it in the cache.
static LOSSES_AND_GRADIENT: Kernel = Kernel::new(
    "cross_entropy_and_gradient",
    &["logits", "targets"],
    &["losses", "gradient"],
    KernelSource {
        header: CUDA,
        body: "
  int64_t at = blockIdx.x;
  const T* row = logits + at * V;
  int target = targets[at];
  Sums sums = sums_of<THREADS, SMOOTHING != 0>(row, V);
  float log_z = log_z_of(sums);
  if (threadIdx.x == 0) {
    losses[at] = loss_of<SMOOTHING, Z_LOSS>(row, V, target, sums, log_z);
  }
  float scale = target >= 0 && target < V ? 1.0f : 0.0f;
  write_gradient<THREADS, SMOOTHING, Z_LOSS>(row, gradient + at * V, V, target, log_z, scale);",
    },
    KernelSource {
        header: METAL,
        body: "
  threadgroup Sums of_simds[32];
  int64_t at = threadgroup_position_in_grid.x;
  int thread_index = thread_position_in_threadgroup.x;
  auto row = logits + at * V;
  int target = targets[at];
  Sums sums = sums_of<THREADS>(row, V, thread_index, of_simds);
  float log_z = log_z_of(sums);
  if (thread_index == 0) {
    losses[at] = loss_of<SMOOTHING, Z_LOSS>(row, V, target, sums, log_z);
  }
  float scale = target >= 0 && target < V ? 1.0f : 0.0f;
  write_gradient<T, THREADS, SMOOTHING, Z_LOSS>(
      row, gradient + at * V, V, target, log_z, scale, thread_index);",
    },
);

/// The kernels for rows of logits, where there are some.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    form: KernelForm,
    terms: Terms,
}

impl Rows {
    /// Those for logits of this dtype; none on a CPU, for f64, inside of
    /// [`without_kernels`](super::without_kernels()), and for options outside of their ranges.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(dtype: Dtype, terms: Terms) -> Result<Option<Self>> {
        let Terms { label_smoothing, z_loss } = terms;
        let fits = (0.0..1.0).contains(&label_smoothing) && (0.0..f32::INFINITY).contains(&z_loss);
        if !fits {
            return Ok(None);
        }
        Ok(form_for(Family::CrossEntropy, dtype)?.map(|form| Self { form, terms }))
    }

    /// The loss, in nats, of each row of `logits` `(N, V)` against `targets` `(N,)`, int32; f32 `(N,)`.
    ///
    /// The loss of a row whose target is no class is NaN, and gets no gradient. `N` is at least 1. There is no second
    /// derivative.
    ///
    /// # Errors
    /// When shapes or dtypes are others, there are more than 4 million rows, or MLX fails.
    pub fn losses(self, logits: &Array, targets: &Array) -> Result<Array> {
        check(logits, targets)?;
        let (of_forward, of_backward) = (targets.clone(), targets.clone());
        let forward = move |inputs: &[Array]| {
            let [num_rows, _] = check(&inputs[0], &of_forward)?;
            let numbers: (&[i32], _) = (&[num_rows], Dtype::Float32);
            self.apply(&LOSSES, &[&inputs[0], &of_forward], &[numbers, numbers])
        };
        let backward = move |pass: ffi::Backward<'_>| {
            let ([logits], [_, log_z], [of_losses, ..]) =
                (pass.inputs, pass.outputs, pass.cotangents)
            else {
                return Err(Error::message("MLX lost an input of the loss of logits"));
            };
            let [_, num_classes] = check(logits, &of_backward)?;
            // What a mean does with a loss that is NaN does not concern its row.
            let is_class = of_backward
                .ge(Array::from_int(0))?
                .logical_and(of_backward.lt(Array::from_int(num_classes))?)?;
            let scales = mlx_rs::ops::select(&is_class, of_losses, Array::from_f32(0.0))?;
            let inputs = [logits, &of_backward, log_z, &scales];
            self.apply(&GRADIENT, &inputs, &[(logits.shape(), logits.dtype())])
        };
        Ok(ffi::custom_vjp(forward, backward, std::slice::from_ref(logits))?.swap_remove(0))
    }

    /// As [`Rows::losses`], with the gradient `(N, V)` of the sum of the losses that are numbers, in the dtype of
    /// `logits`. MLX takes no gradient of either.
    ///
    /// # Errors
    /// As [`Rows::losses`].
    pub fn losses_and_gradient(self, logits: &Array, targets: &Array) -> Result<[Array; 2]> {
        let [num_rows, _] = check(logits, targets)?;
        let outputs: [(&[i32], _); 2] =
            [(&[num_rows], Dtype::Float32), (logits.shape(), logits.dtype())];
        let outputs = self.apply(&LOSSES_AND_GRADIENT, &[logits, targets], &outputs)?;
        <[Array; 2]>::try_from(outputs)
            .map_err(|_| Error::message("MLX lost an output of a kernel"))
    }

    fn apply(
        self,
        kernel: &Kernel,
        inputs: &[&Array],
        outputs: &[(&[i32], Dtype)],
    ) -> Result<Vec<Array>> {
        let logits = inputs[0];
        let threads = self.threads(logits);
        let constants = [
            ("T", Constant::Dtype(logits.dtype())),
            ("V", Constant::Int(logits.dim(-1))),
            ("THREADS", Constant::Int(threads)),
            ("SMOOTHING", Constant::bits(self.terms.label_smoothing)),
            ("Z_LOSS", Constant::bits(self.terms.z_loss)),
        ];
        let groups = logits.dim(0) as usize;
        kernel.apply(self.form, inputs, &Launch { outputs, constants: &constants, groups, threads })
    }

    /// How many threads share a row: enough that each reads four times or less, in groups that leave room for
    /// others beside them, so that one reads while another one adds up.
    fn threads(self, logits: &Array) -> i32 {
        const READS: i32 = 4;
        let most = match self.form {
            KernelForm::Cuda => 512,
            KernelForm::Metal => 256,
        };
        let at_once = pack_size(self.form, logits.item_size()) as i32;
        let threads = (logits.dim(-1) / (at_once * READS)).max(1) as u32;
        (threads.next_power_of_two() as i32).clamp(32, most)
    }
}

/// Rows and classes of logits and targets that fit each other.
fn check(logits: &Array, targets: &Array) -> Result<[i32; 2]> {
    match (logits.shape(), targets.shape(), targets.dtype()) {
        (&[num_rows, num_classes], &[num_targets], Dtype::Int32)
            if num_rows == num_targets && num_rows > 0 && num_classes > 0 =>
        {
            Ok([num_rows, num_classes])
        }
        (logits, shape, dtype) => Err(Error::message(format!(
            "the kernel of cross-entropy takes logits (N, V) and int32 targets (N,), not {logits:?} and {dtype:?} \
             {shape:?}"
        ))),
    }
}
