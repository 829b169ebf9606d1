//! `manifest.json`: what a checkpoint consists of, and where it comes from.

use super::{
    BestMode, CheckpointError,
    names::{MANIFEST, step_of},
    read::read_bounded,
    sealed::unseal,
};
use crate::store::Checksums;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The layout of a step's folder with SHA-256 of each file, which is read and no longer written, by one process.
const HASHED: u64 = 1;

/// The same by several ranks together: files of each, with parts of arrays.
const HASHED_OF_RANKS: u64 = 2;

/// Either, with XXH3-128 of each array, which is written.
pub(super) const FORMAT: u64 = 3;

/// Room for half a million arrays.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Where a checkpoint comes from, and the size and checksums of each of its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the folder's layout.
    pub format: u64,
    /// Which run saved it: 16 hexadecimal digits.
    pub run_id: String,
    /// How many checkpoints the run had saved before it.
    pub serial: u64,
    /// How many steps are behind it.
    pub step: u64,
    /// The model's name in the registry.
    pub model: String,
    /// When it was saved, in seconds since 1970 UTC.
    pub saved_at_seconds: u64,
    /// How good it is, if that was measured.
    pub metric: Option<Metric>,
    /// How many ranks have written it, each of which has files of its own; not said where it was one process.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: usize,
    /// What it was saved with: `mlx-train` and `mlx`.
    pub versions: BTreeMap<String, String>,
    /// Every other file by name.
    pub files: BTreeMap<String, FileEntry>,
}

/// A number that says how good a checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What was measured, such as `loss`.
    pub name: String,
    /// Its value, which is finite.
    pub value: f64,
    /// Which side is good.
    pub mode: BestMode,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Listed", into = "Listed")]
pub struct FileEntry {
    /// How long it is.
    pub bytes: u64,
    /// What its bytes add up to.
    pub checksums: Checksums,
}

/// A file as the manifest lists it, by one checksum or the other.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xxh3_128: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    arrays: BTreeMap<String, String>,
}

impl TryFrom<Listed> for FileEntry {
    type Error = &'static str;

    fn try_from(listed: Listed) -> Result<Self, Self::Error> {
        let Listed { bytes, sha256, xxh3_128, arrays } = listed;
        let checksums = match (sha256, xxh3_128) {
            (Some(sha256), None) if arrays.is_empty() => Checksums::Sha256(sha256),
            (None, Some(rest)) => Checksums::Xxh3 { rest, arrays },
            _ => return Err("a file has either `sha256` or `xxh3_128`, perhaps with `arrays`"),
        };
        Ok(Self { bytes, checksums })
    }
}

impl From<FileEntry> for Listed {
    fn from(entry: FileEntry) -> Self {
        let bytes = entry.bytes;
        let (sha256, xxh3_128, arrays) = match entry.checksums {
            Checksums::Sha256(sha256) => (Some(sha256), None, BTreeMap::new()),
            Checksums::Xxh3 { rest, arrays } => (None, Some(rest), arrays),
        };
        Self { bytes, sha256, xxh3_128, arrays }
    }
}

impl Manifest {
    /// The size of all files in bytes, without the manifest's own.
    pub fn num_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Reads the manifest of a step's folder, which has to be of `run_id` if that is known.
    pub(super) fn read(folder: &Path, run_id: Option<&str>) -> Result<Self, CheckpointError> {
        let damaged = |problem| CheckpointError::damaged(folder, MANIFEST, problem);
        let bytes = read_bounded(folder, MANIFEST, MAX_BYTES)?;
        let manifest = Self::parse(&bytes).map_err(|problem| match problem {
            Unreadable::Damaged(problem) => damaged(problem),
            Unreadable::Format(found) => {
                let known = FORMAT;
                CheckpointError::Format { path: folder.to_owned(), found, known }
            }
        })?;
        if let Some(run_id) = run_id.filter(|&run_id| run_id != manifest.run_id) {
            let problem = format!(
                "is of run {}, this folder is of run {run_id}",
                crate::store::error::shown(&manifest.run_id)
            );
            return Err(damaged(problem));
        }
        let named = folder.file_name().and_then(|name| step_of(name.to_str()?));
        if let Some(step) = named.filter(|&step| step != manifest.step) {
            let problem = format!("is of step {}, its folder is of step {step}", manifest.step);
            return Err(damaged(problem));
        }
        Ok(manifest)
    }

    /// Reads a manifest from the bytes of its file, or says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u64,
        }
        let Versioned { format } = unseal(bytes)?;
        if !(HASHED..=FORMAT).contains(&format) {
            return Err(Unreadable::Format(format));
        }
        let manifest: Self = unseal(bytes)?;
        let ranks = manifest.ranks;
        let fits = match format {
            HASHED => ranks == 1,
            HASHED_OF_RANKS => ranks > 1,
            _ => ranks > 0,
        };
        // Each rank has two files at least, so that this bounds what is looked for.
        if !fits || ranks > manifest.files.len() {
            let problem = format!(
                "is not understood: it is of format {format} and of {ranks} rank(s), and lists {} files",
                manifest.files.len()
            );
            return Err(Unreadable::Damaged(problem));
        }
        Ok(manifest)
    }
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(ranks: &usize) -> bool {
    *ranks == 1
}

/// Why bytes are no manifest.
pub(super) enum Unreadable {
    Damaged(String),
    Format(u64),
}

impl From<String> for Unreadable {
    fn from(problem: String) -> Self {
        Self::Damaged(problem)
    }
}
