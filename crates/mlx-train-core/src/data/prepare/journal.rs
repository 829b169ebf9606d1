//! `prepare.json`: what a folder of token files is made of, and how far that has come.

use crate::{
    Result,
    data::{
        DataError, ShardInfo,
        documents::Place,
        files::{malformed, read_at_most},
    },
    file::write_whole,
};
use serde::{Deserialize, Serialize};
use std::{path::Path, time::UNIX_EPOCH};

pub(super) const FILE: &str = "prepare.json";
const VERSION: u32 = 1;
const MAX_BYTES: u64 = 1 << 26;

/// Everything that decides which tokens are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    pub(super) version: u32,
    pub(super) inputs: Vec<Input>,
    /// The fingerprint.
    pub(super) tokenizer: String,
    pub(super) field: String,
    pub(super) shard_tokens: usize,
    pub(super) held_out: f64,
}

/// A file that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pub(super) path: String,
    pub(super) bytes: u64,
    /// Nanoseconds since 1970, as text because JSON's numbers are too short for them.
    pub(super) modified: String,
}

impl Input {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            path: std::path::absolute(path)?.display().to_string(),
            bytes: metadata.len(),
            modified: modified.as_nanos().to_string(),
        })
    }
}

impl Recipe {
    pub(super) fn new(
        inputs: Vec<Input>,
        tokenizer: String,
        field: String,
        shard_tokens: usize,
        held_out: f64,
    ) -> Self {
        Self { version: VERSION, inputs, tokenizer, field, shard_tokens, held_out }
    }

    /// What is different in `other`, in words; empty when they give the same tokens.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, was: String, is: String| {
            if was != is {
                found.push(format!("{what} was {was} and is {is}"));
            }
        };
        compare("the format", self.version.to_string(), other.version.to_string());
        compare("the tokenizer", short(&self.tokenizer), short(&other.tokenizer));
        compare("the field", self.field.clone(), other.field.clone());
        compare("tokens of a file", self.shard_tokens.to_string(), other.shard_tokens.to_string());
        compare("the share held out", self.held_out.to_string(), other.held_out.to_string());
        let paths = |recipe: &Self| {
            let paths: Vec<_> = recipe.inputs.iter().map(|input| input.path.as_str()).collect();
            paths.join(", ")
        };
        compare("the input", paths(self), paths(other));
        if found.is_empty() {
            let changed = self.inputs.iter().zip(&other.inputs).filter(|(was, is)| was != is);
            found.extend(changed.map(|(_, is)| format!("{} was changed", is.path)));
        }
        found
    }
}

/// A fingerprint to tell apart by eye.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}

/// How far the work has come: written after each file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    pub(super) recipe: Recipe,
    pub(super) position: Position,
    pub(super) training: Vec<ShardInfo>,
    pub(super) held_out: Vec<ShardInfo>,
}

/// The first token that is not in a file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Which input.
    pub(super) input: usize,
    /// The record that it comes from.
    pub(super) record: Place,
    /// The number of that record's document, over all inputs.
    pub(super) document: u64,
    /// How many tokens of the record come before it.
    pub(super) tokens: usize,
}

impl Position {
    /// Whether this is a token of the record at `other`.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        (self.input, self.record) == (other.input, other.record)
    }
}

impl Journal {
    pub(super) fn start(recipe: Recipe) -> Self {
        Self { recipe, position: Position::default(), training: Vec::new(), held_out: Vec::new() }
    }

    /// The journal of a folder, if it has one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_at_most(&path, MAX_BYTES)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            malformed(
                &path,
                format!(
                    "this is not how far a preparation has come ({error}): remove it to start again"
                ),
            )
        })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| malformed(&path, format!("it cannot be written: {error}")))?;
        Ok(write_whole(path, text + "\n")?)
    }

    /// Refuses to go on with other data or settings than before.
    pub(super) fn check(&self, folder: &Path, recipe: &Recipe) -> Result<()> {
        let differences = self.recipe.differences(recipe);
        if differences.is_empty() {
            let input = recipe.inputs.get(self.position.input);
            if input.is_some_and(|input| self.position.record.offset <= input.bytes) {
                return Ok(());
            }
            let problem = "it goes on behind the end of the input, so it is damaged: remove it to start again";
            return Err(malformed(&folder.join(FILE), problem));
        }
        Err(DataError::Invalid(format!(
            "`{}` holds tokens that were made otherwise: {}; name another folder, or start again with --force",
            folder.display(),
            differences.join("; ")
        ))
        .into())
    }
}
