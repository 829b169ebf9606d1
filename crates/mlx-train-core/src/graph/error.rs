//! Why a graph cannot be read.

/// A description of a graph that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A name that would not be found again in MLX's text.
    #[error(
        "`{name}` cannot name an array of a graph: use a name without blanks, brackets and commas that begins \
         with no capital letter, for one array"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// MLX's text is not of the form that this version knows.
    #[error(
        "MLX describes a graph in a way that is not known here, in line {line}: {reason} in `{text}`; use the \
         MLX that mlx-train was made for"
    )]
    Text {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
        /// What is there, shortened.
        text: String,
    },
    /// More than can be dealt with.
    #[error(
        "a graph of more than {limit} {what} cannot be read; record fewer steps or layers at once"
    )]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
}
