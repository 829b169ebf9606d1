//! Recording some steps of a run, for a trace.

use super::Event;
use crate::{
    Result,
    batch::Batch,
    ffi::MetalCapture,
    profile::{Detail, LayerProfile, Recording, Track},
    store::SaveTiming,
};
use std::{collections::VecDeque, path::PathBuf, time::Instant};

/// Which steps of a run are recorded, and into which files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileOptions {
    /// How many steps, after a few that warm up.
    pub steps: u64,
    /// The trace: a JSON file in Chrome's format, which <https://ui.perfetto.dev> opens.
    pub trace: PathBuf,
    /// A capture of Metal's GPU of the first of these steps, which Xcode opens; see [`MetalCapture`].
    pub metal_capture: Option<PathBuf>,
}

/// Steps before the first that is recorded: they trace, compile kernels and fill caches.
const WARM_UP: u64 = 5;
/// As many of them are computed as the recorded ones are, so that these trace nothing anew.
const SPLIT_WARM_UP: u64 = 2;

/// The recording of a run.
#[derive(Debug)]
pub(super) struct Profiling {
    options: ProfileOptions,
    recording: Recording,
    /// Steps of this process so far.
    taken: u64,
    warm_up: u64,
    capture: Option<MetalCapture>,
    /// A micro-batch of the last step that is recorded.
    batch: Option<Batch>,
    layers: Option<LayerProfile>,
    is_told: bool,
    /// When the saves that have not ended yet began to be written.
    saves: VecDeque<Instant>,
}

impl Profiling {
    /// Prepares to record steps of a run that has `steps_left`.
    pub(super) fn new(options: ProfileOptions, steps_left: u64) -> Self {
        let warm_up = WARM_UP.min(steps_left.saturating_sub(options.steps));
        Self {
            options,
            recording: Recording::start(Detail::Rare),
            taken: 0,
            warm_up,
            capture: None,
            batch: None,
            layers: None,
            is_told: false,
            saves: VecDeque::new(),
        }
    }

    /// Prepares for a step of this number.
    ///
    /// # Errors
    /// When Metal does not capture.
    pub(super) fn before_step(&mut self, step: u64) -> Result<()> {
        let detail = match self.taken {
            taken if taken >= self.warm_up && !self.is_over() => Detail::All,
            taken if taken + SPLIT_WARM_UP >= self.warm_up && !self.is_over() => Detail::Split,
            _ => Detail::Rare,
        };
        self.recording.set(detail, step);
        if let Some(path) =
            self.options.metal_capture.clone().filter(|_| self.taken == self.warm_up)
        {
            self.capture = Some(MetalCapture::start(path)?);
        }
        Ok(())
    }

    /// Looks at a micro-batch of the step.
    pub(super) fn see(&mut self, batch: &Batch) {
        if self.taken + 1 == self.last() {
            self.batch = Some(batch.clone());
        }
    }

    /// Ends a step; true when it was the last that is recorded.
    ///
    /// # Errors
    /// When Metal does not end its capture.
    pub(super) fn after_step(&mut self) -> Result<bool> {
        self.taken += 1;
        if let Some(capture) = self.capture.take() {
            capture.stop()?;
        }
        Ok(self.taken == self.last())
    }

    /// The step after which all is recorded, counted from 1.
    fn last(&self) -> u64 {
        self.warm_up + self.options.steps
    }

    fn is_over(&self) -> bool {
        self.taken >= self.last()
    }

    /// A micro-batch to measure the layers with, once.
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        self.batch.take()
    }

    /// Adds what the layers cost.
    pub(super) fn set_layers(&mut self, layers: LayerProfile) {
        self.layers = Some(layers);
    }

    /// Notes that a checkpoint is written in the background from now on.
    pub(super) fn saving(&mut self) {
        self.saves.push_back(Instant::now());
    }

    /// Adds a checkpoint that was written in the background; they are written one after the other.
    pub(super) fn saved(&mut self, timing: &SaveTiming) {
        if let Some(began) = self.saves.pop_front() {
            self.recording.add(Track::CheckpointWriter, "write checkpoint", began, timing.written);
        }
    }

    /// Writes what was recorded so far, whole or not at all, and tells it the first time.
    pub(super) fn write(&mut self, step: u64, on_event: &mut dyn FnMut(&Event<'_>)) {
        let mut trace = self.recording.trace();
        if let Some(layers) = self.layers.clone() {
            trace.set_layers(layers);
        }
        let path = &self.options.trace;
        match trace.write(path) {
            Ok(()) if self.is_told => {}
            Ok(()) => {
                on_event(&Event::Profiled { step, trace: path, layers: self.layers.as_ref() });
                self.is_told = true;
            }
            Err(error) => on_event(&Event::Warning(&format!("there is no trace: {error}"))),
        }
    }
}
