//! The part of a step ahead that the device does not have yet.

use crate::{Result, ffi};
use mlx_rs::Array;
use std::{cell::RefCell, rc::Rc};

/// The backward pass and the update of a step whose loss is on its way.
///
/// What begins the next step gives it to the device, or who waits for this one, whoever comes first: until then the host
/// may build the graph of the next step, while the device has a forward pass to compute.
#[derive(Debug, Clone)]
pub(super) struct Rest(Rc<RefCell<Vec<Vec<Array>>>>);

impl Rest {
    /// Arrays that are computed one group after the other.
    pub(super) fn new(groups: Vec<Vec<Array>>) -> Self {
        Self(Rc::new(RefCell::new(groups)))
    }

    /// Gives it to the device, unless that has it.
    ///
    /// # Errors
    /// When MLX fails before the computation starts.
    pub(super) fn start(&self) -> Result<()> {
        start(self.0.take())
    }
}

/// Gives groups of arrays to the device, one after the other, and lets go of each.
///
/// # Errors
/// When MLX fails before the computation starts.
pub(super) fn start(groups: Vec<Vec<Array>>) -> Result<()> {
    groups.into_iter().try_for_each(|group| ffi::async_eval(&group))
}
