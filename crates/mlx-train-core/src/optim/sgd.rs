//! Stochastic gradient descent with momentum.

use super::{
    Coefficients, OptimError, Optimizer, Parameter, WeightDecay,
    arithmetic::{scalar, working_dtype, zero_state},
    error::check_kept,
    state::foreign,
};
use crate::Result;
use mlx_rs::Array;

/// Stochastic gradient descent, with momentum, dampening, Nesterov's variant and weight decay.
///
/// With gradient `g` and learning rate `a`:
///
/// ```text
/// g = g + decay w        v = momentum v + (1 - dampening) g
/// w = w - a v            (Nesterov: w - a (g + momentum v))
/// ```
///
/// State: `v`, of the parameter's shape, where there is momentum. Source: Sutskever et al., "On the
/// importance of initialization and momentum in deep learning" (2013); the numbers are those of
/// Python MLX's `SGD`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sgd {
    momentum: f64,
    dampening: f64,
    nesterov: bool,
    weight_decay: WeightDecay,
}

impl Sgd {
    /// Sets how much of the velocity a step keeps; 0 (the default) is plain gradient descent.
    ///
    /// # Errors
    /// [`OptimError`] unless it is in `0..1`.
    pub fn momentum(self, momentum: f64) -> Result<Self> {
        Ok(Self { momentum: check_kept("momentum of Sgd", momentum)?, ..self })
    }

    /// Sets which share of the gradient the velocity does not take up; it needs momentum.
    ///
    /// # Errors
    /// [`OptimError`] unless it is in `0..1`, and 0 with Nesterov's variant.
    pub fn dampening(self, dampening: f64) -> Result<Self> {
        Self { dampening: check_kept("dampening of Sgd", dampening)?, ..self }.checked()
    }

    /// Sets momentum with Nesterov's look-ahead.
    ///
    /// # Errors
    /// [`OptimError`] unless `momentum` is above 0 and below 1, and there is no dampening.
    pub fn nesterov(self, momentum: f64) -> Result<Self> {
        if momentum > 0.0 && momentum < 1.0 {
            return Self { momentum, nesterov: true, ..self }.checked();
        }
        let expected = "above 0 and below 1";
        let setting = "Nesterov momentum of Sgd";
        Err(OptimError::Setting { setting, value: momentum, expected }.into())
    }

    /// Sets the weight decay: an L2 penalty whose gradient is added.
    #[must_use]
    pub fn weight_decay(self, weight_decay: WeightDecay) -> Self {
        Self { weight_decay, ..self }
    }

    fn checked(self) -> Result<Self> {
        if !self.nesterov || self.dampening == 0.0 {
            return Ok(self);
        }
        Err(OptimError::Conflict(format!(
            "Nesterov's variant of Sgd has no dampening, and it is {}; set one of the two",
            self.dampening
        ))
        .into())
    }
}

impl Optimizer for Sgd {
    fn state_names(&self, _parameter: Parameter<'_>) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["v"] } else { &[] }
    }

    fn updates_parts(&self, _parameter: Parameter<'_>) -> bool {
        true
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        let count = self.state_names(parameter).len();
        zero_state(parameter, &[parameter.value.shape()][..count])
    }

    /// The learning rate, the rate of decay, and what the velocity keeps and takes in.
    fn coefficients(&self, learning_rate: &Array, _step: &Array) -> Result<Coefficients> {
        let settings = [self.weight_decay.rate(), self.momentum, 1.0 - self.dampening].map(scalar);
        let own = [learning_rate.clone()].into_iter().chain(settings).collect();
        Ok(Coefficients::new(own).resting(&[0.0, 0.0, 1.0, 0.0]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let [learning_rate, decay, momentum, added] = coefficients.own() else {
            return Err(foreign(parameter.name, "Sgd"));
        };
        let dtype = working_dtype(parameter.value);
        let w = parameter.value.as_dtype(dtype)?;
        let mut g = gradient.as_dtype(dtype)?;
        if self.weight_decay.of(parameter).is_some() {
            g = g.add(w.multiply(decay)?)?;
        }
        let (change, state) = match state {
            [] => (g, vec![]),
            [v] => {
                let taken = if self.dampening > 0.0 { g.multiply(added)? } else { g.clone() };
                let v = v.multiply(momentum)?.add(taken)?;
                let change = if self.nesterov { g.add(v.multiply(momentum)?)? } else { v.clone() };
                (change, vec![v])
            }
            _ => return Err(foreign(parameter.name, "Sgd")),
        };
        let w = w.subtract(learning_rate.multiply(change)?)?;
        Ok((w.as_dtype(parameter.value.dtype())?, state))
    }
}
