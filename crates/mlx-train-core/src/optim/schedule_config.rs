//! Schedules from a config: what the learning rate does after its warm-up.

use super::{OptimError, Schedule, error::check};
use crate::{Result, config::ModelConfig};

/// What the learning rate does after its warm-up.
///
/// ```
/// use mlx_train_core::optim::ScheduleConfig;
/// // To 1e-3 in 10 steps, along a cosine to 1e-4 at step 100.
/// let schedule = ScheduleConfig::Cosine.build(1e-3, 1e-4, 10, 100)?;
/// assert_eq!([schedule.at(5), schedule.at(10), schedule.at(100)], [5e-4, 1e-3, 1e-4]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub enum ScheduleConfig {
    /// It stays.
    Constant,
    /// It falls along half a cosine wave to the final learning rate.
    #[config(default)]
    Cosine,
    /// It falls along a straight line to the final learning rate.
    Linear,
    /// It falls along a polynomial to the final learning rate.
    Polynomial {
        /// The power: 1 is a line, higher ones fall faster at first.
        #[config(default = 2.0, range = 1e-3..)]
        power: f64,
    },
    /// It is multiplied by a factor every so many steps, down to the final learning rate.
    Step {
        /// How many steps pass between two falls.
        #[config(default = 1000, range = 1..)]
        every: u64,
        /// What it is multiplied by.
        #[config(default = 0.5, range = 0.0..=1.0)]
        factor: f64,
    },
    /// It is multiplied by the same factor after each step, down to the final learning rate.
    Exponential {
        /// The factor; null takes the one that reaches the final learning rate at the last step.
        #[config(range = 0.0..=1.0)]
        factor: Option<f64>,
    },
    /// It stays (warm-up, stable, decay), and falls to the final learning rate in the last steps.
    Wsd {
        /// How many steps the fall takes; null is a fifth of all steps.
        #[config(range = 1..)]
        decay_steps: Option<u64>,
        /// How it falls.
        cooldown: Cooldown,
    },
}

/// How a learning rate that was constant falls at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum Cooldown {
    /// Along a straight line.
    Linear,
    /// Along half a cosine wave.
    Cosine,
    /// As one minus the square root of the time, which is fast at first.
    #[default]
    OneMinusSqrt,
}

impl ScheduleConfig {
    /// From 0 to `peak` in `warmup_steps`, then down to `floor` at step `total_steps`.
    ///
    /// A constant rate has no floor. Where the warm-up fills all the steps nothing is left to decay.
    /// Source of the warm-up, stable, decay schedule: Hu et al., arXiv:2404.06395, section 4; of a
    /// fifth as its fall: Hägele et al., arXiv:2405.18392, section 3.
    ///
    /// # Errors
    /// [`OptimError`] unless `0 <= floor <= peak`, both finite, and the steps of the parts fit in
    /// `total_steps`.
    pub fn build(
        &self,
        peak: f64,
        floor: f64,
        warmup_steps: u64,
        total_steps: u64,
    ) -> Result<Schedule> {
        let finite = peak >= 0.0 && peak.is_finite();
        check("the learning rate", peak, "finite and at least 0", finite)?;
        let expected = "between 0 and the learning rate";
        check("the final learning rate", floor, expected, (0.0..=peak).contains(&floor))?;
        let Some(steps) = total_steps.checked_sub(warmup_steps) else {
            return Err(OptimError::Conflict(format!(
                "the warm-up has {warmup_steps} steps and the run {total_steps}; lower \
                 warmup_steps, or raise steps"
            ))
            .into());
        };
        if steps == 0 {
            return Ok(Schedule::Constant(peak).after_warmup(warmup_steps));
        }
        let (from, to) = (peak, floor);
        let at_least_floor = |schedule| Schedule::AtLeast { floor, schedule: Box::new(schedule) };
        let schedule = match *self {
            Self::Constant => Schedule::Constant(peak),
            Self::Cosine => Schedule::Cosine { from, to, steps },
            Self::Linear => Schedule::Linear { from, to, steps },
            Self::Polynomial { power } => {
                let allowed = power > 0.0 && power.is_finite();
                check("power of the schedule", power, "positive and finite", allowed)?;
                Schedule::Polynomial { from, to, steps, power }
            }
            Self::Step { every, factor } => {
                check("every of the schedule", every as f64, "at least 1", every > 0)?;
                let factor = checked_factor(factor)?;
                at_least_floor(Schedule::Step { from, factor, every })
            }
            Self::Exponential { factor: Some(factor) } => {
                at_least_floor(Schedule::Exponential { from, factor: checked_factor(factor)? })
            }
            Self::Exponential { factor: None } if floor > 0.0 => {
                let factor = (floor / peak).powf(1.0 / steps as f64);
                at_least_floor(Schedule::Exponential { from, factor })
            }
            Self::Exponential { factor: None } => {
                return Err(OptimError::Conflict(
                    "the final learning rate is 0, where no factor leads; set \
                     final_learning_rate above 0, or the factor of the exponential schedule"
                        .to_owned(),
                )
                .into());
            }
            Self::Wsd { decay_steps, cooldown } => {
                let decay_steps = decay_steps.unwrap_or((total_steps / 5).clamp(1, steps));
                let Some(stable_steps) = steps.checked_sub(decay_steps) else {
                    return Err(OptimError::Conflict(format!(
                        "decay_steps of the schedule is {decay_steps}, and the warm-up leaves \
                         {steps} steps; lower decay_steps or warmup_steps, or raise steps"
                    ))
                    .into());
                };
                let fall = cooldown.fall(from, to, decay_steps);
                if stable_steps == 0 {
                    fall
                } else {
                    Schedule::Constant(peak).until(stable_steps, fall)
                }
            }
        };
        Ok(schedule.after_warmup(warmup_steps))
    }
}

impl Cooldown {
    fn fall(self, from: f64, to: f64, steps: u64) -> Schedule {
        match self {
            Self::Linear => Schedule::Linear { from, to, steps },
            Self::Cosine => Schedule::Cosine { from, to, steps },
            Self::OneMinusSqrt => Schedule::OneMinusSqrt { from, to, steps },
        }
    }
}

fn checked_factor(factor: f64) -> Result<f64, OptimError> {
    let allowed = (0.0..=1.0).contains(&factor);
    check("factor of the schedule", factor, "between 0 and 1", allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: &ScheduleConfig, steps: u64) -> Result<Vec<f64>> {
        let schedule = config.build(1.0, 0.1, 2, steps)?;
        Ok((0..=steps + 1).map(|step| schedule.at(step)).collect())
    }

    fn assert_rates(config: &ScheduleConfig, steps: u64, expected: &[f64]) -> Result<()> {
        for (step, (rate, expected)) in rates(config, steps)?.iter().zip(expected).enumerate() {
            assert!(
                (rate - expected).abs() < 1e-12,
                "{config:?} at {step}: {rate}, not {expected}"
            );
        }
        Ok(())
    }

    #[test]
    fn every_schedule_is_what_its_formula_says_at_each_step() -> Result<()> {
        use ScheduleConfig::{Constant, Exponential, Linear, Polynomial, Step, Wsd};
        assert_rates(&Constant, 4, &[0.0, 0.5, 1.0, 1.0, 1.0, 1.0])?;
        assert_rates(&Linear, 5, &[0.0, 0.5, 1.0, 0.7, 0.4, 0.1, 0.1])?;
        let parabola = Polynomial { power: 2.0 };
        assert_rates(&parabola, 5, &[0.0, 0.5, 1.0, 0.5, 0.2, 0.1, 0.1])?;
        let stairs = Step { every: 2, factor: 0.3 };
        assert_rates(&stairs, 7, &[0.0, 0.5, 1.0, 1.0, 0.3, 0.3, 0.1, 0.1])?;
        let halving = Exponential { factor: Some(0.5) };
        assert_rates(&halving, 6, &[0.0, 0.5, 1.0, 0.5, 0.25, 0.125, 0.1])?;
        let to_the_floor = Exponential { factor: None };
        let root = 0.1_f64.sqrt();
        assert_rates(&to_the_floor, 4, &[0.0, 0.5, 1.0, root, 0.1, 0.1])?;
        let line = Wsd { decay_steps: Some(3), cooldown: Cooldown::Linear };
        assert_rates(&line, 7, &[0.0, 0.5, 1.0, 1.0, 1.0, 0.7, 0.4, 0.1, 0.1])?;
        let wave = Wsd { decay_steps: Some(2), cooldown: Cooldown::Cosine };
        assert_rates(&wave, 6, &[0.0, 0.5, 1.0, 1.0, 1.0, 0.55, 0.1, 0.1])?;
        let root = Wsd { decay_steps: Some(4), cooldown: Cooldown::OneMinusSqrt };
        let fall = |quarters: f64| 1.0 - 0.9 * (quarters / 4.0).sqrt();
        assert_rates(&root, 6, &[0.0, 0.5, 1.0, fall(1.0), 0.55 - (0.5_f64.sqrt() - 0.5) * 0.9])?;
        assert_rates(&root, 7, &[0.0, 0.5, 1.0, 1.0, fall(1.0), fall(2.0), fall(3.0), 0.1])
    }

    #[test]
    fn a_warm_up_that_fills_every_step_leaves_nothing_to_decay() -> Result<()> {
        for config in [
            ScheduleConfig::Cosine,
            ScheduleConfig::Exponential { factor: None },
            ScheduleConfig::Wsd { decay_steps: None, cooldown: Cooldown::Linear },
        ] {
            let schedule = config.build(1.0, 0.0, 5, 5)?;
            assert_eq!(
                (0..8).map(|s| schedule.at(s)).collect::<Vec<_>>(),
                [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
            );
        }
        Ok(())
    }

    #[test]
    fn a_fifth_of_the_steps_is_the_fall_unless_it_is_said() -> Result<()> {
        let wsd = ScheduleConfig::Wsd { decay_steps: None, cooldown: Cooldown::Linear };
        assert_eq!(wsd.build(1.0, 0.0, 10, 100)?.boundaries(100), [10, 80]);
        // The warm-up leaves less than a fifth.
        assert_eq!(wsd.build(1.0, 0.0, 95, 100)?.boundaries(100), [95]);
        assert_eq!(wsd.build(1.0, 0.0, 0, 1)?.at(0).to_bits(), 1.0_f64.to_bits());
        Ok(())
    }

    #[test]
    fn boundaries_are_where_the_curve_changes() -> Result<()> {
        let cosine = ScheduleConfig::Cosine.build(1.0, 0.0, 10, 50)?;
        assert_eq!(cosine.boundaries(100), [10, 50]);
        assert_eq!(cosine.boundaries(50), [10]);
        let stairs = ScheduleConfig::Step { every: 20, factor: 0.5 }.build(1.0, 0.0, 10, 80)?;
        assert_eq!(stairs.boundaries(80), [10, 30, 50, 70]);
        let many = ScheduleConfig::Step { every: 1, factor: 0.5 }.build(1.0, 0.0, 0, u64::MAX)?;
        assert_eq!(many.boundaries(u64::MAX).len(), 64);
        Ok(())
    }

    #[test]
    fn settings_that_contradict_one_another_are_refused_with_the_fix() {
        let refused = |config: ScheduleConfig, peak, floor, warmup| {
            config.build(peak, floor, warmup, 10).expect_err("refused").to_string()
        };
        let wsd = ScheduleConfig::Wsd { decay_steps: Some(8), cooldown: Cooldown::Linear };
        for (message, expected) in [
            (
                refused(ScheduleConfig::Linear, 1e-3, 1e-2, 0),
                "the final learning rate is 0.01; it has to be between 0 and the learning rate",
            ),
            (
                refused(ScheduleConfig::Linear, f64::NAN, 0.0, 0),
                "the learning rate is NaN; it has to be finite and at least 0",
            ),
            (
                refused(ScheduleConfig::Cosine, 1.0, 0.0, 11),
                "the warm-up has 11 steps and the run 10; lower warmup_steps, or raise steps",
            ),
            (
                refused(wsd, 1.0, 0.0, 3),
                "decay_steps of the schedule is 8, and the warm-up leaves 7 steps; lower decay_steps \
                 or warmup_steps, or raise steps",
            ),
            (
                refused(ScheduleConfig::Exponential { factor: None }, 1.0, 0.0, 3),
                "the final learning rate is 0, where no factor leads; set final_learning_rate above \
                 0, or the factor of the exponential schedule",
            ),
            (
                refused(ScheduleConfig::Step { every: 0, factor: 0.5 }, 1.0, 0.0, 3),
                "every of the schedule is 0; it has to be at least 1",
            ),
            (
                refused(ScheduleConfig::Exponential { factor: Some(1.5) }, 1.0, 0.0, 3),
                "factor of the schedule is 1.5; it has to be between 0 and 1",
            ),
            (
                refused(ScheduleConfig::Polynomial { power: 0.0 }, 1.0, 0.0, 3),
                "power of the schedule is 0; it has to be positive and finite",
            ),
        ] {
            assert_eq!(message, expected);
        }
    }
}
