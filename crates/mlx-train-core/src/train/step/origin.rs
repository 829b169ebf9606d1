//! Where a step's parameters come from.

use crate::{Array, Result, distributed::Group, ffi, store::StoredWeights};
use mlx_rs::ops::zeros_dtype;

/// Where the parameters of a step come from.
#[derive(Debug)]
pub(in crate::train) enum Origin {
    /// The model.
    Model,
    /// Files; what they do not hold, the model.
    Weights(StoredWeights),
    /// A checkpoint, which is restored before the first step. Until then nothing is computed, and what a rank holds of
    /// parameters has shapes and no values.
    Checkpoint,
}

impl Origin {
    /// The whole of a parameter with which rank 0 begins, for all ranks; `own` is that of this rank's model. `None`
    /// where it comes later.
    ///
    /// # Errors
    /// On all ranks, when rank 0 cannot read it; when MLX fails.
    pub(super) fn of_first(
        &mut self,
        all: &Group,
        name: &str,
        own: &Array,
    ) -> Result<Option<Array>> {
        let stored = match self {
            Self::Checkpoint => return Ok(None),
            Self::Weights(weights) if weights.holds(name) => {
                let read = all.is_first().then(|| weights.read(name, own.dtype()));
                all.agree(read.transpose())?.flatten()
            }
            Self::Model | Self::Weights(_) => None,
        };
        let brought = match stored {
            Some(stored) => stored,
            None if all.is_first() => own.clone(),
            // What a rank would have drawn itself is never computed.
            None => zeros_dtype(own.shape(), own.dtype())?,
        };
        // Ranks have come to it in different ways, by which MLX would order what follows.
        ffi::eval([&brought])?;
        let whole = all.broadcast(&brought, 0)?;
        all.eval("the parameters of rank 0", [&whole])?;
        Ok(Some(whole))
    }
}
