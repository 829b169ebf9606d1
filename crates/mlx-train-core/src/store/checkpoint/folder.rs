//! The folder that holds the checkpoints of a run.

use super::{
    Check, CheckpointError, Entry, Keep, Loaded, Manifest, fault,
    names::{BEST, LATEST, replaced_step, step_name, step_of},
    read::read_bounded,
    run::{new_run_id, read_run, write_run},
};
use crate::{
    Error, Result,
    file::{FileError, write_whole},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The checkpoints of one run.
///
/// `latest` and `best` are files with the name of a step's folder. They are for people and scripts;
/// what is found here follows from the steps themselves, so that losing one of them loses nothing.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    run_id: String,
}

impl Checkpoints {
    /// Makes the folder of a new run, and those above it.
    ///
    /// # Errors
    /// [`CheckpointError::Occupied`] when it holds checkpoints; [`FileError`] when it cannot be made.
    pub fn create(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)
            .map_err(|source| FileError::Folder { path: folder.clone(), source })?;
        if !steps(&folder)?.is_empty() {
            return Err(CheckpointError::Occupied { path: folder }.into());
        }
        let checkpoints = Self { folder, run_id: new_run_id() };
        checkpoints.write_run()?;
        Ok(checkpoints)
    }

    /// The folder of a run that has begun.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`] when it is none; [`FileError`] when it cannot be read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        if let Ok(run_id) = read_run(&folder) {
            return Ok(Self { folder, run_id });
        }
        // `run.json` is lost or damaged, but every checkpoint says which run it is of.
        let steps = steps(&folder)?;
        let manifests = steps.values().map(|path| Manifest::read(path, None));
        let newest = manifests.filter_map(Result::ok).max_by_key(|manifest| manifest.serial);
        let problem = match newest {
            Some(manifest) => return Ok(Self { folder, run_id: manifest.run_id }),
            None if steps.is_empty() => {
                "holds no checkpoints; name the `checkpoints` folder of a run"
            }
            None => "holds no checkpoint that can be read; copy them again or start a new run",
        };
        Err(CheckpointError::NotFound { path: folder, problem: problem.into() }.into())
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The run that saves here, 16 hexadecimal digits.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The checkpoints by step, those that are damaged too.
    ///
    /// # Errors
    /// [`FileError`] when the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let steps = steps(&self.folder)?.into_iter();
        let entries = steps.map(|(step, path)| Entry::of_run(step, path, &self.run_id));
        // One that was removed since the folder was read is none.
        Ok(entries.filter(|entry| entry.path.symlink_metadata().is_ok()).collect())
    }

    /// The checkpoint that was saved last, be it damaged.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn latest(&self) -> Result<Option<Entry>> {
        Ok(self.latest_of(self.list()?))
    }

    fn latest_of(&self, entries: Vec<Entry>) -> Option<Entry> {
        let named = self.read_pointer(LATEST);
        let known = named.is_some_and(|step| entries.iter().any(|entry| entry.step == step));
        // A damaged one cannot say when it was saved: it is the latest if the file `latest` says so,
        // or, without that file, if it is of the last step.
        let last = entries.last().map(|entry| entry.step);
        let suspect = if known { named } else { last };
        entries.into_iter().max_by_key(|entry| {
            (entry.serial().is_none() && Some(entry.step) == suspect, entry.serial())
        })
    }

    /// The checkpoint with the best metric, in the sense of the last one that has a metric.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn best(&self) -> Result<Option<Entry>> {
        let mut ranked = super::retention::by_metric(self.list()?);
        ranked.truncate(1);
        Ok(ranked.pop())
    }

    /// Loads the checkpoint of a step.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`] with the steps that there are; as [`Entry::load`].
    pub fn load(&self, step: u64, check: Check) -> Result<Loaded> {
        self.entry(step)?.load(check)
    }

    /// The checkpoint of a step.
    pub(crate) fn entry(&self, step: u64) -> Result<Entry> {
        let mut steps = steps(&self.folder)?;
        if let Some(path) = steps.remove(&step) {
            return Ok(Entry::of_run(step, path, &self.run_id));
        }
        let known: Vec<String> = steps.keys().map(u64::to_string).collect();
        let problem = format!("has no step {step}; those that were saved are {}", known.join(", "));
        Err(CheckpointError::NotFound { path: self.folder.clone(), problem }.into())
    }

    /// Loads the checkpoint that was saved last.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when it is not whole, with the newest one before it that is;
    /// [`CheckpointError::NotFound`] when there is none.
    pub fn load_latest(&self, check: Check) -> Result<Loaded> {
        let latest = self.latest_or_not_found()?;
        latest.load(check).map_err(|error| self.with_older(latest.step, error))
    }

    /// The error with which the checkpoint of a step could not be loaded, with the newest other one that is whole.
    pub(crate) fn with_older(&self, step: u64, error: Error) -> Error {
        match error {
            Error::Checkpoint(CheckpointError::Damaged { path, file, problem, .. }) => {
                let older = self.newest_whole_but(step);
                CheckpointError::Damaged { path, file, problem, older }.into()
            }
            other => other,
        }
    }

    pub(crate) fn latest_or_not_found(&self) -> Result<Entry> {
        let problem = "holds no checkpoint yet; start the run anew";
        self.latest()?.ok_or_else(|| {
            let (path, problem) = (self.folder.clone(), problem.to_owned());
            CheckpointError::NotFound { path, problem }.into()
        })
    }

    fn newest_whole_but(&self, step: u64) -> Option<PathBuf> {
        let mut entries = self.list().ok()?;
        entries.retain(|entry| entry.step != step);
        entries.sort_by_key(Entry::serial);
        let whole = entries.into_iter().rev().find(|entry| entry.verify(Check::Hashes).is_ok());
        whole.map(|entry| entry.path)
    }

    /// Removes the checkpoints that need not stay, and tells which; `dry_run` only tells.
    ///
    /// A checkpoint disappears by one rename before its files are removed. The latest, the best and
    /// the damaged ones stay whatever `keep` says.
    ///
    /// # Errors
    /// [`FileError`] when one cannot be removed; those before it are.
    pub fn prune(&self, keep: Keep, dry_run: bool) -> Result<Vec<Entry>> {
        let entries = self.list()?;
        let latest = self.latest_of(entries.clone()).map(|entry| entry.step);
        let surplus = keep.surplus(entries, latest);
        if !dry_run {
            for entry in &surplus {
                super::write::remove_aside(&entry.path)?;
            }
        }
        Ok(surplus)
    }

    /// Those that another rank saves to, as it has told.
    pub(crate) fn of_rank(folder: PathBuf, run_id: String) -> Self {
        Self { folder, run_id }
    }

    pub(super) fn write_run(&self) -> Result<()> {
        write_run(&self.folder, &self.run_id)
    }

    /// Points `latest` to the step that was just saved, and `best` to the best if there is one.
    pub(super) fn write_pointers(&self, saved: u64) -> Result<()> {
        let best = self.best()?.map(|entry| entry.step);
        for (name, step) in [(LATEST, Some(saved)), (BEST, best)] {
            let path = self.folder.join(name);
            fault::point().map_err(FileError::write(&path))?;
            match step {
                Some(step) => write_whole(path, format!("{}\n", step_name(step)))?,
                None if path.exists() => fs::remove_file(&path).map_err(FileError::write(&path))?,
                None => {}
            }
        }
        Ok(())
    }

    fn read_pointer(&self, name: &str) -> Option<u64> {
        let bytes = read_bounded(&self.folder, name, 64).ok()?;
        step_of(std::str::from_utf8(&bytes).ok()?.trim_end())
    }
}

/// The folders of the steps. One that was to be replaced by another of its step counts while that
/// one has not appeared.
fn steps(folder: &Path) -> Result<BTreeMap<u64, PathBuf>, FileError> {
    let mut steps = BTreeMap::new();
    let mut replaced = Vec::new();
    for item in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let name = item.map_err(FileError::read(folder))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(step) = step_of(name) {
            steps.insert(step, folder.join(name));
        }
        replaced.extend(replaced_step(name).map(|step| (step, folder.join(name))));
    }
    for (step, path) in replaced {
        steps.entry(step).or_insert(path);
    }
    Ok(steps)
}
