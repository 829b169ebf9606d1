//! A step's folder, checked and loaded.

use super::{
    CheckpointError, Manifest,
    hash::hex,
    manifest::FileEntry,
    names::{CONFIG, MANIFEST, STATE, is_of_a_desktop},
    read::{plain_file_bytes, read_bounded},
    state::{self, State},
};
use crate::{
    Error, Result,
    file::FileError,
    store::{StoreError, array_set::ArraySet},
};
use mlx_rs::Array;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// How thoroughly a checkpoint is checked before it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Check {
    /// Every byte against the hashes of the manifest.
    #[default]
    Hashes,
    /// The sizes of files and the headers of arrays alone: a flipped bit in an array is not seen.
    Sizes,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Loaded {
    /// The folder that it was in.
    pub path: PathBuf,
    /// Where it comes from: run, step, model, metric, versions.
    pub manifest: Manifest,
    /// Every parameter by name, in natural order.
    pub weights: Vec<(String, Array)>,
    /// What training needs besides, by name, in natural order.
    pub training: Vec<(String, Array)>,
    /// Anything else that resuming needs, as it was saved.
    pub progress: Value,
    /// The config that the run had.
    pub config: Value,
}

impl Loaded {
    /// Loads the checkpoint in a step's folder, or nothing of it.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] with the file that is not as it was saved,
    /// [`CheckpointError::NotFound`] when the folder is none of a checkpoint; when MLX fails.
    pub fn read(folder: impl AsRef<Path>, check: Check) -> Result<Self> {
        Step::open(folder.as_ref(), None)?.load(check)
    }
}

/// The folder of a step, with a manifest that fits its name and the sizes of its files.
pub(super) struct Step {
    folder: PathBuf,
    manifest: Manifest,
}

impl Step {
    /// Reads the manifest, which has to be of `run_id` if that is known, and compares names and sizes.
    pub(super) fn open(folder: &Path, run_id: Option<&str>) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            let problem = "is no folder; name that of a step, such as `checkpoints/step-00001000`";
            return Err(CheckpointError::NotFound {
                path: folder.to_owned(),
                problem: problem.into(),
            });
        }
        let manifest = Manifest::read(folder, run_id)?;
        let step = Self { folder: folder.to_owned(), manifest };
        step.check_names()?;
        for (name, entry) in &step.manifest.files {
            let num_bytes = plain_file_bytes(folder, name)?;
            if num_bytes != entry.bytes {
                let saved = entry.bytes;
                return Err(
                    step.damaged(name, format!("has {num_bytes} bytes, {saved} were saved"))
                );
            }
        }
        Ok(step)
    }

    /// What is in the folder is what the manifest lists, no less and no more.
    fn check_names(&self) -> Result<(), CheckpointError> {
        let unreadable = |error: std::io::Error| {
            self.damaged(".", format!("is a folder that cannot be read: {error}"))
        };
        let mut found = BTreeSet::new();
        for item in fs::read_dir(&self.folder).map_err(unreadable)? {
            found.insert(item.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
        }
        let files = &self.manifest.files;
        let missing = files.keys().map(String::as_str).chain([STATE, CONFIG]);
        if let Some(name) = missing.into_iter().find(|&name| !found.contains(name)) {
            return Err(self.damaged(name, "is missing"));
        }
        let listed = |name: &str| files.contains_key(name) || name == MANIFEST;
        match found.iter().find(|name| !listed(name) && !is_of_a_desktop(name)) {
            Some(name) => Err(self.damaged(name, "was not saved with it; move it elsewhere")),
            None => Ok(()),
        }
    }

    /// Compares every byte with the hashes.
    pub(super) fn verify(&self) -> Result<(), CheckpointError> {
        for (name, entry) in &self.manifest.files {
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            let unreadable = |error| self.damaged(name, format!("cannot be read: {error}"));
            let mut file = File::open(self.folder.join(name)).map_err(unreadable)?;
            loop {
                match file.read(&mut buffer).map_err(unreadable)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                }
            }
            self.compare(name, entry, &hex(&hasher.finalize()))?;
        }
        Ok(())
    }

    pub(super) fn load(self, check: Check) -> Result<Loaded> {
        if check == Check::Hashes {
            self.verify()?;
        }
        let state = self.json_bytes(STATE)?;
        let state: State = serde_json::from_slice(&state)
            .map_err(|error| self.damaged(STATE, format!("is not understood: {error}")))?;
        if state.run_id != self.manifest.run_id || state.step != self.manifest.step {
            return Err(self
                .damaged(MANIFEST, "is of another checkpoint than `state.json`")
                .into());
        }
        let config = serde_json::from_slice(&self.json_bytes(CONFIG)?)
            .map_err(|error| self.damaged(CONFIG, format!("is not understood: {error}")))?;
        Ok(Loaded {
            weights: self.arrays("model")?,
            training: self.arrays("training")?,
            progress: state.progress,
            config,
            path: self.folder,
            manifest: self.manifest,
        })
    }

    fn json_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        if !self.manifest.files.contains_key(name) {
            return Err(self.damaged(MANIFEST, format!("does not list `{name}`")));
        }
        read_bounded(&self.folder, name, state::MAX_BYTES)
    }

    fn arrays(&self, stem: &str) -> Result<Vec<(String, Array)>> {
        let mut set = ArraySet::open_stem(&self.folder, stem).map_err(|error| self.blame(error))?;
        let mut arrays = Vec::new();
        for name in set.names() {
            let array = set.read(&name).map_err(|error| self.blame(error))?;
            arrays.push((name, array));
        }
        Ok(arrays)
    }

    /// Makes an error about a file one about this checkpoint.
    fn blame(&self, error: Error) -> Error {
        let (path, problem) = match &error {
            Error::Store(StoreError::Damaged { path, problem }) => (path, problem.clone()),
            Error::File(FileError::Read { path, source }) => {
                (path, format!("cannot be read: {source}"))
            }
            _ => return error,
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.damaged(&file, problem).into()
    }

    fn compare(&self, name: &str, entry: &FileEntry, found: &str) -> Result<(), CheckpointError> {
        if entry.sha256 == found {
            return Ok(());
        }
        Err(self.damaged(name, "does not have the bytes that were saved"))
    }

    fn damaged(&self, file: &str, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::damaged(&self.folder, file, problem)
    }
}
