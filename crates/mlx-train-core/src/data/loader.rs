//! Batches in order, made ahead by threads in the background.

use super::{
    Batch, DataError, Dataset, EpochEnd, Order, Position, Remainder, Sampler,
    plan::{Plan, PlannedBatch},
    workers::{Source, Workers, part_of},
};
use crate::Result;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// How a [`DataLoader`] makes batches.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// How many rows a batch has, at least 1.
    pub batch_size: usize,
    /// In which order the rows come.
    pub order: Order,
    /// What decides the random orders.
    pub seed: u64,
    /// What becomes of an epoch that does not end with a whole batch.
    pub epoch_end: EpochEnd,
    /// After how many epochs there are no more batches; without end when it is `None`.
    pub epochs: Option<u64>,
    /// How many threads make batches; with 0, [`DataLoader::next_batch`] makes each itself.
    pub num_workers: usize,
    /// How many batches each thread makes ahead of their use, at least 1: as many times `num_workers`
    /// batches lie in memory at most.
    pub prefetch: usize,
    /// Which of `world_size` processes this one is, counted from 0.
    pub rank: usize,
    /// How many processes share the rows; see [`Sampler::shard`].
    pub world_size: usize,
    /// What becomes of the rows that the processes cannot share equally.
    pub remainder: Remainder,
}

impl Default for LoaderOptions {
    /// Batches of 32 without end, in shuffled order for one process, made by one thread that is two
    /// batches ahead.
    fn default() -> Self {
        Self {
            batch_size: 32,
            order: Order::default(),
            seed: 0,
            epoch_end: EpochEnd::default(),
            epochs: None,
            num_workers: 1,
            prefetch: 2,
            rank: 0,
            world_size: 1,
            remainder: Remainder::default(),
        }
    }
}

/// A stream of batches, in an order that follows from the options alone.
///
/// Threads make batches ahead, each every `num_workers`-th one, and they are handed out in their order:
/// how many threads there are changes when a batch is ready, never what is in it. The position counts
/// the rows that were handed out, whatever was made ahead. Dropping the loader ends its threads, each at
/// the latest when the batch that it is making is done; nothing waits for them.
///
/// It is an iterator too: `loader.by_ref().take(4)` are the next four batches.
///
/// ```
/// # use mlx_train_core::{Array, data::{DataLoader, InMemory, LoaderOptions, Position}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let numbers = Array::from_slice(&[1, 2, 3], &[3]);
/// let options = LoaderOptions { batch_size: 2, seed: 7, ..LoaderOptions::default() };
/// let mut loader = DataLoader::new(InMemory::new(numbers.clone(), numbers)?, options)?;
/// assert_eq!(loader.next_batch()?.x.shape(), [2]);
///
/// let saved = serde_json::to_string(&loader.position())?;
/// loader.resume_at(&serde_json::from_str::<Position>(&saved)?)?;
/// # Ok(()) }
/// ```
pub struct DataLoader {
    source: Arc<Source>,
    num_workers: usize,
    prefetch: usize,
    position: u64,
    workers: Option<Workers>,
    waited: Duration,
}

impl DataLoader {
    /// A loader at the start of the first epoch. No thread runs before the first batch is asked for.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the dataset has no row, or an option does not fit it.
    pub fn new(dataset: impl Dataset + 'static, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { batch_size, epoch_end, epochs, num_workers, prefetch, .. } = options;
        if prefetch == 0 {
            let problem = "each thread makes at least one batch ahead: raise prefetch from 0, or set \
                           num_workers = 0 to make none ahead";
            return Err(DataError::Invalid(problem.into()).into());
        }
        let sampler = Sampler::new(options.order, dataset.len(), options.seed)?.shard(
            options.rank,
            options.world_size,
            options.remainder,
        )?;
        let plan = Plan::new(&sampler, batch_size, epoch_end, epochs)?;
        let source = Source { dataset: Box::new(dataset), sampler, plan, part: (0, 1) };
        let source = Arc::new(source);
        let (position, waited) = (0, Duration::ZERO);
        Ok(Self { source, num_workers, prefetch, position, workers: None, waited })
    }

    /// Makes one of `parts` equal parts of each batch alone, for one of as many processes that share them.
    ///
    /// Unlike [`Sampler::shard`], which deals out the rows of an epoch, this cuts the batches of one process: all
    /// parts together have its rows, and a position is the same for any number of parts.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when there is no such part, a batch cannot be divided into equal parts, the last one
    /// has fewer rows than there are parts, or a batch was handed out already.
    pub fn part(mut self, part: usize, parts: usize) -> Result<Self> {
        let (size, last) = self.source.plan.sizes();
        let last = last.filter(|&rows| rows < parts as u64);
        let problem = if part >= parts {
            format!("part {part} is not one of {parts}: parts are 0 to their number, without it")
        } else if !size.is_multiple_of(parts as u64) {
            format!(
                "a batch of {size} rows cannot be divided among {parts} ranks: make train.batch_size a multiple \
                 of {parts}"
            )
        } else if let Some(rows) = last {
            format!(
                "the last batch has {rows} rows, and {parts} ranks need one each: train by steps in place of \
                 epochs, or with another batch size"
            )
        } else if let Some(source) = Arc::get_mut(&mut self.source) {
            source.part = (part, parts);
            return Ok(self);
        } else {
            "batches are made already: choose the part of a loader before its first batch"
                .to_owned()
        };
        Err(DataError::Invalid(problem).into())
    }

    /// The next batch, evaluated. It waits for the data as long as it takes.
    ///
    /// After an error the position is where it was: another call tries the same batch again.
    ///
    /// # Errors
    /// [`DataError::Ended`] after the last epoch, if there is a last one; [`DataError::Batch`] when the
    /// dataset fails or panics, with the rows that it was asked for; [`DataError::Thread`] when the system
    /// starts no more threads.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let ended = DataError::Ended { rows_taken: self.position };
        self.next().unwrap_or_else(|| Err(ended.into()))
    }

    /// The batch that comes next, made here and not handed out; none after the last epoch.
    pub(crate) fn peek(&self) -> Option<Result<Batch>> {
        Some(self.source.make(&self.source.plan.batch(self.position)?))
    }

    fn make_or_receive(&mut self, planned: &PlannedBatch) -> Result<Batch> {
        if self.num_workers == 0 {
            return self.source.make(planned);
        }
        let workers = match &mut self.workers {
            Some(workers) => workers,
            none => none.insert(Workers::start(
                &self.source,
                self.position,
                self.num_workers,
                self.prefetch,
            )?),
        };
        workers.receive()
    }

    /// How far the batches that were handed out have come.
    pub fn position(&self) -> Position {
        Position::new(&self.source.sampler, self.position)
    }

    /// Goes to a position that [`DataLoader::position`] gave, in this process or an earlier one, at once.
    ///
    /// Batch size, epoch end and threads may be others than they were.
    ///
    /// # Errors
    /// [`DataError::Position`] when it belongs to other data or another order, and says what differs; the
    /// loader then stays where it is.
    pub fn resume_at(&mut self, position: &Position) -> Result<()> {
        self.position = position.within(&self.source.sampler)?;
        self.workers = None;
        Ok(())
    }

    /// How many epochs were handed out, as a fraction.
    pub fn epochs(&self) -> f64 {
        self.position as f64 / self.rows_per_epoch() as f64
    }

    /// How many rows an epoch has for this process: those of the dataset, or its share of them.
    pub fn rows_per_epoch(&self) -> usize {
        self.source.sampler.rows_per_epoch()
    }

    /// How many batches it takes from the start of the first epoch to have handed out `epochs` whole ones.
    ///
    /// With [`EpochEnd::RunOn`] the last of them may reach into the epoch after, if there is one.
    pub fn batches_in(&self, epochs: u64) -> u64 {
        self.source.plan.batches_in(epochs)
    }

    /// How many rows the dataset has.
    pub fn num_rows(&self) -> usize {
        self.source.sampler.num_rows()
    }

    /// How long it took in all to get the batches: what a run waited for its data.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for DataLoader {
    type Item = Result<Batch>;

    /// [`DataLoader::next_batch`], and `None` after the last epoch.
    fn next(&mut self) -> Option<Result<Batch>> {
        let began = Instant::now();
        let planned = self.source.plan.batch(self.position)?;
        let batch = self.make_or_receive(&planned);
        self.waited += began.elapsed();
        match &batch {
            Ok(_) => self.position = planned.next,
            // What the threads have made ahead comes after the batch that is missing.
            Err(_) => self.workers = None,
        }
        Some(batch)
    }
}

impl fmt::Debug for DataLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataLoader")
            .field("source", &self.source)
            .field("num_workers", &self.num_workers)
            .field("prefetch", &self.prefetch)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Every row once, in order, in batches of `size`; the last may be smaller.
pub fn batches<D: Dataset + ?Sized>(
    dataset: &D,
    size: usize,
) -> impl ExactSizeIterator<Item = Result<Batch>> {
    let (len, size) = (dataset.len(), size.max(1));
    (0..len.div_ceil(size)).map(move |index| {
        let rows: Vec<usize> = (index * size..len.min((index + 1) * size)).collect();
        dataset.batch(&rows)
    })
}

/// One of `parts` parts of the rows of each of [`batches`], and whether it counts: a part of no row is one of a row
/// that another has, so that all take part in what they compute together.
pub(crate) fn parts_of_batches<D: Dataset + ?Sized>(
    dataset: &D,
    size: usize,
    part: usize,
    parts: usize,
) -> impl Iterator<Item = Result<(Batch, bool)>> {
    let (len, size) = (dataset.len(), size.max(1));
    (0..len.div_ceil(size)).map(move |index| {
        let first = index * size;
        let own = part_of(len.min(first + size) - first, (part, parts));
        let counts = !own.is_empty();
        let own = if counts { own } else { 0..1 };
        let rows: Vec<usize> = own.map(|row| first + row).collect();
        Ok((dataset.batch(&rows)?, counts))
    })
}
