//! Settings and names that optimizers, schedules and clipping refuse.

use std::fmt;

/// What an optimizer, a schedule, clipping or a group of parameters cannot take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A number that is out of range.
    #[error("{setting} is {value}; it has to be {expected}")]
    Setting {
        /// What was set, with the thing that it belongs to.
        setting: &'static str,
        /// The value that was given.
        value: f64,
        /// The values that are allowed, in words.
        expected: &'static str,
    },
    /// Settings that exclude one another; the message says which, and what to change.
    #[error("{0}")]
    Conflict(String),
    /// A pattern that is not a glob.
    #[error(
        "the pattern `{pattern}` is not a glob: {problem}; write names with `*`, `?`, `[…]` and \
         `{{a,b}}`, such as `*.bias`"
    )]
    Pattern {
        /// The pattern as it was given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern for parameters that are not there.
    #[error("the pattern `{pattern}` matches no parameter{near}")]
    NoMatch {
        /// The pattern as it was given.
        pattern: String,
        /// The names that look most like it.
        near: NearNames,
    },
    /// Saved state that is not that of these parameters and this optimizer.
    #[error("the optimizer state {problem}; it has to be that of the same model and optimizer")]
    State {
        /// Which array, and what is wrong with it.
        problem: String,
    },
}

/// The names that look most like a pattern, the nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearNames(pub Vec<String>);

impl fmt::Display for NearNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|name| format!("`{name}`")).collect();
        match names.as_slice() {
            [] => f.write_str("; the model has none that can be trained"),
            names => write!(f, "; the names most like it are {}", names.join(", ")),
        }
    }
}

/// The value, where a setting allows it.
pub(super) fn check(
    setting: &'static str,
    value: f64,
    expected: &'static str,
    allowed: bool,
) -> Result<f64, OptimError> {
    if allowed { Ok(value) } else { Err(OptimError::Setting { setting, value, expected }) }
}

/// How much of something a step keeps: in `0..1`.
pub(super) fn check_kept(setting: &'static str, value: f64) -> Result<f64, OptimError> {
    check(setting, value, "at least 0 and below 1", (0.0..1.0).contains(&value))
}

/// A scale or a rate: finite and at least 0.
pub(super) fn check_rate(setting: &'static str, value: f64) -> Result<f64, OptimError> {
    check(setting, value, "finite and at least 0", value >= 0.0 && value.is_finite())
}

/// What is added to a denominator, or a norm to clip to: positive in f32, the type that it is used in.
pub(super) fn check_positive(setting: &'static str, value: f64) -> Result<f64, OptimError> {
    // 1e-60 would be a division by zero there.
    let narrow = value as f32;
    check(setting, value, "positive and finite in f32", narrow > 0.0 && narrow.is_finite())
}
