//! What was handed to the device and has not run, and for how long MLX's thread may go on.
//!
//! Source: `eval` of the backends, `CommandEncoder` and `eval_impl` in MLX 0.32.2.

use super::machine::Backend;
use std::collections::{HashSet, VecDeque};

/// How many tasks may wait before MLX's thread does; `MAX_ACTIVE_TASKS` there.
const MAX_TASKS: usize = 10;

/// How many kernels of a CPU are one task; `DISPATCHES_PER_TASK` there.
const KERNELS_PER_TASK: usize = 10;

/// A device with what waits for it. Times are in seconds; buffers are numbers that the caller knows.
pub(super) struct Queue {
    backend: Backend,
    /// The time of MLX's thread.
    now: f64,
    /// When the device has run all that it was given.
    idle_at: f64,
    waiting: VecDeque<Task>,
    num_tasks: usize,
    /// Kernels since the last task, of a CPU; those that no buffer has taken away yet, of a GPU.
    num_kernels: usize,
    open: Vec<usize>,
    open_seconds: f64,
    open_elements: u64,
    open_inputs: HashSet<usize>,
}

/// Operations that run together.
struct Task {
    ends_at: f64,
    held: Vec<usize>,
    /// How many of MLX's tasks end with it.
    counts: usize,
}

impl Queue {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            now: 0.0,
            idle_at: 0.0,
            waiting: VecDeque::new(),
            num_tasks: 0,
            num_kernels: 0,
            open: Vec::new(),
            open_seconds: 0.0,
            open_elements: 0,
            open_inputs: HashSet::new(),
        }
    }

    /// The time of MLX's thread.
    pub(super) fn now(&self) -> f64 {
        self.now
    }

    /// When the device has run all that it was given.
    pub(super) fn idle_at(&self) -> f64 {
        self.idle_at
    }

    /// Hands an operation on, which takes so many seconds and holds these buffers until it has run; until when
    /// MLX's thread then waits, because too much is waiting.
    ///
    /// `read` are the buffers of its inputs, each with how many elements the input spans.
    pub(super) fn hand_on(
        &mut self,
        held: Vec<usize>,
        kernels: usize,
        seconds: f64,
        read: &[(usize, u64)],
    ) -> f64 {
        let (per_buffer, counts_twice) = match self.backend {
            Backend::Cpu => {
                // One kernel more lets the buffers go.
                self.num_kernels += kernels + 1;
                let counts = self.num_kernels / KERNELS_PER_TASK;
                self.num_kernels %= KERNELS_PER_TASK;
                self.push(held, seconds, counts);
                return self.full_until();
            }
            Backend::Cuda(per_buffer) => (per_buffer, true),
            // It counts a buffer once, however often it is read.
            Backend::Metal(per_buffer) => (per_buffer, false),
        };
        self.open.extend(held);
        self.open_seconds += seconds;
        self.num_kernels += kernels;
        for &(buffer, elements) in read {
            if self.open_inputs.insert(buffer) || counts_twice {
                self.open_elements += elements;
            }
        }
        if self.num_kernels > per_buffer.operations
            || self.open_elements >> 20 > per_buffer.mega_elements
        {
            self.commit(true);
            return self.full_until();
        }
        self.now
    }

    /// Gives a GPU what has gathered for it; MLX counts it as a task where a buffer was full.
    pub(super) fn commit(&mut self, is_task: bool) {
        if self.open.is_empty() && !is_task {
            return;
        }
        let (held, seconds) = (std::mem::take(&mut self.open), self.open_seconds);
        self.push(held, seconds, usize::from(is_task));
        self.open_inputs.clear();
        (self.num_kernels, self.open_seconds, self.open_elements) = (0, 0.0, 0);
    }

    /// Lets time go on; the buffers of what has run by then.
    pub(super) fn wait_until(&mut self, time: f64) -> Vec<usize> {
        self.now = self.now.max(time);
        let mut released = Vec::new();
        while self.waiting.front().is_some_and(|task| task.ends_at <= self.now) {
            let Some(Task { held, counts, .. }) = self.waiting.pop_front() else { break };
            self.num_tasks -= counts;
            released.extend(held);
        }
        released
    }

    fn push(&mut self, held: Vec<usize>, seconds: f64, counts: usize) {
        self.idle_at = self.idle_at.max(self.now) + seconds;
        self.num_tasks += counts;
        self.waiting.push_back(Task { ends_at: self.idle_at, held, counts });
    }

    /// When the first of too many tasks is done.
    fn full_until(&self) -> f64 {
        let first = self.waiting.iter().find(|task| task.counts > 0 && self.num_tasks > MAX_TASKS);
        first.map_or(self.now, |task| task.ends_at)
    }
}
