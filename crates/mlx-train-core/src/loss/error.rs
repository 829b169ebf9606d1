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
    /// Hidden states that an output layer does not take.
    #[error(
        "{name}: hidden states {hidden:?} (..., C) do not fit the output layer {weight:?} (V, C); both need \
         the same C, and no axis of the layer may be empty"
    )]
    OutputLayer {
        /// The loss.
        name: &'static str,
        /// The shape of the hidden states.
        hidden: Vec<i32>,
        /// The shape of the layer's weight.
        weight: Vec<i32>,
    },
    /// Chunks without tokens.
    #[error("{name}: a chunk of 0 tokens gets nowhere; give at least 1, or None to have it chosen")]
    EmptyChunk {
        /// The loss.
        name: &'static str,
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
