//! The loss of a micro-batch and its gradients.

use super::{data_parallel::share_of, lent::Lent, program::Program, reader::Reader};
use crate::{
    Error, Result,
    batch::Batch,
    checkpoint::with_policy_and_constants,
    distributed::{
        bucket::sums,
        gather::{self, Share},
    },
    ffi,
    model::{BaseModel, Loss},
    rng,
};
use mlx_rs::{
    Array, Dtype,
    ops::{maximum, zeros_dtype},
};
use std::{cell::Cell, rc::Rc, slice::from_ref};

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

/// When the ranks that share a batch add up their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduced {
    /// In the backward pass, those of one block while the next is computed.
    Now,
    /// Not here: loss and gradients are those of this rank's rows.
    Later,
}

impl<M: BaseModel + ?Sized> Program<'_, M> {
    /// Differentiates the loss of one micro-batch with respect to `compute`, what this rank holds of the trained
    /// parameters in the dtype that the model computes in. Draws come from the key `draws`.
    pub(super) fn gradients(
        &self,
        compute: &[Array],
        others: &[Array],
        batch: &Batch,
        draws: &Array,
        reduced: Reduced,
    ) -> Result<Gradients> {
        let batch = self.options.precision.batch_to_compute(batch.clone())?;
        let is_alone = self.layout.mesh.data().is_alone();
        let reduced = if is_alone { Reduced::Later } else { reduced };
        loop {
            let (Differentiated { mean, taken }, others) = self.with_others(others, |others| {
                gather::scope(|| self.differentiate(compute, others, &batch, draws, reduced))
            })?;
            // The first time that one is seen outside of all blocks, its gradient travels alone.
            if reduced == Reduced::Later || self.note_taken(taken) {
                return Ok(Gradients { mean, others });
            }
        }
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

    /// Notes which trained parameters the blocks of stacks have taken; whether that was known.
    pub(super) fn note_taken(&self, taken: Vec<bool>) -> bool {
        let mut is_known = true;
        for (in_block, is_taken) in self.in_blocks.iter().zip(taken) {
            is_known &= in_block.replace(is_taken) == is_taken;
        }
        is_known
    }

    /// How each trained parameter comes to the model and its gradient to the other ranks; `None` where it is whole
    /// here and the gradient of this rank's rows.
    fn shares(&self, reduced: Reduced) -> Result<Vec<Option<Share>>> {
        let dtype = self.options.communication.dtype();
        let share = |(name, in_block): (&Rc<str>, &Cell<bool>)| {
            let share = self.layout.share(name, dtype)?;
            let is_alone = |share: &Share| share.axis.is_some() || in_block.get();
            Ok(share.filter(|share| reduced == Reduced::Now && is_alone(share)))
        };
        self.names.iter().zip(&self.in_blocks).map(share).collect()
    }

    /// Loss and gradients, and all parameters that are not trained as the loss has left them.
    fn differentiate(
        &self,
        compute: &[Array],
        others: &[Array],
        batch: &Batch,
        draws: &Array,
        reduced: Reduced,
    ) -> Result<(Differentiated, Vec<Array>)> {
        let shares = self.shares(reduced)?;
        let mut model = self.borrow()?;
        let mut model = Lent::new(&mut **model, &self.names)?;
        let data = self.layout.mesh.data();
        let mut taken = Vec::new();
        let loss = |compute: &[Array]| -> Result<Vec<Array>> {
            let is_outside = |at: usize| !self.in_blocks[at].get();
            model.set(gather::lend(compute, &shares, is_outside)?.iter().chain(others))?;
            model.training_mode(true);
            let Loss { value, weight } = rng::scope(draws, || {
                let policy = &self.options.gradient_checkpointing;
                with_policy_and_constants(policy, others, || model.batch_loss(batch))
            })?;
            taken = gather::taken();
            let (value, weight) =
                (value.as_dtype(Dtype::Float32)?, weight.as_dtype(Dtype::Float32)?);
            if reduced == Reduced::Later {
                return Ok(vec![value, weight]);
            }
            // Its gradient is this rank's term in the sum over ranks.
            let (share, weight) = share_of(data, &weight)?;
            Ok(vec![value.multiply(share)?, weight])
        };
        let argnums: Vec<usize> = (0..compute.len()).collect();
        let (loss, mut gradients) = ffi::value_and_grad(loss, compute, &argnums)?;
        ffi::mark("gradient", &gradients);
        // A weight is often a constant, and a compiled function cannot return one.
        let Ok([mut value, weight]) = <[Array; 2]>::try_from(ffi::depends(&loss, from_ref(draws))?)
        else {
            return Err(Error::message("MLX lost an output of the loss function"));
        };
        if reduced == Reduced::Now {
            value = data.all_sum(&value)?;
            let places: Vec<_> = (0..shares.len()).filter(|&at| shares[at].is_none()).collect();
            let rest: Vec<_> = places.iter().map(|&at| gradients[at].clone()).collect();
            let summed = sums(data, &rest, self.options.communication.dtype())?;
            for (at, sum) in places.into_iter().zip(summed) {
                gradients[at] = sum;
            }
        }
        let after = model.parameters()?.split_off(compute.len());
        let mean = Mean { loss: Loss { value, weight }, gradients };
        Ok((Differentiated { mean, taken }, after))
    }
}

/// What the derivative of a loss leaves.
struct Differentiated {
    mean: Mean,
    /// Which trained parameters the blocks of stacks have taken.
    taken: Vec<bool>,
}
