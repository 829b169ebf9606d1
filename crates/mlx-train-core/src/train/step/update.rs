//! From a mean gradient to new parameters: norms, clipping, the optimizer, averaged weights, and the guard
//! against numbers that are not finite.

use super::{gradients::Mean, program::Program, reader::Reader, state::Carried};
use crate::{
    Result,
    kernels::{Family, kernel_form},
    model::Loss,
    optim::{self, Clipped, Norms},
};
use mlx_rs::{
    Array, Dtype,
    ops::{minimum, select},
};

/// What a step computes besides new values.
pub(super) struct Report {
    pub(super) loss: Loss,
    pub(super) grad_norm: Array,
    pub(super) finite: Array,
    /// Of each trained parameter.
    pub(super) squared_grad_norms: Vec<Array>,
}

impl Report {
    pub(super) fn read(arrays: &mut Reader, num_trained: usize) -> Result<Self> {
        Ok(Self {
            loss: Loss::new(arrays.one()?, arrays.one()?),
            grad_norm: arrays.one()?,
            finite: arrays.one()?,
            squared_grad_norms: arrays.take(num_trained)?,
        })
    }

    pub(super) fn into_arrays(self) -> Vec<Array> {
        let Loss { value, weight } = self.loss;
        [vec![value, weight, self.grad_norm, self.finite], self.squared_grad_norms].concat()
    }
}

/// The values after an update.
pub(super) struct Update {
    pub(super) parameters: Vec<Array>,
    pub(super) state: Carried,
    pub(super) report: Report,
    /// Whether values are put back where loss or gradients are not finite.
    skips: bool,
}

impl Update {
    /// `now` if the step counts, `before` if it does not.
    pub(super) fn guard(&self, now: &Array, before: &Array) -> Result<Array> {
        keep_unless(self.skips, &self.report.finite, now, before)
    }
}

impl<M: ?Sized> Program<'_, M> {
    /// Updates parameters and state once.
    pub(super) fn update(
        &self,
        parameters: &[Array],
        state: &Carried,
        mean: &Mean,
        learning_rate: &Array,
    ) -> Result<Update> {
        let precision = self.options.precision;
        let gradients = mean.gradients.iter().map(|gradient| precision.to_gradient(gradient));
        let gradients = gradients.collect::<Result<Vec<_>>>()?;
        let across = |names: &[&str], squares| self.layout.squares_of_whole(names, squares);
        let norms_of = Norms::of_parts(&across);
        let names: Vec<&str> = state.optimizer.parameter_names().map(AsRef::as_ref).collect();
        // A kernel reads gradients as they are: with the same numbers in f32 the optimizer's pass is the only one.
        let has_kernel = kernel_form(Family::Squares)?.is_some();
        let squared = if has_kernel { &mean.gradients } else { &gradients };
        let norms = norms_of.of(&names, squared)?;
        let Clipped { gradients, norms } =
            self.options.clip.apply_with(norms, norms_of, &names, &gradients)?;
        let finite = is_finite(&mean.loss.value)?.logical_and(is_finite(&norms.total)?)?;
        let guard = |now: &Array, before: &Array| {
            keep_unless(self.options.skip_non_finite, &finite, now, before)
        };

        let updates = state.updates.add(Array::from_int(1))?;
        let wide = parameters.iter().map(|parameter| precision.to_update(parameter));
        let wide = wide.collect::<Result<Vec<_>>>()?;
        let moments = state.optimizer.arrays().map(|array| precision.to_update(array));
        let moments = state.optimizer.with_arrays(moments.collect::<Result<Vec<_>>>()?)?;
        // As f32, the type that powers of the betas are taken in; exact to 16 million steps.
        let number = updates.as_dtype(Dtype::Float32)?;
        let optimizer = &*self.optimizer;
        let gradients = optimizer.clip(&names, gradients, norms_of)?;
        let coefficients = optimizer.coefficients(learning_rate, &number)?;
        let (wide, moments) = if self.options.skip_non_finite {
            optim::update_where(&finite, optimizer, &wide, gradients, &moments, &coefficients)?
        } else {
            optim::update_all(optimizer, &wide, &gradients, &moments, &coefficients)?
        };

        // A value that was kept is one of the dtype that it is rounded to, so it stays.
        let (mut rounding, key) = precision.rounding(&state.key)?;
        let pairs = wide.iter().zip(parameters);
        let parameters = pairs.map(|(now, before)| rounding.apply(now, before));
        let parameters = parameters.collect::<Result<Vec<_>>>()?;
        let pairs = moments.arrays().zip(state.optimizer.arrays());
        let moments = pairs.map(|(now, before)| rounding.apply(now, before));
        let moments = moments.collect::<Result<Vec<_>>>()?;

        let mut averages = Vec::with_capacity(state.ema.len());
        if let Some(decay) = self.options.ema_decay {
            let share = guard(&ema_share(decay, &updates)?, &Array::from_f32(0.0))?;
            for (average, parameter) in state.ema.iter().zip(&parameters) {
                let difference = parameter.as_dtype(Dtype::Float32)?.subtract(average)?;
                averages.push(average.add(difference.multiply(&share)?)?);
            }
        }
        let state = Carried {
            optimizer: state.optimizer.with_arrays(moments)?,
            ema: averages,
            updates: guard(&updates, &state.updates)?,
            key,
        };
        let report = Report {
            loss: mean.loss.clone(),
            grad_norm: norms.total,
            finite,
            squared_grad_norms: norms.squares,
        };
        Ok(Update { parameters, state, report, skips: self.options.skip_non_finite })
    }
}

/// What an update adds to the averages, of the difference to the new weights: `1 - decay`, and more in the
/// first updates, whose weights are still those of a beginning.
///
/// The decay is `min(decay, (1 + n) / (10 + n))` at update n, as in TensorFlow's
/// `tf.train.ExponentialMovingAverage` with `num_updates`.
fn ema_share(decay: f64, updates: &Array) -> Result<Array> {
    let n = updates.as_dtype(Dtype::Float32)?;
    let early = n.add(Array::from_f32(1.0))?.divide(n.add(Array::from_f32(10.0))?)?;
    let decay = minimum(early, Array::from_f32(decay as f32))?;
    Ok(Array::from_f32(1.0).subtract(decay)?)
}

fn keep_unless(skips: bool, finite: &Array, now: &Array, before: &Array) -> Result<Array> {
    if skips { Ok(select(finite, now, before)?) } else { Ok(now.clone()) }
}

/// Whether a scalar `()` is finite, `()` bool; NaN is not below anything.
fn is_finite(scalar: &Array) -> Result<Array> {
    Ok(scalar.abs()?.le(Array::from_f32(f32::MAX))?)
}
