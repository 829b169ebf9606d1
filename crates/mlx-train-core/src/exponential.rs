//! Exponentials, and what is made of them, in the form that the backend computes fastest.
//!
//! On an x86-64 CPU, MLX's `exp` calls the C library six times for each number, once for each `fmaf` of a
//! polynomial: 10 ns, which was half of the time of a small GPT's step. Its sigmoid, softmax and `logsumexp` do
//! the same. A power calls the library once, 3.4 ns, and adding, multiplying and dividing take 0.1 to 0.5 ns. So
//! there, exponentials are powers of e, each is taken once, and backward passes use those of the forward pass.
//! Everywhere else these are MLX's own operations.
//!
//! The f32 nearest to e differs from it by 3e-8 of its size, so `e^x` by that much times `x`: less than rounding `x / ln(2)`
//! costs in MLX's own `exp`.

use crate::{Array, Error, Result, ffi};
use mlx_rs::{
    Dtype,
    ops::{clip, matmul, ones_dtype, softmax_axis},
};
use std::f32::consts::E;

/// Whether `x` is better taken as a power.
pub(crate) fn is_power(x: &Array) -> Result<bool> {
    let by_library = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    Ok(by_library && x.dtype() == Dtype::Float32 && ffi::is_on_cpu()?)
}

/// `e^x`; shape and dtype stay.
pub(crate) fn exp(x: &Array) -> Result<Array> {
    if is_power(x)? { power_of_e(x) } else { Ok(x.exp()?) }
}

/// `e^x` as a power; shape and dtype, f32, stay.
pub(crate) fn power_of_e(x: &Array) -> Result<Array> {
    Ok(Array::from_f32(E).power(x)?)
}

/// `1 / (1 + e^-x)`; shape and dtype stay. It has no gradient of its own where it is made of powers: see [`silu`].
fn sigmoid(x: &Array) -> Result<Array> {
    Ok(power_of_e(&x.negative()?)?.add(Array::from_f32(1.0))?.reciprocal()?)
}

/// `x * sigmoid(x)`; shape and dtype stay.
pub(crate) fn silu(x: &Array) -> Result<Array> {
    if !is_power(x)? {
        return Ok(x.multiply(mlx_rs::ops::sigmoid(x)?)?);
    }
    let forward = |inputs: &[Array]| {
        let sigmoid = sigmoid(&inputs[0])?;
        Ok(vec![inputs[0].multiply(&sigmoid)?, sigmoid])
    };
    // With s the sigmoid and y the result: s + x s (1 - s) = s + y - y s.
    let backward = |pass: ffi::Backward<'_>| {
        let [y, s] = pass.outputs else { return Err(lost("silu")) };
        let slope = s.add(y)?.subtract(y.multiply(s)?)?;
        Ok(vec![pass.cotangents[0].multiply(slope)?])
    };
    Ok(ffi::custom_vjp(forward, backward, std::slice::from_ref(x))?.swap_remove(0))
}

/// The logarithm of the sum of `e^x` along the last axis, `(..., V)` to `(...)`; the dtype stays.
pub(crate) fn log_sum_exp(x: &Array) -> Result<Array> {
    if !is_power(x)? {
        return Ok(x.logsumexp_axis(-1, None)?);
    }
    let forward = |inputs: &[Array]| {
        let Rows { log_sum, powers, .. } = Rows::of_powers(&inputs[0])?;
        let (powers, scale) = powers.ok_or_else(|| lost("log_sum_exp"))?;
        Ok(vec![log_sum, powers, scale])
    };
    let backward = |pass: ffi::Backward<'_>| {
        let [_, powers, scale] = pass.outputs else { return Err(lost("log_sum_exp")) };
        Ok(vec![powers.multiply(pass.cotangents[0].multiply(scale)?)?])
    };
    let outputs = ffi::custom_vjp(forward, backward, std::slice::from_ref(x))?;
    Ok(outputs[0].squeeze_axes(&[-1])?)
}

fn lost(name: &str) -> Error {
    Error::message(format!("MLX lost an output of {name}"))
}

/// What rows of numbers `(..., V)` have in common: the sum of their exponentials.
pub(crate) struct Rows {
    x: Array,
    log_sum: Array,
    /// The exponentials of the numbers less the largest of their row, `(..., V)`, and what makes probabilities
    /// of them, `(..., 1)`.
    powers: Option<(Array, Array)>,
}

impl Rows {
    /// Those of `x`, of any floating dtype.
    pub(crate) fn of(x: &Array) -> Result<Self> {
        if is_power(x)? {
            return Self::of_powers(x);
        }
        // In the dtype of its input, the sum would be rounded to three digits in bf16.
        let log_sum = x.as_dtype(Dtype::Float32)?.logsumexp_axis(-1, true)?;
        Ok(Self { x: x.clone(), log_sum, powers: None })
    }

    fn of_powers(x: &Array) -> Result<Self> {
        // Infinite only where the logarithm is, and infinity less infinity is not a number.
        let largest = clip(x.max_axis(-1, true)?, (f32::MIN, f32::MAX))?;
        let powers = power_of_e(&x.subtract(&largest)?)?;
        let sum = row_sum(&powers)?;
        let log_sum = sum.log()?.add(largest)?;
        Ok(Self { x: x.clone(), log_sum, powers: Some((powers, sum.reciprocal()?)) })
    }

    /// The logarithms of the sums, f32 `(..., 1)`.
    pub(crate) fn log_sum(&self) -> &Array {
        &self.log_sum
    }

    /// The probabilities, `(..., V)` in the dtype of the numbers.
    pub(crate) fn softmax(&self) -> Result<Array> {
        match &self.powers {
            Some((powers, scale)) => Ok(powers.multiply(scale)?),
            None => Ok(softmax_axis(&self.x, -1, true)?),
        }
    }

    /// The probabilities where the rows are parts of longer ones, whose sums have the logarithms `log_sum`
    /// `(..., 1)`; `(..., V)` in the wider dtype of both.
    pub(crate) fn softmax_within(&self, log_sum: &Array) -> Result<Array> {
        exp(&self.x.subtract(log_sum)?)
    }
}

/// The sums of rows `(..., V)`, `(..., 1)`: a product, which the BLAS takes with more than one number at a time.
pub(crate) fn row_sum(x: &Array) -> Result<Array> {
    Ok(matmul(x, ones_dtype(&[x.dim(-1), 1], x.dtype())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::{ops::sigmoid as own_sigmoid, random};

    fn numbers(scale: f32) -> Array {
        let key = random::key(7).unwrap();
        let x = random::normal::<f32>(&[5, 300], None, None, Some(&key)).unwrap();
        x.multiply(Array::from_f32(scale)).unwrap()
    }

    /// The largest difference of `a` and `b` in terms of the larger of 1 and `b`.
    fn distance(a: &Array, b: &Array) -> f32 {
        let size = mlx_rs::ops::maximum(b.abs().unwrap(), Array::from_f32(1.0)).unwrap();
        let difference = a.subtract(b).unwrap().abs().unwrap().divide(size).unwrap();
        difference.max(None).unwrap().try_item_exact().unwrap()
    }

    /// Value and gradient of the sum of `f` squared.
    fn with_gradient(f: impl Fn(&Array) -> Result<Array>, x: &Array) -> [Array; 2] {
        let sum = |x: &[Array]| Ok(vec![f(&x[0])?.square()?.sum(None)?]);
        let (_, mut gradients) = ffi::value_and_grad(sum, std::slice::from_ref(x), &[0]).unwrap();
        [f(x).unwrap(), gradients.swap_remove(0)]
    }

    fn agree(
        fast: impl Fn(&Array) -> Result<Array>,
        plain: impl Fn(&Array) -> Result<Array>,
        x: &Array,
    ) {
        let ([fast, d_fast], [plain, d_plain]) = (with_gradient(fast, x), with_gradient(plain, x));
        assert_eq!((fast.shape(), fast.dtype()), (plain.shape(), plain.dtype()));
        assert!(distance(&fast, &plain) < 1e-6, "{}", distance(&fast, &plain));
        assert!(distance(&d_fast, &d_plain) < 1e-5, "{}", distance(&d_fast, &d_plain));
    }

    #[test]
    fn they_agree_with_mlxs_own_in_value_and_gradient() {
        for scale in [0.1, 1.0, 8.0] {
            let x = numbers(scale);
            agree(silu, |x| Ok(x.multiply(own_sigmoid(x)?)?), &x);
            agree(log_sum_exp, |x| Ok(x.logsumexp_axis(-1, None)?), &x);
            let negative = x.abs().unwrap().negative().unwrap();
            agree(exp, |x| Ok(x.exp()?), &negative);
            agree(|x| Ok(Rows::of(x)?.log_sum().clone()), |x| Ok(x.logsumexp_axis(-1, true)?), &x);
            agree(|x| Rows::of(x)?.softmax(), |x| Ok(softmax_axis(x, -1, true)?), &x);
        }
    }

    #[test]
    fn half_types_stay_what_they_are() {
        let x = numbers(1.0).as_dtype(Dtype::Bfloat16).unwrap();
        let dtypes = [exp(&x), silu(&x), log_sum_exp(&x), Rows::of(&x).and_then(|it| it.softmax())];
        assert!(dtypes.into_iter().all(|it| it.unwrap().dtype() == Dtype::Bfloat16));
        assert_eq!(Rows::of(&x).unwrap().log_sum().dtype(), Dtype::Float32);
    }

    #[test]
    fn infinite_numbers_have_the_sum_that_mlx_gives_them() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [[-inf, 1.0], [-inf, -inf], [inf, 1.0], [nan, 1.0], [f32::MAX, f32::MAX]];
        for row in rows {
            let x = Array::from_slice(&row, &[2]);
            let sum = |x: Result<Array>| x.unwrap().try_item_exact::<f32>().unwrap();
            let (ours, own) = (sum(log_sum_exp(&x)), sum(Ok(x.logsumexp_axis(-1, None).unwrap())));
            assert!(
                ours.to_bits() == own.to_bits() || (ours.is_nan() && own.is_nan()),
                "{row:?}: {ours}, {own}"
            );
        }
    }

    #[test]
    fn what_the_extremes_of_silu_are() {
        let x = Array::from_slice(&[-200.0_f32, -90.0, 0.0, 90.0, 200.0], &[5]);
        let [y, slope] = with_gradient(silu, &x);
        // Of y squared: 2 y y'.
        assert_eq!(y.try_as_slice::<f32>().unwrap()[2..], [0.0, 90.0, 200.0]);
        assert_eq!(slope.try_as_slice::<f32>().unwrap()[2..], [0.0, 180.0, 400.0]);
        assert!(y.try_as_slice::<f32>().unwrap().iter().all(|y| y.is_finite()));
        assert!(slope.try_as_slice::<f32>().unwrap().iter().all(|slope| slope.is_finite()));
    }
}
