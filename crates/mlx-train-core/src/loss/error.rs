//! What losses refuse.

use mlx_rs::Dtype;

/// What losses refuse, with the value and the fix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// Class targets that are not one integer for each row of logits.
    #[error("{name}: logits {logits:?} (..., V) need targets {}, not {targets:?}", expected(.logits))]
    Targets {
        /// The loss.
        name: &'static str,
        /// The shape of the logits.
        logits: Vec<i32>,
        /// The shape of the targets.
        targets: Vec<i32>,
    },
    /// Class targets of a dtype that is no integer.
    #[error("{name}: targets are classes, so integers, not {dtype:?}; cast them to int32")]
    TargetDtype {
        /// The loss.
        name: &'static str,
        /// Their dtype.
        dtype: Dtype,
    },
    /// Predictions and targets of different shapes.
    #[error(
        "{name}: predictions {predictions:?} and targets {targets:?} have different shapes; reshape \
         one, as broadcasting would average over pairs that do not belong together"
    )]
    Shapes {
        /// The loss.
        name: &'static str,
        /// The shape of the predictions.
        predictions: Vec<i32>,
        /// The shape of the targets.
        targets: Vec<i32>,
    },
    /// An option outside of its range.
    #[error("{name}: `{option}` is {value}; it must be {range}")]
    Option {
        /// The loss.
        name: &'static str,
        /// The option.
        option: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// A class target that no logit belongs to.
    #[error(
        "target {target} at {position:?} is outside of the {num_classes} classes; check the \
         vocabulary of the data, or mask it with `ignore_index`"
    )]
    TargetRange {
        /// The target.
        target: i64,
        /// Where it is.
        position: Vec<usize>,
        /// How many classes there are.
        num_classes: usize,
    },
}

/// The shape of the targets of logits.
fn expected(logits: &[i32]) -> String {
    match logits {
        [] => "with one axis fewer".to_owned(),
        [batch @ .., _] => format!("{batch:?}"),
    }
}
