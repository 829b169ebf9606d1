//! Gradient checkpointing: forget what a function computed, and compute it again for the gradient.

use super::{
    closure::Payload,
    custom_vjp::{Backward, custom_vjp},
    grad::{stop_integers, vjp},
    graph::depends,
};
use crate::{Array, Result};
use std::sync::Arc;

/// `f(inputs)`, which keeps nothing but its inputs and outputs for the backward pass.
///
/// Where a gradient is taken through the outputs, `f` runs again, so memory for what is inside of it
/// is needed for one checkpoint at a time. Source: Chen et al., arXiv:1604.06174.
///
/// `f` must be a pure function of `inputs`:
/// - all that needs a gradient is among `inputs`; an array that `f` captured is a constant;
/// - so are random keys, opened with [`rng::scope`](crate::rng::scope) inside of `f`: a draw from a
///   scope around the checkpoint differs when `f` runs again, and the gradient is silently wrong.
///
/// On one device the gradients are those without the checkpoint to the last bit, unless an input is
/// used more than once inside and again outside: its contributions are then added up in another order.
/// [`checkpoint::module`](crate::checkpoint::module) does all this for modules.
///
/// Checkpoints nest. The graph keeps `f` until the outputs and all that was computed from them are
/// gone, therefore `'static`, and may be dropped on another thread, therefore `Send`; `f` itself
/// runs on this thread only.
///
/// ```
/// use mlx_train_core::{Array, ffi};
/// let x = Array::from_f32(3.0);
/// let (_, grads) = ffi::value_and_grad(
///     |x| ffi::checkpoint(|x| Ok(vec![x[0].square()?.square()?]), x),
///     &[x],
///     &[0],
/// )?;
/// assert_eq!(grads[0].try_item_cast::<f32>().ok(), Some(108.0));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// What `f` returns, or when MLX fails. If `f` fails only when it runs again, the transformation that
/// takes the gradient returns the error.
pub fn checkpoint<F>(f: F, inputs: &[Array]) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
{
    checkpoint_around(f, |inputs| Ok(inputs.to_vec()), Ok, inputs)
}

/// As [`checkpoint`], of `f(prepare(inputs))`: `prepare` makes as many arrays of the inputs, whenever `f` runs, and
/// `conclude` the gradients of the inputs of those of its arrays.
///
/// In the backward pass `prepare` runs with what comes before, and `f` when the gradient of its outputs has come.
/// MLX's own `checkpoint` runs functions again before their gradients are due.
pub(crate) fn checkpoint_around<F, P, C>(
    f: F,
    prepare: P,
    conclude: C,
    inputs: &[Array],
) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    P: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    C: Fn(Vec<Array>) -> Result<Vec<Array>> + Send + 'static,
{
    let first = Arc::new(Payload::new((f, prepare)));
    let second = Arc::clone(&first);
    let forward = move |inputs: &[Array]| {
        let (f, prepare) = first.function()?;
        f(&prepare(&stop_integers(inputs)?)?)
    };
    let backward = move |pass: Backward<'_>| {
        let (f, prepare) = second.function()?;
        let inputs = depends(&prepare(pass.inputs)?, pass.cotangents)?;
        let (_, gradients) = vjp(f, &inputs, pass.cotangents)?;
        conclude(gradients)
    };
    custom_vjp(forward, backward, inputs)
}
