//! The threads that make batches ahead, and how batches get from them to the caller.
//!
//! Since MLX 0.31 each thread has streams of its own, and an operation that was recorded on one thread
//! cannot be computed on another: MLX refuses with "There is no Stream(cpu, 0) in current thread"
//! (`backend/{cpu/encoder,metal/device,cuda/device}.cpp`). So a batch is evaluated where it was made. What
//! crosses to the caller is memory alone: `eval` returns when all of it is written, and leaves no
//! operation, input or event on the arrays (`transforms.cpp`, `eval_impl`).

use super::{
    Batch, DataError, Dataset, Sampler,
    plan::{Plan, PlannedBatch},
};
use crate::{Result, ffi};
use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What batches are made from: all that threads share.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) dataset: Box<dyn Dataset>,
    pub(super) sampler: Sampler,
    pub(super) plan: Plan,
    /// Which part of each batch is made, of how many.
    pub(super) part: (usize, usize),
}

impl Source {
    /// Makes a batch, evaluated. A dataset that panics has failed like one that returns an error: its
    /// thread must not die and leave the caller waiting.
    pub(super) fn make(&self, planned: &PlannedBatch) -> Result<Batch> {
        let rows = self.sampler.rows(planned.rows.clone());
        let rows = rows[part_of(rows.len(), self.part)].to_vec();
        let made = catch_unwind(AssertUnwindSafe(|| {
            let batch = self.dataset.batch(&rows)?;
            ffi::eval(batch.arrays())?;
            Ok(batch)
        }));
        made.unwrap_or_else(|panic| Err(DataError::Panic(text(&*panic)).into()))
            .map_err(|source| DataError::Batch { rows, source: Box::new(source) }.into())
    }
}

/// The places of one of several parts of `len` rows, as equal as they can be.
pub(super) fn part_of(len: usize, (part, parts): (usize, usize)) -> Range<usize> {
    part * len / parts..(part + 1) * len / parts
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it does not say why".to_owned())
}

/// How long a loader that is dropped waits for its threads.
const PATIENCE: Duration = Duration::from_secs(10);

/// Running threads, of which thread `i` of `n` makes the batches `i`, `i + n`, `i + 2n`, …
#[derive(Debug)]
pub(super) struct Workers {
    /// One channel a thread, so that batches come in order whichever is ready first.
    channels: Vec<Receiver<Result<Batch>>>,
    /// The thread that makes the next batch.
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts threads that make batches from `position` on.
    pub(super) fn start(
        source: &Arc<Source>,
        position: u64,
        num_workers: usize,
        prefetch: usize,
    ) -> Result<Self> {
        let start = |worker: usize| -> Result<_> {
            // A thread that waits to send holds one batch besides those in the channel.
            let (sender, receiver) = sync_channel(prefetch - 1);
            let source = Arc::clone(source);
            let make = move || {
                let batches = source.plan.batches_from(position).skip(worker).step_by(num_workers);
                for planned in batches {
                    // Nobody receives any more: the loader was dropped, or goes elsewhere.
                    if sender.send(source.make(&planned)).is_err() {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name(format!("data-{worker}")).spawn(make);
            Ok((receiver, thread.map_err(|source| DataError::Thread { num_workers, source })?))
        };
        // What has started by then ends, when not all of them can.
        let mut workers = Self { channels: Vec::new(), next: 0, threads: Vec::new() };
        for worker in 0..num_workers {
            let (channel, thread) = start(worker)?;
            workers.channels.push(channel);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// The next batch, when it is ready.
    pub(super) fn receive(&mut self) -> Result<Batch> {
        let batch = self.channels[self.next].recv().unwrap_or_else(|_| {
            Err(DataError::Panic("a thread of the data loader is gone".into()).into())
        });
        self.next = (self.next + 1) % self.channels.len();
        batch
    }
}

impl Drop for Workers {
    /// Waits for the batches that are being made: a process that ends while a thread is inside of MLX may crash. A
    /// dataset that never returns is not waited for.
    fn drop(&mut self) {
        self.channels.clear();
        let until = Instant::now() + PATIENCE;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
