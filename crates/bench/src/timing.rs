//! Durations of many steps, and what they have in common.

use mlx_train::Result;
use serde::Serialize;
use std::time::Instant;

/// How many steps come before those that are measured: they load kernels and fill caches.
pub const NUM_WARMUPS: u32 = 5;

/// What `f` returns, and the seconds that it took.
pub fn timed<T>(f: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let result = f();
    (result, began.elapsed().as_secs_f64())
}

/// What steps take that are repeated.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// Seconds of the very first one.
    pub first_seconds: f64,
    /// Seconds of those after the warm-up.
    pub seconds: Quantiles,
}

/// Takes the steps that warm up, and `count` that are measured.
///
/// # Errors
/// What a step returns.
pub fn steps(count: u32, mut step: impl FnMut() -> Result<()>) -> Result<Steps> {
    let mut seconds = Vec::new();
    for _ in 0..NUM_WARMUPS + count {
        let (taken, time) = timed(&mut step);
        taken?;
        seconds.push(time);
    }
    let first_seconds = seconds.first().copied().unwrap_or(f64::NAN);
    let seconds = Quantiles::of(seconds.split_off(NUM_WARMUPS as usize));
    Ok(Steps { first_seconds, seconds })
}

/// How values are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// The smallest.
    pub min: f64,
    /// A tenth of them is smaller.
    pub p10: f64,
    /// Half of them is smaller.
    pub median: f64,
    /// Nine tenths of them are smaller.
    pub p90: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// The quantiles of at least one value; between two values they are on the line.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |fraction: f64| {
            let position = fraction * last as f64;
            let value = |index: f64| values.get(index as usize).copied().unwrap_or(f64::NAN);
            let (below, above) = (value(position.floor()), value(position.ceil()));
            below + (above - below) * position.fract()
        };
        Self { min: at(0.0), p10: at(0.1), median: at(0.5), p90: at(0.9), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values_around_them() {
        let numbers = |values: &[f64]| {
            let Quantiles { min, p10, median, p90, max } = Quantiles::of(values.to_vec());
            [min, p10, median, p90, max].map(|value| format!("{value:.3}"))
        };
        assert_eq!(numbers(&[4.0, 1.0, 3.0, 2.0]), ["1.000", "1.300", "2.500", "3.700", "4.000"]);
        assert_eq!(numbers(&[7.0]), ["7.000"; 5]);
    }
}
