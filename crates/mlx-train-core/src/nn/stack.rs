//! Repeated blocks.

use super::shortened::keep;
use crate::{
    Array, Result,
    checkpoint::{self, CheckpointPolicy, checkpointed_blocks, with_policy},
    distributed::{
        Shard, Sharding, SplitBy, gather,
        pipeline::{Cut, run_blocks},
    },
    ffi, profile, rng,
};
use mlx_rs::module::{ModuleParamMut, ModuleParamRef, ModuleParameters};
use std::{any, slice};

/// Blocks of one kind that run one after the other.
///
/// A stack is the unit of gradient checkpointing, of sharding and of pipeline stages, so a model
/// keeps its repeated blocks in one. Its parameters are named by position: `0.…`, `1.…`.
///
/// ```
/// use mlx_train_core::{Array, nn::{Linear, Stack}};
/// use mlx_rs::module::{Module, ModuleParameters};
/// let layer = |_| Ok(Linear::new(4, 4)?);
/// let mut layers: Stack<Linear> = (0..3).map(layer).collect::<mlx_train_core::Result<_>>()?;
/// let y = layers.forward(mlx_rs::ops::zeros::<f32>(&[2, 4])?, |layer, _, x| Ok(layer.forward(&x)?))?;
/// assert_eq!(y.shape(), [2, 4]);
/// assert!(layers.parameters().flatten().contains_key("2.weight"));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stack<B> {
    blocks: Vec<B>,
    policy: Option<CheckpointPolicy>,
}

impl<B> Stack<B> {
    /// Stacks blocks, the first of which runs first.
    pub fn new(blocks: Vec<B>) -> Self {
        Self { blocks: keep(blocks), policy: None }
    }

    /// Which of the blocks, or of the parts in them, are checkpointed, whatever the policy around the stack is;
    /// `None` leaves it to that.
    pub fn set_policy(&mut self, policy: Option<CheckpointPolicy>) {
        self.policy = policy;
    }

    /// Passes `x` through every block: `run` maps a block, its position and the output of the block before to
    /// the block's output. Without blocks it is the identity.
    ///
    /// Blocks that the [policy](crate::checkpoint) names are checkpointed, which changes no number: each block
    /// draws from a [fork](rng::fork) of its own. `run` owns what it gets, so that an activation can be freed
    /// as soon as a block has used it. It is `Copy`, which no array is, because it may run twice: what all
    /// blocks share is for [`Stack::forward_with`]. A pass that changes more than parameters (a cache, say)
    /// goes over [`Stack::iter_mut`] instead.
    ///
    /// # Errors
    /// What `run` returns; the blocks after that do not run.
    pub fn forward<F>(&mut self, x: Array, run: F) -> Result<Array>
    where
        B: ModuleParameters + Clone + Send + 'static,
        F: Fn(&mut B, usize, Array) -> Result<Array> + Copy + Send + 'static,
    {
        self.forward_with(x, &[], move |block, index, x, _| run(block, index, x))
    }

    /// As [`Stack::forward`], where `run` gets `shared` arrays, too: a mask, the output of an encoder. Gradients
    /// reach them.
    ///
    /// # Errors
    /// As [`Stack::forward`].
    pub fn forward_with<F>(&mut self, x: Array, shared: &[Array], run: F) -> Result<Array>
    where
        B: ModuleParameters + Clone + Send + 'static,
        F: Fn(&mut B, usize, Array, &[Array]) -> Result<Array> + Copy + Send + 'static,
    {
        match self.policy.clone() {
            Some(policy) => with_policy(&policy, || self.pass(x, shared, run)),
            None => self.pass(x, shared, run),
        }
    }

    fn pass<F>(&mut self, x: Array, shared: &[Array], run: F) -> Result<Array>
    where
        B: ModuleParameters + Clone + Send + 'static,
        F: Fn(&mut B, usize, Array, &[Array]) -> Result<Array> + Copy + Send + 'static,
    {
        run_blocks(x, self.len(), |x, cut| self.pass_blocks(x, cut, shared, run))
    }

    fn pass_blocks<F>(&mut self, mut x: Array, cut: &Cut, shared: &[Array], run: F) -> Result<Array>
    where
        B: ModuleParameters + Clone + Send + 'static,
        F: Fn(&mut B, usize, Array, &[Array]) -> Result<Array> + Copy + Send + 'static,
    {
        let is_checkpointed = checkpointed_blocks(self.len());
        let blocks = self.iter_mut().zip(is_checkpointed).enumerate();
        for (index, (block, is_checkpointed)) in blocks.take(cut.blocks.end).skip(cut.blocks.start)
        {
            cut.note(&x);
            let of_inputs = move |block: &mut B, inputs: &[Array]| {
                run(block, index, inputs[0].clone(), &inputs[1..])
            };
            x = if profile::is_measuring() {
                let inputs = [slice::from_ref(&x), shared].concat();
                let name = format!("{} {index}", short_name::<B>());
                checkpoint::measured(&name, block, &inputs, is_checkpointed, of_inputs)?
            } else if is_checkpointed {
                let inputs = [slice::from_ref(&x), shared].concat();
                checkpoint::module(block, &inputs, of_inputs)?
            } else {
                // A checkpoint adds up what the gradient of an input gets inside before it joins the rest.
                // Nothing but the next block uses the output of one.
                let x = if index == cut.blocks.start { ffi::branch(&x)? } else { x };
                let shared = shared.iter().map(ffi::branch).collect::<Result<Vec<_>>>()?;
                gather::in_block(block, x, |block, x| rng::fork(|| run(block, index, x, &shared)))?
            };
        }
        Ok(x)
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are no blocks.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The block at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&B> {
        self.blocks.get(index)
    }

    /// The block at `index`, if there is one.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut B> {
        self.blocks.get_mut(index)
    }

    /// The blocks in order.
    pub fn iter(&self) -> slice::Iter<'_, B> {
        self.blocks.iter()
    }

    /// The blocks in order.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, B> {
        self.blocks.iter_mut()
    }
}

/// The name of a type without where it is and of what it is: `Block`.
fn short_name<T>() -> &'static str {
    let name = any::type_name::<T>();
    let name = name.split_once('<').map_or(name, |(name, _)| name);
    name.rsplit_once("::").map_or(name, |(_, name)| name)
}

impl<B> FromIterator<B> for Stack<B> {
    fn from_iter<I: IntoIterator<Item = B>>(blocks: I) -> Self {
        Self::new(blocks.into_iter().collect())
    }
}

impl<'a, B> IntoIterator for &'a Stack<B> {
    type Item = &'a B;
    type IntoIter = slice::Iter<'a, B>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, B> IntoIterator for &'a mut Stack<B> {
    type Item = &'a mut B;
    type IntoIter = slice::IterMut<'a, B>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<B: Shard> Shard for Stack<B> {
    fn shard(&mut self, sharding: &mut Sharding<'_>) {
        self.blocks.shard(sharding);
    }
}

impl<Way, B: SplitBy<Way>> SplitBy<Way> for Stack<B> {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.blocks.split(sharding);
    }
}

// mlx-rs names the items of a `Vec` by position, which is what weight files call layers.
impl<B: ModuleParameters> ModuleParameters for Stack<B> {
    fn num_parameters(&self) -> usize {
        self.blocks.num_parameters()
    }

    fn parameters(&self) -> ModuleParamRef<'_> {
        self.blocks.parameters()
    }

    fn parameters_mut(&mut self) -> ModuleParamMut<'_> {
        self.blocks.parameters_mut()
    }

    fn trainable_parameters(&self) -> ModuleParamRef<'_> {
        self.blocks.trainable_parameters()
    }

    fn freeze_parameters(&mut self, recursive: bool) {
        self.blocks.freeze_parameters(recursive);
    }

    fn unfreeze_parameters(&mut self, recursive: bool) {
        self.blocks.unfreeze_parameters(recursive);
    }

    fn all_frozen(&self) -> Option<bool> {
        self.blocks.all_frozen()
    }

    fn any_frozen(&self) -> Option<bool> {
        self.blocks.any_frozen()
    }
}
