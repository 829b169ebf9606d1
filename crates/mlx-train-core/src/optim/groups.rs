//! Groups of parameters with settings of their own.

use super::{
    Coefficients, NamePatterns, Norms, OptimError, Optimizer, Parameter,
    arithmetic::scalar,
    clip::scaled_to_norm,
    error::{check_positive, check_rate},
};
use crate::Result;
use mlx_rs::Array;

/// An optimizer, and groups of parameters that differ from it.
///
/// A parameter belongs to the first group that matches its name, or to none.
///
/// ```
/// use mlx_train_core::optim::{AdamW, Group, ParameterGroups, Sgd};
/// let optimizer = ParameterGroups::new(AdamW::default())
///     .group(Group::new(["embed_tokens.*"])?.frozen())
///     .group(Group::new(["lm_head.*"])?.learning_rate_scale(0.1)?.max_grad_norm(0.5)?)
///     .group(Group::new(["*.gate"])?.optimizer(Sgd::default().momentum(0.9)?));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug)]
pub struct ParameterGroups {
    optimizer: Box<dyn Optimizer>,
    groups: Vec<Group>,
}

/// Some parameters, by name, and how they are trained.
#[derive(Debug)]
pub struct Group {
    parameters: NamePatterns,
    /// None where the optimizer of all is theirs too.
    optimizer: Option<Box<dyn Optimizer>>,
    learning_rate_scale: f64,
    max_grad_norm: Option<f64>,
    is_frozen: bool,
}

impl Group {
    /// The parameters whose names match one of these patterns; see [`NamePatterns`].
    ///
    /// # Errors
    /// [`OptimError::Pattern`] for one that is no glob.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        Ok(Self {
            parameters: NamePatterns::new(patterns)?,
            optimizer: None,
            learning_rate_scale: 1.0,
            max_grad_norm: None,
            is_frozen: false,
        })
    }

    /// Updates these parameters with another optimizer, or with other settings of the same.
    #[must_use]
    pub fn optimizer(self, optimizer: impl Optimizer + 'static) -> Self {
        Self { optimizer: Some(Box::new(optimizer)), ..self }
    }

    /// Multiplies the learning rate of every step, for these parameters.
    ///
    /// # Errors
    /// [`OptimError`] unless `scale` is finite and at least 0.
    pub fn learning_rate_scale(self, scale: f64) -> Result<Self> {
        let learning_rate_scale = check_rate("learning_rate_scale of a group", scale)?;
        Ok(Self { learning_rate_scale, ..self })
    }

    /// Clips the gradients of these parameters to this norm of them together, after whatever clips
    /// those of the whole model.
    ///
    /// # Errors
    /// [`OptimError`] unless `max_norm` is positive and finite in f32.
    pub fn max_grad_norm(self, max_norm: f64) -> Result<Self> {
        let max_norm = check_positive("max_grad_norm of a group", max_norm)?;
        Ok(Self { max_grad_norm: Some(max_norm), ..self })
    }

    /// Leaves these parameters as they are: they have no gradient and no state.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self { is_frozen: true, ..self }
    }
}

impl ParameterGroups {
    /// All parameters with one optimizer.
    pub fn new(optimizer: impl Optimizer + 'static) -> Self {
        Self { optimizer: Box::new(optimizer), groups: Vec::new() }
    }

    /// Adds a group, which gets what no earlier one has.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Which group a parameter belongs to, if to one.
    fn position(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.parameters.matches(name))
    }

    /// The optimizer of a group, or of the parameters that belong to none.
    fn optimizer_of(&self, position: Option<usize>) -> &dyn Optimizer {
        let own = position.and_then(|position| self.groups[position].optimizer.as_ref());
        &**own.unwrap_or(&self.optimizer)
    }

    /// Each optimizer once, with the places of the parameters that it updates; `positions` are their
    /// groups.
    fn optimizers(&self, positions: &[Option<usize>]) -> Vec<(&dyn Optimizer, Vec<usize>)> {
        let has_own = |&position: &usize| self.groups[position].optimizer.is_some();
        let owners: Vec<_> = positions.iter().map(|position| position.filter(has_own)).collect();
        let own = (0..self.groups.len()).filter(has_own).map(Some);
        std::iter::once(None)
            .chain(own)
            .map(|owner| (self.optimizer_of(owner), places(&owners, owner)))
            .collect()
    }
}

impl Optimizer for ParameterGroups {
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
        self.optimizer_of(self.position(parameter.name)).state_names(parameter)
    }

    fn updates_parts(&self, parameter: Parameter<'_>) -> bool {
        self.optimizer_of(self.position(parameter.name)).updates_parts(parameter)
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        self.optimizer_of(self.position(parameter.name)).init(parameter)
    }

    /// Those of the parameters without a group, then those of each group.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
        let mut parts = vec![self.optimizer.coefficients(learning_rate, step)?];
        for (position, group) in self.groups.iter().enumerate() {
            let learning_rate = learning_rate.multiply(scalar(group.learning_rate_scale))?;
            let optimizer = self.optimizer_of(Some(position));
            parts.push(optimizer.coefficients(&learning_rate, step)?);
        }
        Ok(Coefficients::of_parts(parts))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let position = self.position(parameter.name);
        let part = coefficients.parts().get(position.map_or(0, |position| position + 1));
        let part = part.ok_or_else(|| super::state::foreign(parameter.name, "ParameterGroups"))?;
        self.optimizer_of(position).update(parameter, gradient, state, part)
    }

    fn trains(&self, parameter: Parameter<'_>) -> bool {
        let position = self.position(parameter.name);
        let is_frozen = position.is_some_and(|position| self.groups[position].is_frozen);
        !is_frozen && self.optimizer_of(position).trains(parameter)
    }

    fn check(&self, names: &[&str]) -> Result<()> {
        let positions: Vec<_> = names.iter().map(|name| self.position(name)).collect();
        for (position, group) in self.groups.iter().enumerate() {
            group.parameters.check(names)?;
            if !positions.contains(&Some(position)) {
                return Err(OptimError::Conflict(format!(
                    "group {} of the parameters is empty, as earlier groups have all that it matches; \
                     put it before them, or remove it",
                    position + 1
                ))
                .into());
            }
        }
        for (optimizer, members) in self.optimizers(&positions) {
            optimizer.check(&pick(names, &members))?;
        }
        Ok(())
    }

    fn clip(
        &self,
        names: &[&str],
        mut gradients: Vec<Array>,
        norms: Norms<'_>,
    ) -> Result<Vec<Array>> {
        let positions: Vec<_> = names.iter().map(|name| self.position(name)).collect();
        for (optimizer, members) in self.optimizers(&positions) {
            let (names, own) = (pick(names, &members), pick(&gradients, &members));
            let clipped = optimizer.clip(&names, own, norms)?;
            put(&mut gradients, &members, clipped);
        }
        for (position, group) in self.groups.iter().enumerate() {
            let Some(max_norm) = group.max_grad_norm else { continue };
            let members = places(&positions, Some(position));
            let own = pick(&gradients, &members);
            let norm = norms.of(&pick(names, &members), &own)?.total;
            put(&mut gradients, &members, scaled_to_norm(&own, &norm, max_norm)?);
        }
        Ok(gradients)
    }
}

/// Where an item stands in a list.
fn places(items: &[Option<usize>], item: Option<usize>) -> Vec<usize> {
    (0..items.len()).filter(|&place| items[place] == item).collect()
}

/// The items at some places.
fn pick<T: Clone>(items: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&place| items[place].clone()).collect()
}

/// Replaces the items at some places.
fn put<T>(items: &mut [T], places: &[usize], new: Vec<T>) {
    for (&place, item) in places.iter().zip(new) {
        items[place] = item;
    }
}
