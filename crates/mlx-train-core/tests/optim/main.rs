//! Optimizers, groups, schedules and rounding.
// Comparisons are exact on purpose: the claim is about bits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::float_cmp)]

mod config;
mod freezing;
mod groups;
mod low_memory;
mod parity;
mod rounding;
mod state;
mod tracing;

mod updates;

use mlx_train_core::{
    Array, Result,
    optim::{Optimizer, OptimizerState, Parameter, apply},
};

/// Parameters that have names.
fn named<'a>(
    names: &'a [&'a str],
    values: &'a [Array],
) -> impl Iterator<Item = Parameter<'a>> + 'a {
    names.iter().zip(values).map(|(name, value)| Parameter { name, value })
}

/// The parameters after some steps with the same gradients, and the state.
fn run(
    optimizer: &dyn Optimizer,
    names: &[&str],
    values: &[Array],
    gradients: &[Array],
    learning_rates: &[f32],
) -> Result<(Vec<Array>, OptimizerState)> {
    let mut values = values.to_vec();
    let mut state = OptimizerState::new(optimizer, named(names, &values))?;
    for (step, &rate) in (1..).zip(learning_rates) {
        let (rate, step) = (Array::from_f32(rate), Array::from_int(step));
        (values, state) = apply(optimizer, &values, gradients, &state, &rate, &step)?;
    }
    Ok((values, state))
}

/// All elements as f32.
fn floats(array: &Array) -> Vec<f32> {
    array.to_vec_cast::<f32>().expect("numbers")
}
