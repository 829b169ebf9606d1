//! Saying where the numbers of a step stopped to be numbers.

use super::StepOutput;
use crate::Result;

/// The first parameter, in natural order, whose gradient is not finite, and how many there are.
pub(super) fn describe(output: &StepOutput) -> Result<String> {
    let norms = output.grad_norms.try_as_slice::<f32>()?;
    let mut bad = output.parameter_names.iter().zip(norms).filter(|(_, norm)| !norm.is_finite());
    let Some((first, _)) = bad.next() else {
        return Ok("The gradient of each parameter is finite by itself".to_owned());
    };
    Ok(format!(
        "The first gradient that is not finite is that of `{first}`; {} of {} are not",
        1 + bad.count(),
        norms.len()
    ))
}
