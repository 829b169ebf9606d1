//! `index.json`: which token files a folder has, and what they are of.

use super::Width;
use crate::{
    Result,
    data::files::{malformed, read_at_most},
    file::write_whole,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(super) const FILE: &str = "index.json";
const FORMAT: &str = "mlx-train tokens";
const VERSION: u32 = 1;
/// Half a million shards.
const MAX_BYTES: u64 = 1 << 26;

/// What a folder of token files holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TokenIndex {
    format: String,
    version: u32,
    /// How many tokens a model needs: every token is below this.
    pub vocab_size: u32,
    /// [`Tokenizer::fingerprint`](crate::data::Tokenizer::fingerprint) of the tokenizer.
    pub tokenizer: String,
    /// The token after each document, if the tokenizer has one.
    pub eos: Option<u32>,
    /// The files to train on, in their order.
    pub training: Vec<ShardInfo>,
    /// The files to evaluate on, if some were set aside when the data was prepared.
    pub held_out: Vec<ShardInfo>,
}

/// One token file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShardInfo {
    /// Its name in the folder.
    pub file: String,
    /// How many tokens it has.
    pub tokens: usize,
    /// How many documents end in it.
    pub documents: usize,
    /// The SHA-256 of its content, as its header has it.
    pub sha256: String,
}

impl TokenIndex {
    pub(super) fn new(vocab_size: u32, tokenizer: String, eos: Option<u32>) -> Self {
        let format = FORMAT.to_owned();
        let (training, held_out) = (Vec::new(), Vec::new());
        Self { format, version: VERSION, vocab_size, tokenizer, eos, training, held_out }
    }

    /// How a token is written in the files.
    pub fn width(&self) -> Width {
        Width::of(self.vocab_size)
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if folder.is_dir() && !path.exists() {
            let problem = format!(
                "the folder has no {FILE}, which is written when all token files are there: run \
                 `data prepare` with this folder as its output, again if it was interrupted"
            );
            return Err(malformed(folder, problem));
        }
        let text = read_at_most(&path, MAX_BYTES)?;
        let index: Self = serde_json::from_slice(&text).map_err(|error| {
            malformed(
                &path,
                format!("this does not describe token files ({error}): prepare the data again"),
            )
        })?;
        if (index.format.as_str(), index.version) != (FORMAT, VERSION) {
            let problem = format!(
                "it is of {:?} version {}, and this program reads {FORMAT:?} version {VERSION}: update \
                 the program, or prepare the data again",
                index.format, index.version
            );
            return Err(malformed(&path, problem));
        }
        for shard in index.training.iter().chain(&index.held_out) {
            // A name that leads out of the folder would read a file that nobody named.
            let is_name =
                Path::new(&shard.file).file_name().is_some_and(|name| *name == *shard.file);
            if !is_name {
                let problem = format!(
                    "{:?} is no name of a file in this folder: prepare the data again",
                    shard.file
                );
                return Err(malformed(&path, problem));
            }
        }
        Ok(index)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            malformed(&folder.join(FILE), format!("it cannot be written: {error}"))
        })?;
        Ok(write_whole(folder.join(FILE), text + "\n")?)
    }
}
