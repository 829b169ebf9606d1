//! The results of a run as a table.

use crate::{profile::Bytes, progress::grouped, train::History};
use std::{fmt, time::Duration};

/// Labels and values, one a line, the values below one another.
///
/// ```
/// # use mlx_train::summary::Summary;
/// let table = Summary::new("Results").row("steps", 200).row("accuracy", "97.5 %");
/// assert_eq!(table.to_string(), "Results\n  steps     200\n  accuracy  97.5 %\n");
/// ```
#[derive(Debug, Clone)]
pub struct Summary {
    title: String,
    rows: Vec<(String, String)>,
}

impl Summary {
    /// A table without rows.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new() }
    }

    /// Adds a row.
    #[must_use]
    pub fn row(mut self, label: impl Into<String>, value: impl fmt::Display) -> Self {
        self.rows.push((label.into(), value.to_string()));
        self
    }

    /// Adds what a training run measured: losses, metrics, time and the peak of MLX's memory.
    #[must_use]
    pub fn history(mut self, history: &History, elapsed: Duration, peak_bytes: u64) -> Self {
        if let Some(last) = history.training.last() {
            self = self
                .row("steps", grouped(last.step))
                .row("training loss", format!("{:.4}", last.loss));
        }
        if let Some(evaluation) = history.last_held_out() {
            self = self.row("held-out loss", format!("{:.4}", evaluation.loss));
            for (name, value) in &evaluation.metrics {
                self = self.row(format!("held-out {name}"), format!("{value:.4}"));
            }
        }
        self.row("time", format!("{:.1} s", elapsed.as_secs_f64()))
            .row("peak memory", Bytes(peak_bytes))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let width = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        self.rows.iter().try_for_each(|(label, value)| writeln!(f, "  {label:width$}  {value}"))
    }
}
