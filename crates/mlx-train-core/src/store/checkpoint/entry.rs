//! One checkpoint on disk: looked at, verified, loaded.

use super::{
    CheckpointError, Manifest,
    names::{CONFIG, MANIFEST, STATE, is_of_a_desktop, step_of},
    read::{parse_json, plain_file_bytes, read_bounded},
    run::read_run,
    state::{self, State},
};
use crate::{
    Error, Result,
    file::FileError,
    store::{
        ArrayFile, Checksums, StoreError,
        array_file::{SUMMED_BYTES, natural_order},
        array_set::ArraySet,
        checksums::Summing,
    },
};
use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What averaged weights are called among the arrays of training: this and the parameter's name.
pub(super) const AVERAGED: &str = "ema.";

/// How thoroughly a checkpoint is checked before it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Check {
    /// Every byte against the checksums of the manifest.
    #[default]
    Hashes,
    /// The sizes of files and the headers of arrays alone: a flipped bit in an array is not seen.
    Sizes,
}

/// A step's folder, of which the manifest alone has been read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The step that it was saved after.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
    /// What the checkpoint consists of, or why that is not known.
    pub manifest: Result<Manifest, CheckpointError>,
    /// The run that it has to be of, if that is known.
    run_id: Option<String>,
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

/// A checkpoint whose arrays are still on disk.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) weights: ArraySet,
    pub(crate) training: ArraySet,
    pub(crate) progress: Value,
    pub(crate) config: Value,
}

impl Loaded {
    /// Loads the checkpoint in a step's folder, or nothing of it.
    ///
    /// # Errors
    /// As [`Entry::open`] and [`Entry::load`].
    pub fn read(folder: impl AsRef<Path>, check: Check) -> Result<Self> {
        Entry::open(folder)?.load(check)
    }
}

impl Entry {
    /// The checkpoint in a step's folder; it has to be of the run that the folder above it says.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`] when the folder is none of a checkpoint,
    /// [`CheckpointError::Damaged`] when neither its name nor its manifest tells the step.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = folder.as_ref().to_owned();
        let run_id = path.parent().and_then(|parent| read_run(parent).ok());
        let named = path.file_name().and_then(|name| step_of(name.to_str()?));
        let has_manifest = path.join(MANIFEST).symlink_metadata().is_ok();
        if !path.is_dir() || (named.is_none() && !has_manifest) {
            let problem = "is not the folder of a checkpoint; name one such as `step-00001000`";
            return Err(CheckpointError::NotFound { path, problem: problem.into() });
        }
        let manifest = Manifest::read(&path, run_id.as_deref());
        let step = match named {
            Some(step) => step,
            None => manifest.as_ref().map_err(Clone::clone)?.step,
        };
        Ok(Self { step, path, manifest, run_id })
    }

    pub(super) fn of_run(step: u64, path: PathBuf, run_id: &str) -> Self {
        let manifest = Manifest::read(&path, Some(run_id));
        Self { step, path, manifest, run_id: Some(run_id.to_owned()) }
    }

    /// How many checkpoints the run had saved before, unless the manifest is damaged.
    pub(super) fn serial(&self) -> Option<u64> {
        self.manifest.as_ref().ok().map(|manifest| manifest.serial)
    }

    /// Reads every file, and compares it with what was saved.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] with the first file that is not as it was saved; as
    /// [`FileError`] when the disk fails.
    pub fn verify(&self, check: Check) -> Result<Manifest> {
        let whole = Whole::open(&self.path, self.run_id.as_deref())?;
        if check == Check::Hashes {
            whole.verify(&BTreeMap::new())?;
        }
        whole.state()?;
        whole.json::<Value>(CONFIG)?;
        for stem in ["model", "training"] {
            whole.array_set(stem).map_err(|error| whole.blame(error))?;
        }
        Ok(whole.manifest)
    }

    /// Verifies the checkpoint and opens its weights, which are still on disk.
    ///
    /// # Errors
    /// As [`Entry::verify`].
    pub fn weights(&self) -> Result<ArraySet> {
        let Opened { weights, .. } = self.open_arrays(Check::Hashes, 0, 1)?;
        Ok(weights)
    }

    /// As [`Entry::weights`], with the averaged weights in the place of those that are averaged, as a finished run
    /// has them.
    ///
    /// # Errors
    /// As [`Entry::verify`].
    pub fn averaged_weights(&self) -> Result<ArraySet> {
        let Opened { weights, training, .. } = self.open_arrays(Check::Hashes, 0, 1)?;
        Ok(weights.overlaid(training, AVERAGED))
    }

    /// What the run has counted, as it was saved.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when it cannot be read.
    pub(crate) fn progress(&self) -> Result<Value> {
        let State { progress, .. } = Whole::open(&self.path, self.run_id.as_deref())?.state()?;
        Ok(progress)
    }

    /// Verifies the checkpoint as one of several ranks, each of which reads some of the files for that, and opens its
    /// arrays.
    ///
    /// # Errors
    /// As [`Entry::verify`], on the rank that finds it.
    pub(crate) fn open_arrays(&self, check: Check, rank: usize, ranks: usize) -> Result<Opened> {
        let whole = Whole::open(&self.path, self.run_id.as_deref())?;
        if check == Check::Hashes {
            whole.verify_some(&BTreeMap::new(), |index| index % ranks == rank)?;
        }
        let State { progress, .. } = whole.state()?;
        let config = whole.json(CONFIG)?;
        let set = |stem| whole.array_set(stem).map_err(|error| whole.blame(error));
        let (weights, training) = (set("model")?, set("training")?);
        let Whole { manifest, .. } = whole;
        Ok(Opened { path: self.path.clone(), manifest, weights, training, progress, config })
    }

    /// Loads the checkpoint, or nothing of it.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] with the file that is not as it was saved; when MLX fails.
    pub fn load(&self, check: Check) -> Result<Loaded> {
        let whole = Whole::open(&self.path, self.run_id.as_deref())?;
        let mut known = BTreeMap::new();
        let mut load = || -> Result<_> {
            let state = whole.state()?;
            let config = whole.json(CONFIG)?;
            let weights = whole.arrays("model", check, &mut known)?;
            let training = whole.arrays("training", check, &mut known)?;
            Ok((state, config, weights, training))
        };
        let loaded = load();
        // Before any other complaint: a flipped byte in one file may make another look wrong.
        if check == Check::Hashes {
            whole.verify(&known)?;
        }
        let (State { progress, .. }, config, weights, training) =
            loaded.map_err(|error| whole.blame(error))?;
        let Whole { manifest, .. } = whole;
        Ok(Loaded { path: self.path.clone(), manifest, weights, training, progress, config })
    }
}

/// The folder of a step whose manifest fits its name, and whose files have the names and sizes that
/// the manifest lists.
pub(super) struct Whole<'a> {
    folder: &'a Path,
    pub(super) manifest: Manifest,
}

impl<'a> Whole<'a> {
    pub(super) fn open(folder: &'a Path, run_id: Option<&str>) -> Result<Self, CheckpointError> {
        let whole = Self { folder, manifest: Manifest::read(folder, run_id)? };
        whole.check_names()?;
        for (name, entry) in &whole.manifest.files {
            let num_bytes = plain_file_bytes(folder, name)?;
            if num_bytes != entry.bytes {
                let saved = entry.bytes;
                return Err(
                    whole.damaged(name, format!("has {num_bytes} bytes, {saved} were saved"))
                );
            }
        }
        Ok(whole)
    }

    /// What is in the folder is what the manifest lists, no less and no more.
    fn check_names(&self) -> Result<(), CheckpointError> {
        let unreadable = |error: io::Error| {
            self.damaged(".", format!("is a folder that cannot be read: {error}"))
        };
        let mut found = BTreeSet::new();
        for item in fs::read_dir(self.folder).map_err(unreadable)? {
            found.insert(item.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
        }
        let files = &self.manifest.files;
        if let Some(name) = [STATE, CONFIG].into_iter().find(|&name| !files.contains_key(name)) {
            return Err(self.damaged(MANIFEST, format!("does not list `{name}`")));
        }
        if let Some(name) = files.keys().find(|&name| !found.contains(name)) {
            return Err(self.damaged(name, "is missing"));
        }
        let listed = |name: &str| files.contains_key(name) || name == MANIFEST;
        match found.iter().find(|name| !listed(name) && !is_of_a_desktop(name)) {
            Some(name) => Err(self.damaged(name, "was not saved with it; move it elsewhere")),
            None => Ok(()),
        }
    }

    /// Compares every byte with the manifest; what some files add up to may be known.
    pub(super) fn verify(&self, known: &BTreeMap<String, Checksums>) -> Result<()> {
        self.verify_some(known, |_| true)
    }

    /// Compares the files at some places in the manifest with it.
    fn verify_some(
        &self,
        known: &BTreeMap<String, Checksums>,
        is_asked: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let files = self.manifest.files.iter().enumerate();
        for (_, (name, entry)) in files.filter(|(index, _)| is_asked(*index)) {
            let read;
            let found = if let Some(found) = known.get(name) {
                found
            } else {
                let sums = checksums_of(&self.folder.join(name), &entry.checksums);
                read = sums.map_err(|error| self.blame(error))?;
                &read
            };
            if let Some(difference) = entry.checksums.difference(found) {
                return Err(self.damaged(name, difference).into());
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<State, CheckpointError> {
        let state: State = self.json(STATE)?;
        if state.run_id != self.manifest.run_id || state.step != self.manifest.step {
            return Err(self.damaged(STATE, "is of another checkpoint than `manifest.json`"));
        }
        Ok(state)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, CheckpointError> {
        let bytes = read_bounded(self.folder, name, state::MAX_BYTES)?;
        parse_json(&bytes).map_err(|problem| self.damaged(name, problem))
    }

    pub(super) fn array_set(&self, stem: &str) -> Result<ArraySet> {
        // Only what the manifest lists was compared with it.
        let listed = |name: &String| self.manifest.files.contains_key(name);
        let set = match self.manifest.ranks {
            1 => ArraySet::open_stem(self.folder, stem)?,
            ranks => ArraySet::open_ranks(self.folder, stem, ranks)?,
        };
        match set.file_names().into_iter().find(|name| !listed(name)) {
            Some(name) => Err(self.damaged(&name, "is not of this checkpoint").into()),
            None => Ok(set),
        }
    }

    /// Reads all arrays of some files; what these add up to is then known if it is to be checked.
    fn arrays(
        &self,
        stem: &str,
        check: Check,
        known: &mut BTreeMap<String, Checksums>,
    ) -> Result<Vec<(String, Array)>> {
        let mut set = self.array_set(stem)?;
        let mut arrays = Vec::new();
        if self.manifest.ranks > 1 {
            for name in set.names() {
                let array = set.read(&name)?;
                arrays.push((name, array));
            }
            return Ok(arrays);
        }
        for (name, file) in set.file_names().into_iter().zip(set.into_files()) {
            let entry = self.manifest.files.get(&name).filter(|_| check == Check::Hashes);
            let (of_file, found) =
                file.read_all(entry.map(|entry| Summing::like(&entry.checksums)))?;
            arrays.extend(of_file);
            known.extend(found.map(|found| (name, found)));
        }
        arrays.sort_by(|(a, _), (b, _)| natural_order(a, b));
        Ok(arrays)
    }

    /// Makes an error about a file one about this checkpoint.
    pub(super) fn blame(&self, error: Error) -> Error {
        let (path, problem) = match &error {
            Error::Store(StoreError::Damaged { path, problem }) => {
                (path, format!("is not as it was saved: {problem}"))
            }
            Error::File(FileError::Read { path, source }) => {
                (path, format!("cannot be read: {source}"))
            }
            _ => return error,
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.damaged(&file, problem).into()
    }

    fn damaged(&self, file: &str, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::damaged(self.folder, file, problem)
    }
}

/// What a file adds up to, in the way that it was `saved`.
fn checksums_of(path: &Path, saved: &Checksums) -> Result<Checksums> {
    let mut summing = Summing::like(saved);
    if matches!(saved, Checksums::Xxh3 { arrays, .. } if !arrays.is_empty()) {
        return ArrayFile::open(path)?.checksums(summing);
    }
    let file = File::open(path).map_err(FileError::read(path))?;
    let mut piece = Vec::new();
    loop {
        let read = (&file).take(SUMMED_BYTES as u64).read_to_end(&mut piece);
        if read.map_err(FileError::read(path))? == 0 {
            return Ok(summing.finish());
        }
        summing.update(&piece);
        piece.clear();
    }
}
