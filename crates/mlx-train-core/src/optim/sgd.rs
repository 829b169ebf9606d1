//! Stochastic gradient descent with momentum.

use super::{OptimError, Optimizer, Parameter, WeightDecay, scalar, working_dtype, zero_state};
use crate::Result;
use mlx_rs::Array;

/// Stochastic gradient descent, with momentum, Nesterov's variant and weight decay.
///
/// With gradient `g` and learning rate `a`:
///
/// ```text
/// g = g + decay w        v = momentum v + g
/// w = w - a v            (Nesterov: w - a (g + momentum v))
/// ```
///
/// Decay is off for parameters with fewer than two axes (norms and biases) unless
/// [`Sgd::decay_vectors`] turns it on. Source: Sutskever et al., "On the importance of
/// initialization and momentum in deep learning" (2013); the numbers are those of Python MLX's `SGD`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: WeightDecay,
}

impl Sgd {
    /// Sets how much of the velocity a step keeps; 0 (the default) is plain gradient descent.
    ///
    /// # Errors
    /// [`OptimError`] unless it is in `0..1`.
    pub fn momentum(self, momentum: f64) -> Result<Self> {
        if (0.0..1.0).contains(&momentum) {
            return Ok(Self { momentum, ..self });
        }
        let expected = "at least 0 and below 1";
        Err(OptimError { setting: "momentum of Sgd", value: momentum, expected }.into())
    }

    /// Sets momentum with Nesterov's look-ahead.
    ///
    /// # Errors
    /// [`OptimError`] unless `momentum` is above 0 and below 1.
    pub fn nesterov(self, momentum: f64) -> Result<Self> {
        if momentum > 0.0 && momentum < 1.0 {
            return Ok(Self { momentum, nesterov: true, ..self });
        }
        let expected = "above 0 and below 1";
        Err(OptimError { setting: "Nesterov momentum of Sgd", value: momentum, expected }.into())
    }

    /// Sets the factor of the L2 penalty whose gradient is added.
    ///
    /// # Errors
    /// [`OptimError`] unless it is finite and at least 0.
    pub fn weight_decay(self, weight_decay: f64) -> Result<Self> {
        let weight_decay = self.weight_decay.with_rate(weight_decay, "weight decay of Sgd")?;
        Ok(Self { weight_decay, ..self })
    }

    /// Sets whether parameters with fewer than two axes decay too.
    #[must_use]
    pub fn decay_vectors(self, decay_vectors: bool) -> Self {
        let weight_decay = WeightDecay { vectors: decay_vectors, ..self.weight_decay };
        Self { weight_decay, ..self }
    }
}

impl Optimizer for Sgd {
    fn state_names(&self) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["v"] } else { &[] }
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        zero_state(parameter, self.state_names().len())
    }

    fn coefficients(&self, learning_rate: &Array, _step: &Array) -> Result<Vec<Array>> {
        Ok(vec![learning_rate.clone()])
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &[Array],
    ) -> Result<(Array, Vec<Array>)> {
        let [learning_rate] = coefficients else {
            return Err(super::state::foreign(parameter.name, "Sgd"));
        };
        let dtype = working_dtype(parameter.value);
        let w = parameter.value.as_dtype(dtype)?;
        let mut g = gradient.as_dtype(dtype)?;
        if self.weight_decay.acts_on(parameter) {
            g = g.add(w.multiply(scalar(self.weight_decay.rate))?)?;
        }
        let (change, state) = match state {
            [] => (g, vec![]),
            [v] => {
                let v = v.multiply(scalar(self.momentum))?.add(&g)?;
                let change = if self.nesterov {
                    g.add(v.multiply(scalar(self.momentum))?)?
                } else {
                    v.clone()
                };
                (change, vec![v])
            }
            _ => return Err(super::state::foreign(parameter.name, "Sgd")),
        };
        let w = w.subtract(learning_rate.multiply(change)?)?;
        Ok((w.as_dtype(parameter.value.dtype())?, state))
    }
}
