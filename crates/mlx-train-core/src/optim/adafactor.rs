//! Adafactor: second moments of a matrix from its rows and columns alone.

use super::{
    Coefficients, Optimizer, Parameter, WeightDecay,
    arithmetic::{moving_average, scalar, shares, sum_of_squares, working_dtype, zero_state},
    error::{check, check_kept, check_positive},
    state::foreign,
};
use crate::Result;
use mlx_rs::{
    Array, Dtype,
    ops::{maximum, minimum},
};

/// Adafactor: Adam with a second moment that takes memory for the rows and columns of a matrix, not
/// for its elements.
///
/// With gradient `g` at step `t` (from 1), learning rate `a` and `rms(x) = sqrt(mean(x²))`:
///
/// ```text
/// b = 1 - t^decay_rate           s = g² + epsilon1
/// r = b r + (1 - b) mean_columns(s)       c = b c + (1 - b) mean_rows(s)
/// u = g / sqrt(r c / mean(r))             u = u / max(1, rms(u) / clip_threshold)
/// a = a max(epsilon2, rms(w))             (where parameters scale it)
/// w = (1 - a decay) w - a u
/// ```
///
/// The last two axes of a parameter are its rows and columns; one with fewer than two axes has a
/// whole second moment. With [`Adafactor::momentum`], the running mean of `a u` is what is
/// subtracted. With [`Adafactor::relative_step`], `a` is `min(1e-2, 1/sqrt(t))` and not the learning
/// rate.
///
/// State: `exp_avg_sq_row` `(..., rows)` and `exp_avg_sq_col` `(..., columns)`, or `exp_avg_sq`; with
/// momentum also `exp_avg`. Source: Shazeer and Stern, arXiv:1804.04235, algorithms 4 to 6; the
/// numbers are those of Python MLX's `Adafactor`.
#[derive(Debug, Clone, PartialEq)]
pub struct Adafactor {
    epsilon1: f64,
    epsilon2: f64,
    clip_threshold: f64,
    decay_rate: f64,
    momentum: Option<f64>,
    weight_decay: WeightDecay,
    scale_parameter: bool,
    step_size: StepSize,
}

/// Where the step size comes from, before the parameter scales it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum StepSize {
    LearningRate,
    Relative { warmup: bool },
}

impl Default for Adafactor {
    /// Python MLX's defaults, but that the learning rate is the schedule's: epsilons 1e-30 and 1e-3,
    /// clipping at 1, decay rate -0.8, steps scaled by the parameter, neither momentum nor decay.
    fn default() -> Self {
        Self {
            epsilon1: 1e-30,
            epsilon2: 1e-3,
            clip_threshold: 1.0,
            decay_rate: -0.8,
            momentum: None,
            weight_decay: WeightDecay::NONE,
            scale_parameter: true,
            step_size: StepSize::LearningRate,
        }
    }
}

impl Adafactor {
    /// Sets what is added to the squared gradient, and the smallest scale that a parameter gives.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless both are positive and finite in f32.
    pub fn epsilons(self, epsilon1: f64, epsilon2: f64) -> Result<Self> {
        let epsilon1 = check_positive("epsilon1 of Adafactor", epsilon1)?;
        let epsilon2 = check_positive("epsilon2 of Adafactor", epsilon2)?;
        Ok(Self { epsilon1, epsilon2, ..self })
    }

    /// Sets the root mean square above which an update is scaled down.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless it is positive and finite in f32.
    pub fn clip_threshold(self, clip_threshold: f64) -> Result<Self> {
        let clip_threshold = check_positive("clip_threshold of Adafactor", clip_threshold)?;
        Ok(Self { clip_threshold, ..self })
    }

    /// Sets the power of the step with which the second moment forgets.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless it is at least -1 and below 0.
    pub fn decay_rate(self, decay_rate: f64) -> Result<Self> {
        let allowed = (-1.0..0.0).contains(&decay_rate);
        let expected = "at least -1 and below 0";
        let decay_rate = check("decay_rate of Adafactor", decay_rate, expected, allowed)?;
        Ok(Self { decay_rate, ..self })
    }

    /// Sets how much of a running mean of the updates a step keeps; there is none unless this is called.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless it is in `0..1`.
    pub fn momentum(self, momentum: f64) -> Result<Self> {
        Ok(Self { momentum: Some(check_kept("momentum of Adafactor", momentum)?), ..self })
    }

    /// Sets the weight decay, which is decoupled from the gradient.
    #[must_use]
    pub fn weight_decay(self, weight_decay: WeightDecay) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets whether the root mean square of a parameter scales its steps.
    #[must_use]
    pub fn scale_parameter(self, scale_parameter: bool) -> Self {
        Self { scale_parameter, ..self }
    }

    /// Takes `min(1e-2, 1/sqrt(t))` as the step size, and ignores the learning rate.
    ///
    /// With `warmup` it is `min(1e-6 t, 1/sqrt(t))`.
    #[must_use]
    pub fn relative_step(self, warmup: bool) -> Self {
        Self { step_size: StepSize::Relative { warmup }, ..self }
    }

    /// The new second moment, and the gradient divided by its root.
    fn normalized(
        &self,
        g: &Array,
        second_moment: &[Array],
        kept: &Array,
        added: &Array,
    ) -> Result<Option<(Array, Vec<Array>)>> {
        let squares = g.square()?.add(scalar(self.epsilon1))?;
        let mix = |mean: &Array, x: &Array| -> Result<Array> {
            Ok(mean.multiply(kept)?.add(x.multiply(added)?)?)
        };
        Ok(match second_moment {
            [rows, columns] => {
                let rows = mix(rows, &squares.mean_axis(-1, false)?)?; // (..., rows)
                let columns = mix(columns, &squares.mean_axis(-2, false)?)?; // (..., columns)
                let row_factor = rows.divide(rows.mean_axis(-1, true)?)?.rsqrt()?;
                let factors =
                    row_factor.expand_dims(-1)?.multiply(columns.rsqrt()?.expand_dims(-2)?)?;
                Some((factors.multiply(g)?, vec![rows, columns]))
            }
            [whole] => {
                let whole = mix(whole, &squares)?;
                Some((whole.rsqrt()?.multiply(g)?, vec![whole]))
            }
            _ => None,
        })
    }
}

impl Optimizer for Adafactor {
    fn state_names(&self, parameter: Parameter<'_>) -> &'static [&'static str] {
        match (parameter.value.ndim() >= 2, self.momentum.is_some()) {
            (true, false) => &["exp_avg_sq_row", "exp_avg_sq_col"],
            (true, true) => &["exp_avg_sq_row", "exp_avg_sq_col", "exp_avg"],
            (false, false) => &["exp_avg_sq"],
            (false, true) => &["exp_avg_sq", "exp_avg"],
        }
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        let shape = parameter.value.shape();
        let mut shapes = match shape {
            [batch @ .., rows, columns] => {
                vec![[batch, &[*rows]].concat(), [batch, &[*columns]].concat()]
            }
            _ => vec![shape.to_vec()],
        };
        shapes.extend(self.momentum.map(|_| shape.to_vec()));
        zero_state(parameter, &shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The step size, how much of the second moment stays, and how much of the gradient is added.
    fn coefficients(&self, learning_rate: &Array, step: &Array) -> Result<Coefficients> {
        let step = step.as_dtype(Dtype::Float32)?;
        let step_size = match self.step_size {
            StepSize::LearningRate => learning_rate.clone(),
            StepSize::Relative { warmup: false } => minimum(scalar(1e-2), step.rsqrt()?)?,
            StepSize::Relative { warmup: true } => {
                minimum(step.multiply(scalar(1e-6))?, step.rsqrt()?)?
            }
        };
        let kept = scalar(1.0).subtract(step.power(scalar(self.decay_rate))?)?;
        let added = scalar(1.0).subtract(&kept)?;
        // At rest a second moment of zeros, that of the start, would divide by zero.
        Ok(Coefficients::new(vec![step_size, kept, added]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let foreign = || foreign(parameter.name, "Adafactor");
        let [step_size, kept, added] = coefficients.own() else { return Err(foreign()) };
        let num_moments = state.len() - usize::from(self.momentum.is_some()).min(state.len());
        let (second_moment, first_moment) = state.split_at(num_moments);

        let dtype = working_dtype(parameter.value);
        let mut w = parameter.value.as_dtype(dtype)?;
        let g = gradient.as_dtype(dtype)?;
        let normalized = self.normalized(&g, second_moment, kept, added)?;
        let (change, mut state) = normalized.ok_or_else(foreign)?;
        let excess = rms(&change)?.divide(scalar(self.clip_threshold))?;
        let change = change.divide(maximum(excess, scalar(1.0))?)?;

        let mut step_size = step_size.clone();
        if self.scale_parameter {
            step_size = step_size.multiply(maximum(rms(&w)?, scalar(self.epsilon2))?)?;
        }
        let mut change = change.multiply(&step_size)?;
        if let Some(momentum) = self.momentum {
            let [mean] = first_moment else { return Err(foreign()) };
            let [kept, added] = &shares(momentum);
            change = moving_average(mean, &change, [kept, added])?;
            state.push(change.clone());
        }
        if let Some(decay) = self.weight_decay.of(parameter) {
            w = w.multiply(scalar(1.0).subtract(step_size.multiply(scalar(decay))?)?)?;
        }
        let w = w.subtract(change)?.as_dtype(parameter.value.dtype())?;
        Ok((w, state))
    }
}

/// The root mean square `()` of an array, f32.
fn rms(x: &Array) -> Result<Array> {
    Ok(sum_of_squares(x)?.divide(scalar(x.size() as f64))?.sqrt()?)
}
