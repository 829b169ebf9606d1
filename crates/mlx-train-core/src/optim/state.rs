//! The state of an optimizer: for each parameter a few arrays.

use super::{OptimError, Optimizer, Parameter};
use crate::{Error, Result};
use mlx_rs::Array;
use std::{collections::HashMap, rc::Rc};

/// For each parameter, by name and in a fixed order, the arrays that its updates carry along.
#[derive(Debug, Clone)]
pub struct OptimizerState {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    parameter: Rc<str>,
    names: &'static [&'static str],
    arrays: Vec<Array>,
}

impl OptimizerState {
    /// The state before the first update of those `parameters` that the optimizer trains, in their order.
    ///
    /// # Errors
    /// [`OptimError::NoMatch`] when the optimizer has settings for parameters that are not there;
    /// when MLX fails.
    pub fn new<'a>(
        optimizer: &dyn Optimizer,
        parameters: impl IntoIterator<Item = Parameter<'a>>,
    ) -> Result<Self> {
        let parameters: Vec<_> = parameters.into_iter().collect();
        optimizer.check(&parameters.iter().map(|parameter| parameter.name).collect::<Vec<_>>())?;
        let trained = parameters.into_iter().filter(|&parameter| optimizer.trains(parameter));
        let entries = trained
            .map(|parameter| {
                let names = optimizer.state_names(parameter);
                let arrays = optimizer.init(parameter)?;
                Ok(Entry { parameter: Rc::from(parameter.name), names, arrays })
            })
            .collect::<Result<_>>()?;
        Ok(Self { entries })
    }

    /// The state of those parameters alone that `keeps` takes, by name.
    pub(crate) fn only(mut self, keeps: impl Fn(&str) -> bool) -> Self {
        self.entries.retain(|entry| keeps(&entry.parameter));
        self
    }

    /// The names of the parameters, in order.
    pub fn parameter_names(&self) -> impl ExactSizeIterator<Item = &Rc<str>> {
        self.entries.iter().map(|entry| &entry.parameter)
    }

    /// Every array with its full name, such as `model.norm.weight.m`, in order.
    pub fn named_arrays(&self) -> impl Iterator<Item = (String, &Array)> {
        self.entries.iter().flat_map(|Entry { parameter, names, arrays }| {
            names
                .iter()
                .zip(arrays)
                .map(move |(name, array)| (format!("{parameter}.{name}"), array))
        })
    }

    /// Every array, in order.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.entries.iter().flat_map(|entry| &entry.arrays)
    }

    /// The arrays of each parameter, in order.
    pub fn by_parameter(&self) -> impl ExactSizeIterator<Item = &[Array]> {
        self.entries.iter().map(|entry| &entry.arrays[..])
    }

    /// This state with other arrays, in the order of [`OptimizerState::arrays`].
    ///
    /// Nothing is looked at but their number: outputs of a traced function have no name.
    ///
    /// # Errors
    /// [`OptimError::State`] when there are more or fewer.
    pub fn with_arrays(&self, arrays: impl IntoIterator<Item = Array>) -> Result<Self> {
        let mut arrays = arrays.into_iter();
        let mut num_found = 0;
        let next = self.try_map(|_, _, old| {
            let new: Vec<_> = arrays.by_ref().take(old.len()).collect();
            num_found += new.len();
            Ok(new)
        })?;
        num_found += arrays.count();
        let expected = self.arrays().count();
        if num_found == expected {
            return Ok(next);
        }
        Err(refused(format!("has {num_found} arrays and not {expected}")))
    }

    /// This state with the saved arrays of these full names, in any order.
    ///
    /// ```
    /// # use mlx_train_core::{Array, optim::{AdamW, OptimizerState, Parameter}};
    /// let value = Array::from_f32(1.0);
    /// let fresh = OptimizerState::new(&AdamW::default(), [Parameter { name: "w", value: &value }])?;
    /// let saved = fresh.named_arrays().map(|(name, array)| (name, array.clone()));
    /// let state = fresh.restored(saved)?;
    /// # Ok::<(), mlx_train_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`OptimError::State`] when one is missing, not known, or of another shape or dtype.
    pub fn restored(&self, saved: impl IntoIterator<Item = (String, Array)>) -> Result<Self> {
        let mut saved: HashMap<String, Array> = saved.into_iter().collect();
        let arrays = self.named_arrays().map(|(name, old)| {
            let new =
                saved.remove(&name).ok_or_else(|| refused(format!("has no array `{name}`")))?;
            let same = new.shape() == old.shape() && new.dtype() == old.dtype();
            same.then_some(new.clone()).ok_or_else(|| {
                let (shape, dtype) = (new.shape(), new.dtype());
                let (expected, of) = (old.shape(), old.dtype());
                refused(format!(
                    "has `{name}` of shape {shape:?} and dtype {dtype:?} where {expected:?} of \
                     {of:?} belongs"
                ))
            })
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        // The first by name, so that the message does not change by chance.
        match saved.into_keys().min() {
            None => self.with_arrays(arrays),
            Some(name) => Err(refused(format!("has an array `{name}` too many"))),
        }
    }

    /// New arrays for every parameter.
    pub(super) fn try_map(
        &self,
        mut f: impl FnMut(usize, &str, &[Array]) -> Result<Vec<Array>>,
    ) -> Result<Self> {
        let entries = self.entries.iter().enumerate();
        let entries = entries
            .map(|(index, entry)| {
                let arrays = f(index, &entry.parameter, &entry.arrays)?;
                Ok(Entry { parameter: Rc::clone(&entry.parameter), names: entry.names, arrays })
            })
            .collect::<Result<_>>()?;
        Ok(Self { entries })
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

fn refused(problem: String) -> Error {
    OptimError::State { problem }.into()
}
