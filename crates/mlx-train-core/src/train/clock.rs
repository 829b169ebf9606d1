//! Where the time of steps goes, also of those that overlap.

use super::feed::Feed;
use std::time::{Duration, Instant};

/// Divides the time of a run among its steps: each has what passes between the end of the one before and its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    since: Instant,
    /// How long the run had waited for data then.
    waited: Duration,
}

impl Clock {
    /// Begins with a step that no other is before.
    pub(super) fn start(feed: &Feed) -> Self {
        Self { since: Instant::now(), waited: feed.waited() }
    }

    /// Ends a step: how long the run waited for data, and how long the rest took. Of what a step that runs ahead waits,
    /// no more counts than the time that passed.
    pub(super) fn lap(&mut self, feed: &Feed) -> (Duration, Duration) {
        let before = *self;
        *self = Self::start(feed);
        let took = self.since.duration_since(before.since);
        let waited = self.waited.saturating_sub(before.waited).min(took);
        (waited, took.saturating_sub(waited))
    }
}
