//! The loss of a micro-batch and its gradients.

use super::{lent::Lent, program::Program, reader::Reader};
use crate::{
    Error, Result,
    batch::Batch,
    checkpoint::with_policy_and_constants,
    ffi,
    model::{BaseModel, Loss},
    rng,
};
use mlx_rs::{
    Array, Dtype,
    ops::{maximum, zeros_dtype},
};
use std::slice::from_ref;

/// A mean loss and the mean gradient of each trained parameter.
pub(super) struct Mean {
    pub(super) loss: Loss,
    pub(super) gradients: Vec<Array>,
}

/// What the backward pass of one micro-batch leaves.
pub(super) struct Gradients {
    pub(super) mean: Mean,
    /// The parameters that are not trained, as the loss has left them.
    pub(super) others: Vec<Array>,
}

impl Mean {
    /// The mean over nothing, in f32.
    pub(super) fn zero(parameters: &[Array]) -> Result<Self> {
        let zero = |parameter: &Array| Ok(zeros_dtype(parameter.shape(), Dtype::Float32)?);
        let gradients = parameters.iter().map(zero).collect::<Result<_>>()?;
        let loss = Loss::new(Array::from_f32(0.0), Array::from_f32(0.0));
        Ok(Self { loss, gradients })
    }

    pub(super) fn read(arrays: &mut Reader, num_trained: usize) -> Result<Self> {
        let gradients = arrays.take(num_trained)?;
        Ok(Self { loss: Loss::new(arrays.one()?, arrays.one()?), gradients })
    }

    pub(super) fn into_arrays(mut self) -> Vec<Array> {
        self.gradients.extend([self.loss.value, self.loss.weight]);
        self.gradients
    }

    /// The mean over the targets of both.
    pub(super) fn merge(&self, other: &Self) -> Result<Self> {
        let weight = self.loss.weight.add(&other.loss.weight)?;
        // Where all targets of both are masked, nothing is added.
        let positive = maximum(&weight, Array::from_f32(f32::MIN_POSITIVE))?;
        let share = other.loss.weight.divide(positive)?;
        let mean = |a: &Array, b: &Array| -> Result<Array> {
            let b = b.as_dtype(Dtype::Float32)?;
            Ok(a.add(b.subtract(a)?.multiply(&share)?)?)
        };
        let pairs = self.gradients.iter().zip(&other.gradients);
        let gradients = pairs.map(|(a, b)| mean(a, b)).collect::<Result<_>>()?;
        let loss = Loss::new(mean(&self.loss.value, &other.loss.value)?, weight);
        Ok(Self { loss, gradients })
    }
}

impl<M: BaseModel + ?Sized> Program<'_, M> {
    /// Differentiates the loss of one micro-batch with respect to `compute`, the trained parameters in the
    /// dtype that the model computes in. Draws come from the key `draws`.
    pub(super) fn gradients(
        &self,
        compute: &[Array],
        others: &[Array],
        batch: &Batch,
        draws: &Array,
    ) -> Result<Gradients> {
        let batch = self.options.precision.batch_to_compute(batch.clone())?;
        let differentiate = |others: &[Array]| self.differentiate(compute, others, &batch, draws);
        let (mean, others) = self.with_others(others, differentiate)?;
        Ok(Gradients { mean, others })
    }

    /// What `f` returns for the parameters that are not trained, as the model computes with them, and these parameters
    /// as it has left them, which `f` returns, too.
    pub(super) fn with_others<T>(
        &self,
        others: &[Array],
        mut f: impl FnMut(&[Array]) -> Result<(T, Vec<Array>)>,
    ) -> Result<(T, Vec<Array>)> {
        let precision = self.options.precision;
        loop {
            // Running statistics move by less than a bf16 digit, so they are not rounded like weights.
            let given = others.iter().zip(&self.moving).map(|(other, moving)| {
                if moving.get() { Ok(other.clone()) } else { precision.to_compute(other) }
            });
            let given = given.collect::<Result<Vec<_>>>()?;
            let (value, after) = f(&given)?;

            let mut from_rounded = false;
            let mut kept = Vec::with_capacity(others.len());
            for (index, other) in others.iter().enumerate() {
                if ffi::is_same_node(&given[index], &after[index])? {
                    kept.push(other.clone());
                    continue;
                }
                let is_known = self.moving[index].replace(true);
                from_rounded |= !is_known && given[index].dtype() != other.dtype();
                kept.push(after[index].as_dtype(other.dtype())?);
            }
            // The first time that one is seen to move, it has moved from a rounded copy.
            if !from_rounded {
                return Ok((value, kept));
            }
        }
    }

    /// Loss and gradients, and all parameters that are not trained as the loss has left them.
    fn differentiate(
        &self,
        compute: &[Array],
        others: &[Array],
        batch: &Batch,
        draws: &Array,
    ) -> Result<(Mean, Vec<Array>)> {
        let mut model = self.borrow()?;
        let mut model = Lent::new(&mut **model, &self.names)?;
        let loss = |compute: &[Array]| -> Result<Vec<Array>> {
            model.set(compute.iter().chain(others))?;
            model.training_mode(true);
            let Loss { value, weight } = rng::scope(draws, || {
                let policy = &self.options.gradient_checkpointing;
                with_policy_and_constants(policy, others, || model.batch_loss(batch))
            })?;
            Ok(vec![value.as_dtype(Dtype::Float32)?, weight.as_dtype(Dtype::Float32)?])
        };
        let argnums: Vec<usize> = (0..compute.len()).collect();
        let (loss, gradients) = ffi::value_and_grad(loss, compute, &argnums)?;
        ffi::mark("gradient", &gradients);
        // A weight is often a constant, and a compiled function cannot return one.
        let Ok([value, weight]) = <[Array; 2]>::try_from(ffi::depends(&loss, from_ref(draws))?)
        else {
            return Err(Error::message("MLX lost an output of the loss function"));
        };
        let after = model.parameters()?.split_off(compute.len());
        Ok((Mean { loss: Loss { value, weight }, gradients }, after))
    }
}
