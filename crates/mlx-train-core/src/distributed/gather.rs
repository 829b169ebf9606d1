//! Parameters of which ranks hold parts, or copies with gradients of their own: whole in a block while it runs.
//!
//! A training step opens a [`scope`] and [`lend`]s the model its parameters. What a block of a
//! [`Stack`](crate::nn::Stack) uses is gathered there: with what the block before got, so that the ranks
//! talk while that one computes, and not earlier, so that no more than two blocks are whole. A checkpointed block
//! gathers a second time for its gradient. Gradients go back as they come: the sum over the ranks of each block's is
//! there before the backward pass is two blocks further. Source: Rajbhandari et al., arXiv:1910.02054, section 7.

use super::{Group, bucket};
use crate::{
    Array, Error, Result,
    ffi::{self, Nodes},
};
use mlx_rs::{Dtype, module::ModuleParameters};
use std::{
    cell::RefCell,
    mem::replace,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::Arc,
};

/// Larger parameters are whole for as short as they can be.
const SMALL_BYTES: usize = 1 << 20;

/// How a parameter of this rank becomes that of all, and its gradient that of this rank.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// The ranks, each of which has the gradient of its own loss.
    pub(crate) group: Group,
    /// The axis along which they hold parts; without one they hold copies.
    pub(crate) axis: Option<usize>,
    /// What gradients travel as.
    pub(crate) dtype: Dtype,
}

/// What this rank holds of a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) array: Array,
    pub(crate) share: Share,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// The parameters that are lent, and what ran last.
#[derive(Default)]
struct Scope {
    lent: Option<Lent>,
    /// What the block that ran before got, forwards or backwards.
    before: Option<Array>,
    /// The gradients that the block before has left for this rank, backwards.
    reduced: Vec<Array>,
}

struct Lent {
    nodes: Nodes,
    /// Nodes are asked for as long as these live.
    _wholes: Vec<Array>,
    parts: Vec<Option<Part>>,
    is_taken: Vec<bool>,
}

/// Runs `f`, in which parameters may be lent.
pub(crate) fn scope<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let outer = SCOPE.replace(Some(Scope::default()));
    let result = catch_unwind(AssertUnwindSafe(f));
    SCOPE.set(outer);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The parameters as a model uses them: whole, with the gradients of this rank's parts; the arrays themselves where
/// there is no share. A block takes the parts of its own, which then are not gathered here. Small ones that no block
/// takes (`is_outside`) are gathered together.
pub(crate) fn lend(
    arrays: &[Array],
    shares: &[Option<Share>],
    is_outside: impl Fn(usize) -> bool,
) -> Result<Vec<Array>> {
    if shares.iter().all(Option::is_none) {
        return Ok(arrays.to_vec());
    }
    let places = (0..arrays.len()).filter(|&at| shares[at].is_some());
    let is_together = |&at: &usize| is_outside(at) && arrays[at].nbytes() <= SMALL_BYTES;
    let (together, alone): (Vec<usize>, Vec<usize>) = places.partition(is_together);
    let mut wholes = arrays.to_vec();
    for places in alone.into_iter().map(|at| vec![at]).chain([together]) {
        if !places.is_empty() {
            let own = Shares::new(places.iter().map(|&at| shares[at].clone()));
            put(&mut wholes, &places, own.enter(&pick(arrays, &places))?);
        }
    }
    let part = |(array, share): (&Array, &Option<Share>)| {
        share.clone().map(|share| Part { array: array.clone(), share })
    };
    let parts = arrays.iter().zip(shares).map(part).collect();
    let is_taken = vec![false; wholes.len()];
    let lent = Lent { nodes: Nodes::of(&wholes)?, _wholes: wholes.clone(), parts, is_taken };
    SCOPE.with_borrow_mut(|scope| {
        if let Some(scope) = scope {
            (scope.lent, scope.before) = (Some(lent), None);
        }
    });
    Ok(wholes)
}

/// Which of the parameters that are lent a block has taken.
pub(crate) fn taken() -> Vec<bool> {
    SCOPE.with_borrow(|scope| {
        let lent = scope.as_ref().and_then(|scope| scope.lent.as_ref());
        lent.map(|lent| lent.is_taken.clone()).unwrap_or_default()
    })
}

/// Takes what this rank holds of a parameter that is lent; `None` of any other array.
pub(crate) fn take(whole: &Array) -> Result<Option<Part>> {
    SCOPE.with_borrow_mut(|scope| {
        let Some(lent) = scope.as_mut().and_then(|scope| scope.lent.as_mut()) else {
            return Ok(None);
        };
        let Some(at) = lent.nodes.position(whole)? else { return Ok(None) };
        let part = lent.parts.get(at).cloned().flatten();
        if part.is_some() {
            lent.is_taken[at] = true;
        }
        Ok(part)
    })
}

/// Tells that a block runs on `x` now, forwards or backwards.
pub(crate) fn runs(x: &Array) {
    SCOPE.with_borrow_mut(|scope| {
        if let Some(scope) = scope.as_mut().filter(|scope| scope.lent.is_some()) {
            scope.before = Some(x.clone());
        }
    });
}

/// Runs a block that is not checkpointed on `x`: what is lent of its parameters is gathered, and kept for the
/// backward pass.
pub(crate) fn in_block<B, T>(
    block: &mut B,
    x: Array,
    run: impl FnOnce(&mut B, Array) -> Result<T>,
) -> Result<T>
where
    B: ModuleParameters,
{
    let mut names: Vec<Rc<str>> = Vec::new();
    let (mut inputs, mut shares) = (vec![x], vec![None]);
    if SCOPE.with_borrow(Option::is_some) {
        let mut parameters: Vec<_> = block.parameters().flatten().into_iter().collect();
        parameters.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, value) in parameters {
            if let Some(Part { array, share }) = take(value)? {
                names.push(name);
                inputs.push(array);
                shares.push(Some(share));
            }
        }
    }
    if names.is_empty() {
        return run(block, inputs.swap_remove(0));
    }
    let mut outputs = Shares::new(shares).enter(&inputs)?.into_iter();
    let x = outputs.next().ok_or_else(lost)?;
    let wholes: Vec<Array> = outputs.collect();
    runs(&x);
    let lent = exchange(block, &names, wholes);
    let result = catch_unwind(AssertUnwindSafe(|| run(block, x)));
    exchange(block, &names, lent);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Puts values in the place of the parameters of these names, and returns what was there.
fn exchange<B: ModuleParameters>(
    block: &mut B,
    names: &[Rc<str>],
    values: Vec<Array>,
) -> Vec<Array> {
    let mut parameters = block.parameters_mut().flatten();
    let pairs = names.iter().zip(values);
    let before = pairs.map(|(name, value)| match parameters.get_mut(name) {
        Some(parameter) => replace(*parameter, value),
        None => value,
    });
    before.collect()
}

/// How the inputs of a block become what it runs on: which of them are shares, all of one group.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<[Option<Share>]>);

impl Shares {
    pub(crate) fn new(shares: impl IntoIterator<Item = Option<Share>>) -> Self {
        Self(shares.into_iter().collect())
    }

    /// The inputs that the block runs on.
    pub(crate) fn whole(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut outputs = inputs.to_vec();
        let Some((group, _)) = self.group() else { return Ok(outputs) };
        let (places, axes) = self.parts();
        let mut parts = pick(inputs, &places);
        let before = SCOPE.with_borrow(|scope| scope.as_ref().and_then(|it| it.before.clone()));
        if let (Some(before), false) = (before, parts.is_empty()) {
            parts = ffi::depends(&parts, &[before])?;
        }
        put(&mut outputs, &places, bucket::gathered(group, &parts, &axes)?);
        Ok(outputs)
    }

    /// The gradients of this rank's inputs, from those of what the block ran on: the first `num_activations` are
    /// there when those of `weights` are, and what the block before has left for this rank is.
    ///
    /// MLX computes a graph by its breadth. As a gradient of weights is an end of the graph, it would come last, and
    /// until then hold what it is computed from.
    pub(crate) fn gradients(
        &self,
        num_activations: usize,
        weights: &[usize],
        mut gradients: Vec<Array>,
    ) -> Result<Vec<Array>> {
        let of_weights = pick(&gradients, weights);
        let reduced = self.reduce(&mut gradients)?;
        let before = SCOPE.with_borrow_mut(|scope| {
            scope.as_mut().map(|scope| replace(&mut scope.reduced, reduced)).unwrap_or_default()
        });
        let is_float = |&at: &usize| gradients[at].dtype().is_inexact();
        let activations: Vec<usize> = (0..num_activations).filter(is_float).collect();
        let earlier = [of_weights, before].concat();
        if !activations.is_empty() && !earlier.is_empty() {
            let ordered = ffi::depends(&pick(&gradients, &activations), &earlier)?;
            put(&mut gradients, &activations, ordered);
        }
        Ok(gradients)
    }

    /// Puts the sums over ranks in the place of the gradients of shares, and returns them.
    fn reduce(&self, gradients: &mut [Array]) -> Result<Vec<Array>> {
        let Some((group, dtype)) = self.group() else { return Ok(Vec::new()) };
        let (parts, axes) = self.parts();
        let scattered = bucket::scattered(group, &pick(gradients, &parts), &axes, dtype)?;
        let is_copy = |at: &usize| self.0[*at].as_ref().is_some_and(|it| it.axis.is_none());
        let copies: Vec<usize> = (0..self.0.len()).filter(is_copy).collect();
        let summed = bucket::sums(group, &pick(gradients, &copies), dtype)?;
        put(gradients, &parts, scattered.clone());
        put(gradients, &copies, summed.clone());
        Ok([scattered, summed].concat())
    }

    /// The inputs that a block runs on, whose gradients are those of this rank's inputs. The first are activations.
    fn enter(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let num_activations = self.0.iter().take_while(|share| share.is_none()).count();
        let (forwards, backwards) = (self.clone(), self.clone());
        let weights: Vec<usize> = (num_activations..inputs.len()).collect();
        ffi::custom_vjp(
            move |inputs| forwards.whole(inputs),
            move |pass| backwards.gradients(num_activations, &weights, pass.cotangents.to_vec()),
            inputs,
        )
    }

    /// The ranks, and what gradients travel as; `None` without any share.
    fn group(&self) -> Option<(&Group, Dtype)> {
        self.0.iter().flatten().next().map(|share| (&share.group, share.dtype))
    }

    /// Which inputs are parts, and along which axes.
    fn parts(&self) -> (Vec<usize>, Vec<usize>) {
        let axis = |(at, share): (usize, &Option<Share>)| Some((at, share.as_ref()?.axis?));
        self.0.iter().enumerate().filter_map(axis).unzip()
    }
}

/// The arrays at some places.
fn pick(arrays: &[Array], places: &[usize]) -> Vec<Array> {
    places.iter().map(|&place| arrays[place].clone()).collect()
}

/// Replaces the arrays at some places.
fn put(arrays: &mut [Array], places: &[usize], new: Vec<Array>) {
    for (&place, array) in places.iter().zip(new) {
        arrays[place] = array;
    }
}

fn lost() -> Error {
    Error::message("MLX lost a parameter that is gathered")
}
