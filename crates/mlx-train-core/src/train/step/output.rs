//! What a step leaves for a report.

use crate::model::Loss;
use mlx_rs::Array;
use std::rc::Rc;

/// What a step leaves for a report; the arrays are evaluated, and reading them costs little.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepOutput {
    /// The loss before the update, averaged over all micro-batches by weight.
    pub loss: Loss,
    /// The global norm of the gradients before clipping: a scalar `()` f32.
    pub grad_norm: Array,
    /// The norm of each parameter's gradient before clipping, `(P,)` f32, in the order of
    /// [`StepOutput::parameter_names`].
    pub grad_norms: Array,
    /// Whether loss and gradient norm are finite: a scalar `()` bool.
    pub finite: Array,
    /// The names of the P parameters that are trained, in natural order.
    pub parameter_names: Rc<[Rc<str>]>,
    /// How many combinations of input shapes and dtypes have been traced; 0 where nothing is compiled.
    pub traces: usize,
}
