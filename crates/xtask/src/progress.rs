//! Lines with the time since the start, readable in a terminal and in a log alike.

use std::time::Instant;

/// Prints what a long command is doing.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Announces the next step.
    pub fn step(&self, what: impl std::fmt::Display) {
        println!("[{:6.1} s] {what}", self.start.elapsed().as_secs_f64());
    }
}
