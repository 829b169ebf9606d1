//! Gradient checkpointing: parts of a model forget what they computed, and compute it again for the gradient.
//!
//! A training step holds the activations of every block until the backward pass has used them. A checkpointed
//! block keeps its inputs and outputs alone, and runs a second time when its gradient is due: a third more
//! arithmetic at most, for a fraction of the memory. Source: Chen et al., arXiv:1604.06174.
//!
//! A [`CheckpointPolicy`] says which blocks, and [`with_policy`] makes it that of all that runs inside, as
//! [`TrainStep`](crate::train::TrainStep) does with that of its options. A model that keeps its blocks in a
//! [`Stack`](crate::nn::Stack) need do nothing more. [`part`] marks the expensive parts that `selective` names;
//! [`module`] checkpoints whatever it is given.
//!
//! ```
//! use mlx_train_core::{Array, checkpoint::{CheckpointPolicy, with_policy}, ffi, nn::{Linear, Stack}};
//! use mlx_rs::module::Module;
//! let mut layers: Stack<Linear> =
//!     (0..3).map(|_| Ok(Linear::new(4, 4)?)).collect::<mlx_train_core::Result<_>>()?;
//! let loss = |x: &[Array]| {
//!     let y = with_policy(&CheckpointPolicy::Full, || {
//!         layers.forward(x[0].clone(), |layer, _, x| Ok(layer.forward(&x)?))
//!     })?;
//!     Ok(vec![y.sum(None)?])
//! };
//! let (_loss, gradients) = ffi::value_and_grad(loss, &[mlx_rs::ops::ones::<f32>(&[2, 4])?], &[0])?;
//! assert_eq!(gradients[0].shape(), [2, 4]);
//! # Ok::<(), mlx_train_core::Error>(())
//! ```
//!
//! What a run saves on disk is a checkpoint, too: [`store::Checkpoints`](crate::store::Checkpoints).

mod error;
mod measured;
mod module;
mod modules;
mod outputs;
mod policy;
mod scope;

pub use error::PolicyError;
pub(crate) use measured::measured;
pub use module::{module, part};
pub use modules::{Copies, Modules};
pub use outputs::Outputs;
pub use policy::CheckpointPolicy;
pub use scope::with_policy;
pub(crate) use scope::{checkpointed_blocks, is_inside, parts_in, with_policy_and_constants};
