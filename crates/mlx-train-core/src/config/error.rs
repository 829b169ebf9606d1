//! What can be wrong with a config, each with its place and its fix.

use super::{Format, node::Place};
use crate::file::FileError;
use std::{fmt, path::PathBuf};

/// Why a config was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The extension names no format.
    #[error("`{}` has no extension of a config; name it .toml, .json, .yaml or .yml", .0.display())]
    Extension(PathBuf),
    /// The file is larger than any config.
    #[error("{origin} holds more than {limit_mib} MiB, too much for a config; is it another file?")]
    TooLarge {
        /// The file or text.
        origin: Place,
        /// The most that is read, in MiB.
        limit_mib: usize,
    },
    /// The file is not text.
    #[error("{place}: this is not UTF-8 text; save the config as UTF-8")]
    NotUtf8 {
        /// The first byte that is not.
        place: Place,
    },
    /// The text is malformed.
    #[error("{place}: this is not valid {format}: {message}")]
    Syntax {
        /// Where the parser stopped.
        place: Place,
        /// What it was read as.
        format: Format,
        /// What the parser says.
        message: String,
    },
    /// The values are wrong: one problem a line, in the order of the file.
    #[error("{}", lines(.problems, *.omitted))]
    Invalid {
        /// Every problem that was found, up to a limit.
        problems: Vec<Problem>,
        /// How many more there were.
        omitted: usize,
    },
    /// A typed config was passed where another type is expected.
    #[error("this takes a `{expected}`, but was given a `{found}`; build that one instead")]
    WrongType {
        /// The config type of the model.
        expected: &'static str,
        /// The type of the config that was passed.
        found: &'static str,
    },
    /// TOML has no null, and leaving the key out would mean its default.
    #[error(
        "TOML cannot say that `{path}` is null, as its default is not; save it as .json or .yaml"
    )]
    NoNull {
        /// The field.
        path: String,
    },
}

impl ConfigError {
    /// The problems of [`ConfigError::Invalid`]; none for others.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            _ => &[],
        }
    }
}

/// One thing that is wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    path: String,
    place: Place,
    message: String,
}

impl Problem {
    pub(crate) fn new(path: &str, place: Place, message: String) -> Self {
        Self { path: path.to_owned(), place, message }
    }

    /// A problem of no field and no file.
    pub(crate) fn anywhere(message: String) -> Self {
        Self::new("", Place::default(), message)
    }

    /// Gives a problem that has no place the one of the whole config.
    pub(crate) fn place_at(&mut self, place: &Place) {
        if !self.place.is_known() {
            self.place = place.clone();
        }
    }

    /// The field, as `optimizer.betas[1]`; empty for the config as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file and position, or the override.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong and what to do, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// `run.toml:3:1: message`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_known() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Invalid { problems: vec![problem], omitted: 0 }
    }
}

fn lines(problems: &[Problem], omitted: usize) -> String {
    let mut lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    if omitted > 0 {
        lines.push(format!("… and {omitted} more"));
    }
    lines.join("\n")
}
