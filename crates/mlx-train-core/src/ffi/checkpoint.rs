//! Gradient checkpointing: forget what a function computed, and compute it again for the gradient.

use super::{
    closure::Payload,
    custom_vjp::{Backward, custom_vjp},
    grad::{has_gradient, stop_integers, vjp},
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
    checkpoint_in_order(f, inputs, inputs.len(), Vec::new())
}

/// As [`checkpoint`], for inputs the first `num_activations` of which come from the layers before, and those
/// at `weights` do not: gradients of the former are there when those of the latter are.
///
/// MLX computes a graph by its breadth. As a gradient of weights is an end of the graph, it would come last, and
/// until then hold what it is computed from, which is all that a checkpoint is to be rid of. MLX's own
/// `checkpoint` leaves it at that, and runs functions again before their gradients are due, too.
pub(crate) fn checkpoint_in_order<F>(
    f: F,
    inputs: &[Array],
    num_activations: usize,
    weights: Vec<usize>,
) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
{
    let first = Arc::new(Payload::new(f));
    let second = Arc::clone(&first);
    let forward = move |inputs: &[Array]| first.function()?(&stop_integers(inputs)?);
    let backward = move |pass: Backward<'_>| {
        let f = second.function()?;
        // Not before its gradient has come.
        let inputs = depends(pass.inputs, pass.cotangents)?;
        let (_, mut gradients) = vjp(f, &inputs, pass.cotangents)?;
        let is_float = |index: &usize| has_gradient(inputs[*index].dtype());
        let of = |indices: &[usize]| -> Vec<Array> {
            indices.iter().map(|&index| gradients[index].clone()).collect()
        };
        let activations: Vec<usize> = (0..num_activations).filter(is_float).collect();
        if !activations.is_empty() && !weights.is_empty() {
            let ordered = depends(&of(&activations), &of(&weights))?;
            for (index, gradient) in activations.into_iter().zip(ordered) {
                gradients[index] = gradient;
            }
        }
        Ok(gradients)
    };
    custom_vjp(forward, backward, inputs)
}
