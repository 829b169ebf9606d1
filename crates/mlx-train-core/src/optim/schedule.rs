//! Learning rates over time: pure functions from a step to a number.

use super::OptimError;
use crate::{Result, config::ModelConfig};
use std::f64::consts::PI;

/// A learning rate for every step.
///
/// Step 0 gives the rate of the first update. The numbers at and around every boundary are those
/// of Python MLX's `optimizers.schedulers`: [`Schedule::Linear`] is `linear_schedule`,
/// [`Schedule::Cosine`] is `cosine_decay`, [`Schedule::Join`] is `join_schedules`.
///
/// ```
/// use mlx_train_core::optim::{Decay, Schedule};
/// let schedule = Schedule::new(Decay::Cosine, 1e-3, 1e-4, 10, 100)?;
/// assert_eq!(schedule.at(0), 0.0);
/// assert_eq!(schedule.at(10), 1e-3);
/// assert!((schedule.at(100) - 1e-4).abs() < 1e-12);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// The same rate at every step.
    Constant(f64),
    /// A straight line, then constant.
    Linear {
        /// The rate at step 0.
        from: f64,
        /// The rate at step `steps` and after.
        to: f64,
        /// The step at which the line ends.
        steps: u64,
    },
    /// Half a cosine wave, then constant. Source: Loshchilov and Hutter, arXiv:1608.03983.
    Cosine {
        /// The rate at step 0.
        from: f64,
        /// The rate at step `steps` and after.
        to: f64,
        /// The step at which the wave ends.
        steps: u64,
    },
    /// One schedule, then another that counts its steps from where the first ended.
    Join {
        /// The schedule of steps `0..boundary`.
        first: Box<Schedule>,
        /// The first step of the second schedule.
        boundary: u64,
        /// The schedule of step `boundary` and after.
        then: Box<Schedule>,
    },
}

/// What the learning rate does after its warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls along half a cosine wave.
    #[default]
    Cosine,
    /// It falls along a straight line.
    Linear,
}

impl Schedule {
    /// From 0 to `peak` in `warmup_steps`, then down to `floor` at step `total_steps`.
    ///
    /// A constant rate has no floor. Where the warm-up fills all the steps nothing is left to decay.
    ///
    /// # Errors
    /// [`OptimError`] unless `0 <= floor <= peak`, both finite.
    pub fn new(
        decay: Decay,
        peak: f64,
        floor: f64,
        warmup_steps: u64,
        total_steps: u64,
    ) -> Result<Self> {
        if !(peak >= 0.0 && peak.is_finite()) {
            let expected = "finite and at least 0";
            return Err(OptimError { setting: "the learning rate", value: peak, expected }.into());
        }
        if !(0.0..=peak).contains(&floor) {
            let expected = "between 0 and the learning rate";
            let setting = "the final learning rate";
            return Err(OptimError { setting, value: floor, expected }.into());
        }
        let steps = total_steps.saturating_sub(warmup_steps);
        let (from, to) = (peak, floor);
        Ok(match decay {
            Decay::Cosine if steps > 0 => Self::Cosine { from, to, steps },
            Decay::Linear if steps > 0 => Self::Linear { from, to, steps },
            _ => Self::Constant(peak),
        }
        .after_warmup(warmup_steps))
    }

    /// This schedule after `steps` steps that rise in a line from 0 to its first rate.
    #[must_use]
    pub fn after_warmup(self, steps: u64) -> Self {
        if steps == 0 {
            return self;
        }
        let first = Box::new(Self::Linear { from: 0.0, to: self.at(0), steps });
        Self::Join { first, boundary: steps, then: Box::new(self) }
    }

    /// The rate of the update that follows `step` earlier ones.
    pub fn at(&self, step: u64) -> f64 {
        match *self {
            Self::Constant(rate) => rate,
            Self::Linear { from, to, steps } => from + (to - from) * fraction(step, steps),
            Self::Cosine { from, to, steps } => {
                let decay = 0.5 * (1.0 + (PI * fraction(step, steps)).cos());
                to + decay * (from - to)
            }
            Self::Join { ref first, boundary, ref then } => match step.checked_sub(boundary) {
                None => first.at(step),
                Some(step) => then.at(step),
            },
        }
    }
}

/// How much of `steps` is over; a schedule of no steps is over from the start.
fn fraction(step: u64, steps: u64) -> f64 {
    if step >= steps { 1.0 } else { step as f64 / steps as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_that_fills_every_step_leaves_nothing_to_decay() -> Result<()> {
        let schedule = Schedule::new(Decay::Cosine, 1.0, 0.1, 5, 5)?;
        assert_eq!(
            (0..8).map(|s| schedule.at(s)).collect::<Vec<_>>(),
            [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
        );
        Ok(())
    }

    #[test]
    fn a_floor_above_the_peak_is_refused() {
        let refused = Schedule::new(Decay::Linear, 1e-3, 1e-2, 0, 10).expect_err("refused");
        let message =
            "the final learning rate is 0.01; it has to be between 0 and the learning rate";
        assert_eq!(refused.to_string(), message);
    }
}
