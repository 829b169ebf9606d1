//! Optimizers, schedules and clipping, all traceable: nothing here waits for the device.
//!
//! The learning rate and the step are arrays, state is explicit arrays by parameter name, and an
//! update returns new arrays. So a training step that contains one can run eagerly or be compiled
//! without freezing a number into it.
//!
//! In code, an [`Optimizer`] is built by its own methods, and [`ParameterGroups`] gives some
//! parameters other settings. In a config file, [`OptimizerConfig`], [`GroupConfig`] and
//! [`ScheduleConfig`] say the same.

mod adafactor;
mod adamw;
mod arithmetic;
mod clip;
mod coefficients;
mod config;
mod error;
mod frozen;
mod groups;
mod lanes;
mod lion;
mod moments;
mod muon;
mod muon_with_adamw;
mod names;
mod norms;
mod rounding;
mod schedule;
mod schedule_config;
mod sgd;
mod state;
mod weight_decay;

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use clip::{Clip, Clipped};
pub use coefficients::Coefficients;
pub use config::{GroupConfig, OptimizerConfig};
pub use error::{NearNames, OptimError};
pub use frozen::Frozen;
pub use groups::{Group, ParameterGroups};
pub use lion::Lion;
pub use moments::StateFormat;
pub use muon::Muon;
pub use muon_with_adamw::MuonWithAdamW;
pub use names::NamePatterns;
pub use norms::{GradientNorms, Norms, gradient_norms};
pub use rounding::round_stochastically;
pub use schedule::Schedule;
pub use schedule_config::{Cooldown, ScheduleConfig};
pub use sgd::Sgd;
pub use state::OptimizerState;
pub use weight_decay::WeightDecay;

use self::lanes::Lanes;
use crate::Result;
use mlx_rs::{Array, ops::select};
use std::fmt::Debug;

/// A parameter that an optimizer updates: its name in weight files and its present value.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'a> {
    /// The name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: &'a str,
    /// The value, of any shape.
    pub value: &'a Array,
}

/// How gradients become new parameters.
///
/// Arithmetic and state are f32 (f64 for f64 parameters); a parameter keeps its own dtype. In bf16
/// a running mean with factor 0.999 would not move, because `1 - 2^-8` is the nearest number below 1.
///
/// Everything that changes from step to step is in the arrays that come in and go out: an optimizer
/// itself is only settings.
pub trait Optimizer: Debug {
    /// What the state arrays of a parameter are called in a saved state, in their order.
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str];

    /// The state arrays of a parameter before its first update.
    ///
    /// # Errors
    /// When MLX fails.
    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>>;

    /// What is the same for every parameter in one step, computed once.
    ///
    /// `learning_rate` is a scalar `()` f32; `step` a scalar `()` of any number type, 1 at the
    /// first update.
    ///
    /// # Errors
    /// When MLX fails.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients>;

    /// The new value and state of a parameter; `gradient` has the parameter's shape.
    ///
    /// # Errors
    /// When shapes do not fit, or MLX fails.
    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)>;

    /// Whether the parameter is updated at all. One that is not has no gradient and no state.
    fn trains(&self, _parameter: Parameter<'_>) -> bool {
        true
    }

    /// Whether a part of the parameter can be updated without the rest, as ranks do that hold a part each: every
    /// element of the new value and state follows from those of parameter, gradient and state in the same place.
    ///
    /// State arrays then have the shape of the parameter, or are the same for every part.
    fn updates_parts(&self, _parameter: Parameter<'_>) -> bool {
        false
    }

    /// Refuses settings that do not fit the parameters of a model, which are all named here.
    ///
    /// # Errors
    /// [`OptimError::NoMatch`] when a setting is for parameters that the model does not have.
    fn check(&self, _names: &[&str]) -> Result<()> {
        Ok(())
    }

    /// The gradients that the updates see, in the order of `names`: groups clip theirs here, by norms that
    /// `norms` takes.
    ///
    /// # Errors
    /// When MLX fails.
    fn clip(
        &self,
        _names: &[&str],
        gradients: Vec<Array>,
        _norms: Norms<'_>,
    ) -> Result<Vec<Array>> {
        Ok(gradients)
    }
}

/// What points at an optimizer is one.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<O: Optimizer + ?Sized> Optimizer for $pointer {
            fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
                (**self).state_names(parameter)
            }

            fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
                (**self).init(parameter)
            }

            fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
                (**self).coefficients(learning_rate, step)
            }

            fn update(
                &self,
                parameter: Parameter<'_>,
                gradient: &Array,
                state: &[Array],
                coefficients: &Coefficients,
            ) -> Result<(Array, Vec<Array>)> {
                (**self).update(parameter, gradient, state, coefficients)
            }

            fn trains(&self, parameter: Parameter<'_>) -> bool {
                (**self).trains(parameter)
            }

            fn updates_parts(&self, parameter: Parameter<'_>) -> bool {
                (**self).updates_parts(parameter)
            }

            fn check(&self, names: &[&str]) -> Result<()> {
                (**self).check(names)
            }

            fn clip(
                &self,
                names: &[&str],
                gradients: Vec<Array>,
                norms: Norms<'_>,
            ) -> Result<Vec<Array>> {
                (**self).clip(names, gradients, norms)
            }
        }
    )*};
}

forward!(Box<O>, &O);

/// Updates every parameter once: new values in the order of `names`, and the new state.
///
/// `parameters` and `gradients` are in the order of the names in `state`.
///
/// # Errors
/// When the lists differ in length, shapes do not fit, or MLX fails.
pub fn apply(
    optimizer: &dyn Optimizer,
    parameters: &[Array],
    gradients: &[Array],
    state: &OptimizerState,
    learning_rate: &Array,
    step: &Array,
) -> Result<(Vec<Array>, OptimizerState)> {
    state.check_lengths(parameters.len(), gradients.len())?;
    let gradients = clipped(optimizer, gradients, state, Norms::default())?;
    let coefficients = optimizer.coefficients(learning_rate, step)?;
    update_all(optimizer, parameters, &gradients, state, &coefficients)
}

/// As [`apply`] where `counts` `()` bool is true; where it is not, parameters and state keep their values,
/// whatever the gradients are.
///
/// # Errors
/// As [`apply`].
pub fn apply_where(
    counts: &Array,
    optimizer: &dyn Optimizer,
    parameters: &[Array],
    gradients: &[Array],
    state: &OptimizerState,
    learning_rate: &Array,
    step: &Array,
) -> Result<(Vec<Array>, OptimizerState)> {
    state.check_lengths(parameters.len(), gradients.len())?;
    let gradients = clipped(optimizer, gradients, state, Norms::default())?;
    let coefficients = optimizer.coefficients(learning_rate, step)?;
    update_where(counts, optimizer, parameters, gradients, state, &coefficients)
}

/// The gradients that the updates see.
pub(crate) fn clipped(
    optimizer: &dyn Optimizer,
    gradients: &[Array],
    state: &OptimizerState,
    norms: Norms<'_>,
) -> Result<Vec<Array>> {
    let names: Vec<&str> = state.parameter_names().map(AsRef::as_ref).collect();
    optimizer.clip(&names, gradients.to_vec(), norms)
}

/// As [`update_all`] where `counts` `()` bool is true; nothing changes where it is not.
pub(crate) fn update_where(
    counts: &Array,
    optimizer: &dyn Optimizer,
    parameters: &[Array],
    mut gradients: Vec<Array>,
    state: &OptimizerState,
    coefficients: &Coefficients,
) -> Result<(Vec<Array>, OptimizerState)> {
    if let Some(coefficients) = coefficients.resting_unless(counts)? {
        gradients = Lanes::map(&gradients, |gradient| {
            let zero = Array::from_f32(0.0).as_dtype(gradient.dtype())?;
            Ok(select(counts, gradient, zero)?)
        })?;
        return update_all(optimizer, parameters, &gradients, state, &coefficients);
    }
    let (updated, new_state) = update_all(optimizer, parameters, &gradients, state, coefficients)?;
    let keep = |(now, before)| Ok(select(counts, now, before)?);
    let updated = updated.iter().zip(parameters).map(keep).collect::<Result<_>>()?;
    let arrays = new_state.arrays().zip(state.arrays()).map(keep).collect::<Result<Vec<_>>>()?;
    Ok((updated, state.with_arrays(arrays)?))
}

/// New values and the new state, from gradients that are clipped already.
pub(crate) fn update_all(
    optimizer: &dyn Optimizer,
    parameters: &[Array],
    gradients: &[Array],
    state: &OptimizerState,
    coefficients: &Coefficients,
) -> Result<(Vec<Array>, OptimizerState)> {
    let lanes = Lanes::over(parameters)?;
    let mut updated = Vec::with_capacity(parameters.len());
    let new_state = state.try_map(|index, name, arrays| {
        let parameter = Parameter { name, value: &parameters[index] };
        let (value, arrays) = lanes
            .run(index, || optimizer.update(parameter, &gradients[index], arrays, coefficients))?;
        updated.push(value);
        Ok(arrays)
    })?;
    Ok((updated, new_state))
}
