//! The state of an optimizer: for each parameter a few arrays.

use super::{Optimizer, Parameter};
use crate::{Error, Result};
use mlx_rs::Array;
use std::rc::Rc;

/// For each parameter, by name and in a fixed order, the arrays that its updates carry along.
#[derive(Debug, Clone)]
pub struct OptimizerState {
    entries: Vec<(Rc<str>, Vec<Array>)>,
    array_names: &'static [&'static str],
}

impl OptimizerState {
    /// The state before the first update of `parameters`, in their order.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn new<'a>(
        optimizer: &dyn Optimizer,
        parameters: impl IntoIterator<Item = Parameter<'a>>,
    ) -> Result<Self> {
        let entries = parameters
            .into_iter()
            .map(|parameter| Ok((Rc::from(parameter.name), optimizer.init(parameter)?)))
            .collect::<Result<_>>()?;
        Ok(Self { entries, array_names: optimizer.state_names() })
    }

    /// The names of the parameters, in order.
    pub fn parameter_names(&self) -> impl ExactSizeIterator<Item = &Rc<str>> {
        self.entries.iter().map(|(name, _)| name)
    }

    /// Every array with its full name, such as `model.norm.weight.m`, in order.
    pub fn named_arrays(&self) -> impl Iterator<Item = (String, &Array)> {
        self.entries.iter().flat_map(|(parameter, arrays)| {
            let names = self.array_names.iter();
            names.zip(arrays).map(move |(name, array)| (format!("{parameter}.{name}"), array))
        })
    }

    /// Every array, in order.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.entries.iter().flat_map(|(_, arrays)| arrays)
    }

    /// New arrays for every parameter.
    pub(super) fn try_map(
        &self,
        mut f: impl FnMut(usize, &str, &[Array]) -> Result<Vec<Array>>,
    ) -> Result<Self> {
        let entries = self.entries.iter().enumerate();
        let entries = entries
            .map(|(index, (name, arrays))| Ok((Rc::clone(name), f(index, name, arrays)?)))
            .collect::<Result<_>>()?;
        Ok(Self { entries, array_names: self.array_names })
    }

    pub(super) fn check_lengths(&self, num_parameters: usize, num_gradients: usize) -> Result<()> {
        let expected = self.entries.len();
        if (num_parameters, num_gradients) == (expected, expected) {
            return Ok(());
        }
        Err(Error::message(format!(
            "an optimizer with the state of {expected} parameters got {num_parameters} parameters \
             and {num_gradients} gradients; make its state from the parameters that it updates"
        )))
    }
}

/// State that another optimizer made.
pub(super) fn foreign(parameter: &str, optimizer: &str) -> Error {
    Error::message(format!(
        "the optimizer state of `{parameter}` is not one of {optimizer}; make it with `OptimizerState::new`"
    ))
}
