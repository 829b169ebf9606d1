//! Which checkpoints stay.

use super::{BestMode, CheckpointConfig, Entry, Metric};

/// How many checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How many of those that were saved last; 0 keeps all.
    pub last: usize,
    /// How many of the best.
    pub best: usize,
}

impl From<&CheckpointConfig> for Keep {
    fn from(config: &CheckpointConfig) -> Self {
        Self { last: config.keep_last, best: config.keep_best }
    }
}

impl Keep {
    /// Those that need not stay. The latest and the best do, and so does what cannot be judged.
    pub(super) fn surplus(self, mut entries: Vec<Entry>, latest: Option<u64>) -> Vec<Entry> {
        if self.last == 0 {
            return Vec::new();
        }
        let best = by_metric(entries.clone()).into_iter().take(self.best.max(1));
        let best: Vec<u64> = best.map(|entry| entry.step).collect();
        entries.retain(|entry| entry.manifest.is_ok());
        entries.sort_by_key(Entry::serial);
        entries.truncate(entries.len().saturating_sub(self.last));
        entries.retain(|entry| Some(entry.step) != latest && !best.contains(&entry.step));
        entries
    }
}

/// The entries with the metric that the last of them has, the best first, the older of two equals first.
pub(super) fn by_metric(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(Entry::serial);
    let Some(measured) = entries.iter().rev().find_map(metric).cloned() else { return Vec::new() };
    entries.retain(|entry| {
        metric(entry).is_some_and(|it| it.name == measured.name && it.mode == measured.mode)
    });
    let value = |entry: &Entry| metric(entry).map_or(0.0, |metric| metric.value);
    entries.sort_by(|a, b| match measured.mode {
        BestMode::Min => value(a).total_cmp(&value(b)),
        BestMode::Max => value(b).total_cmp(&value(a)),
    });
    entries
}

fn metric(entry: &Entry) -> Option<&Metric> {
    entry.manifest.as_ref().ok()?.metric.as_ref()
}
