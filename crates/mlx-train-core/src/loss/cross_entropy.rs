//! Cross-entropy over classes, and over independent yes-no questions.

use super::{Loss, LossError, regression::check_same_shape, sum::sum_f32};
use crate::{
    Array, Result, exponential::log_sum_exp, integers, kernels::cross_entropy as kernels,
    shape::is_integer,
};
use mlx_rs::{
    Dtype,
    ops::{logaddexp, maximum, select},
};

/// How [`cross_entropy`] treats targets and logits. The default is the plain mean over all targets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropy {
    /// Targets of this value count for nothing, for example those of padding.
    pub ignore_index: Option<i32>,
    /// How much of the target's probability is spread evenly over all classes, in `[0, 1)`.
    /// Source: Szegedy et al., arXiv:1512.00567, section 7.
    pub label_smoothing: f32,
    /// The weight of `log(Z)^2`, which keeps the logits' normaliser Z near 1; not negative.
    /// Source: Chowdhery et al., arXiv:2204.02311, section 5, with 1e-4.
    pub z_loss: f32,
}

/// The mean cross-entropy, in nats, of logits `(..., V)` against classes `(...)`.
///
/// For each target `log(Z) - (1 - s) * logits[target] - s * mean(logits) + z * log(Z)^2` with
/// `Z = sum(exp(logits))`, smoothing `s` and z-loss `z`, averaged over the targets that are not
/// ignored. Logits are of any floating dtype, targets of any integer one. If every target is
/// ignored, or there is none, value and weight are 0.
///
/// A target that is neither a class nor ignored makes the value NaN, and its own row gets no
/// gradient. Which target it was says [`validate_targets`], a check for when data is loaded.
///
/// ```
/// use mlx_train_core::{Array, loss::{CrossEntropy, cross_entropy}};
/// let logits = Array::from_slice(&[0.0_f32; 6], &[2, 3]);
/// let targets = Array::from_slice(&[2, -100], &[2]);
/// let options = CrossEntropy { ignore_index: Some(-100), ..Default::default() };
/// let loss = cross_entropy(&logits, &targets, &options)?;
/// assert_eq!(loss.weight.try_item_exact::<f32>().ok(), Some(1.0));
/// assert!((loss.value.try_item_exact::<f32>().unwrap_or(0.0) - 3_f32.ln()).abs() < 1e-6);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// [`LossError`] when the targets do not fit the logits or an option is out of its range; or when
/// MLX fails.
pub fn cross_entropy(logits: &Array, targets: &Array, options: &CrossEntropy) -> Result<Loss> {
    options.check("cross_entropy")?;
    check_targets("cross_entropy", logits, targets)?;
    if targets.size() == 0 {
        return Ok(nothing());
    }
    let num_classes = logits.dim(-1);
    let classes = Classes::of(targets, num_classes, options.ignore_index)?;
    let each = match kernels::Rows::of(logits.dtype(), options.terms())? {
        Some(rows) => {
            let logits = logits.reshape(&[-1, num_classes])?; // (N, V)
            let targets = classes.or_negative()?.reshape(&[-1])?; // (N,)
            rows.losses(&logits, &targets)?.reshape(classes.nearest.shape())?
        }
        None => options.of_logits(logits, &classes)?,
    };
    masked_mean(&each, classes.mask.as_ref())
}

/// What the loss of each target takes of its logits, f32 `(...)`.
pub(super) struct Scores {
    /// The logarithm of the sum of their exponentials.
    pub(super) log_z: Array,
    /// The logit of the target; 0 where it is of another rank.
    pub(super) picked: Array,
    /// Their mean, where labels are smoothed.
    pub(super) mean: Option<Array>,
}

/// Targets that can be used as indices, whatever they are.
#[derive(Debug, Clone)]
pub(super) struct Classes {
    /// The class nearest to each target, int32 `(...)`.
    pub(super) nearest: Array,
    /// Whether a target is that class, bool `(...)`.
    pub(super) is_class: Array,
    /// Whether a target counts, bool `(...)`; absent where all do.
    pub(super) mask: Option<Array>,
}

impl Classes {
    /// Those of integer targets `(...)` among `num_classes`.
    pub(super) fn of(targets: &Array, num_classes: i32, ignore_index: Option<i32>) -> Result<Self> {
        let targets = integers::signed(targets)?;
        let nearest = integers::nearest(&targets, num_classes)?;
        let is_class = nearest.eq(&targets)?;
        let mask = ignore_index.map(|ignored| targets.ne(Array::from_int(ignored))).transpose()?;
        Ok(Self { nearest, is_class, mask })
    }

    /// The targets as int32 `(...)`, -1 for those that are no class.
    pub(super) fn or_negative(&self) -> Result<Array> {
        Ok(select(&self.is_class, &self.nearest, Array::from_int(-1))?)
    }
}

/// `each` where `is_class`, else NaN: a mean over a target that is no class is not a number.
pub(super) fn nan_unless(is_class: &Array, each: &Array) -> Result<Array> {
    Ok(select(is_class, each, Array::from_f32(f32::NAN))?)
}

impl CrossEntropy {
    pub(super) fn check(&self, name: &'static str) -> Result<()> {
        let option =
            |option, value, range| Err(LossError::Option { name, option, value, range }.into());
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return option("label_smoothing", self.label_smoothing, "in 0.0..1.0");
        }
        if !(0.0..f32::INFINITY).contains(&self.z_loss) {
            return option("z_loss", self.z_loss, "finite and not negative");
        }
        Ok(())
    }

    /// What kernels are told of it.
    pub(super) fn terms(&self) -> kernels::Terms {
        let &Self { label_smoothing, z_loss, .. } = self;
        kernels::Terms { label_smoothing, z_loss }
    }

    /// The loss of each target `(...)` by MLX's operations on logits `(..., V)`.
    fn of_logits(
        &self,
        logits: &Array,
        Classes { nearest, is_class, .. }: &Classes,
    ) -> Result<Array> {
        let logits = logits.as_dtype(Dtype::Float32)?;
        let log_z = log_sum_exp(&logits)?; // (...)
        let picked = logits.take_along_axis(nearest.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
        let mean = self.mean_of(&logits)?;
        nan_unless(is_class, &self.of_each(&Scores { log_z, picked, mean })?)
    }

    /// The mean of logits `(..., V)`, where it counts.
    pub(super) fn mean_of(&self, logits: &Array) -> Result<Option<Array>> {
        let mean = (self.label_smoothing > 0.0).then(|| logits.mean_axis(-1, None));
        Ok(mean.transpose()?)
    }

    /// The loss of each target `(...)`.
    pub(super) fn of_each(&self, Scores { log_z, picked, mean }: &Scores) -> Result<Array> {
        let &Self { label_smoothing, z_loss, .. } = self;
        let mut each = match mean {
            Some(mean) => {
                let picked = picked.multiply(Array::from_f32(1.0 - label_smoothing))?;
                let mean = mean.multiply(Array::from_f32(label_smoothing))?;
                log_z.subtract(picked)?.subtract(mean)?
            }
            None => log_z.subtract(picked)?,
        };
        if z_loss > 0.0 {
            each = each.add(log_z.square()?.multiply(Array::from_f32(z_loss))?)?;
        }
        Ok(each)
    }
}

/// The mean binary cross-entropy, in nats, of logits `(...)` against probabilities `(...)`.
///
/// `log(1 + exp(x)) - x * y` for each element, which is exact for logits of any size. Targets are 0
/// or 1, or anything between, of any dtype, bool included.
///
/// # Errors
/// [`LossError::Shapes`] when the shapes differ; or when MLX fails.
pub fn binary_cross_entropy(logits: &Array, targets: &Array) -> Result<Loss> {
    check_same_shape("binary_cross_entropy", logits, targets)?;
    let logits = logits.as_dtype(Dtype::Float32)?;
    let targets = targets.as_dtype(Dtype::Float32)?;
    let softplus = logaddexp(Array::from_f32(0.0), &logits)?;
    masked_mean(&softplus.subtract(logits.multiply(targets)?)?, None)
}

/// Checks that every target `(...)` is a class, `0 <= target < num_classes`, or `ignore_index`.
///
/// It reads the targets, so it waits for them: a check for loading data, not for a training step.
///
/// # Errors
/// [`LossError::TargetDtype`] when the targets are not integers; [`LossError::TargetRange`] with the first target
/// that is no class; or when MLX fails.
pub fn validate_targets(
    targets: &Array,
    num_classes: usize,
    ignore_index: Option<i32>,
) -> Result<()> {
    check_integer("validate_targets", targets)?;
    // mlx-rs refuses to borrow an array without elements.
    if targets.size() == 0 {
        return Ok(());
    }
    let wide = targets.as_dtype(Dtype::Int64)?.contiguous()?;
    let is_class = |target: i64| {
        usize::try_from(target).is_ok_and(|target| target < num_classes)
            || ignore_index.is_some_and(|ignored| i64::from(ignored) == target)
    };
    let values = wide.try_as_slice::<i64>()?;
    let Some(mut flat) = values.iter().position(|&target| !is_class(target)) else {
        return Ok(());
    };
    let target = values[flat];
    let mut position = vec![0; targets.ndim()];
    for (axis, &size) in targets.shape().iter().enumerate().rev() {
        position[axis] = flat % size as usize;
        flat /= size as usize;
    }
    Err(LossError::TargetRange { target, position, num_classes }.into())
}

/// The loss of no targets: MLX's reductions refuse arrays without elements.
pub(super) fn nothing() -> Loss {
    Loss::mean_over(Array::from_f32(0.0), 0)
}

/// The mean of `each` `(...)` over the elements that the mask, if any, keeps; 0 if it keeps none.
pub(super) fn masked_mean(each: &Array, mask: Option<&Array>) -> Result<Loss> {
    mean_of_sum(&masked_sum(each, mask)?, mask, each.size())
}

/// The sum `()` of `each` `(...)` over the elements that the mask, if any, keeps.
pub(super) fn masked_sum(each: &Array, mask: Option<&Array>) -> Result<Array> {
    match mask {
        None => sum_f32(each),
        Some(mask) => sum_f32(&select(mask, each, Array::from_f32(0.0))?),
    }
}

/// The mean of `count` elements, or of those that the mask keeps, whose sum `()` this is.
pub(super) fn mean_of_sum(sum: &Array, mask: Option<&Array>, count: usize) -> Result<Loss> {
    let Some(mask) = mask else {
        let divisor = Array::from_f32(count.max(1) as f32);
        return Ok(Loss::mean_over(sum.divide(divisor)?, count));
    };
    let weight = sum_f32(mask)?;
    Ok(Loss::new(sum.divide(maximum(&weight, Array::from_f32(1.0))?)?, weight))
}

pub(super) fn check_targets(name: &'static str, logits: &Array, targets: &Array) -> Result<()> {
    let fits = match logits.shape() {
        [batch @ .., num_classes] => *num_classes > 0 && batch == targets.shape(),
        [] => false,
    };
    if !fits {
        let (logits, targets) = (logits.shape().to_vec(), targets.shape().to_vec());
        return Err(LossError::Targets { name, logits, targets }.into());
    }
    check_integer(name, targets)
}

pub(super) fn check_integer(name: &'static str, targets: &Array) -> Result<()> {
    if is_integer(targets.dtype()) {
        return Ok(());
    }
    Err(LossError::TargetDtype { name, dtype: targets.dtype() }.into())
}
