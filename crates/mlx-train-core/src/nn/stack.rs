//! Repeated blocks.

use crate::{Array, Result};
use mlx_rs::module::{ModuleParamMut, ModuleParamRef, ModuleParameters};
use std::slice;

/// Blocks of one kind that run one after the other.
///
/// A stack is the unit of gradient checkpointing, of sharding and of pipeline stages, so a model
/// keeps its repeated blocks in one. Its parameters are named by position: `0.…`, `1.…`.
///
/// ```
/// use mlx_train_core::{Array, nn::{Linear, Stack}};
/// use mlx_rs::{builder::Builder, module::{Module, ModuleParameters}, nn::LinearBuilder};
/// let layer = || Ok(LinearBuilder::new(4, 4).build()?);
/// let mut layers: Stack<Linear> = (0..3).map(|_| layer()).collect::<mlx_train_core::Result<_>>()?;
/// let y = layers.forward(mlx_rs::ops::zeros::<f32>(&[2, 4])?, |layer, _, x| Ok(layer.forward(&x)?))?;
/// assert_eq!(y.shape(), [2, 4]);
/// assert!(layers.parameters().flatten().contains_key("2.weight"));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stack<B> {
    blocks: Vec<B>,
}

impl<B> Stack<B> {
    /// Stacks blocks, the first of which runs first.
    pub fn new(blocks: Vec<B>) -> Self {
        Self { blocks }
    }

    /// Passes `x` through every block: `run` maps a block, its position and the output of the block
    /// before to the block's output. Without blocks it is the identity.
    ///
    /// `run` owns what it gets, so that an activation can be freed as soon as a block has used it.
    ///
    /// # Errors
    /// What `run` returns; the blocks after that do not run.
    pub fn forward<F>(&mut self, x: Array, mut run: F) -> Result<Array>
    where
        F: FnMut(&mut B, usize, Array) -> Result<Array>,
    {
        self.blocks.iter_mut().enumerate().try_fold(x, |x, (index, block)| run(block, index, x))
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
