//! Adam with decoupled weight decay and bias correction.

use super::{OptimError, Optimizer, Parameter, WeightDecay, scalar, working_dtype, zero_state};
use crate::Result;
use mlx_rs::Array;

/// Adam with decoupled weight decay, always with bias correction.
///
/// With gradient `g` at step `t` (from 1) and learning rate `a`:
///
/// ```text
/// m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g²
/// w = (1 - a decay) w - a / (1 - b1^t) · m / (sqrt(v / (1 - b2^t)) + epsilon)
/// ```
///
/// Decay is off for parameters with fewer than two axes (norms and biases) unless
/// [`AdamW::decay_vectors`] turns it on. Source: Loshchilov and Hutter, arXiv:1711.05101,
/// algorithm 2; the numbers are those of Python MLX's `AdamW(bias_correction=True)`.
///
/// ```
/// use mlx_train_core::optim::AdamW;
/// let optimizer = AdamW::default().betas(0.9, 0.95)?.weight_decay(0.1)?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: WeightDecay,
}

impl Default for AdamW {
    /// Betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01: Python MLX's defaults.
    fn default() -> Self {
        let weight_decay = WeightDecay { rate: 0.01, vectors: false };
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay }
    }
}

impl AdamW {
    /// Sets how much of the running means of the gradient and of its square a step keeps.
    ///
    /// # Errors
    /// [`OptimError`] unless both are in `0..1`.
    pub fn betas(self, beta1: f64, beta2: f64) -> Result<Self> {
        let in_range = |setting, value| match value {
            0.0..1.0 => Ok(value),
            _ => Err(OptimError { setting, value, expected: "at least 0 and below 1" }),
        };
        let beta1 = in_range("beta1 of AdamW", beta1)?;
        let beta2 = in_range("beta2 of AdamW", beta2)?;
        Ok(Self { beta1, beta2, ..self })
    }

    /// Sets what is added to the root of the second moment.
    ///
    /// # Errors
    /// [`OptimError`] unless it is positive and finite.
    pub fn epsilon(self, epsilon: f64) -> Result<Self> {
        // Compared as f32, the type it is used in: 1e-60 would be a division by zero there.
        if epsilon as f32 > 0.0 && (epsilon as f32).is_finite() {
            return Ok(Self { epsilon, ..self });
        }
        let expected = "positive and finite in f32";
        Err(OptimError { setting: "epsilon of AdamW", value: epsilon, expected }.into())
    }

    /// Sets the fraction of the weights that a step of learning rate 1 removes.
    ///
    /// # Errors
    /// [`OptimError`] unless it is finite and at least 0.
    pub fn weight_decay(self, weight_decay: f64) -> Result<Self> {
        let weight_decay = self.weight_decay.with_rate(weight_decay, "weight decay of AdamW")?;
        Ok(Self { weight_decay, ..self })
    }

    /// Sets whether parameters with fewer than two axes decay too.
    #[must_use]
    pub fn decay_vectors(self, decay_vectors: bool) -> Self {
        let weight_decay = WeightDecay { vectors: decay_vectors, ..self.weight_decay };
        Self { weight_decay, ..self }
    }
}

impl Optimizer for AdamW {
    fn state_names(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        zero_state(parameter, 2)
    }

    /// The step size, the correction of the second moment, and what decay leaves of a weight.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Vec<Array>> {
        let one = scalar(1.0);
        let step = step.as_dtype(mlx_rs::Dtype::Float32)?;
        let correction1 = one.subtract(scalar(self.beta1).power(&step)?)?;
        let correction2 = one.subtract(scalar(self.beta2).power(&step)?)?;
        let kept = one.subtract(learning_rate.multiply(scalar(self.weight_decay.rate))?)?;
        Ok(vec![learning_rate.divide(correction1)?, correction2.rsqrt()?, kept])
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &[Array],
    ) -> Result<(Array, Vec<Array>)> {
        let ([m, v], [step_size, correction, kept]) = (state, coefficients) else {
            return Err(super::state::foreign(parameter.name, "AdamW"));
        };
        let dtype = working_dtype(parameter.value);
        let g = gradient.as_dtype(dtype)?;
        let m = moving_average(m, &g, self.beta1)?;
        let v = moving_average(v, &g.square()?, self.beta2)?;
        let denominator = v.sqrt()?.multiply(correction)?.add(scalar(self.epsilon))?;
        let change = step_size.multiply(&m)?.divide(denominator)?;

        let mut w = parameter.value.as_dtype(dtype)?;
        if self.weight_decay.acts_on(parameter) {
            w = w.multiply(kept)?;
        }
        let w = w.subtract(change)?.as_dtype(parameter.value.dtype())?;
        Ok((w, vec![m, v]))
    }
}

/// `beta * mean + (1 - beta) * x`.
fn moving_average(mean: &Array, x: &Array, beta: f64) -> Result<Array> {
    Ok(mean.multiply(scalar(beta))?.add(x.multiply(scalar(1.0 - beta))?)?)
}
