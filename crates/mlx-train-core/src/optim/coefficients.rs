//! What is the same for every parameter in one step.

use super::arithmetic::scalar;
use crate::Result;
use mlx_rs::{Array, ops::select};

/// What is the same for every parameter in one step, computed once: an optimizer's own numbers, and those of
/// the optimizers that it is made of.
#[derive(Debug, Clone, Default)]
pub struct Coefficients {
    own: Vec<Array>,
    parts: Vec<Coefficients>,
    resting: Option<Vec<Array>>,
}

impl Coefficients {
    /// An optimizer's own numbers: scalars `()` f32, as its [`update`](super::Optimizer::update) expects them.
    pub fn new(own: Vec<Array>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Those of each optimizer that this one is made of.
    pub fn of_parts(parts: Vec<Self>) -> Self {
        Self { parts, ..Self::default() }
    }

    /// Says which numbers, in the place of these, let an update by a gradient of zeros change neither
    /// parameter nor state, to the last bit.
    ///
    /// A step that must not count (its gradient is not finite) then takes these numbers. Without them the engine
    /// puts old values in the place of new ones, which costs an operation for every array of the state.
    #[must_use]
    pub fn resting(self, numbers: &[f64]) -> Self {
        Self { resting: Some(numbers.iter().copied().map(scalar).collect()), ..self }
    }

    /// The optimizer's own numbers.
    pub fn own(&self) -> &[Array] {
        &self.own
    }

    /// Those of each optimizer that it is made of.
    pub fn parts(&self) -> &[Self] {
        &self.parts
    }

    /// These numbers where `counts` `()` bool is true, and the resting ones where it is not; `None` if an
    /// optimizer has none.
    pub(super) fn resting_unless(&self, counts: &Array) -> Result<Option<Self>> {
        let mut own = Vec::new();
        if !self.own.is_empty() {
            let Some(resting) = self.resting.as_ref().filter(|it| it.len() == self.own.len())
            else {
                return Ok(None);
            };
            for (number, resting) in self.own.iter().zip(resting) {
                own.push(select(counts, number, resting)?);
            }
        }
        let mut parts = Vec::new();
        for part in &self.parts {
            let Some(part) = part.resting_unless(counts)? else { return Ok(None) };
            parts.push(part);
        }
        Ok(Some(Self { own, parts, resting: None }))
    }
}
