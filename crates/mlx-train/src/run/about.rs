//! What a run is: `run.json`, written anew when a process begins to work on it.

use super::Environment;
use crate::{
    Error, Result,
    file::{FileError, write_whole},
};
use serde::{Deserialize, Serialize};
use std::{fs, io::ErrorKind, path::Path};

/// What was said of a run before it began, and every process that worked on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// What the run is called, usually by its model.
    pub title: String,
    /// What a target is: "tokens", "images".
    pub unit: String,
    /// Losses to compare with, by name.
    pub references: Vec<(String, f64)>,
    /// The processes, the first one first.
    pub sessions: Vec<Session>,
}

/// One process that worked on a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// When it began, in seconds since 1970.
    pub started: f64,
    /// How many steps were taken before it.
    pub first_step: u64,
    /// How many steps the run has.
    pub steps: u64,
    /// How many numbers the model has.
    pub num_parameters: u64,
    /// How many of them are trained.
    pub num_trainable: u64,
    /// How many rows the training data has.
    pub num_rows: u64,
    /// The machine, the versions, the command.
    pub environment: Environment,
}

impl About {
    /// Reads the file; one that is not there says nothing.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(FileError::Read { path: path.to_owned(), source }.into()),
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::message(format!(
                "`{}` is damaged: {error}; delete it, and the report goes without what it says",
                path.display()
            ))
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            Error::message(format!("cannot describe the run in `{}`: {error}", path.display()))
        })?;
        Ok(write_whole(path, text + "\n")?)
    }
}
