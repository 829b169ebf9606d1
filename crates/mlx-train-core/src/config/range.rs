//! The range of a number, as `#[config(range = 0.0..1.0)]` gives it.

use super::{
    field::ConfigField,
    node::{Kind, Node},
};
use serde_json::{Map, Number, Value};
use std::{cmp::Ordering, fmt};

/// The numbers that a field may be: `1..`, `0.0..1.0`, `0..=10`, `..5`.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    min: Option<Number>,
    max: Option<Number>,
    includes_max: bool,
}

/// A number that can be in a range.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no range",
    label = "only numbers have a range, alone or in `Option`, `Vec` and arrays"
)]
pub trait Numeric: ConfigField {}

impl Range {
    /// From `min`, up to `max` itself if `includes_max`.
    #[doc(hidden)]
    pub fn new<T: Numeric>(min: Option<T>, max: Option<T>, includes_max: bool) -> Self {
        Self { min: min.and_then(|b| bound(&b)), max: max.and_then(|b| bound(&b)), includes_max }
    }

    /// The smallest number that is allowed.
    pub fn min(&self) -> Option<&Number> {
        self.min.as_ref()
    }

    /// The largest number that is allowed, or the first that is not: see [`Range::includes_max`].
    pub fn max(&self) -> Option<&Number> {
        self.max.as_ref()
    }

    /// Whether the maximum itself is allowed.
    pub fn includes_max(&self) -> bool {
        self.includes_max
    }

    /// Whether a number is in the range; anything else is not.
    pub(crate) fn contains(&self, value: &Kind) -> bool {
        let above =
            |min: &Number| matches!(order(value, min), Some(Ordering::Greater | Ordering::Equal));
        let below = |max: &Number| match order(value, max) {
            Some(Ordering::Less) => true,
            Some(Ordering::Equal) => self.includes_max,
            _ => false,
        };
        self.min.as_ref().is_none_or(above) && self.max.as_ref().is_none_or(below)
    }

    /// `at least 0.0 and less than 1.0`.
    pub(crate) fn in_words(&self) -> String {
        let below = if self.includes_max { "at most" } else { "less than" };
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!("at least {min} and {below} {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("{below} {max}"),
            (None, None) => "any number".to_owned(),
        }
    }

    pub(crate) fn add_to_json_schema(&self, schema: &mut Map<String, Value>) {
        let max = if self.includes_max { "maximum" } else { "exclusiveMaximum" };
        for (keyword, bound) in [("minimum", &self.min), (max, &self.max)] {
            if let Some(bound) = bound {
                schema.insert(keyword.to_owned(), Value::Number(bound.clone()));
            }
        }
    }
}

/// As it is written in Rust: `0.0..1.0`.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(min) = &self.min {
            write!(f, "{min}")?;
        }
        f.write_str(if self.includes_max { "..=" } else { ".." })?;
        match &self.max {
            Some(max) => write!(f, "{max}"),
            None => Ok(()),
        }
    }
}

fn bound<T: Numeric>(value: &T) -> Option<Number> {
    match value.to_node().into_json() {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

/// Integers are compared as integers, so that no digit of a 64-bit one is lost.
fn order(value: &Kind, bound: &Number) -> Option<Ordering> {
    match (value, bound.as_i128(), bound.as_f64()) {
        (Kind::Int(value), Some(bound), _) => Some(value.cmp(&bound)),
        (Kind::Int(value), None, Some(bound)) => (*value as f64).partial_cmp(&bound),
        (Kind::Float(value), _, Some(bound)) => value.partial_cmp(&bound),
        _ => None,
    }
}

impl Node {
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.kind, Kind::Int(_) | Kind::Float(_))
    }
}
