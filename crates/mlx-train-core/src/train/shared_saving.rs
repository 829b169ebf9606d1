//! Saving of several ranks: each writes its part in the background, and they agree between steps.
//!
//! A collective may not run beside a step, so threads do nothing but write. When no rank has anything to write any
//! more, which they find out after each step, they tell each other what they have written; rank 0 completes the
//! checkpoint in the background, and tells the others in the same way what became of it.

use super::{
    ranks::{Ranks, Signs},
    step::{StateArrays, StatePlacements},
};
use crate::{
    Error, Result,
    distributed::DistributedError,
    store::{
        CheckpointError, Files, FolderLock, Holding, Part, SaveOutcome, SaveTiming, Saved,
        SharedFolder, Slices, Snapshot, divide, panic_message,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    mem,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often a rank that waits for a save asks the others.
const LOOK: Duration = Duration::from_millis(10);

/// Which arrays of a snapshot a rank writes, and which there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Share {
    weights: Vec<usize>,
    training: Vec<usize>,
    weight_slices: Slices,
    training_slices: Slices,
}

/// What all ranks hold together.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    pub(super) share: Share,
    /// The names of all weights, and of the other arrays.
    pub(super) weights: BTreeSet<String>,
    pub(super) training: BTreeSet<String>,
}

impl Holdings {
    /// Divides what all ranks hold; each passes its own arrays.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn of(
        ranks: &Ranks,
        arrays: &StateArrays,
        placements: &StatePlacements,
    ) -> Result<Self> {
        let list = |is_weight: bool| {
            let (arrays, placements) = if is_weight {
                (&arrays.weights, &placements.weights)
            } else {
                (&arrays.training, &placements.training)
            };
            let pairs = arrays.iter().zip(placements);
            pairs.map(move |((name, array), placement)| {
                Holding::new(is_weight, name, placement, array.nbytes() as u64)
            })
        };
        let own: Vec<Holding> = list(true).chain(list(false)).collect();
        let json = |error: serde_json::Error| Error::message(error.to_string());
        let all = ranks.texts(&serde_json::to_string(&own).map_err(json)?)?;
        let all = all.iter().map(|text| serde_json::from_str(text).map_err(json));
        let all = all.collect::<Result<Vec<Vec<Holding>>>>()?;

        let mut holdings = Self::default();
        for it in all.iter().flatten() {
            let names = if it.is_weight { &mut holdings.weights } else { &mut holdings.training };
            names.insert(it.name.clone());
        }
        let (num_weights, share) = (arrays.weights.len(), &mut holdings.share);
        for index in divide(&all).swap_remove(ranks.rank()) {
            let Holding { is_weight, name, .. } = &own[index];
            let (indices, slices, first) = if *is_weight {
                (&mut share.weights, &mut share.weight_slices, 0)
            } else {
                (&mut share.training, &mut share.training_slices, num_weights)
            };
            indices.push(index - first);
            slices.extend(own[index].slice().map(|slice| (name.clone(), slice)));
        }
        Ok(holdings)
    }
}

impl Share {
    /// Those of the arrays that this rank writes.
    pub(super) fn of(&self, arrays: StateArrays) -> StateArrays {
        let pick = |arrays: Vec<(String, mlx_rs::Array)>, indices: &[usize]| {
            indices.iter().filter_map(|&index| arrays.get(index).cloned()).collect()
        };
        StateArrays {
            weights: pick(arrays.weights, &self.weights),
            training: pick(arrays.training, &self.training),
        }
    }
}

/// As a [`Saver`](crate::store::Saver), of all ranks together.
#[derive(Debug)]
pub(super) struct SharedSaver {
    ranks: Ranks,
    folder: SharedFolder,
    share: Share,
    in_flight: Option<InFlight>,
    finished: Vec<SaveOutcome>,
    /// Of rank 0.
    _lock: Option<FolderLock>,
}

/// A checkpoint that is not there yet.
#[derive(Debug)]
struct InFlight {
    step: u64,
    /// The folder that it is written to.
    hidden: String,
    began: Instant,
    timing: SaveTiming,
    work: Work,
}

/// What a rank does for it.
#[derive(Debug)]
enum Work {
    /// Writes its part; or why it does not.
    Part(Result<WritingPart>),
    /// Completes it, which rank 0 does.
    Rest(Option<Result<Completing>>),
}

/// The thread that writes a part, and gives back the snapshot without its arrays.
type WritingPart = JoinHandle<(Snapshot, Result<Files>)>;

/// The thread that completes a checkpoint.
type Completing = JoinHandle<Result<Saved>>;

/// What a rank has written, or why it could not.
#[derive(Debug, Serialize, Deserialize)]
enum Written {
    Files(Files),
    Failed(String),
}

/// What became of a checkpoint, as rank 0 tells it.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Saved { path: PathBuf, num_bytes: u64, removed: Vec<PathBuf>, warning: Option<String> },
    Failed(String),
}

impl SharedSaver {
    /// Prepares to save; rank 0 takes the right to.
    ///
    /// # Errors
    /// As [`Saver::new`](crate::store::Saver::new), on all ranks.
    pub(super) fn new(ranks: Ranks, folder: SharedFolder, share: Share) -> Result<Self> {
        let lock = ranks.is_first().then(|| folder.lock()).transpose();
        let lock = ranks.agree(lock)?;
        Ok(Self { ranks, folder, share, in_flight: None, finished: Vec::new(), _lock: lock })
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// Takes a snapshot of what this rank writes, and writes it in the background. A rank that cannot lets the save
    /// fail on all.
    ///
    /// # Errors
    /// When MLX fails in a collective.
    pub(super) fn save(
        &mut self,
        step: u64,
        take: impl FnOnce() -> Result<Snapshot>,
    ) -> Result<()> {
        let began = Instant::now();
        self.settle()?;
        let waited = began.elapsed();
        let hidden = self.ranks.text_of_first(|| SharedFolder::hidden_name(step))?;
        let snapshot = take();
        let copied = began.elapsed().saturating_sub(waited);
        let started = snapshot.and_then(|snapshot| {
            let Share { weight_slices, training_slices, .. } = self.share.clone();
            let (rank, ranks) = (self.ranks.rank(), self.ranks.world_size());
            let (weights, training) = (weight_slices, training_slices);
            let mut part = Part { rank, ranks, snapshot, weights, training };
            let (folder, hidden) = (self.folder.clone(), hidden.clone());
            background(step, move || {
                let files = folder.write_part(&hidden, &part);
                // Nothing is copied twice: what rank 0 completes the checkpoint with has no arrays.
                (part.snapshot.weights, part.snapshot.training) = (Vec::new(), Vec::new());
                (part.snapshot, files)
            })
        });
        let timing = SaveTiming { waited, copied, written: Duration::ZERO };
        let (began, work) = (Instant::now(), Work::Part(started));
        self.in_flight = Some(InFlight { step, hidden, began, timing, work });
        Ok(())
    }

    /// Whether this rank has something to write that is not written.
    pub(super) fn is_busy(&self) -> bool {
        match self.in_flight.as_ref().map(|it| &it.work) {
            Some(Work::Part(Ok(thread))) => !thread.is_finished(),
            Some(Work::Rest(Some(Ok(thread)))) => !thread.is_finished(),
            _ => false,
        }
    }

    /// Goes on with the save when no rank is busy, which all have agreed on.
    ///
    /// # Errors
    /// When MLX fails in a collective.
    pub(super) fn advance(&mut self) -> Result<()> {
        let Some(mut save) = self.in_flight.take() else { return Ok(()) };
        match mem::replace(&mut save.work, Work::Rest(None)) {
            Work::Part(part) => match self.exchange(&save, part)? {
                Ok(work) => self.in_flight = Some(InFlight { work, ..save }),
                Err(error) => self.end(&save, Err(error)),
            },
            Work::Rest(rest) => {
                let own = rest.map(|thread| join(save.step, thread).and_then(|saved| saved));
                let told = self.ranks.text_of_first(|| {
                    let told = match own {
                        Some(Ok(Saved { path, num_bytes, removed, warning })) => {
                            Told::Saved { path, num_bytes, removed, warning }
                        }
                        Some(Err(error)) => Told::Failed(error.to_string()),
                        None => Told::Failed("it was never completed".into()),
                    };
                    serde_json::to_string(&told).unwrap_or_default()
                })?;
                let result = match serde_json::from_str(&told) {
                    Ok(Told::Saved { path, num_bytes, removed, warning }) => {
                        Ok(Saved { path, num_bytes, removed, warning })
                    }
                    Ok(Told::Failed(text)) => Err(Error::message(text)),
                    Err(error) => Err(failure_of(0, &error)),
                };
                self.end(&save, result);
            }
        }
        Ok(())
    }

    /// Tells what this rank has written; rank 0 begins to complete the checkpoint if all have.
    ///
    /// The outer error is one of this rank alone; the inner one is why the save has failed on all.
    fn exchange(&self, save: &InFlight, part: Result<WritingPart>) -> Result<Result<Work>> {
        let (snapshot, written) = match join(save.step, part) {
            Ok((snapshot, Ok(files))) => (Some(snapshot), Written::Files(files)),
            Ok((_, Err(error))) | Err(error) => (None, Written::Failed(error.to_string())),
        };
        let json = |error: serde_json::Error| Error::message(error.to_string());
        let all = self.ranks.texts(&serde_json::to_string(&written).map_err(json)?)?;
        let mut files = Files::new();
        for (rank, text) in all.iter().enumerate() {
            match serde_json::from_str(text) {
                Ok(Written::Files(written)) => files.extend(written),
                Ok(Written::Failed(text)) => {
                    if self.ranks.is_first() {
                        self.folder.discard(&save.hidden);
                    }
                    return Ok(Err(failure_of(rank, &text)));
                }
                Err(error) => return Ok(Err(failure_of(rank, &error))),
            }
        }
        let Some(snapshot) = snapshot.filter(|_| self.ranks.is_first()) else {
            return Ok(Ok(Work::Rest(None)));
        };
        let (folder, hidden) = (self.folder.clone(), save.hidden.clone());
        let ranks = self.ranks.world_size();
        let complete = move || folder.complete(&hidden, &snapshot, ranks, files);
        Ok(Ok(Work::Rest(Some(background(save.step, complete)))))
    }

    fn end(&mut self, save: &InFlight, result: Result<Saved>) {
        let &InFlight { step, began, timing, .. } = save;
        let timing = SaveTiming { written: began.elapsed(), ..timing };
        self.finished.push(SaveOutcome { step, result, timing });
    }

    /// The saves that have ended since this was last asked.
    pub(super) fn finished(&mut self) -> Vec<SaveOutcome> {
        mem::take(&mut self.finished)
    }

    /// Waits until all is on disk, with all other ranks.
    ///
    /// # Errors
    /// When MLX fails in a collective.
    pub(super) fn settle(&mut self) -> Result<()> {
        // All ranks have one or none.
        while self.in_flight.is_some() {
            let own = Signs { is_saving: self.is_busy(), ..Default::default() };
            if self.ranks.agree_on(own)?.is_saving {
                thread::sleep(LOOK);
            } else {
                self.advance()?;
            }
        }
        Ok(())
    }
}

// What a run has begun to write when it fails is written, so that nothing is cut in the middle.
impl Drop for SharedSaver {
    fn drop(&mut self) {
        match self.in_flight.take().map(|it| it.work) {
            Some(Work::Part(Ok(thread))) => drop(thread.join()),
            Some(Work::Rest(Some(Ok(thread)))) => drop(thread.join()),
            _ => {}
        }
    }
}

/// Does something in a thread of its own.
fn background<T: Send + 'static>(
    step: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    thread::Builder::new().name("checkpoint".into()).spawn(work).map_err(|error| {
        let problem = format!("did not start: {error}");
        CheckpointError::Thread { step, problem }.into()
    })
}

fn join<T>(step: u64, thread: Result<JoinHandle<T>>) -> Result<T> {
    thread?.join().map_err(|panic| {
        let problem = format!("panicked: {}", panic_message(panic.as_ref()));
        CheckpointError::Thread { step, problem }.into()
    })
}

/// Why a save has failed on one of the ranks.
fn failure_of(rank: usize, reason: &impl ToString) -> Error {
    DistributedError::Rank { rank, reason: reason.to_string() }.into()
}
