//! The folder that holds the checkpoints of a run.

use super::{
    BestMode, Check, CheckpointError, Loaded, Manifest,
    names::{BEST, LATEST, RUN, random, step_name, step_of},
    read::read_bounded,
    sealed::{seal, unseal},
    step::Step,
};
use crate::{
    Error, Result,
    file::{FileError, write_whole},
};
use serde::{Deserialize, Serialize};
use std::{
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

/// `run.json`: which run the folder belongs to.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    run_id: String,
}

/// A step's folder, of which the manifest alone has been read.
#[derive(Debug)]
pub struct Entry {
    /// The step that the folder is named after.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
    /// What the checkpoint consists of, or why that is not known.
    pub manifest: Result<Manifest, CheckpointError>,
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
        let checkpoints = Self { folder, run_id: format!("{:016x}", random()) };
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
        let newest = steps(&folder)?
            .iter()
            .filter_map(|step| Manifest::read(&folder.join(step_name(*step)), None).ok())
            .max_by_key(|manifest| manifest.serial);
        match newest {
            Some(manifest) => Ok(Self { folder, run_id: manifest.run_id }),
            None => Err(CheckpointError::NotFound {
                path: folder,
                problem:
                    "holds no checkpoint that can be read; name the `checkpoints` folder of a run"
                        .into(),
            }
            .into()),
        }
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
        let steps = steps(&self.folder)?;
        let entries = steps.into_iter().map(|step| self.entry(step));
        // One that was removed since the folder was read is none.
        Ok(entries.filter(|entry| entry.path.symlink_metadata().is_ok()).collect())
    }

    /// The checkpoint that was saved last.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn latest(&self) -> Result<Option<Entry>> {
        let entries = self.list()?;
        let named = self.read_pointer(LATEST);
        let known = named.is_some_and(|step| entries.iter().any(|entry| entry.step == step));
        // A damaged one cannot say when it was saved: it is the latest if the file `latest` says so,
        // or, without that file, if it is of the last step.
        let last = entries.last().map(|entry| entry.step).filter(|_| !known);
        Ok(entries.into_iter().max_by_key(|entry| match &entry.manifest {
            Ok(manifest) => (false, Some(manifest.serial)),
            Err(_) => (Some(entry.step) == named.filter(|_| known).or(last), None),
        }))
    }

    /// The checkpoint with the best value of a metric.
    ///
    /// # Errors
    /// As [`Checkpoints::list`].
    pub fn best(&self, metric: &str, mode: BestMode) -> Result<Option<Entry>> {
        Ok(self.list()?.into_iter().reduce(|best, entry| {
            let better = match (best.metric(metric), entry.metric(metric)) {
                (Some(old), Some(new)) => mode.is_better(new, old),
                (old, new) => old.is_none() && new.is_some(),
            };
            if better { entry } else { best }
        }))
        .map(|best| best.filter(|entry| entry.metric(metric).is_some()))
    }

    /// Loads the checkpoint of a step.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`] with the steps that there are; as [`Loaded::read`].
    pub fn load(&self, step: u64, check: Check) -> Result<Loaded> {
        let path = self.folder.join(step_name(step));
        if path.symlink_metadata().is_err() {
            let known: Vec<String> = steps(&self.folder)?.iter().map(u64::to_string).collect();
            let problem =
                format!("does not exist; the steps that were saved are {}", known.join(", "));
            return Err(CheckpointError::NotFound { path, problem }.into());
        }
        Step::open(&path, Some(&self.run_id))?.load(check)
    }

    /// Loads the checkpoint that was saved last.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when it is not whole, with the newest one before it that is;
    /// [`CheckpointError::NotFound`] when there is none.
    pub fn load_latest(&self, check: Check) -> Result<Loaded> {
        let Some(latest) = self.latest()? else {
            let problem = "holds no checkpoint yet; start the run anew".into();
            return Err(CheckpointError::NotFound { path: self.folder.clone(), problem }.into());
        };
        self.load(latest.step, check).map_err(|error| match error {
            Error::Checkpoint(CheckpointError::Damaged { path, file, problem, .. }) => {
                let older = self.newest_whole_but(latest.step);
                CheckpointError::Damaged { path, file, problem, older }.into()
            }
            other => other,
        })
    }

    fn newest_whole_but(&self, step: u64) -> Option<PathBuf> {
        let mut entries = self.list().ok()?;
        entries.retain(|entry| entry.step != step);
        entries.sort_by_key(|entry| entry.manifest.as_ref().ok().map(|manifest| manifest.serial));
        entries.into_iter().rev().map(|entry| entry.path).find(|path| {
            Step::open(path, Some(&self.run_id)).is_ok_and(|step| step.verify().is_ok())
        })
    }

    fn entry(&self, step: u64) -> Entry {
        let path = self.folder.join(step_name(step));
        let manifest = Manifest::read(&path, Some(&self.run_id));
        Entry { step, path, manifest }
    }

    pub(super) fn write_run(&self) -> Result<()> {
        let text = seal(&Run { run_id: self.run_id.clone() })
            .map_err(|error| Error::message(error.to_string()))?;
        Ok(write_whole(self.folder.join(RUN), text)?)
    }

    /// Points `latest` and `best` to where they belong, or removes what points nowhere.
    pub(super) fn write_pointers(&self, metric: &str, mode: BestMode) -> Result<()> {
        for (name, entry) in [(LATEST, self.latest()?), (BEST, self.best(metric, mode)?)] {
            let path = self.folder.join(name);
            match entry {
                Some(entry) => write_whole(path, format!("{}\n", step_name(entry.step)))?,
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

impl Entry {
    /// The value of a metric, if this checkpoint has one of that name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metric = self.manifest.as_ref().ok()?.metric.as_ref()?;
        (metric.name == name).then_some(metric.value)
    }
}

fn read_run(folder: &Path) -> Result<String, String> {
    let bytes = read_bounded(folder, RUN, 4096).map_err(|error| error.to_string())?;
    Ok(unseal::<Run>(&bytes)?.run_id)
}

/// The steps that have a folder, in order.
fn steps(folder: &Path) -> Result<Vec<u64>, FileError> {
    let mut steps = Vec::new();
    for item in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let name = item.map_err(FileError::read(folder))?.file_name();
        steps.extend(name.to_str().and_then(step_of));
    }
    steps.sort_unstable();
    Ok(steps)
}
