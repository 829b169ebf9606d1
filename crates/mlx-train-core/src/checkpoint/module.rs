//! Checkpointing of modules, whose parameters need gradients.

use super::{
    Copies, Modules, Outputs,
    measured::measured,
    modules::{parameters, set_parameters},
    scope::{inside, is_constant, is_part_checkpointed},
};
use crate::{
    Array, Error, Result,
    distributed::gather::{self, Shares},
    ffi, profile, rng,
};
use mlx_rs::stop_gradient;
use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
};

/// `f(modules, inputs)`, which keeps inputs and outputs alone, and runs again when its gradient is due.
///
/// Gradients reach `inputs` and the parameters of `modules`, and are those without the checkpoint to the last
/// bit on one device. What `f` draws comes from a key of its own, so that dropout is the same when it runs
/// again. `f` is `Copy`, which no array is: all arrays that it needs are among modules and inputs.
///
/// ```
/// use mlx_train_core::{Array, checkpoint, nn::{Linear, gelu}};
/// use mlx_rs::module::Module;
/// let (mut up, mut down) = (Linear::new(4, 16)?, Linear::new(16, 4)?);
/// let x = mlx_rs::ops::ones::<f32>(&[2, 4])?;
/// let y: Array = checkpoint::module((&mut up, &mut down), &[x], |(up, down), x| {
///     Ok(down.forward(&gelu(&up.forward(&x[0])?)?)?)
/// })?;
/// assert_eq!(y.shape(), [2, 4]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// What `f` returns, or when MLX fails. An error of its second run is returned where the gradient is taken.
pub fn module<S, O, F>(mut modules: S, inputs: &[Array], f: F) -> Result<O>
where
    S: Modules,
    O: Outputs,
    F: Fn(Lent<'_, S>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    checkpointed(&mut modules, inputs, f)
}

/// As [`module`], of modules that are needed afterwards.
pub(super) fn checkpointed<S, O, F>(modules: &mut S, inputs: &[Array], f: F) -> Result<O>
where
    S: Modules,
    O: Outputs,
    F: Fn(Lent<'_, S>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    let mut values = Vec::new();
    let mut trained = Vec::new();
    let mut shares = vec![None; inputs.len()];
    for (value, is_trained) in parameters::<S::Copies>(modules.lend()) {
        let part = gather::take(&value)?;
        let (value, share) = part.map_or((value, None), |part| (part.array, Some(part.share)));
        shares.push(share);
        if is_trained && !is_constant(&value)? {
            trained.push(inputs.len() + values.len());
        }
        values.push(value);
    }
    let key = rng::fork_key()?;
    let moved = Arc::default();
    let run = function(modules.copies(), [inputs.len(), values.len()], f, Arc::clone(&moved));

    let arrays = [inputs, &values, &[key]].concat();
    shares.push(None);
    let (num_inputs, shares) = (inputs.len(), Shares::new(shares));
    let backwards = shares.clone();
    let mut outputs = ffi::checkpoint_around(
        run,
        move |arrays| shares.whole(arrays),
        move |gradients| backwards.gradients(num_inputs, &trained, gradients),
        &arrays,
    )?;
    if let Some(moved) = moved.get().filter(|moved| !moved.is_empty()) {
        let after = outputs.split_off(outputs.len().saturating_sub(moved.len()));
        set_parameters::<S::Copies>(modules.lend(), |index| {
            after.get(moved.iter().position(|&moved| moved == index)?).cloned()
        });
    }
    O::from_arrays(outputs)
}

/// `f(modules, inputs)`, checkpointed as by [`module`] where the policy is selective and names this part.
///
/// A model marks the parts of its blocks that are worth it: those that keep much for the backward pass, by
/// their usual names `attention` and `mlp`. A part of a block that is checkpointed as a whole is not
/// checkpointed once more.
///
/// # Errors
/// As [`module`].
pub fn part<S, O, F>(name: &'static str, mut modules: S, inputs: &[Array], f: F) -> Result<O>
where
    S: Modules,
    O: Outputs,
    F: Fn(Lent<'_, S>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    let is_checkpointed = is_part_checkpointed(name);
    if profile::is_measuring() {
        measured(name, modules, inputs, is_checkpointed, f)
    } else if is_checkpointed {
        module(modules, inputs, f)
    } else {
        // A checkpoint adds up what an input's gradient gets from inside before it joins the rest.
        let inputs = inputs.iter().map(ffi::branch).collect::<Result<Vec<_>>>()?;
        rng::fork(|| f(modules.lend(), &inputs))
    }
}

pub(super) type Lent<'a, S> = <<S as Modules>::Copies as Copies>::Lent<'a>;

/// Which parameters the first run of a function has moved: those hold for the second run, too.
type Moved = Arc<OnceLock<Vec<usize>>>;

/// `f` as a function of arrays alone: inputs, parameters and a random key, to outputs and parameters that moved.
fn function<C, O, F>(
    copies: C,
    [num_inputs, num_values]: [usize; 2],
    f: F,
    moved: Moved,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static
where
    C: Copies,
    O: Outputs,
    F: Fn(C::Lent<'_>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    let copies = RefCell::new(Hollow::new(copies));
    let is_training = rng::in_scope();
    move |arrays: &[Array]| {
        let (inputs, arrays) = arrays.split_at(num_inputs);
        let (values, keys) = arrays.split_at(num_values);
        let mut copies = copies.try_borrow_mut().map_err(|_| {
            Error::message("a checkpointed function ran inside of itself; it cannot call itself")
        })?;
        inputs.first().map(gather::runs);
        let mut copies = Filled::new(&mut copies, values);
        let outputs = inside(|| rng::forked(&keys[0], is_training, || f(copies.lend(), inputs)))?;
        let after = copies.values();
        let mut found = Vec::new();
        for (index, (before, after)) in values.iter().zip(&after).enumerate() {
            if !ffi::is_same_node(before, after)? {
                found.push(index);
            }
        }
        let mut outputs = outputs.into_arrays();
        for &index in moved.get_or_init(|| found) {
            // Statistics of a batch are no part of what is differentiated.
            outputs.push(stop_gradient(&after[index])?);
        }
        Ok(outputs)
    }
}

/// Copies of modules without their arrays. The graph holds the copies: if they held arrays of the graph in turn, one
/// that is not computed would never be freed.
struct Hollow<C: Copies> {
    copies: C,
    nothing: Array,
}

impl<C: Copies> Hollow<C> {
    fn new(copies: C) -> Self {
        let mut this = Self { copies, nothing: Array::from_f32(f32::NAN) };
        this.empty();
        this
    }

    fn empty(&mut self) {
        let Self { copies, nothing } = self;
        set_parameters::<C>(copies.lend(), |_| Some(nothing.clone()));
    }
}

/// Copies that hold parameters until this is dropped, however that comes about.
struct Filled<'c, C: Copies>(&'c mut Hollow<C>);

impl<'c, C: Copies> Filled<'c, C> {
    fn new(copies: &'c mut Hollow<C>, values: &[Array]) -> Self {
        set_parameters::<C>(copies.copies.lend(), |index| values.get(index).cloned());
        Self(copies)
    }

    fn lend(&mut self) -> C::Lent<'_> {
        self.0.copies.lend()
    }

    fn values(&mut self) -> Vec<Array> {
        parameters::<C>(self.lend()).into_iter().map(|(value, _)| value).collect()
    }
}

impl<C: Copies> Drop for Filled<'_, C> {
    fn drop(&mut self) {
        self.0.empty();
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Array, Result,
        checkpoint::{CheckpointPolicy, with_policy_and_constants},
        ffi,
        graph::Graph,
        nn::{Linear, Stack},
    };
    use mlx_rs::module::{Module, ModuleParameters};

    #[test]
    fn gradients_of_constants_are_not_computed_whether_modules_know_that_they_are_frozen_or_not()
    -> Result<()> {
        let num_products = |are_constants: bool| -> Result<usize> {
            let mut stack = Stack::new(vec![Linear::new(2, 2)?, Linear::new(2, 2)?]);
            let weights: Vec<Array> = stack.parameters().flatten().into_values().cloned().collect();
            let constants = if are_constants { &weights[..] } else { &[] };
            let loss = |x: &[Array]| {
                let y = with_policy_and_constants(&CheckpointPolicy::Full, constants, || {
                    stack.forward(x[0].clone(), |layer, _, x| Ok(layer.forward(&x)?))
                })?;
                Ok(vec![y.sum(None)?])
            };
            let (_, gradients) = ffi::value_and_grad(loss, &[Array::ones::<f32>(&[3, 2])?], &[0])?;
            let graph = Graph::of(&gradients)?;
            Ok(graph.operations().iter().filter(|operation| operation.name == "Matmul").count())
        };
        // Backwards alone: an output with a bias is another operation.
        assert_eq!((num_products(false)?, num_products(true)?), (4, 2));
        Ok(())
    }
}
