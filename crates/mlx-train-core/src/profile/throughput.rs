//! How much is done in a second.

use std::time::Duration;

/// Counts what was done and how long it took, and gives the rate since it was last asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Throughput {
    count: f64,
    time: Duration,
}

impl Throughput {
    /// Adds what was done in `time`, in any unit, such as tokens.
    pub fn add(&mut self, count: f64, time: Duration) {
        self.count += count;
        self.time += time;
    }

    /// The rate in units per second since the last call, or 0 when nothing was added.
    pub fn take_per_second(&mut self) -> f64 {
        let Self { count, time } = std::mem::take(self);
        if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_last_call() {
        let mut throughput = Throughput::default();
        throughput.add(3.0, Duration::from_secs(1));
        throughput.add(1.0, Duration::from_secs(3));
        assert!((throughput.take_per_second() - 1.0).abs() < 1e-12);
        assert!(throughput.take_per_second().abs() < 1e-12);
    }
}
