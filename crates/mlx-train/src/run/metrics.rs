//! The numbers of a run, read back from its `metrics.jsonl`.

use super::lines::{self, Line};
use crate::Result;
use std::{collections::BTreeMap, path::Path};

/// Every metric of a run over its steps, by name.
///
/// Each line of the file is an object with `step` and the numbers that were measured there. A
/// number that was not finite is `null` there, and not a point here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    series: BTreeMap<String, Vec<(u64, f64)>>,
    num_damaged: usize,
}

impl Metrics {
    /// Reads a file, also one that a run is still writing; one that does not exist has no metrics.
    ///
    /// # Errors
    /// [`crate::file::FileError`] when the system does not let it be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let mut metrics = Self::default();
        let num_damaged = lines::read(path.as_ref(), |line| metrics.add(&line))?;
        Ok(Self { num_damaged, ..metrics })
    }

    fn add(&mut self, line: &Line) {
        let Some(step) = line.get("step").and_then(serde_json::Value::as_u64) else {
            self.num_damaged += 1;
            return;
        };
        let names = line.iter().filter(|(name, _)| *name != "step");
        for (name, value) in names.filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            self.series.entry(name.clone()).or_default().push((step, value));
        }
    }

    /// The points of one metric, by step; none if the run has no such metric.
    pub fn series(&self, name: &str) -> &[(u64, f64)] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a metric where it was measured last.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.series(name).last().map(|point| point.1)
    }

    /// The names of all metrics, in the order of the alphabet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(String::as_str)
    }

    /// The last step that has a number.
    pub fn last_step(&self) -> Option<u64> {
        self.series.values().filter_map(|points| points.last()).map(|point| point.0).max()
    }

    /// How many lines are damaged, and left out.
    pub fn num_damaged(&self) -> usize {
        self.num_damaged
    }
}
