//! The one error of the engine: each room's own error, and MLX's.
//!
//! A message gives the value, the place and the fix. Causes are in `source()`, not twice in the text.

use mlx_rs::error::{AsSliceError, ConversionError, Exception};
use std::{error::Error as _, fmt};

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the engine, by room.
///
/// `Display` is the message, `Debug` the message and its causes: what a `main` that returns this
/// error shows to a person.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MLX refused an operation or failed in it.
    #[error("MLX: {}", without_place(.0.what()))]
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
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] crate::file::FileError),
    /// Weights could not be saved or loaded.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A checkpoint could not be saved or loaded.
    #[error(transparent)]
    Checkpoint(#[from] crate::store::CheckpointError),
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
    /// Processes that cannot compute together.
    #[error(transparent)]
    Distributed(#[from] crate::distributed::DistributedError),
    /// A model that cannot be cut into the stages of a pipeline.
    #[error(transparent)]
    Pipeline(#[from] crate::distributed::PipelineError),
    /// A graph cannot be read.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
    /// A layer refused what it was given.
    #[error(transparent)]
    Nn(#[from] crate::nn::NnError),
    /// A gradient-checkpointing policy that cannot be read, or names what the model does not have.
    #[error(transparent)]
    CheckpointPolicy(#[from] crate::checkpoint::PolicyError),
    /// A loss refused what it was given.
    #[error(transparent)]
    Loss(#[from] crate::loss::LossError),
    /// Text could not be generated.
    #[error(transparent)]
    Generate(#[from] crate::generate::GenerateError),
    /// A training run that cannot start or go on.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),
    /// A run that cannot be planned.
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    /// A chart that cannot be drawn.
    #[error(transparent)]
    Chart(#[from] crate::chart::ChartError),
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.to_string();
        f.write_str(&text)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            let message = error.to_string();
            // A message may hold that of its cause already.
            if !text.contains(&message) {
                write!(f, "\n  because: {message}")?;
                text.push_str(&message);
            }
            cause = error.source();
        }
        Ok(())
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

/// A message without ` at <folders>/mlx/c/ops.cpp:31`, which mlx-c appends: its place, not the user's.
fn without_place(what: &str) -> &str {
    let Some((message, place)) = what.rsplit_once(" at ") else { return what };
    let is_place = place.rsplit_once(':').is_some_and(|(file, line)| {
        let is_source = [".cpp", ".h", ".mm"].iter().any(|extension| file.ends_with(extension));
        is_source && line.parse::<u32>().is_ok()
    });
    if is_place { message } else { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Array;

    fn render(what: &str) -> String {
        Error::from(Exception::custom(what)).to_string()
    }

    #[test]
    fn the_place_in_mlx_is_left_out_and_the_whole_message_kept() {
        let long = "[compile] failed:\n  error at line 3\n at /src/mlx c/mlx/c/closure.cpp:104";
        assert_eq!(render(long), "MLX: [compile] failed:\n  error at line 3\n");
        assert_eq!(render("_Map_base::at at /mlx/c/ops.cpp:1"), "MLX: _Map_base::at");
        assert_eq!(render("[load] nothing at /data/a.cpp"), "MLX: [load] nothing at /data/a.cpp");
        assert_eq!(render("no room at 12:30"), "MLX: no room at 12:30");
    }

    #[test]
    fn debug_tells_the_message_and_each_cause_once() {
        let missing =
            crate::file::write_whole("/no such folder/weights", "").expect_err("it is not there");
        let text = format!("{:?}", Error::from(missing));
        assert_eq!(text.matches("/no such folder/weights").count(), 1, "{text}");
        assert!(text.to_lowercase().contains("no such file"), "{text}");
    }

    #[test]
    fn messages_of_mlx_are_one_clean_line() {
        let (two, three) = (Array::from_slice(&[1, 2], &[2]), Array::from_slice(&[1, 2, 3], &[3]));
        let error = two.add(&three).map_err(Error::from).expect_err("they do not broadcast");
        let expected = "MLX: [broadcast_shapes] Shapes (2) and (3) cannot be broadcast.";
        assert_eq!(error.to_string(), expected);
    }
}
