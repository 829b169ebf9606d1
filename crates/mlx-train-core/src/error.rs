//! The one error of the engine: each room's own error, and MLX's.
//!
//! A message gives the value, the place and the fix. Causes are in `source()`, not twice in the text.

use mlx_rs::error::{AsSliceError, ConversionError, Exception};

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the engine, by room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MLX refused an operation or failed in it.
    #[error("MLX: {}", first_line(.0.what()))]
    Mlx(Exception),
    /// A config was refused, or its file could not be read or written.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A model was not found, or not built from what was passed.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// An array cannot be read as a slice of the element type that was asked for.
    #[error("an array cannot be read as a slice")]
    AsSlice(#[from] AsSliceError),
    /// Weights could not be saved or loaded.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// An array cannot be read as a number of the type that was asked for.
    #[error("an array cannot be read as a number")]
    Conversion(#[from] ConversionError),
    /// A setting that an optimizer or a schedule cannot take.
    #[error(transparent)]
    Optim(#[from] crate::optim::OptimError),
    /// A dataset that cannot be read, or not used as it is.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// An array is not of the shape or dtype that an assertion says.
    #[error(transparent)]
    Shape(#[from] crate::shape::ShapeError),
    /// A layer refused what it was given.
    #[error(transparent)]
    Nn(#[from] crate::nn::NnError),
    /// A loss refused what it was given.
    #[error(transparent)]
    Loss(#[from] crate::loss::LossError),
    /// Text could not be generated.
    #[error(transparent)]
    Generate(#[from] crate::generate::GenerateError),
    /// A training run that cannot start or go on.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),
    /// Anything that has no room of its own, with its whole message.
    #[error("{0}")]
    Message(String),
}

impl Error {
    /// An error that is its message: what was wrong, where, and what to do.
    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }
}

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Mlx(exception)
    }
}

// Lets an engine function be called from a `mlx_rs::module::Module`, whose error is `Exception`.
impl From<Error> for Exception {
    #[track_caller]
    fn from(error: Error) -> Self {
        match error {
            Error::Mlx(exception) => exception,
            other => Self::custom(other.to_string()),
        }
    }
}

/// MLX appends the C++ file and line of the throw to its messages, on the same line after ` at `.
fn first_line(what: &str) -> &str {
    let line = what.lines().next().unwrap_or(what);
    line.rfind(" at ").map_or(line, |end| &line[..end])
}
