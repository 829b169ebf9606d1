//! What a function that is checkpointed returns.

use crate::{Array, Error, Result};

/// What a checkpointed function may return: an array, or several.
pub trait Outputs: Sized + 'static {
    /// The arrays in order.
    #[doc(hidden)]
    fn into_arrays(self) -> Vec<Array>;

    /// The same of other arrays, as many.
    #[doc(hidden)]
    fn from_arrays(arrays: Vec<Array>) -> Result<Self>;
}

impl Outputs for Array {
    fn into_arrays(self) -> Vec<Array> {
        vec![self]
    }

    fn from_arrays(arrays: Vec<Array>) -> Result<Self> {
        let [array] = <[Array; 1]>::from_arrays(arrays)?;
        Ok(array)
    }
}

impl<const N: usize> Outputs for [Array; N] {
    fn into_arrays(self) -> Vec<Array> {
        self.into()
    }

    fn from_arrays(arrays: Vec<Array>) -> Result<Self> {
        let num_arrays = arrays.len();
        Self::try_from(arrays).map_err(|_| {
            Error::message(format!("MLX returned {num_arrays} outputs of a checkpoint with {N}"))
        })
    }
}

impl Outputs for Vec<Array> {
    fn into_arrays(self) -> Vec<Array> {
        self
    }

    fn from_arrays(arrays: Vec<Array>) -> Result<Self> {
        Ok(arrays)
    }
}
