//! Inputs and outputs of a traced function, which are a list.

use crate::{Error, Result};
use mlx_rs::Array;

/// Takes arrays from a list, in the order in which they were put there.
pub(super) struct Reader(std::vec::IntoIter<Array>);

impl Reader {
    pub(super) fn new(arrays: Vec<Array>) -> Self {
        Self(arrays.into_iter())
    }

    /// The next arrays, as many as that.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<Array>> {
        let arrays: Vec<_> = self.0.by_ref().take(count).collect();
        if arrays.len() == count { Ok(arrays) } else { Err(too_short()) }
    }

    /// The next array.
    pub(super) fn one(&mut self) -> Result<Array> {
        self.0.next().ok_or_else(too_short)
    }

    /// All that are left.
    pub(super) fn rest(self) -> Vec<Array> {
        self.0.collect()
    }
}

fn too_short() -> Error {
    Error::message("MLX lost an array of a training step")
}
