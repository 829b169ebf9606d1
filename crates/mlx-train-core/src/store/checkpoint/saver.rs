//! Saving from a thread of its own, while training goes on.

use super::{
    CheckpointConfig, CheckpointError, Checkpoints, Entry, Manifest, Metric, Snapshot,
    lock::FolderLock,
    names::step_name,
    write::{Label, write_step},
};
use crate::Result;
use std::{
    any::Any,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Writes snapshots to the folder of a run, one at a time, in the background.
///
/// A failed save is an outcome, not an end: the checkpoints before it are as they were.
#[derive(Debug)]
pub struct Saver {
    checkpoints: Checkpoints,
    config: CheckpointConfig,
    writing: Option<Writing>,
    finished: Vec<SaveOutcome>,
    _lock: FolderLock,
}

#[derive(Debug)]
struct Writing {
    step: u64,
    waited: Duration,
    copied: Duration,
    thread: JoinHandle<(Duration, Result<Saved>)>,
}

/// How a save went.
#[derive(Debug)]
pub struct SaveOutcome {
    /// The step that was saved.
    pub step: u64,
    /// What is on disk, or why it is not.
    pub result: Result<Saved>,
    /// How long it took.
    pub timing: SaveTiming,
}

/// A checkpoint that is on disk.
#[derive(Debug)]
pub struct Saved {
    /// The folder of the step.
    pub path: PathBuf,
    /// The size of its files in bytes.
    pub num_bytes: u64,
    /// The checkpoints that made room for it.
    pub removed: Vec<PathBuf>,
    /// What went wrong after it was on disk: it is whole, but `latest`, `best` or old ones are not
    /// as they should be.
    pub warning: Option<String>,
}

/// Where the time of a save went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveTiming {
    /// How long training stood still for an earlier save.
    pub waited: Duration,
    /// How long training stood still while arrays were evaluated and, on CUDA, copied.
    pub copied: Duration,
    /// How long the disk took, in the background.
    pub written: Duration,
}

impl Saver {
    /// Prepares to save to the folder of a run, and clears what a killed process left half-written.
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] when another process saves there, until the other one ends;
    /// [`FileError`](crate::file::FileError) when the folder cannot be written.
    pub fn new(checkpoints: Checkpoints, config: &CheckpointConfig) -> Result<Self> {
        let lock = FolderLock::take(checkpoints.folder())?;
        checkpoints.write_run()?;
        let (config, finished) = (config.clone(), Vec::new());
        Ok(Self { checkpoints, config, writing: None, finished, _lock: lock })
    }

    /// Takes a snapshot and saves it in the background.
    ///
    /// Waits for an earlier save first, so that there is never more than one older state in memory. Whether it is
    /// saved is known from [`Saver::finished`] later.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn save(&mut self, take: impl FnOnce() -> Result<Snapshot>) -> Result<()> {
        let start = Instant::now();
        self.wait();
        let waited = start.elapsed();
        let snapshot = take()?;
        let copied = start.elapsed().saturating_sub(waited);
        let (step, checkpoints, config) =
            (snapshot.step, self.checkpoints.clone(), self.config.clone());
        let started = thread::Builder::new().name("checkpoint".into()).spawn(move || {
            let start = Instant::now();
            let saved = save(&checkpoints, &config, &snapshot);
            (start.elapsed(), saved)
        });
        match started {
            Ok(thread) => self.writing = Some(Writing { step, waited, copied, thread }),
            Err(error) => {
                let problem = format!("did not start: {error}");
                let result = Err(CheckpointError::Thread { step, problem }.into());
                let timing = SaveTiming { waited, copied, written: Duration::ZERO };
                self.finished.push(SaveOutcome { step, result, timing });
            }
        }
        Ok(())
    }

    /// The saves that have ended since this was last asked, in their order; waits for none.
    pub fn finished(&mut self) -> Vec<SaveOutcome> {
        if self.writing.as_ref().is_some_and(|writing| writing.thread.is_finished()) {
            self.wait();
        }
        std::mem::take(&mut self.finished)
    }

    /// Waits for the save that is being written, and tells of all since [`Saver::finished`].
    pub fn finish(mut self) -> Vec<SaveOutcome> {
        self.settle()
    }

    /// As [`Saver::finish`], after which more can be saved.
    pub fn settle(&mut self) -> Vec<SaveOutcome> {
        self.wait();
        std::mem::take(&mut self.finished)
    }

    fn wait(&mut self) {
        let Some(Writing { step, waited, copied, thread }) = self.writing.take() else { return };
        let (written, result) = thread.join().unwrap_or_else(|panic| {
            let problem = format!("panicked: {}", panic_message(panic.as_ref()));
            (Duration::ZERO, Err(CheckpointError::Thread { step, problem }.into()))
        });
        let timing = SaveTiming { waited, copied, written };
        self.finished.push(SaveOutcome { step, result, timing });
    }
}

// A program that ends early still has its last checkpoint.
impl Drop for Saver {
    fn drop(&mut self) {
        self.wait();
    }
}

fn save(
    checkpoints: &Checkpoints,
    config: &CheckpointConfig,
    snapshot: &Snapshot,
) -> Result<Saved> {
    let label = label_of(checkpoints, config, snapshot.metric)?;
    let manifest = write_step(checkpoints.folder(), snapshot, &label)?;
    Ok(tidied(checkpoints, config, snapshot.step, &manifest))
}

/// What the next checkpoint says of itself.
pub(super) fn label_of<'a>(
    checkpoints: &'a Checkpoints,
    config: &CheckpointConfig,
    metric: Option<f64>,
) -> Result<Label<'a>> {
    let serials = checkpoints.list()?.iter().filter_map(Entry::serial).max();
    let metric = metric.filter(|value| value.is_finite());
    Ok(Label {
        run_id: checkpoints.run_id(),
        serial: serials.map_or(0, |last| last + 1),
        metric: metric.map(|value| Metric {
            name: config.metric.clone(),
            value,
            mode: config.mode,
        }),
        max_shard_bytes: config.max_shard_bytes(),
    })
}

/// Points to a step that is on disk, and removes those that need not stay.
pub(super) fn tidied(
    checkpoints: &Checkpoints,
    config: &CheckpointConfig,
    step: u64,
    manifest: &Manifest,
) -> Saved {
    // First point to the new, then remove the old: in between, everything is there.
    let tidied =
        checkpoints.write_pointers(step).and_then(|()| checkpoints.prune(config.into(), false));
    let (removed, warning) = match tidied {
        Ok(removed) => (removed.into_iter().map(|entry| entry.path).collect(), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let path = checkpoints.folder().join(step_name(step));
    Saved { path, num_bytes: manifest.num_bytes(), removed, warning }
}

/// What a thread said when it panicked.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Check, HostArray, Loaded,
            fault::{Fault, inject},
        },
        *,
    };
    use std::{fs, path::Path};
    use tempfile::TempDir;

    fn snapshot(step: u64, note: &str) -> Snapshot {
        let bytes = (step as f32).to_le_bytes().repeat(4);
        let array = HostArray::new(mlx_rs::Dtype::Float32, &[4], bytes).unwrap();
        Snapshot {
            step,
            model: "mlp".into(),
            weights: vec![("weight".into(), array.clone()), ("bias".into(), array.clone())],
            training: vec![("moment".into(), array)],
            progress: note.into(),
            config: serde_json::Value::Null,
            metric: Some(1.0 / step as f64),
        }
    }

    /// Shards of one array, so that more files can fail; the last and the best stay.
    fn config() -> CheckpointConfig {
        CheckpointConfig { keep_last: 1, max_shard_gigabytes: 1e-8, ..CheckpointConfig::default() }
    }

    fn run_of(steps: &[u64]) -> (TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::create(folder.path().join("checkpoints")).unwrap();
        for &step in steps {
            save(&checkpoints, &config(), &snapshot(step, "old")).unwrap();
        }
        (folder, checkpoints)
    }

    /// A folder that holds the same.
    fn copy_of(checkpoints: &Checkpoints) -> (TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        copy(checkpoints.folder(), folder.path());
        let copied = Checkpoints::open(folder.path()).unwrap();
        (folder, copied)
    }

    fn copy(from: &Path, to: &Path) {
        for item in fs::read_dir(from).unwrap() {
            let (from, to) = (item.as_ref().unwrap().path(), to.join(item.unwrap().file_name()));
            if from.is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&from, &to);
            } else {
                fs::copy(&from, &to).unwrap();
            }
        }
    }

    fn hidden(checkpoints: &Checkpoints) -> Vec<String> {
        let items = fs::read_dir(checkpoints.folder()).unwrap();
        let names = items.map(|item| item.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.') && name != ".lock").collect()
    }

    /// Every checkpoint is whole, and the last is one that was saved.
    fn last(checkpoints: &Checkpoints, case: &str) -> Loaded {
        for entry in checkpoints.list().unwrap() {
            entry.verify(Check::Hashes).unwrap_or_else(|error| panic!("{case}: {error}"));
        }
        let again = Checkpoints::open(checkpoints.folder()).unwrap();
        let loaded =
            again.load_latest(Check::Hashes).unwrap_or_else(|error| panic!("{case}: {error}"));
        let step = snapshot(loaded.manifest.step, "");
        assert_eq!(HostArray::take(&loaded.weights[0].1).unwrap(), step.weights[0].1, "{case}");
        loaded
    }

    /// Saves `step` over and over, with a fault at one operation after the other.
    fn at_every_operation(step: u64, check: impl Fn(&Checkpoints, &Result<Saved>, &str)) {
        let (_folder, before) = run_of(&[1, 2]);
        for fault in [Fault::Full, Fault::Killed] {
            for at in 0.. {
                let (_folder, checkpoints) = copy_of(&before);
                let (result, came_to_it) =
                    inject(at, fault, || save(&checkpoints, &config(), &snapshot(step, "new")));
                check(&checkpoints, &result, &format!("{fault:?} at {at} of step {step}"));
                if !came_to_it {
                    assert!(result.is_ok_and(|saved| saved.warning.is_none()));
                    assert!(at > 20, "only {at} operations");
                    break;
                }
            }
        }
    }

    #[test]
    fn at_every_moment_there_is_a_whole_checkpoint_and_the_next_run_clears_the_rest() {
        at_every_operation(3, |checkpoints, result, case| {
            let step = last(checkpoints, case).manifest.step;
            assert!(step == 3 || (step == 2 && result.is_err()), "{case}: {step}");
            if case.starts_with("Full") && step == 2 {
                assert_eq!(hidden(checkpoints), Vec::<String>::new(), "{case}");
            }
            drop(Saver::new(checkpoints.clone(), &config()).unwrap());
            assert_eq!(hidden(checkpoints), Vec::<String>::new(), "{case}");
            assert_eq!(last(checkpoints, case).manifest.step, step, "{case}");
        });
    }

    #[test]
    fn a_step_that_is_saved_again_is_the_old_or_the_new_one_at_every_moment() {
        at_every_operation(2, |checkpoints, result, case| {
            let loaded = last(checkpoints, case);
            assert_eq!(loaded.manifest.step, 2, "{case}");
            assert!(loaded.progress == "new" || result.is_err(), "{case}");
            drop(Saver::new(checkpoints.clone(), &config()).unwrap());
            assert_eq!(hidden(checkpoints), Vec::<String>::new(), "{case}");
            assert_eq!(last(checkpoints, case).progress, loaded.progress, "{case}");
        });
    }

    #[test]
    fn a_failed_save_says_what_happened_and_the_next_one_succeeds() {
        let (_folder, checkpoints) = run_of(&[1]);
        let (result, _) =
            inject(3, Fault::Full, || save(&checkpoints, &config(), &snapshot(2, "new")));
        let text = result.unwrap_err().to_string();
        assert!(text.contains("the disk is full") && text.contains("step-00000002"), "{text}");
        save(&checkpoints, &config(), &snapshot(2, "new")).unwrap();
        assert_eq!(last(&checkpoints, "after").manifest.step, 2);
    }
}
