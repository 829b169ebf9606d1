//! Saving from a thread of its own, while training goes on.

use super::{
    CheckpointConfig, CheckpointError, Checkpoints, Metric, Snapshot,
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
    /// How long training stood still while arrays were copied.
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
    /// Waits for an earlier save first, so that there is never more than one copy of the state in
    /// memory. Whether it is saved is known from [`Saver::finished`] later.
    ///
    /// # Errors
    /// What `take` returns; when the system has no thread to spare.
    pub fn save(&mut self, take: impl FnOnce() -> Result<Snapshot>) -> Result<()> {
        let start = Instant::now();
        self.wait();
        let waited = start.elapsed();
        let snapshot = take()?;
        let copied = start.elapsed().saturating_sub(waited);
        let (step, checkpoints, config) =
            (snapshot.step, self.checkpoints.clone(), self.config.clone());
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                let start = Instant::now();
                let saved = save(&checkpoints, &config, &snapshot);
                (start.elapsed(), saved)
            })
            .map_err(|error| CheckpointError::Thread {
                step,
                problem: format!("did not start: {error}"),
            })?;
        self.writing = Some(Writing { step, waited, copied, thread });
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
    let serials =
        checkpoints.list()?.into_iter().filter_map(|entry| Some(entry.manifest.ok()?.serial));
    let metric = snapshot.metric.filter(|value| value.is_finite());
    let label = Label {
        run_id: checkpoints.run_id(),
        serial: serials.max().map_or(0, |last| last + 1),
        metric: metric.map(|value| Metric { name: config.metric.clone(), value }),
        max_shard_bytes: config.max_shard_bytes(),
    };
    let manifest = write_step(checkpoints.folder(), snapshot, &label)?;
    let warning = checkpoints.write_pointers(&config.metric, config.mode).err();
    Ok(Saved {
        path: checkpoints.folder().join(step_name(snapshot.step)),
        num_bytes: manifest.num_bytes(),
        removed: Vec::new(),
        warning: warning.map(|error| error.to_string()),
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
