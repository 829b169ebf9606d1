//! What a run carries from step to step, as arrays with names.

use crate::{
    Result,
    optim::{Optimizer, OptimizerState, Parameter},
    rng,
    store::Mismatch,
    train::{TrainError, parameters},
};
use mlx_rs::{Array, module::ModuleParameters};
use std::{collections::HashMap, rc::Rc};

/// What a run carries from one step to the next, besides the model's parameters.
#[derive(Debug, Clone)]
pub struct TrainState {
    pub(super) step: u64,
    pub(super) names: Rc<[Rc<str>]>,
    pub(super) optimizer: OptimizerState,
    pub(super) key: Array,
}

impl TrainState {
    /// The state before the first step. It trains the parameters that are not frozen now.
    pub(super) fn new<M>(model: &M, optimizer: &dyn Optimizer, seed: u64) -> Result<Self>
    where
        M: ModuleParameters + ?Sized,
    {
        let names = parameters::trainable_names(model);
        let values = parameters::get(model, &names)?;
        let parameters = names.iter().zip(&values).map(|(name, value)| Parameter { name, value });
        let optimizer = OptimizerState::new(optimizer, parameters)?;
        // Those that a group of the optimizer freezes are not among them.
        let names: Rc<[_]> = optimizer.parameter_names().cloned().collect();
        if names.is_empty() {
            return Err(TrainError::NothingToTrain.into());
        }
        Ok(Self { step: 0, names, optimizer, key: rng::key(seed)? })
    }

    /// How many steps were taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The names of the parameters that are trained, in natural order.
    pub fn parameter_names(&self) -> &[Rc<str>] {
        &self.names
    }

    /// The state of the optimizer.
    pub fn optimizer(&self) -> &OptimizerState {
        &self.optimizer
    }

    /// The random key `(2,)` uint32 from which the draws of the next step come.
    pub fn key(&self) -> &Array {
        &self.key
    }

    /// Every array with its name in a saved state, in a fixed order.
    fn named_arrays(&self) -> Vec<(String, Array)> {
        let optimizer = self.optimizer.named_arrays();
        let optimizer = optimizer.map(|(name, array)| (format!("optimizer.{name}"), array.clone()));
        optimizer.chain([("rng.key".to_owned(), self.key.clone())]).collect()
    }

    /// The arrays of [`TrainState::named_arrays`], in that order.
    fn with_arrays(&self, step: u64, mut arrays: Vec<Array>) -> Result<Self> {
        let key = arrays.pop().unwrap_or_else(|| self.key.clone());
        let optimizer = self.optimizer.with_arrays(arrays)?;
        Ok(Self { step, names: Rc::clone(&self.names), optimizer, key })
    }
}

/// All that a run has to keep to go on exactly: every array by a name that does not change.
#[derive(Debug, Clone, Default)]
pub struct StateArrays {
    /// Every parameter of the model under its name in weight files: frozen ones and running statistics too.
    pub weights: Vec<(String, Array)>,
    /// The rest: `optimizer.…`, `rng.key`.
    pub training: Vec<(String, Array)>,
}

impl StateArrays {
    /// The arrays of a model and its state, in natural order of the names.
    pub(super) fn of<M>(model: &M, state: &TrainState) -> Self
    where
        M: ModuleParameters + ?Sized,
    {
        let parameters = model.parameters().flatten();
        let weights = parameters.iter().map(|(name, &array)| (name.to_string(), array.clone()));
        let mut weights: Vec<_> = weights.collect();
        weights.sort_unstable_by(|(a, _), (b, _)| parameters::natural_order(a, b));
        Self { weights, training: state.named_arrays() }
    }

    /// Puts these arrays in the place of the model's and the state's, or changes nothing.
    pub(super) fn restore<M>(&self, model: &mut M, state: &mut TrainState, step: u64) -> Result<()>
    where
        M: ModuleParameters + ?Sized,
    {
        let now = Self::of(model, state);
        let mut problems = Vec::new();
        let weights = matching(&now.weights, &self.weights, &mut problems);
        let training = matching(&now.training, &self.training, &mut problems);
        if !problems.is_empty() {
            return Err(TrainError::StateMismatch { problems }.into());
        }
        let next = state.with_arrays(step, training)?;
        let names: Vec<Rc<str>> =
            now.weights.iter().map(|(name, _)| Rc::from(name.as_str())).collect();
        parameters::set(model, &names, &weights)?;
        *state = next;
        Ok(())
    }
}

/// The saved arrays in the order of those that there are now, and every difference.
fn matching(
    now: &[(String, Array)],
    saved: &[(String, Array)],
    problems: &mut Vec<Mismatch>,
) -> Vec<Array> {
    let mut by_name = HashMap::new();
    for (name, array) in saved {
        if by_name.insert(name.as_str(), array).is_some() {
            problems.push(Mismatch::Twice { name: name.clone() });
        }
    }
    let mut found = Vec::with_capacity(now.len());
    for (name, expected) in now {
        let Some(array) = by_name.remove(name.as_str()) else {
            problems.push(Mismatch::Missing { name: name.clone() });
            continue;
        };
        problems.extend(Mismatch::between(name, array, expected));
        found.push(array.clone());
    }
    let unexpected = saved.iter().filter(|(name, _)| by_name.contains_key(name.as_str()));
    problems.extend(unexpected.map(|(name, _)| Mismatch::Unexpected { name: name.clone() }));
    found
}
