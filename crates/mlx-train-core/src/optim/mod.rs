//! Optimizers, schedules and clipping, all traceable: nothing here waits for the device.
//!
//! The learning rate and the step are arrays, state is explicit arrays by parameter name, and an
//! update returns new arrays. So a training step that contains one can run eagerly or be compiled
//! without freezing a number into it.

mod adamw;
mod clip;
mod schedule;
mod sgd;
mod state;
mod weight_decay;

pub use adamw::AdamW;
pub use clip::{clip_grad_norm, grad_norm};
pub use schedule::{Decay, Schedule};
pub use sgd::Sgd;
pub use state::OptimizerState;
use weight_decay::WeightDecay;

use crate::Result;
use mlx_rs::{Array, Dtype};
use std::fmt::Debug;

/// A setting that an optimizer, a schedule or clipping cannot take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{setting} is {value}; it has to be {expected}")]
pub struct OptimError {
    /// What was set, with the thing that it belongs to.
    pub setting: &'static str,
    /// The value that was given.
    pub value: f64,
    /// The values that are allowed, in words.
    pub expected: &'static str,
}

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
pub trait Optimizer: Debug {
    /// What the state arrays of a parameter are called in a saved state, in their order.
    fn state_names(&self) -> &'static [&'static str];

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
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Vec<Array>>;

    /// The new value and state of a parameter; `gradient` has the parameter's shape.
    ///
    /// # Errors
    /// When shapes do not fit, or MLX fails.
    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &[Array],
    ) -> Result<(Array, Vec<Array>)>;
}

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
    let coefficients = optimizer.coefficients(learning_rate, step)?;
    let mut updated = Vec::with_capacity(parameters.len());
    let new_state = state.try_map(|index, name, arrays| {
        let parameter = Parameter { name, value: &parameters[index] };
        let (value, arrays) =
            optimizer.update(parameter, &gradients[index], arrays, &coefficients)?;
        updated.push(value);
        Ok(arrays)
    })?;
    Ok((updated, new_state))
}

/// The dtype that state and arithmetic of a parameter have: f32, or f64 for f64.
fn working_dtype(parameter: &Array) -> Dtype {
    if parameter.dtype() == Dtype::Float64 { Dtype::Float64 } else { Dtype::Float32 }
}

/// An f32 scalar.
fn scalar(value: f64) -> Array {
    Array::from_f32(value as f32)
}

/// Zeros in the working dtype, once for each name.
fn zero_state(parameter: Parameter<'_>, count: usize) -> Result<Vec<Array>> {
    let dtype = working_dtype(parameter.value);
    (0..count).map(|_| Ok(mlx_rs::ops::zeros_dtype(parameter.value.shape(), dtype)?)).collect()
}
