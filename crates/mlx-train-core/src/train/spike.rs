//! Noticing a loss that jumps.

use crate::config::ModelConfig;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What counts as a spike of the loss: the section `[train.spike]`.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct SpikeConfig {
    /// How many earlier losses a loss is compared with; 0 turns the comparison off.
    #[config(default = 100, range = 0..=10_000)]
    pub window: usize,
    /// How many typical deviations above their median a spike lies.
    #[config(default = 10.0, range = 1.0..)]
    pub factor: f64,
    /// What follows a spike, besides telling it.
    pub action: SpikeAction,
}

/// What follows a spike of the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum SpikeAction {
    /// Nothing: the run goes on.
    #[default]
    Report,
    /// The run goes back to the last checkpoint, and on with the data that comes next.
    /// Source: Chowdhery et al., arXiv:2204.02311, section 5.1.
    Rollback,
}

/// A loss that is far above those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// The step, counted from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// The median of the losses before it.
    pub median: f64,
    /// The loss from which on it is a spike.
    pub threshold: f64,
}

/// Compares each loss with the median of those before it.
///
/// The threshold is `median + factor * 1.4826 * MAD`, where MAD is the median of the absolute
/// deviations from the median. Unlike mean and standard deviation, a spike hardly moves either; 1.4826
/// makes MAD the standard deviation of normal noise.
/// Source: Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", JASA 88 (1993), section 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpikeDetector {
    losses: VecDeque<f64>,
}

impl SpikeDetector {
    /// How many losses a median needs before it says what is typical.
    const MIN_LOSSES: usize = 8;

    /// Takes a finite loss into account, and says whether it is a spike.
    pub(super) fn observe(&mut self, config: &SpikeConfig, step: u64, loss: f64) -> Option<Spike> {
        if config.window == 0 {
            return None;
        }
        let spike = self.compare(config, step, loss);
        if spike.is_some() {
            // Spikes are kept out, or a few of them would become what is typical. A loss that stays high
            // gets in because each empties a tenth of the window.
            self.losses.drain(..self.losses.len().min(config.window.div_ceil(10)));
        } else {
            self.losses.push_back(loss);
            self.losses.drain(..self.losses.len().saturating_sub(config.window));
        }
        spike
    }

    fn compare(&self, config: &SpikeConfig, step: u64, loss: f64) -> Option<Spike> {
        if self.losses.len() < Self::MIN_LOSSES.min(config.window) {
            return None;
        }
        let median = median(self.losses.iter().copied());
        let deviation = median_deviation(self.losses.iter().copied(), median);
        // Losses that are all alike have no deviation, and a rounding error is no spike.
        let deviation = (1.4826 * deviation).max(1e-3 * median.abs()).max(f64::MIN_POSITIVE);
        let threshold = median + config.factor * deviation;
        (loss > threshold).then_some(Spike { step, loss, median, threshold })
    }
}

fn median_deviation(values: impl Iterator<Item = f64>, center: f64) -> f64 {
    median(values.map(|value| (value - center).abs()))
}

/// The upper median of at least one value.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of a falling, noisy loss with `jumps` that are spikes.
    fn spikes(config: &SpikeConfig, jumps: &[(u64, f64)]) -> Vec<u64> {
        let mut detector = SpikeDetector::default();
        let loss = |step: u64| {
            let jump = jumps.iter().find(|(at, _)| *at == step).map_or(0.0, |(_, height)| *height);
            let noise = ((step * 2_654_435_761) % 1000) as f64 / 1000.0;
            4.0 * (-(step as f64) / 200.0).exp() + 0.2 * noise + jump
        };
        (1..=300).filter(|&step| detector.observe(config, step, loss(step)).is_some()).collect()
    }

    #[test]
    fn a_falling_noisy_loss_has_no_spike() {
        assert_eq!(spikes(&SpikeConfig::default(), &[]), [0_u64; 0]);
    }

    #[test]
    fn every_jump_is_a_spike_at_its_own_step() {
        let jumps = [(150, 10.0), (151, 10.0), (250, 10.0)];
        assert_eq!(spikes(&SpikeConfig::default(), &jumps), [150, 151, 250]);
    }

    #[test]
    fn a_window_of_zero_sees_nothing() {
        let off = SpikeConfig { window: 0, ..Default::default() };
        assert_eq!(spikes(&off, &[(150, 1e6)]), [0_u64; 0]);
    }

    #[test]
    fn a_loss_that_stays_high_becomes_typical() {
        let config = SpikeConfig { window: 20, ..Default::default() };
        let mut detector = SpikeDetector::default();
        let mut seen = (1..200).filter(|&step| {
            let loss = if step < 100 { 1.0 } else { 9.0 };
            detector.observe(&config, step, loss).is_some()
        });
        assert_eq!(seen.next(), Some(100));
        assert!(seen.last().is_some_and(|last| last < 120));
    }

    #[test]
    fn constant_losses_with_rounding_errors_have_no_spike() {
        let (config, mut detector) = (SpikeConfig::default(), SpikeDetector::default());
        let loss = |step: u64| 0.7 + 1e-7 * (step % 3) as f64;
        assert!((1..100).all(|step| detector.observe(&config, step, loss(step)).is_none()));
    }
}
