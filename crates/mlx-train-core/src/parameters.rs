//! What `#[derive(ModuleParameters)]` expands to; not part of the public API.
//!
//! The derive lists the `#[param]` fields of a struct, and the functions here answer every question
//! of mlx-rs's `ModuleParameters` from that list.
//!
//! One answer differs from mlx-rs's own derive: there, `any_frozen` is false for a struct whose
//! child is frozen in part, and a struct whose children hold no array at all counts as frozen.

use mlx_rs::{
    Array,
    module::{ModuleParamMut, ModuleParamRef, Parameter},
    nested::{NestedHashMap, NestedValue},
};
use std::rc::Rc;

/// A field type that `#[param]` may mark.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a `#[param]` field",
    label = "neither an array parameter nor a module",
    note = "a `#[param]` field is `Param<Array>`, `Param<Option<Array>>`, a module that implements `ModuleParameters`, or a `Vec`, `Option` or `Box` of one",
    note = "remove `#[param]` if the field is not trained, or put `#[derive(ModuleParameters)]` on its type"
)]
pub trait ParameterField {
    /// The field without its type.
    fn erased(&self) -> &dyn Parameter;
    /// The field without its type, to change it.
    fn erased_mut(&mut self) -> &mut dyn Parameter;
}

// Without this, rustc would name mlx-rs's trait, and none of the notes above.
#[diagnostic::do_not_recommend]
impl<T: Parameter> ParameterField for T {
    fn erased(&self) -> &dyn Parameter {
        self
    }

    fn erased_mut(&mut self) -> &mut dyn Parameter {
        self
    }
}

/// The `#[param]` fields of a struct with their keys, in declaration order.
///
/// No key equals another or is a dotted prefix of it, so no array hides another.
pub trait ParameterFields {
    /// The fields.
    fn fields(&self) -> Vec<(&'static str, &dyn Parameter)>;
    /// The fields, to change them.
    fn fields_mut(&mut self) -> Vec<(&'static str, &mut dyn Parameter)>;
}

/// How many arrays there are.
pub fn count(module: &dyn ParameterFields) -> usize {
    module.fields().iter().map(|(_, field)| field.count()).sum()
}

/// All arrays.
pub fn all(module: &dyn ParameterFields) -> ModuleParamRef<'_> {
    let fields = module.fields().into_iter();
    NestedHashMap {
        entries: fields.map(|(key, field)| (Rc::from(key), field.as_nested_value())).collect(),
    }
}

/// All arrays, to change them.
pub fn all_mut(module: &mut dyn ParameterFields) -> ModuleParamMut<'_> {
    let fields = module.fields_mut().into_iter();
    NestedHashMap {
        entries: fields.map(|(key, field)| (Rc::from(key), field.as_nested_value_mut())).collect(),
    }
}

/// The arrays that are not frozen.
pub fn trainable(module: &dyn ParameterFields) -> ModuleParamRef<'_> {
    let fields = module.fields().into_iter();
    NestedHashMap {
        entries: fields
            .filter_map(|(key, field)| Some((Rc::from(key), field.as_trainable_nested_value()?)))
            .collect(),
    }
}

/// Freezes or unfreezes every field; `recursive` goes on to mlx-rs, which ignores it.
pub fn set_frozen(module: &mut dyn ParameterFields, frozen: bool, recursive: bool) {
    for (_, field) in module.fields_mut() {
        if frozen { field.freeze(recursive) } else { field.unfreeze(recursive) }
    }
}

/// Whether every array is frozen; `None` without any array.
pub fn all_frozen(module: &dyn ParameterFields) -> Option<bool> {
    (count(module) > 0).then(|| count_trainable(module) == 0)
}

/// Whether some array is frozen; `None` without any array.
pub fn any_frozen(module: &dyn ParameterFields) -> Option<bool> {
    (count(module) > 0).then(|| count_trainable(module) < count(module))
}

fn count_trainable(module: &dyn ParameterFields) -> usize {
    fn leaves(value: &NestedValue<Rc<str>, &Array>) -> usize {
        match value {
            NestedValue::Value(_) => 1,
            NestedValue::Map(entries) => entries.values().map(leaves).sum(),
        }
    }
    trainable(module).entries.values().map(leaves).sum()
}
