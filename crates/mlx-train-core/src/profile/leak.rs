//! Memory that grows and grows.

use crate::bytes::Bytes;
use std::fmt;

/// Memory of a run that grew through all of the time in which it was watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuspectedLeak {
    /// What grew.
    pub what: Growing,
    /// The step at which it is told.
    pub step: u64,
    /// The step that it is compared with.
    pub since_step: u64,
    /// By how much it grew since then.
    pub growth: Bytes,
    /// Bytes a step.
    pub bytes_per_step: f64,
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growing {
    /// MLX arrays that are in use.
    Arrays,
    /// What the process has in RAM, without files: [`Memory::anonymous_bytes`]. On a CPU and in unified memory
    /// it has the arrays, too.
    ///
    /// [`Memory::anonymous_bytes`]: super::Memory::anonymous_bytes
    Process,
}

impl fmt::Display for SuspectedLeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, since_step, growth, bytes_per_step, .. } = self;
        let (what, cause) = match what {
            Growing::Arrays => ("MLX arrays", "something keeps arrays of earlier steps"),
            Growing::Process => {
                ("the process", "something outside of MLX keeps what earlier steps made")
            }
        };
        let rate = Bytes(*bytes_per_step as u64);
        write!(f, "{what} hold {growth} more than at step {since_step}, {rate} a step: {cause}")
    }
}

/// Watches the memory of a run, and tells growth that goes on.
///
/// Samples after a warm-up are halved in number whenever they are many, so that they always reach back to
/// its end. They are cut into windows, each with its median and the slope of Theil and Sen, the median over all
/// pairs, which one evaluation or save does not move. A leak grows in every window, and from the first to the
/// last, at about the same rate; a larger batch, a new trace or a cache that fills does not.
/// Source of the slope: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", JASA 63 (1968).
#[derive(Debug, Default)]
pub struct LeakDetector {
    arrays: Series,
    process: Series,
}

impl LeakDetector {
    /// Takes into account how many bytes `what` has after a step; returns what has to be told, a leak once and
    /// again whenever it has doubled.
    pub fn observe(&mut self, what: Growing, step: u64, bytes: u64) -> Option<SuspectedLeak> {
        let (series, least) = match what {
            Growing::Arrays => (&mut self.arrays, LEAST_ARRAY_GROWTH),
            Growing::Process => (&mut self.process, LEAST_PROCESS_GROWTH),
        };
        series.push(step, bytes).then(|| series.leak(what, step, least)).flatten()
    }
}

/// Samples that are left out: the first steps make what stays.
const WARM_UP: u64 = 8;
/// How many windows there are.
const WINDOWS: usize = 4;
/// How many points say something: sixteen a window.
const FEWEST_POINTS: usize = WINDOWS * 16;
/// Less growth than this is no leak that matters, in bytes.
const LEAST_ARRAY_GROWTH: u64 = 8 << 20;
/// The heap of a process breathes more than MLX's arrays do.
const LEAST_PROCESS_GROWTH: u64 = 128 << 20;
/// Nor is less than this share of what there was.
const LEAST_SHARE: f64 = 0.02;
/// Of the slopes of the windows and of the whole, the least has this share of the most.
const STEADINESS: f64 = 0.5;

/// One number over the steps.
#[derive(Debug, Default)]
struct Series {
    /// Steps and bytes.
    points: Vec<(u64, u64)>,
    num_seen: u64,
    /// Every how many samples one becomes a point: a power of two.
    stride: u64,
    /// The growth that was told last.
    told: u64,
}

impl Series {
    /// Adds a sample; true when it is time to look at them.
    fn push(&mut self, step: u64, bytes: u64) -> bool {
        self.num_seen += 1;
        self.stride = self.stride.max(1);
        if self.num_seen <= WARM_UP || !self.num_seen.is_multiple_of(self.stride) {
            return false;
        }
        if self.points.len() >= 2 * FEWEST_POINTS {
            let mut stays = false;
            self.points.retain(|_| {
                stays = !stays;
                stays
            });
            self.stride *= 2;
        }
        self.points.push((step, bytes));
        self.points.len() >= FEWEST_POINTS && self.points.len().is_multiple_of(WINDOWS)
    }

    fn leak(&mut self, what: Growing, step: u64, least: u64) -> Option<SuspectedLeak> {
        let windows: Vec<_> = self.points.chunks_exact(self.points.len() / WINDOWS).collect();
        let (oldest, newest) = (middle(windows.first()?), middle(windows.last()?));
        let growth = newest.1 - oldest.1;
        let bytes_per_step = growth / (newest.0 - oldest.0);
        // Within a window, a saw rises as steadily as a leak does; from one to another it does not.
        let rates = windows.iter().map(|window| slope(window)).chain([bytes_per_step]);
        let (least_rate, most) =
            rates.fold((f64::INFINITY, 0.0), |(a, b), rate| (rate.min(a), rate.max(b)));
        let is_steady = least_rate > 0.0 && least_rate >= STEADINESS * most;
        let is_much = growth >= least as f64 && growth >= LEAST_SHARE * oldest.1;
        let is_news = growth >= 2.0 * self.told as f64;
        if !(is_steady && is_much && is_news) {
            return None;
        }
        self.told = growth as u64;
        let since_step = oldest.0 as u64;
        Some(SuspectedLeak { what, step, since_step, growth: Bytes(self.told), bytes_per_step })
    }
}

/// The middle step of a window and its median of bytes.
fn middle(points: &[(u64, u64)]) -> (f64, f64) {
    let median_of =
        |of: fn(&(u64, u64)) -> u64| median(points.iter().map(|it| of(it) as f64).collect());
    (median_of(|point| point.0), median_of(|point| point.1))
}

/// The median of the slopes between all pairs of points, in bytes a step.
fn slope(points: &[(u64, u64)]) -> f64 {
    let pairs = points.iter().enumerate().flat_map(|(index, earlier)| {
        points[index + 1..].iter().filter_map(move |later| {
            let steps = later.0.checked_sub(earlier.0).filter(|steps| *steps > 0)?;
            Some((later.1 as f64 - earlier.1 as f64) / steps as f64)
        })
    });
    median(pairs.collect())
}

/// The lower median; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// What is told of arrays that hold `bytes(step)`.
    fn told(steps: u64, bytes: impl Fn(u64) -> u64) -> Vec<SuspectedLeak> {
        let mut detector = LeakDetector::default();
        let observe = |step| detector.observe(Growing::Arrays, step, bytes(step));
        (1..=steps).filter_map(observe).collect()
    }

    /// Noise between 0 and 1 that is the same every time.
    fn noise(step: u64) -> f64 {
        ((step.wrapping_mul(2_654_435_761)) % 1009) as f64 / 1009.0
    }

    #[test]
    fn a_leak_is_told_with_its_rate_and_again_when_it_has_doubled() {
        let leaks = told(2000, |step| 100 * MIB + step * MIB / 2 + (noise(step) * 1e6) as u64);
        let first = leaks.first().expect("it leaks");
        assert!(first.step < 100, "{first:?}");
        for leak in &leaks {
            let error = leak.bytes_per_step / (MIB as f64 / 2.0);
            assert!((0.8..1.2).contains(&error), "{leak:?}");
        }
        assert!((4..8).contains(&leaks.len()), "{leaks:?}");
        assert!(leaks.windows(2).all(|pair| pair[1].growth.0 >= 2 * pair[0].growth.0));
        let text = first.to_string();
        assert!(text.contains("MLX arrays") && text.contains("KiB a step"), "{text}");
    }

    #[test]
    fn a_slow_leak_is_told_in_the_end() {
        let leaks = told(20_000, |step| 50 * MIB + step * 2048 + (noise(step) * 1e5) as u64);
        assert!(leaks.first().is_some_and(|leak| leak.step > 3000), "{leaks:?}");
    }

    /// Memory over the steps.
    type Pattern = fn(u64) -> f64;

    #[test]
    fn memory_that_stays_jumps_fills_or_breathes_is_no_leak() {
        let gib = 1024.0 * MIB as f64;
        let patterns: [(&str, Pattern); 5] = [
            ("stays", |_| 1.0),
            ("is noisy", |step| 1.0 + noise(step)),
            ("jumps once", |step| if step < 300 { 1.0 } else { 3.0 }),
            ("fills", |step| 1.0 - (-(step as f64) / 60.0).exp()),
            ("is a saw", |step| 1.0 + (step % 50) as f64 / 50.0),
        ];
        for (name, pattern) in patterns {
            let leaks = told(1500, |step| (gib * pattern(step)) as u64);
            assert_eq!(leaks, [], "memory that {name}");
        }
    }

    #[test]
    fn a_process_may_grow_more_than_arrays_before_it_is_told() {
        let mut detector = LeakDetector::default();
        let mut observe = |step| detector.observe(Growing::Process, step, 100 * MIB + step * MIB);
        let told: Vec<_> = (1..200).filter_map(&mut observe).collect();
        assert!(told.first().is_some_and(|leak| leak.growth.0 >= 128 * MIB), "{told:?}");
    }

    proptest! {
        #[test]
        fn samples_are_bounded_and_reach_back_to_the_warm_up(steps in 1_u64..5000) {
            let mut series = Series::default();
            for step in 1..=steps {
                series.push(step, step);
                prop_assert!(series.points.len() <= 2 * FEWEST_POINTS);
            }
            let first = series.points.first().map(|point| point.0);
            prop_assert!(first.is_none_or(|first| first == WARM_UP + 1), "{:?}", first);
        }
    }
}
