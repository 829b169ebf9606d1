//! What can go wrong between arrays and files.

use super::array_file::file_dtype;
use mlx_rs::Array;
use std::{fmt, path::PathBuf};

/// Why weights could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not a whole safetensors file.
    #[error("`{}` is not a safetensors file that can be read: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it and what to do.
        problem: String,
    },
    /// An array cannot be stored, or not under its name.
    #[error("cannot save `{name}` to `{}`: {problem}", .path.display())]
    Unsavable {
        /// The array's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The file's arrays are not the model's parameters; the model is as it was.
    #[error("`{}` does not fit the model, which is left as it was:{}\n{}", .path.display(), lines(.problems), hint(.problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every difference, in natural order of names.
        problems: Vec<Mismatch>,
    },
    /// Reading failed after a part of the model was replaced, as `one_by_one` allows.
    #[error("`{}` was read in part, so the model is now a mixture of old and new weights; build it again", .path.display())]
    Mixture {
        /// The file.
        path: PathBuf,
        /// Why the rest was not read.
        source: Box<crate::Error>,
    },
}

/// One difference between a file and a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The model has a parameter that the file lacks.
    Missing {
        /// The parameter's name.
        name: String,
    },
    /// The file has an array that the model lacks.
    Unexpected {
        /// The array's name in the model's terms.
        name: String,
    },
    /// Two arrays of the file are for one parameter, after renaming.
    Twice {
        /// The parameter's name.
        name: String,
    },
    /// Shapes differ.
    Shape {
        /// The parameter's name.
        name: String,
        /// The shape in the file.
        file: Vec<usize>,
        /// The shape in the model.
        model: Vec<i32>,
    },
    /// Dtypes differ, in safetensors' names.
    Dtype {
        /// The parameter's name.
        name: String,
        /// The dtype in the file.
        file: String,
        /// The dtype in the model.
        model: String,
    },
}

impl Mismatch {
    /// How a saved array differs from the one that it would replace, if it does: in shape first.
    pub(crate) fn between(name: &str, saved: &Array, now: &Array) -> Option<Self> {
        let name = name.to_owned();
        if saved.shape() != now.shape() {
            let file = saved.shape().iter().map(|&size| size as usize).collect();
            return Some(Self::Shape { name, file, model: now.shape().to_vec() });
        }
        let [file, model] = [saved, now].map(|array| file_dtype(array.dtype()).to_string());
        (saved.dtype() != now.dtype()).then_some(Self::Dtype { name, file, model })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "missing     {}", shown(name)),
            Self::Unexpected { name } => write!(f, "unexpected  {}", shown(name)),
            Self::Twice { name } => write!(f, "twice       {}", shown(name)),
            Self::Shape { name, file, model } => {
                let name = shown(name);
                write!(f, "shape       {name}: {file:?} in the file, {model:?} in the model")
            }
            Self::Dtype { name, file, model } => {
                write!(f, "dtype       {}: {file} in the file, {model} in the model", shown(name))
            }
        }
    }
}

/// A name from a file is not trusted: it may hold line breaks or a terminal's commands.
pub(super) fn shown(name: &str) -> String {
    name.chars().flat_map(char::escape_debug).collect()
}

/// A message of more lines is no longer read; [`StoreError::Mismatch`] holds every problem.
const MOST_LINES: usize = 50;

pub(crate) fn lines(problems: &[Mismatch]) -> String {
    let shown = &problems[..problems.len().min(MOST_LINES)];
    let mut lines: String =
        shown.iter().flat_map(|problem| ["\n  ".to_owned(), problem.to_string()]).collect();
    if problems.len() > shown.len() {
        lines = format!("{lines}\n  … and {} more", problems.len() - shown.len());
    }
    lines
}

fn hint(problems: &[Mismatch]) -> &'static str {
    if problems.iter().all(|problem| matches!(problem, Mismatch::Dtype { .. })) {
        "convert the file, or load it with `LoadOptions { cast: true, .. }`"
    } else {
        "build the model with the config that the file was trained with, or rename its arrays \
         with `LoadOptions::rename`"
    }
}
