//! Lion: steps of one size, in the direction of the sign of a momentum.

use super::{
    Coefficients, Optimizer, Parameter, StateFormat, WeightDecay,
    arithmetic::{moving_average, scalar, shares, working_dtype},
    error::check_kept,
    moments::Range,
    state::foreign,
};
use crate::Result;
use mlx_rs::{Array, ops::sign};

/// Lion (evolved sign momentum), with decoupled weight decay.
///
/// With gradient `g` and learning rate `a`:
///
/// ```text
/// c = b1 m + (1 - b1) g          m = b2 m + (1 - b2) g
/// w = (1 - a decay) w - a sign(c)
/// ```
///
/// State: `m`, of the parameter's shape, unless [`Lion::state`] says otherwise. Every element moves by
/// the learning rate, so that a rate of a third to a tenth of AdamW's, with as much more decay, does as
/// much. Source: Chen et al., arXiv:2302.06675, algorithm 2 and section 5; the numbers are those of
/// Python MLX's `Lion`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lion {
    beta1: f64,
    beta2: f64,
    weight_decay: WeightDecay,
    state: StateFormat,
}

impl Default for Lion {
    /// Betas 0.9 and 0.99, no weight decay: Python MLX's defaults.
    fn default() -> Self {
        let (weight_decay, state) = (WeightDecay::NONE, StateFormat::default());
        Self { beta1: 0.9, beta2: 0.99, weight_decay, state }
    }
}

impl Lion {
    /// Sets how much of the momentum a step's direction has, and how much of it stays.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless both are in `0..1`.
    pub fn betas(self, beta1: f64, beta2: f64) -> Result<Self> {
        let beta1 = check_kept("beta1 of Lion", beta1)?;
        let beta2 = check_kept("beta2 of Lion", beta2)?;
        Ok(Self { beta1, beta2, ..self })
    }

    /// Sets the weight decay, which is decoupled from the gradient.
    #[must_use]
    pub fn weight_decay(self, weight_decay: WeightDecay) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets how `m` is kept between steps.
    #[must_use]
    pub fn state(self, state: StateFormat) -> Self {
        Self { state, ..self }
    }
}

impl Optimizer for Lion {
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
        self.state.names(parameter, &["m"], &["m", "m_scale"])
    }

    fn updates_parts(&self, parameter: Parameter<'_>) -> bool {
        self.state.keeps_parts(parameter)
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        self.state.init(parameter, &[Range::Signed])
    }

    /// The learning rate, what decay leaves of a weight, what the direction and the mean keep and take in,
    /// and the step.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
        let removed = learning_rate.multiply(scalar(self.weight_decay.rate()))?;
        let kept = scalar(1.0).subtract(removed)?;
        let [[kept1, added1], [kept2, added2]] = [self.beta1, self.beta2].map(shares);
        let rate = learning_rate.clone();
        let own = vec![rate, kept, kept1, added1, kept2, added2, step.clone()];
        let coefficients = Coefficients::new(own);
        let resting = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        Ok(if self.state.is_exact() { coefficients.resting(&resting) } else { coefficients })
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let means = self.state.read(parameter, state, [Range::Signed])?;
        let (Some([m]), [learning_rate, kept, kept1, added1, kept2, added2, step]) =
            (means, coefficients.own())
        else {
            return Err(foreign(parameter.name, "Lion"));
        };
        let dtype = working_dtype(parameter.value);
        let g = gradient.as_dtype(dtype)?;
        let direction = sign(moving_average(&m, &g, [kept1, added1])?)?;
        let m = moving_average(&m, &g, [kept2, added2])?;

        let mut w = parameter.value.as_dtype(dtype)?;
        if self.weight_decay.of(parameter).is_some() {
            w = w.multiply(kept)?;
        }
        let w = w.subtract(learning_rate.multiply(direction)?)?;
        let state = self.state.write(parameter, [m], [Range::Signed], step)?;
        Ok((w.as_dtype(parameter.value.dtype())?, state))
    }
}
