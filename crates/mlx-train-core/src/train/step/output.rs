//! What a step leaves for a report.

use super::rest::Rest;
use crate::{Result, distributed::Group, ffi, model::Loss};
use mlx_rs::Array;
use std::{fmt, rc::Rc, time::Duration};

/// What a step leaves for a report; the arrays are evaluated, and reading them costs little.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepOutput {
    /// The loss before the update, averaged over all micro-batches by weight.
    pub loss: Loss,
    /// The global norm of the gradients before clipping: a scalar `()` f32.
    pub grad_norm: Array,
    /// The square of the norm of each parameter's gradient before clipping: scalars `()` f32, in the
    /// order of [`StepOutput::parameter_names`].
    pub squared_grad_norms: Vec<Array>,
    /// Whether loss and gradient norm are finite: a scalar `()` bool.
    pub finite: Array,
    /// The names of the P parameters that are trained, in natural order.
    pub parameter_names: Rc<[Rc<str>]>,
    /// How many kinds of batches have been traced so far; 0 where nothing is compiled.
    pub traces: usize,
    /// Something that is no error and that a person should know; told once.
    pub warning: Option<String>,
    /// How long the micro-batches took, where this rank is a stage of a pipeline.
    pub stage_times: Option<StageTimes>,
}

/// A step whose loss the device computes, and its update after that.
#[derive(Debug)]
#[must_use = "its numbers come when it is waited for"]
pub struct StepAhead {
    pub(super) output: StepOutput,
    /// What the device does not have of it.
    pub(super) rest: Option<Rest>,
    /// The ranks that take it together.
    pub(super) group: Group,
}

impl StepAhead {
    /// Waits until the numbers of the step are there; its weights may still be computed. A rank that waits longer for
    /// the others than the group's limit ends.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn wait(self) -> Result<StepOutput> {
        let Self { output, rest, group } = self;
        let _deadline = group.deadline("the gradients of all ranks")?;
        rest.map_or(Ok(()), |rest| rest.start())?;
        ffi::eval(output.arrays())?;
        Ok(output)
    }
}

/// How long a stage of a pipeline took for the micro-batches of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    /// From the first of them to the last.
    pub took: Duration,
    /// How long of that the stage has waited for its neighbours: its part of the bubble, and of unequal stages.
    pub waited: Duration,
}

/// Which gradients of a step are not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotFiniteGradients {
    /// The first parameter, in natural order of the names, whose gradient is not finite; `None` if all are, and
    /// the loss is not or the norm of all together is too large for f32.
    pub parameter: Option<Rc<str>>,
    /// How many parameters have such a gradient.
    pub num_affected: usize,
    /// How many parameters are trained.
    pub num_parameters: usize,
}

impl StepOutput {
    /// Every array of it.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> + Clone {
        let Self { loss, grad_norm, finite, squared_grad_norms, .. } = self;
        [&loss.value, &loss.weight, grad_norm, finite].into_iter().chain(squared_grad_norms)
    }

    /// Whether loss and gradient norm are finite, which [`StepOutput::finite`] says as an array.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn is_finite(&self) -> Result<bool> {
        Ok(self.finite.try_item_exact::<bool>()?)
    }

    /// Which gradients are not finite.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn not_finite_gradients(&self) -> Result<NotFiniteGradients> {
        let mut affected = Vec::new();
        for (name, square) in self.parameter_names.iter().zip(&self.squared_grad_norms) {
            if !square.try_item_exact::<f32>()?.is_finite() {
                affected.push(name);
            }
        }
        Ok(NotFiniteGradients {
            parameter: affected.first().copied().cloned(),
            num_affected: affected.len(),
            num_parameters: self.parameter_names.len(),
        })
    }
}

impl NotFiniteGradients {
    /// The layer of the first such parameter: its name without the last part.
    pub fn layer(&self) -> Option<&str> {
        self.parameter.as_deref()?.rsplit_once('.').map(|(layer, _)| layer)
    }
}

impl fmt::Display for NotFiniteGradients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameter, num_affected, num_parameters } = self;
        match parameter {
            None => f.write_str("the gradient of each parameter is finite by itself"),
            Some(name) => write!(
                f,
                "the first gradient that is not finite is that of `{name}`; {num_affected} of {num_parameters} \
                 are not"
            ),
        }
    }
}
