//! A trace in the format of Chrome, which Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing` open.
//!
//! Source: "Trace Event Format", Google, 2016, sections "Complete Events", "Counter Events" and "Metadata
//! Events". Times are microseconds since the recording began.

use super::{LayerProfile, Memory};
use crate::{
    Result,
    file::{FileError, write_whole_with},
};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, path::Path, time::Duration};

/// What a run spent its time and memory on.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    spans: Vec<Span>,
    counters: Vec<Counters>,
    /// What there was no room for.
    num_omitted: u64,
    layers: Option<LayerProfile>,
}

/// So many spans, and so many looks at the memory, a trace has at most: about 30 MB of JSON.
const MOST_EVENTS: usize = 100_000;

/// A line of a trace: one thread, real or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// The thread that trains.
    Trainer,
    /// The thread that writes checkpoints in the background.
    CheckpointWriter,
    /// The layers of a forward pass, measured one by one after the steps.
    LayersForward,
    /// The layers of a backward pass, likewise.
    LayersBackward,
}

/// A time between two moments.
#[derive(Debug, Clone)]
pub struct Span {
    /// The line that it is on.
    pub track: Track,
    /// What it is.
    pub name: Cow<'static, str>,
    /// When it began.
    pub begin: Duration,
    /// How long it took.
    pub took: Duration,
    /// What else is known of it.
    pub args: Vec<(&'static str, Value)>,
}

/// The memory of a moment.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// The moment.
    pub at: Duration,
    /// Its memory.
    pub memory: Memory,
}

impl Track {
    const ALL: [Self; 4] =
        [Self::Trainer, Self::CheckpointWriter, Self::LayersForward, Self::LayersBackward];

    /// The numbers of process and thread.
    fn ids(self) -> (u32, u32) {
        match self {
            Self::Trainer => (TRAINING, 1),
            Self::CheckpointWriter => (TRAINING, 2),
            Self::LayersForward => (LAYERS, 1),
            Self::LayersBackward => (LAYERS, 2),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Trainer => "trainer",
            Self::CheckpointWriter => "checkpoint writer",
            Self::LayersForward => "forward",
            Self::LayersBackward => "backward",
        }
    }
}

/// Groups of tracks, which the format calls processes.
const TRAINING: u32 = 1;
const LAYERS: u32 = 2;
const GROUPS: [(u32, &str); 2] =
    [(TRAINING, "training"), (LAYERS, "layers (a separate pass, one by one)")];

impl Trace {
    /// Adds a span; one that there is no room for is counted.
    pub(super) fn push(&mut self, span: Span) {
        if self.spans.len() < MOST_EVENTS {
            self.spans.push(span);
        } else {
            self.num_omitted += 1;
        }
    }

    /// Adds a look at the memory, if there is room.
    pub(super) fn push_counters(&mut self, counters: Counters) {
        if self.counters.len() < MOST_EVENTS {
            self.counters.push(counters);
        } else {
            self.num_omitted += 1;
        }
    }

    /// Adds the layers, on tracks of their own that begin at 0.
    pub fn set_layers(&mut self, layers: LayerProfile) {
        self.layers = Some(layers);
    }

    /// The spans of the threads, in the order in which they ended.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The layers, where they were measured.
    pub fn layers(&self) -> Option<&LayerProfile> {
        self.layers.as_ref()
    }

    /// How many events there was no room for.
    pub fn num_omitted(&self) -> u64 {
        self.num_omitted
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`FileError`] when the disk fails.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_whole_with(path, |file| {
            serde_json::to_writer(file, &self.to_json()).map_err(|error| {
                let source = error.into();
                FileError::Write { path: path.to_owned(), source }.into()
            })
        })
    }

    /// The trace as JSON.
    pub fn to_json(&self) -> Value {
        let layers = self.layers.as_ref().map(LayerProfile::spans).unwrap_or_default();
        let mut spans: Vec<&Span> = self.spans.iter().chain(&layers).collect();
        // Outer spans first: viewers want the parent of a nested one before it.
        spans.sort_by_key(|span| (span.track.ids(), span.begin, std::cmp::Reverse(span.took)));

        let used = |track: &&Track| spans.iter().any(|span| span.track == **track);
        let tracks: Vec<Track> = Track::ALL.iter().filter(used).copied().collect();
        let groups = GROUPS.iter().filter(|group| tracks.iter().any(|it| it.ids().0 == group.0));
        let groups = groups.map(|&(id, name)| metadata("process_name", (id, 0), name));
        let names = tracks.iter().map(|track| metadata("thread_name", track.ids(), track.name()));
        let events: Vec<Value> = groups
            .chain(names)
            .chain(spans.into_iter().map(complete))
            .chain(self.counters.iter().map(counter))
            .collect();
        json!({
            "traceEvents": events,
            "displayTimeUnit": "ms",
            "otherData": { "program": "mlx-train", "omitted_events": self.num_omitted },
        })
    }
}

/// Microseconds, to the nanosecond.
fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn metadata(kind: &str, (pid, tid): (u32, u32), name: &str) -> Value {
    json!({ "ph": "M", "name": kind, "pid": pid, "tid": tid, "args": { "name": name } })
}

fn complete(span: &Span) -> Value {
    let (pid, tid) = span.track.ids();
    let args: Map<_, _> =
        span.args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!({
        "ph": "X", "name": span.name, "cat": "mlx-train", "pid": pid, "tid": tid,
        "ts": micros(span.begin), "dur": micros(span.took), "args": args,
    })
}

fn counter(counters: &Counters) -> Value {
    let Memory { active_bytes, cache_bytes, resident_bytes, swap_bytes, .. } = counters.memory;
    let known = [
        ("active", Some(active_bytes)),
        ("cached", Some(cache_bytes)),
        ("resident", resident_bytes),
        ("swapped", swap_bytes),
    ];
    let known =
        known.into_iter().filter_map(|(name, bytes)| Some((name.to_owned(), bytes?.into())));
    json!({
        "ph": "C", "name": "memory (bytes)", "pid": TRAINING, "ts": micros(counters.at),
        "args": Value::Object(known.collect()),
    })
}
