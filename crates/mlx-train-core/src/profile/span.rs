//! What a thread spends its time and memory on: spans, while somebody records them.

use super::{
    Memory,
    memory::take_peak,
    trace::{Counters, Span, Trace, Track},
};
use std::{
    cell::RefCell,
    marker::PhantomData,
    time::{Duration, Instant},
};

/// A part of training that a trace shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A whole training step.
    Step,
    /// Waiting for a batch.
    Data,
    /// The loss and its gradients.
    ForwardBackward,
    /// Norms, clipping and the update.
    Optimizer,
    /// A step's forward and backward pass and update, where they are computed as one.
    Compute,
    /// What a checkpoint holds the run up for.
    Save,
    /// An evaluation on held-out data.
    Evaluation,
}

impl Phase {
    /// Its name in a trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Data => "data",
            Self::ForwardBackward => "forward + backward",
            Self::Optimizer => "optimizer",
            Self::Compute => "compute",
            Self::Save => "save",
            Self::Evaluation => "evaluation",
        }
    }

    /// Whether it comes seldom enough to be recorded in a run of any length.
    fn is_rare(self) -> bool {
        matches!(self, Self::Save | Self::Evaluation)
    }
}

/// Begins a span of this thread's [`Recording`], which ends when what is returned is dropped. Without a
/// recording it costs nothing.
///
/// ```
/// # use mlx_train_core::profile::{Detail, Phase, Recording, span};
/// let recording = Recording::start(Detail::All);
/// {
///     let _span = span(Phase::Data);
///     // … what takes the time
/// }
/// assert_eq!(recording.trace().spans()[0].name, "data");
/// ```
#[must_use = "it ends when it is dropped"]
pub fn span(phase: Phase) -> OpenSpan {
    let mut is_recorded = false;
    with_recorder(|recorder| {
        is_recorded = recorder.records(phase);
        if is_recorded {
            recorder.open(phase);
        }
    });
    OpenSpan { is_recorded, _not_send: PhantomData }
}

/// Whether a training step should compute its gradients before it begins with the update, so that the spans
/// of both are of work and not of recording it: MLX computes a step at its end, where it is asked for results.
pub fn splits_steps() -> bool {
    RECORDER.with_borrow(|recorder| recorder.as_ref().is_some_and(|it| it.detail >= Detail::Split))
}

/// Records the spans of this thread for as long as it lives.
///
/// Each span has the time that it took and MLX's peak of memory within; memory is recorded at both ends.
#[derive(Debug)]
pub struct Recording {
    outer: Option<Recorder>,
    /// The recorder is that of one thread.
    _not_send: PhantomData<*const ()>,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Saves and evaluations.
    Rare,
    /// The same, while steps are split as they are for [`Detail::All`]: to warm up.
    Split,
    /// Every span.
    All,
}

impl Recording {
    /// Begins to record.
    pub fn start(detail: Detail) -> Self {
        let recorder = Recorder {
            detail,
            origin: Instant::now(),
            step: 0,
            open: Vec::new(),
            trace: Trace::default(),
        };
        Self { outer: RECORDER.replace(Some(recorder)), _not_send: PhantomData }
    }

    /// Records more or less from now on. `step` is the number that the spans of a step have.
    pub fn set(&mut self, detail: Detail, step: u64) {
        with_recorder(|recorder| (recorder.detail, recorder.step) = (detail, step));
    }

    /// Adds a span that another thread has spent, which has ended by now.
    pub fn add(&mut self, track: Track, name: &'static str, start: Instant, took: Duration) {
        with_recorder(|recorder| {
            let begin = recorder.since_origin(start);
            recorder.trace.push(Span { track, name: name.into(), begin, took, args: Vec::new() });
        });
    }

    /// What was recorded so far.
    pub fn trace(&self) -> Trace {
        RECORDER
            .with_borrow(|recorder| recorder.as_ref().map(|it| it.trace.clone()))
            .unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDER.set(self.outer.take());
    }
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

fn with_recorder(f: impl FnOnce(&mut Recorder)) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            f(recorder);
        }
    });
}

#[derive(Debug)]
struct Recorder {
    detail: Detail,
    origin: Instant,
    step: u64,
    /// The spans that go on, the outermost first.
    open: Vec<Open>,
    trace: Trace,
}

#[derive(Debug)]
struct Open {
    phase: Phase,
    began: Instant,
    /// The highest memory so far, within.
    peak_bytes: u64,
}

impl Recorder {
    /// The time since the recording began.
    fn since_origin(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.origin)
    }

    fn records(&self, phase: Phase) -> bool {
        self.detail == Detail::All || phase.is_rare()
    }

    fn open(&mut self, phase: Phase) {
        let peak_bytes = self.look(Instant::now(), false);
        if let Some(outer) = self.open.last_mut() {
            outer.peak_bytes = outer.peak_bytes.max(peak_bytes);
        }
        // Looking takes time that is not of the span.
        self.open.push(Open { phase, began: Instant::now(), peak_bytes: 0 });
    }

    fn close(&mut self) {
        let now = Instant::now();
        let Some(Open { phase, began, peak_bytes }) = self.open.pop() else { return };
        let peak_bytes = peak_bytes.max(self.look(now, phase == Phase::Step));
        if let Some(outer) = self.open.last_mut() {
            outer.peak_bytes = outer.peak_bytes.max(peak_bytes);
        }
        let args = vec![("step", self.step.into()), ("peak_bytes", peak_bytes.into())];
        let (begin, took) = (self.since_origin(began), now - began);
        let name = phase.name().into();
        self.trace.push(Span { track: Track::Trainer, name, begin, took, args });
    }

    /// Records the memory of this moment, and returns the peak since this was last called.
    fn look(&mut self, now: Instant, asks_the_system: bool) -> u64 {
        // A span has no way to fail, and a trace without a number is better than none.
        let peak_bytes = take_peak().unwrap_or_default();
        let memory = if asks_the_system { Memory::now() } else { Memory::of_mlx() };
        if let Ok(memory) = memory {
            self.trace.push_counters(Counters { at: self.since_origin(now), memory });
            return peak_bytes.max(memory.active_bytes);
        }
        peak_bytes
    }
}

/// A span that ends when this is dropped, also by a panic. Spans end in the reverse order of their beginning.
#[derive(Debug)]
pub struct OpenSpan {
    is_recorded: bool,
    _not_send: PhantomData<*const ()>,
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if self.is_recorded {
            with_recorder(Recorder::close);
        }
    }
}
