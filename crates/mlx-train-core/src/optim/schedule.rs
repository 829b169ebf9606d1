//! Learning rates over time: pure functions from a step to a number.

use std::f64::consts::PI;

/// A learning rate for every step.
///
/// Step 0 gives the rate of the first update. The numbers at and around every boundary are those
/// of Python MLX's `optimizers.schedulers`: [`Schedule::Linear`] is `linear_schedule`,
/// [`Schedule::Cosine`] `cosine_decay`, [`Schedule::Step`] `step_decay`, [`Schedule::Exponential`]
/// `exponential_decay`, and [`Schedule::Join`] `join_schedules`.
///
/// ```
/// use mlx_train_core::optim::Schedule;
/// let schedule = Schedule::Cosine { from: 1e-3, to: 1e-4, steps: 90 }.after_warmup(10);
/// assert_eq!(schedule.at(0), 0.0);
/// assert_eq!(schedule.at(10), 1e-3);
/// assert!((schedule.at(100) - 1e-4).abs() < 1e-12);
/// ```
///
/// [`ScheduleConfig`](super::ScheduleConfig) builds the usual ones from a peak, a floor, a warm-up
/// and a number of steps, and refuses numbers that make no sense together.
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
    /// `to + (from - to) (1 - step / steps)^power`, then constant: 1 is a line, 2 a parabola.
    Polynomial {
        /// The rate at step 0.
        from: f64,
        /// The rate at step `steps` and after.
        to: f64,
        /// The step at which the curve ends.
        steps: u64,
        /// The power, positive.
        power: f64,
    },
    /// `from + (to - from) sqrt(step / steps)`, then constant: fast at first.
    /// Source: Hägele et al., arXiv:2405.18392, section 3.
    OneMinusSqrt {
        /// The rate at step 0.
        from: f64,
        /// The rate at step `steps` and after.
        to: f64,
        /// The step at which the curve ends.
        steps: u64,
    },
    /// `from * factor^(step / every)`, with a whole-numbered division: a staircase.
    Step {
        /// The rate at step 0.
        from: f64,
        /// What each stair multiplies the rate by.
        factor: f64,
        /// How many steps a stair has; 0 is one stair without an end.
        every: u64,
    },
    /// `from * factor^step`.
    Exponential {
        /// The rate at step 0.
        from: f64,
        /// What each step multiplies the rate by.
        factor: f64,
    },
    /// Another schedule, but never below a rate.
    AtLeast {
        /// The lowest rate.
        floor: f64,
        /// The schedule where it is higher.
        schedule: Box<Schedule>,
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

/// Of a staircase, only so many stairs count as boundaries.
const MAX_STAIRS: u64 = 64;

impl Schedule {
    /// This schedule after `steps` steps that rise in a line from 0 to its first rate.
    #[must_use]
    pub fn after_warmup(self, steps: u64) -> Self {
        if steps == 0 {
            return self;
        }
        Self::Linear { from: 0.0, to: self.at(0), steps }.until(steps, self)
    }

    /// This schedule for `steps` steps, then another that counts its steps from there.
    #[must_use]
    pub fn until(self, steps: u64, then: Self) -> Self {
        Self::Join { first: Box::new(self), boundary: steps, then: Box::new(then) }
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
            Self::Polynomial { from, to, steps, power } => {
                to + (from - to) * (1.0 - fraction(step, steps)).powf(power)
            }
            Self::OneMinusSqrt { from, to, steps } => {
                from + (to - from) * fraction(step, steps).sqrt()
            }
            Self::Step { from, factor, every } => {
                from * factor.powf(step.checked_div(every).unwrap_or(0) as f64)
            }
            Self::Exponential { from, factor } => from * factor.powf(step as f64),
            Self::AtLeast { floor, ref schedule } => schedule.at(step).max(floor),
            Self::Join { ref first, boundary, ref then } => match step.checked_sub(boundary) {
                None => first.at(step),
                Some(step) => then.at(step),
            },
        }
    }

    /// The steps below `steps` at which one curve ends and another begins, rising; of a staircase
    /// the first 64.
    pub fn boundaries(&self, steps: u64) -> Vec<u64> {
        let mut boundaries = match self {
            Self::Constant(_) | Self::Exponential { .. } => vec![],
            Self::Linear { steps: end, .. }
            | Self::Cosine { steps: end, .. }
            | Self::Polynomial { steps: end, .. }
            | Self::OneMinusSqrt { steps: end, .. } => vec![*end],
            Self::Step { every, .. } => {
                (1..=MAX_STAIRS).filter_map(|stair| stair.checked_mul(*every)).collect()
            }
            Self::AtLeast { schedule, .. } => schedule.boundaries(steps),
            Self::Join { first, boundary, then } => {
                let mut all = first.boundaries((*boundary).min(steps));
                all.push(*boundary);
                let after = then.boundaries(steps.saturating_sub(*boundary));
                all.extend(after.into_iter().map(|step| step + boundary));
                all
            }
        };
        boundaries.retain(|&step| 0 < step && step < steps);
        boundaries.dedup();
        boundaries
    }
}

/// How much of `steps` is over; a schedule of no steps is over from the start.
fn fraction(step: u64, steps: u64) -> f64 {
    if step >= steps { 1.0 } else { step as f64 / steps as f64 }
}
