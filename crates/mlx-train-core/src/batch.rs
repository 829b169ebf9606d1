//! A batch: the inputs and targets of a few rows, as a model's loss takes them.

use mlx_rs::Array;

/// The target of a token that no prediction counts for: padding, or what a loss mask leaves out.
///
/// It is `PyTorch`'s `ignore_index`, and that of Hugging Face's loaders.
pub const IGNORED_TARGET: i32 = -100;

/// Inputs and targets of a few rows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Batch {
    /// Inputs `(B, ...)`: features, or tokens int32.
    pub x: Array,
    /// Targets `(B, ...)`: values, class labels int32, or the tokens that follow, int32, with
    /// [`IGNORED_TARGET`] where there is none.
    pub y: Array,
    /// Which document each token of a packed row belongs to, `(B, T)` int32: a token must not attend
    /// to another document. `None` when a row is one document.
    pub segments: Option<Array>,
}

impl Batch {
    /// Inputs and targets `(B, ...)` whose rows are one document each.
    pub fn new(x: Array, y: Array) -> Self {
        Self { x, y, segments: None }
    }

    /// Says which document each token belongs to: `(B, T)` int32.
    #[must_use]
    pub fn with_segments(self, segments: Array) -> Self {
        Self { segments: Some(segments), ..self }
    }

    /// All its arrays: `x`, `y`, and `segments` if there are any.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.x, &self.y].into_iter().chain(&self.segments)
    }
}
