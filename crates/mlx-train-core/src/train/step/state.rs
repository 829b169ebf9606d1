//! What a run carries from step to step, as arrays with names.

use super::{Precision, reader::Reader};
use crate::{
    Result,
    optim::{Optimizer, OptimizerState, Parameter},
    rng,
    store::Mismatch,
    train::{TrainError, parameters},
};
use mlx_rs::{Array, Dtype, module::ModuleParameters};
use std::{
    collections::{HashMap, HashSet},
    iter::repeat_n,
    rc::Rc,
};

/// What a run carries from one step to the next, besides the model's parameters.
#[derive(Debug, Clone)]
pub struct TrainState {
    pub(super) step: u64,
    pub(super) names: Rc<[Rc<str>]>,
    pub(super) carried: Carried,
}

/// The arrays of a state.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    pub(super) optimizer: OptimizerState,
    /// The averaged weights, f32, in the order of the trained parameters; empty where none are averaged.
    pub(super) ema: Vec<Array>,
    /// How many updates were made, `()` int32: steps that were not skipped.
    pub(super) updates: Array,
    /// The key `(2,)` uint32 from which the draws of the next step come.
    pub(super) key: Array,
}

impl TrainState {
    /// The state before the first step, of those parameters that `holds` says are here. It trains the parameters
    /// that are not frozen now.
    pub(super) fn new<M>(
        model: &M,
        optimizer: &dyn Optimizer,
        seed: u64,
        precision: Precision,
        averages: bool,
        holds: impl Fn(&str) -> bool,
    ) -> Result<Self>
    where
        M: ModuleParameters + ?Sized,
    {
        let names = parameters::trainable_names(model);
        let values = parameters::get(model, &names)?;
        let parameters = names.iter().zip(&values).map(|(name, value)| Parameter { name, value });
        let optimizer = OptimizerState::new(optimizer, parameters)?;
        // Those that a group of the optimizer freezes are not among them.
        if optimizer.parameter_names().len() == 0 {
            return Err(TrainError::NothingToTrain.into());
        }
        let optimizer = optimizer.only(holds);
        let names: Rc<[_]> = optimizer.parameter_names().cloned().collect();
        let arrays = optimizer.arrays().map(|array| precision.to_state(array));
        let optimizer = optimizer.with_arrays(arrays.collect::<Result<Vec<_>>>()?)?;
        let mut ema = Vec::new();
        if averages {
            let values = parameters::get(model, &names)?;
            let wide = values.iter().map(|value| Ok(value.as_dtype(Dtype::Float32)?));
            ema = wide.collect::<Result<_>>()?;
        }
        let updates = Array::from_int(0);
        let carried = Carried { optimizer, ema, updates, key: rng::key(seed)? };
        Ok(Self { step: 0, names, carried })
    }

    /// How many steps were taken, those included that were skipped because of numbers that are not finite.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The names of the parameters that are trained, in natural order.
    pub fn parameter_names(&self) -> &[Rc<str>] {
        &self.names
    }

    /// The state of the optimizer.
    pub fn optimizer(&self) -> &OptimizerState {
        &self.carried.optimizer
    }

    /// How many times the parameters were updated: a scalar `()` int32. It is what the bias correction of an
    /// optimizer counts.
    pub fn updates(&self) -> &Array {
        &self.carried.updates
    }

    /// The random key `(2,)` uint32 from which the draws of the next step come. It moves on with each step,
    /// also with one that is skipped.
    pub fn key(&self) -> &Array {
        &self.carried.key
    }

    /// The averaged weights, f32, in the order of [`TrainState::parameter_names`], if weights are averaged.
    pub fn averaged_weights(&self) -> Option<&[Array]> {
        Some(&self.carried.ema[..]).filter(|averages| !averages.is_empty())
    }

    /// Every array with its name in a saved state, in the order of [`Carried::arrays`].
    fn named_arrays(&self) -> Vec<(String, Array)> {
        let Carried { optimizer, ema, updates, key } = &self.carried;
        let optimizer = optimizer.named_arrays();
        let optimizer = optimizer.map(|(name, array)| (format!("optimizer.{name}"), array.clone()));
        let ema = self.names.iter().zip(ema);
        let ema = ema.map(|(name, array)| (format!("ema.{name}"), array.clone()));
        let rest = [("optimizer.updates", updates), ("rng.key", key)];
        let rest = rest.map(|(name, array)| (name.to_owned(), array.clone()));
        optimizer.chain(ema).chain(rest).collect()
    }
}

impl Carried {
    /// Every array, in a fixed order.
    pub(super) fn arrays(&self) -> Vec<Array> {
        let arrays = self.optimizer.arrays().chain(&self.ema);
        arrays.chain([&self.updates, &self.key]).cloned().collect()
    }

    /// Such a state of other arrays, in the order of [`Carried::arrays`].
    pub(super) fn with_arrays(&self, arrays: &mut Reader) -> Result<Self> {
        let optimizer = arrays.take(self.optimizer.arrays().count())?;
        Ok(Self {
            optimizer: self.optimizer.with_arrays(optimizer)?,
            ema: arrays.take(self.ema.len())?,
            updates: arrays.one()?,
            key: arrays.one()?,
        })
    }

    /// The same with a scalar in the place of each array: it holds no memory.
    pub(super) fn layout(&self) -> Result<Self> {
        let scalars = repeat_n(Array::from_int(0), self.arrays().len());
        self.with_arrays(&mut Reader::new(scalars.collect()))
    }
}

/// All that a run has to keep to go on exactly: every array by a name that does not change.
#[derive(Debug, Clone, Default)]
pub struct StateArrays {
    /// Every parameter of the model under its name in weight files: frozen ones and running statistics too.
    pub weights: Vec<(String, Array)>,
    /// The rest: `optimizer.…`, `ema.…` and `rng.key`.
    pub training: Vec<(String, Array)>,
}

impl StateArrays {
    /// The arrays of a model's parameters of these names and its state.
    pub(super) fn of<M>(model: &M, names: &[Rc<str>], state: &TrainState) -> Result<Self>
    where
        M: ModuleParameters + ?Sized,
    {
        let values = parameters::get(model, names)?;
        let weights = names.iter().map(ToString::to_string).zip(values).collect();
        Ok(Self { weights, training: state.named_arrays() })
    }

    /// Puts these arrays in the place of the model's and the state's, or changes nothing.
    pub(super) fn restore<M>(
        &self,
        model: &mut M,
        names: &[Rc<str>],
        state: &mut TrainState,
        step: u64,
    ) -> Result<()>
    where
        M: ModuleParameters + ?Sized,
    {
        let now = Self::of(model, names, state)?;
        let mut problems = Vec::new();
        let weights = matching(&now.weights, &self.weights, &mut problems);
        let training = matching(&now.training, &self.training, &mut problems);
        if !problems.is_empty() {
            return Err(TrainError::StateMismatch { problems }.into());
        }
        let carried = state.carried.with_arrays(&mut Reader::new(training))?;
        parameters::set(model, names, &weights)?;
        (state.step, state.carried) = (step, carried);
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
        match by_name.get(name.as_str()) {
            None => problems.push(Mismatch::Missing { name: name.clone() }),
            Some(&array) => {
                problems.extend(Mismatch::between(name, array, expected));
                found.push(array.clone());
            }
        }
    }
    let known: HashSet<&str> = now.iter().map(|(name, _)| name.as_str()).collect();
    let unexpected = saved.iter().filter(|(name, _)| !known.contains(name.as_str()));
    problems.extend(unexpected.map(|(name, _)| Mismatch::Unexpected { name: name.clone() }));
    found
}
