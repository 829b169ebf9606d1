//! An update of one operation, for steps of which only the passes through the model count.

use crate::{
    Error, Result,
    optim::{Clip, Coefficients, Optimizer, Parameter},
    train::StepOptions,
};
use mlx_rs::Array;

/// Gradient descent of the parameters that another optimizer trains: a step with it has a small graph.
#[derive(Debug)]
pub(super) struct Plain<'o>(pub(super) &'o dyn Optimizer);

impl Plain<'_> {
    /// How a step of it computes: without what follows the gradients.
    pub(super) fn options(options: &StepOptions) -> StepOptions {
        let clip = Clip::default();
        StepOptions { clip, skip_non_finite: false, ema_decay: None, ..options.clone() }
    }
}

impl Optimizer for Plain<'_> {
    fn state_names(&self, _parameter: Parameter<'_>) -> &'static [&'static str] {
        &[]
    }

    fn init(&self, _parameter: Parameter<'_>) -> Result<Vec<Array>> {
        Ok(Vec::new())
    }

    fn coefficients(&self, learning_rate: &Array, _step: &Array) -> Result<Coefficients> {
        Ok(Coefficients::new(vec![learning_rate.clone()]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        _state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let lost = || Error::message("the coefficients of a plain update are lost");
        let rate = coefficients.own().first().ok_or_else(lost)?;
        let change = gradient.multiply(rate)?.as_dtype(parameter.value.dtype())?;
        Ok((parameter.value.subtract(change)?, Vec::new()))
    }

    fn trains(&self, parameter: Parameter<'_>) -> bool {
        self.0.trains(parameter)
    }
}
