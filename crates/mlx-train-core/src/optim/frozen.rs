//! A model some of whose parameters are not trained.

use super::NamePatterns;
use crate::{
    Array, Result,
    batch::Batch,
    generate::LanguageModel,
    model::{BaseModel, Loss},
};
use mlx_rs::{
    module::{ModuleParamMut, ModuleParamRef, ModuleParameters},
    nested::{NestedHashMap, NestedValue},
};
use std::{collections::HashSet, rc::Rc};

/// A model with parameters that are frozen by name: they are in its `parameters()`, and not in its
/// `trainable_parameters()`.
///
/// mlx-rs freezes whole layers only (`Linear` with its weight and bias), and forgets which names it
/// froze. Here each array has its own state, whatever layer it is in, and those that the model has
/// frozen by itself stay so.
///
/// ```
/// # use mlx_train_core::{Result, model::BaseModel, optim::Frozen};
/// # fn example(model: Box<dyn BaseModel>) -> Result<()> {
/// let mut model = Frozen::new(model);
/// model.freeze(["embed_tokens.*", "layers.*"])?;
/// model.unfreeze(["layers.11.*", "*.bias"])?;
/// # Ok(()) }
/// ```
///
/// For one run, a frozen [`Group`](super::Group) does the same without a change of the model.
#[derive(Debug, Clone)]
pub struct Frozen<M> {
    model: M,
    names: HashSet<Rc<str>>,
}

impl<M: BaseModel> Frozen<M> {
    /// The model as it is, nothing frozen by name yet.
    pub fn new(model: M) -> Self {
        Self { model, names: HashSet::new() }
    }

    /// Freezes the parameters whose names match one of these patterns; see [`NamePatterns`].
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) for a pattern that is no glob or matches no parameter; then
    /// nothing is changed.
    pub fn freeze<S: AsRef<str>>(&mut self, patterns: impl IntoIterator<Item = S>) -> Result<()> {
        let names = self.matched(patterns)?;
        self.names.extend(names);
        Ok(())
    }

    /// Trains the parameters whose names match one of these patterns again.
    ///
    /// # Errors
    /// As [`Frozen::freeze`].
    pub fn unfreeze<S: AsRef<str>>(&mut self, patterns: impl IntoIterator<Item = S>) -> Result<()> {
        for name in self.matched(patterns)? {
            self.names.remove(&name);
        }
        Ok(())
    }

    /// The model, which knows nothing of what was frozen here.
    pub fn into_inner(self) -> M {
        self.model
    }

    fn matched<S: AsRef<str>>(
        &self,
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Rc<str>>> {
        let patterns = NamePatterns::new(patterns)?;
        let mut names: Vec<Rc<str>> = self.model.parameters().flatten().into_keys().collect();
        names.sort_unstable_by(|a, b| natord::compare(a, b).then_with(|| a.cmp(b)));
        patterns.check(&names.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        names.retain(|name| patterns.matches(name));
        Ok(names)
    }

    /// How many arrays can be trained.
    fn num_trainable(&self) -> usize {
        self.trainable_parameters().flatten().len()
    }
}

impl<M: BaseModel> ModuleParameters for Frozen<M> {
    fn num_parameters(&self) -> usize {
        self.model.num_parameters()
    }

    fn parameters(&self) -> ModuleParamRef<'_> {
        self.model.parameters()
    }

    fn parameters_mut(&mut self) -> ModuleParamMut<'_> {
        self.model.parameters_mut()
    }

    fn trainable_parameters(&self) -> ModuleParamRef<'_> {
        let NestedHashMap { entries } = self.model.trainable_parameters();
        NestedHashMap { entries: without(entries, "", &self.names) }
    }

    fn freeze_parameters(&mut self, recursive: bool) {
        self.model.freeze_parameters(recursive);
    }

    /// Unfreezes what the model and what this has frozen.
    fn unfreeze_parameters(&mut self, recursive: bool) {
        self.names.clear();
        self.model.unfreeze_parameters(recursive);
    }

    fn all_frozen(&self) -> Option<bool> {
        (self.num_parameters() > 0).then(|| self.num_trainable() == 0)
    }

    fn any_frozen(&self) -> Option<bool> {
        (self.num_parameters() > 0).then(|| self.num_trainable() < self.num_parameters())
    }
}

type Entries<'a> = std::collections::HashMap<Rc<str>, NestedValue<Rc<str>, &'a Array>>;

/// The entries but for the arrays of these full names; `prefix` is what stands before their keys.
fn without<'a>(entries: Entries<'a>, prefix: &str, names: &HashSet<Rc<str>>) -> Entries<'a> {
    let kept = |(key, value): (Rc<str>, NestedValue<Rc<str>, &'a Array>)| {
        let name = format!("{prefix}{key}");
        let value = match value {
            NestedValue::Value(_) if names.contains(name.as_str()) => return None,
            NestedValue::Value(array) => NestedValue::Value(array),
            NestedValue::Map(entries) => {
                NestedValue::Map(without(entries, &format!("{name}."), names))
            }
        };
        Some((key, value))
    };
    entries.into_iter().filter_map(kept).collect()
}

impl<M: BaseModel> BaseModel for Frozen<M> {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        self.model.forward(x)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        self.model.loss_fn(x, y)
    }

    fn batch_loss(&mut self, batch: &Batch) -> Result<Loss> {
        self.model.batch_loss(batch)
    }

    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        self.model.loss_and_outputs(batch)
    }

    fn training_mode(&mut self, training: bool) {
        self.model.training_mode(training);
    }

    fn as_language_model(&mut self) -> Option<&mut dyn LanguageModel> {
        self.model.as_language_model()
    }
}
