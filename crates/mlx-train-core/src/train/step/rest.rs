//! The part of a step ahead that the device does not have yet.

use crate::{Result, ffi};
use mlx_rs::Array;
use std::{cell::RefCell, rc::Rc};

/// The backward pass and the update of a step whose loss is on its way.
///
/// What begins the next step gives it to the device, or who waits for this one, whoever comes first: until then the host
/// may build the graph of the next step, while the device has a forward pass to compute.
#[derive(Debug, Clone)]
pub(super) struct Rest(Rc<RefCell<Vec<Array>>>);

impl Rest {
    /// What is computed then.
    pub(super) fn new(arrays: Vec<Array>) -> Self {
        Self(Rc::new(RefCell::new(arrays)))
    }

    /// Gives it to the device, unless that has it, and lets go of it.
    ///
    /// # Errors
    /// When MLX fails before the computation starts.
    pub(super) fn start(&self) -> Result<()> {
        let arrays = self.0.take();
        if arrays.is_empty() { Ok(()) } else { ffi::async_eval(&arrays) }
    }
}
