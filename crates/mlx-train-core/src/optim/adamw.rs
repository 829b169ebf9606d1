//! Adam with decoupled weight decay and bias correction.

use super::{
    Coefficients, Optimizer, Parameter, StateFormat, WeightDecay,
    arithmetic::{moving_average, scalar, shares, working_dtype},
    error::{check_kept, check_positive},
    moments::Range,
    state::foreign,
};
use crate::Result;
use mlx_rs::{Array, Dtype};

/// Adam with decoupled weight decay, always with bias correction.
///
/// With gradient `g` at step `t` (from 1) and learning rate `a`:
///
/// ```text
/// m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g²
/// w = (1 - a decay) w - a / (1 - b1^t) · m / (sqrt(v / (1 - b2^t)) + epsilon)
/// ```
///
/// State: `m` and `v`, of the parameter's shape, unless [`AdamW::state`] says otherwise. Source:
/// Loshchilov and Hutter, arXiv:1711.05101, algorithm 2; the numbers are those of Python MLX's
/// `AdamW(bias_correction=True)`.
///
/// ```
/// use mlx_train_core::optim::{AdamW, WeightDecay};
/// let optimizer = AdamW::default().betas(0.9, 0.95)?.weight_decay(WeightDecay::matrices(0.1)?);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: WeightDecay,
    state: StateFormat,
}

/// What `m` and `v` are.
const MOMENTS: [Range; 2] = [Range::Signed, Range::Positive];

impl Default for AdamW {
    /// Betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01 of matrices: Python MLX's defaults.
    fn default() -> Self {
        let weight_decay = WeightDecay::HUNDREDTH;
        let state = StateFormat::default();
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay, state }
    }
}

impl AdamW {
    /// Sets how much of the running means of the gradient and of its square a step keeps.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless both are in `0..1`.
    pub fn betas(self, beta1: f64, beta2: f64) -> Result<Self> {
        let beta1 = check_kept("beta1 of AdamW", beta1)?;
        let beta2 = check_kept("beta2 of AdamW", beta2)?;
        Ok(Self { beta1, beta2, ..self })
    }

    /// Sets what is added to the root of the second moment.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless it is positive and finite.
    pub fn epsilon(self, epsilon: f64) -> Result<Self> {
        Ok(Self { epsilon: check_positive("epsilon of AdamW", epsilon)?, ..self })
    }

    /// Sets the weight decay, which is decoupled from the gradient.
    #[must_use]
    pub fn weight_decay(self, weight_decay: WeightDecay) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets how `m` and `v` are kept between steps.
    #[must_use]
    pub fn state(self, state: StateFormat) -> Self {
        Self { state, ..self }
    }
}

impl Optimizer for AdamW {
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
        self.state.names(parameter, &["m", "v"], &["m", "m_scale", "v", "v_scale"])
    }

    fn updates_parts(&self, parameter: Parameter<'_>) -> bool {
        self.state.keeps_parts(parameter)
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        self.state.init(parameter, &MOMENTS)
    }

    /// The step size, the correction of the second moment, what decay leaves of a weight, epsilon, what
    /// both moments keep and take in, and the step.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
        let one = scalar(1.0);
        let step = step.as_dtype(Dtype::Float32)?;
        let correction1 = one.subtract(scalar(self.beta1).power(&step)?)?;
        let correction2 = one.subtract(scalar(self.beta2).power(&step)?)?;
        let kept = one.subtract(learning_rate.multiply(scalar(self.weight_decay.rate()))?)?;
        let sizes = [learning_rate.divide(correction1)?, correction2.rsqrt()?, kept];
        let epsilon = scalar(self.epsilon);
        let [[kept1, added1], [kept2, added2]] = [self.beta1, self.beta2].map(shares);
        let rest = [epsilon, kept1, added1, kept2, added2, step];
        let coefficients = Coefficients::new(sizes.into_iter().chain(rest).collect());
        let resting = [0.0, 1.0, 1.0, self.epsilon, 1.0, 0.0, 1.0, 0.0, 1.0];
        Ok(if self.state.is_exact() { coefficients.resting(&resting) } else { coefficients })
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let means = self.state.read(parameter, state, MOMENTS)?;
        let (
            Some([m, v]),
            [step_size, correction, kept, epsilon, kept1, added1, kept2, added2, step],
        ) = (means, coefficients.own())
        else {
            return Err(foreign(parameter.name, "AdamW"));
        };
        let dtype = working_dtype(parameter.value);
        let g = gradient.as_dtype(dtype)?;
        let m = moving_average(&m, &g, [kept1, added1])?;
        let v = moving_average(&v, &g.square()?, [kept2, added2])?;
        let denominator = v.sqrt()?.multiply(correction)?.add(epsilon)?;
        let change = step_size.multiply(&m)?.divide(denominator)?;

        let mut w = parameter.value.as_dtype(dtype)?;
        if self.weight_decay.of(parameter).is_some() {
            w = w.multiply(kept)?;
        }
        let w = w.subtract(change)?.as_dtype(parameter.value.dtype())?;
        Ok((w, self.state.write(parameter, [m, v], MOMENTS, step)?))
    }
}
