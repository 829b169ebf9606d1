//! A model that works with other parameters for a while.

use crate::{Result, train::parameters};
use mlx_rs::{Array, module::ModuleParameters};
use std::{
    ops::{Deref, DerefMut},
    rc::Rc,
};

/// A model that has its own parameters back when this is dropped, however that comes about.
pub(super) struct Lent<'m, M: ModuleParameters + ?Sized> {
    model: &'m mut M,
    names: &'m [Rc<str>],
    own: Vec<Array>,
}

impl<'m, M: ModuleParameters + ?Sized> Lent<'m, M> {
    /// Remembers the parameters of these names.
    pub(super) fn new(model: &'m mut M, names: &'m [Rc<str>]) -> Result<Self> {
        let own = parameters::get(model, names)?;
        Ok(Self { model, names, own })
    }

    /// The parameters of these names, as they are now.
    pub(super) fn parameters(&self) -> Result<Vec<Array>> {
        parameters::get(self.model, self.names)
    }

    /// Puts values in their place.
    pub(super) fn set<'v>(&mut self, values: impl IntoIterator<Item = &'v Array>) -> Result<()> {
        parameters::set(self.model, self.names, values)
    }
}

impl<M: ModuleParameters + ?Sized> Deref for Lent<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.model
    }
}

impl<M: ModuleParameters + ?Sized> DerefMut for Lent<'_, M> {
    fn deref_mut(&mut self) -> &mut M {
        self.model
    }
}

impl<M: ModuleParameters + ?Sized> Drop for Lent<'_, M> {
    fn drop(&mut self) {
        // It fails only where the model has lost a parameter, which the next step reports.
        drop(parameters::set(self.model, self.names, &self.own));
    }
}
