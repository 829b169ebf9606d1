//! The parameters of a model as a list in a fixed order.

use super::TrainError;
use crate::Result;
use mlx_rs::{Array, module::ModuleParameters};
use std::{cmp::Ordering, rc::Rc};

/// The names of all parameters, in natural order.
pub(super) fn names<M: ModuleParameters + ?Sized>(model: &M) -> Vec<Rc<str>> {
    sorted(model.parameters().flatten().into_keys().collect())
}

/// The names of the parameters that are not frozen, in natural order.
pub(super) fn trainable_names<M: ModuleParameters + ?Sized>(model: &M) -> Vec<Rc<str>> {
    sorted(model.trainable_parameters().flatten().into_keys().collect())
}

fn sorted(mut names: Vec<Rc<str>>) -> Vec<Rc<str>> {
    names.sort_unstable_by(|a, b| natural_order(a, b));
    names
}

/// `layers.2` before `layers.10`.
fn natural_order(a: &str, b: &str) -> Ordering {
    natord::compare(a, b).then_with(|| a.cmp(b))
}

/// The values of these parameters.
pub(super) fn get<M: ModuleParameters + ?Sized>(
    model: &M,
    names: &[Rc<str>],
) -> Result<Vec<Array>> {
    let parameters = model.parameters().flatten();
    let value = |name| parameters.get(name).map(|&value| value.clone());
    names.iter().map(|name| value(name).ok_or_else(|| missing(name))).collect()
}

/// Puts values in the place of these parameters.
pub(super) fn set<'v, M: ModuleParameters + ?Sized>(
    model: &mut M,
    names: &[Rc<str>],
    values: impl IntoIterator<Item = &'v Array>,
) -> Result<()> {
    let mut parameters = model.parameters_mut().flatten();
    for (name, value) in names.iter().zip(values) {
        let parameter = parameters.get_mut(name).ok_or_else(|| missing(name))?;
        **parameter = value.clone();
    }
    Ok(())
}

fn missing(name: &Rc<str>) -> crate::Error {
    TrainError::MissingParameter { name: name.to_string() }.into()
}
