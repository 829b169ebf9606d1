//! Dropout on explicit keys.

use super::{NnError, activation::scalar_like};
use crate::{
    Array, Result,
    distributed::{
        Sharding, SplitBy, Turn,
        way::{Alternating, Divide},
    },
    rng,
};
use mlx_rs::{Dtype, ops::select, random::bernoulli};

/// Sets elements to zero with a probability `p` while the model trains, and scales the others up.
///
/// `x * mask / (1 - p)`, so that the expectation stays; shape and dtype stay too. The mask is drawn
/// from the key of the surrounding [`rng::scope`]; outside of one, that is in evaluation, and for
/// `p = 0` the layer is the identity and draws nothing.
/// Ranks that divide the layers of a model draw the same masks, as they have the same features; where they have parts
/// of them, `#[shard(divide)]` makes the masks differ.
/// Source: Srivastava et al., JMLR 15 (2014), section 10 for the scale in training.
///
/// ```
/// use mlx_train_core::{Array, nn::Dropout, rng};
/// let (dropout, x) = (Dropout::new(0.5)?, Array::from_slice(&[1.0_f32; 8], &[8]));
/// assert_eq!(dropout.forward(&x)?.try_as_slice::<f32>()?, [1.0; 8]);
/// let dropped = rng::scope(&rng::key(7)?, || dropout.forward(&x))?;
/// assert!(dropped.try_as_slice::<f32>()?.iter().all(|&x| x == 0.0 || x == 2.0));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    p: f32,
    /// Which rank this is, where each has a part of the features.
    rank: Option<u32>,
}

impl Dropout {
    /// Drops elements with probability `p`.
    ///
    /// # Errors
    /// [`NnError::DropoutProbability`] unless `p` is in `[0, 1)`.
    pub fn new(p: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(NnError::DropoutProbability(p).into());
        }
        Ok(Self { p, rank: None })
    }

    /// The probability with which an element is dropped.
    pub fn p(&self) -> f32 {
        self.p
    }

    /// Drops elements of `x`, of any shape and floating dtype.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        // Exactly zero is the switch that turns the layer off.
        if self.p <= 0.0 {
            return Ok(x.clone());
        }
        let Some(key) = rng::next_key()? else { return Ok(x.clone()) };
        let key = match self.rank {
            None => key,
            Some(rank) => rng::fork_of(&key, rank)?,
        };
        let keep = 1.0 - self.p;
        let mask = bernoulli(&Array::from_f32(keep), x.shape(), &key)?;
        // bf16 would round the scale itself, by up to 0.4 %, for all elements alike.
        let scaled = match x.dtype() {
            half @ (Dtype::Float16 | Dtype::Bfloat16) => {
                let wide = x.as_dtype(Dtype::Float32)?;
                wide.multiply(Array::from_f32(keep.recip()))?.as_dtype(half)?
            }
            _ => x.multiply(scalar_like(keep.recip(), x)?)?,
        };
        Ok(select(mask, scaled, scalar_like(0.0, x)?)?)
    }
}

impl SplitBy<Divide> for Dropout {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.rank = sharding.rank();
    }
}

impl SplitBy<Alternating> for Dropout {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        if sharding.last_turn() == Turn::Columns {
            SplitBy::<Divide>::split(self, sharding);
        }
    }
}
