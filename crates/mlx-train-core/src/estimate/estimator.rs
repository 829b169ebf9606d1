//! Estimates of a model under several settings, and which of them fit.

use super::{Estimate, Machine, Recording, Rows};
use crate::{
    Error, Result,
    bytes::Bytes,
    checkpoint::{CheckpointPolicy, parts_in},
    model::BaseModel,
    optim::Optimizer,
    train::TrainConfig,
};
use std::fmt;

/// How many micro-batches of a step are recorded at most: each after the second needs what the second does.
const MAX_RECORDED: usize = 2;

/// How many batches are estimated at most to find the largest that fits.
const MAX_TRIES: usize = 12;

/// More rows of a batch are not looked for; it is the bound of `batch_size` in configs.
const MAX_BATCH: usize = 1 << 20;

/// Estimates the steps of one model on rows of one kind.
///
/// ```no_run
/// # use mlx_train_core::{Result, estimate::*, model::BaseModel, train::TrainConfig};
/// # fn example(mut model: Box<dyn BaseModel>) -> Result<()> {
/// let mut estimator = Estimator::new(&mut model, Rows::tokens(1024), Machine::here()?);
/// let config = TrainConfig { batch_size: 16, ..TrainConfig::default() };
/// println!("{} bytes", estimator.estimate(&config)?.peak_bytes);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Estimator<'m, M: BaseModel + ?Sized> {
    model: &'m mut M,
    rows: Rows,
    machine: Machine,
    optimizer: Option<&'m dyn Optimizer>,
}

/// A checkpoint policy, what a step needs under it, and how large a batch may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The policy.
    pub policy: CheckpointPolicy,
    /// What a step of the config's batch needs under it.
    pub estimate: Estimate,
    /// The most rows of a micro-batch whose step fits, if one does.
    pub largest_batch: Option<usize>,
}

/// Settings that differ from a config in little, and fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// How many rows a micro-batch has.
    pub batch_size: usize,
    /// How many micro-batches make a step: as many rows as the config's, or nearly.
    pub accumulation: usize,
    /// Which parts of the model are checkpointed.
    pub policy: CheckpointPolicy,
    /// What a step then needs.
    pub estimate: Estimate,
}

impl<'m, M: BaseModel + ?Sized> Estimator<'m, M> {
    /// Estimates for this model; its weights need not have values, and are the same afterwards.
    pub fn new(model: &'m mut M, rows: Rows, machine: Machine) -> Self {
        Self { model, rows, machine, optimizer: None }
    }

    /// Uses this optimizer in the place of the config's.
    #[must_use]
    pub fn optimizer(self, optimizer: &'m dyn Optimizer) -> Self {
        Self { optimizer: Some(optimizer), ..self }
    }

    /// Where the step is to run.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What a step needs that this config says, its policy resolved ([`Estimator::resolve`]).
    ///
    /// # Errors
    /// What the step returns when it is refused: batches that do not fit the model, nothing to train.
    pub fn estimate(&mut self, config: &TrainConfig) -> Result<Estimate> {
        Ok(Estimate::of(&self.record(config)?, &self.machine))
    }

    /// The step that this config says, its policy resolved: what estimates for several machines are made of.
    ///
    /// # Errors
    /// As [`Estimator::estimate`].
    pub fn record(&mut self, config: &TrainConfig) -> Result<Recording> {
        let batch = self.rows.batch(config.batch_size)?;
        let micro_batches = vec![batch; config.accumulation.min(MAX_RECORDED)];
        let options = config.step_options()?;
        let built;
        let optimizer = if let Some(optimizer) = self.optimizer {
            optimizer
        } else {
            built = config.optimizer.build(&config.groups)?;
            &*built
        };
        Recording::of_step(self.model, optimizer, &options, &micro_batches)
    }

    /// Each policy with what a step then needs and the largest batch that fits `limit_bytes`, by the arithmetic
    /// of a step: the cheapest first.
    ///
    /// Policies are the config's own, none, each part of the model, every second block, and all; only what the
    /// model has blocks or parts for.
    ///
    /// # Errors
    /// As [`Estimator::estimate`].
    pub fn fitting(&mut self, config: &TrainConfig, limit_bytes: u64) -> Result<Vec<Fit>> {
        let mut fits = Vec::new();
        for (policy, estimate) in self.policies(config)? {
            let config = TrainConfig { gradient_checkpointing: policy.clone(), ..config.clone() };
            let known = (config.batch_size, estimate.peak_bytes);
            let largest_batch = self.largest_beside(known, &config, limit_bytes)?;
            fits.push(Fit { policy, estimate, largest_batch });
        }
        Ok(fits)
    }

    /// The policy of the config; in the place of [`CheckpointPolicy::Auto`], the cheapest one whose estimate fits.
    ///
    /// # Errors
    /// When none fits; as [`Estimator::estimate`].
    pub fn resolve(&mut self, config: &TrainConfig) -> Result<CheckpointPolicy> {
        let CheckpointPolicy::Auto(Bytes(limit)) = config.gradient_checkpointing else {
            return Ok(config.gradient_checkpointing.clone());
        };
        let mut policies = self.policies(config)?;
        if let Some(fits) = policies.iter().position(|(_, it)| it.peak_bytes <= limit) {
            return Ok(policies.swap_remove(fits).0);
        }
        let least = policies.iter().min_by_key(|(_, estimate)| estimate.peak_bytes);
        let (policy, needed) = least.map_or(("none".into(), 0), |(policy, estimate)| {
            (policy.to_string(), estimate.peak_bytes)
        });
        Err(Error::message(format!(
            "no checkpoint policy fits {}: a step with batch_size = {} needs {} with `{policy}`, the least; lower \
             batch_size, or allow more memory",
            Bytes(limit),
            config.batch_size,
            Bytes(needed)
        )))
    }

    /// Up to three settings near those of the config whose steps fit `limit_bytes`: another policy for the same
    /// batch, a smaller batch under the same policy, and the policy that fits the largest batch.
    ///
    /// # Errors
    /// As [`Estimator::estimate`].
    pub fn nearest(&mut self, config: &TrainConfig, limit_bytes: u64) -> Result<Vec<Change>> {
        let fits = self.fitting(config, limit_bytes)?;
        let fitting = |fit: &&Fit| fit.estimate.peak_bytes <= limit_bytes;
        let same_batch = fits.iter().find(fitting).map(|fit| (fit, config.batch_size));
        let with_batch =
            |fit: &'_ Fit| fit.largest_batch.map(|batch_size| batch_size.min(config.batch_size));
        let same_policy = fits.iter().find(|fit| fit.policy == config.gradient_checkpointing);
        let same_policy = same_policy.and_then(|fit| Some((fit, with_batch(fit)?)));
        let largest = fits.iter().max_by_key(|fit| fit.largest_batch);
        let largest = largest.and_then(|fit| Some((fit, with_batch(fit)?)));

        let rows = config.batch_size * config.accumulation;
        let mut changes: Vec<Change> = Vec::new();
        for (fit, batch_size) in [same_batch, same_policy, largest].into_iter().flatten() {
            let is_known =
                |change: &Change| change.policy == fit.policy && change.batch_size == batch_size;
            if changes.iter().any(is_known) {
                continue;
            }
            let policy = fit.policy.clone();
            let accumulation = rows.div_ceil(batch_size);
            let near = TrainConfig {
                batch_size,
                accumulation,
                gradient_checkpointing: policy.clone(),
                ..config.clone()
            };
            // As many rows at a time are accumulated as often: that is known.
            let is_known = batch_size == config.batch_size;
            let estimate = if is_known { fit.estimate } else { self.estimate(&near)? };
            if estimate.peak_bytes <= limit_bytes {
                changes.push(Change { batch_size, accumulation, policy, estimate });
            }
        }
        Ok(changes)
    }

    /// What the config's step needs under each policy that the model can follow, the least arithmetic first.
    fn policies(&mut self, config: &TrainConfig) -> Result<Vec<(CheckpointPolicy, Estimate)>> {
        let batch = self.rows.batch(1)?;
        let parts = parts_in(|| self.model.batch_loss(&batch))?;
        let parts =
            parts.into_iter().map(|part| CheckpointPolicy::Selective(vec![part.to_owned()]));
        let mut policies: Vec<_> =
            [CheckpointPolicy::None, CheckpointPolicy::Every(2), CheckpointPolicy::Full].into();
        policies.extend(parts);
        let own = &config.gradient_checkpointing;
        if !matches!(own, CheckpointPolicy::Auto(_)) && !policies.contains(own) {
            policies.push(own.clone());
        }
        let mut known: Vec<(CheckpointPolicy, Estimate)> = Vec::new();
        for policy in policies {
            let config = TrainConfig { gradient_checkpointing: policy.clone(), ..config.clone() };
            let estimate = match self.estimate(&config) {
                // A model without a stack has no blocks to name.
                Err(Error::CheckpointPolicy(_)) if policy != *own => continue,
                estimate => estimate?,
            };
            known.push((policy, estimate));
        }
        known.sort_by(|(_, a), (_, b)| a.flops.total_cmp(&b.flops));
        Ok(known)
    }

    /// The most rows of a micro-batch whose step fits `limit_bytes`, if one does.
    ///
    /// Memory grows nearly in a straight line with the rows, so few steps are recorded.
    ///
    /// # Errors
    /// As [`Estimator::estimate`].
    pub fn largest_batch(
        &mut self,
        config: &TrainConfig,
        limit_bytes: u64,
    ) -> Result<Option<usize>> {
        let known = (config.batch_size, self.estimate(config)?.peak_bytes);
        self.largest_beside(known, config, limit_bytes)
    }

    /// The most rows that fit, where what some number of rows needs is known.
    fn largest_beside(
        &mut self,
        known: (usize, u64),
        config: &TrainConfig,
        limit_bytes: u64,
    ) -> Result<Option<usize>> {
        largest(known.0, limit_bytes, &mut |batch_size| {
            if batch_size == known.0 {
                return Ok(known.1);
            }
            Ok(self.estimate(&TrainConfig { batch_size, ..config.clone() })?.peak_bytes)
        })
    }
}

/// The largest number whose `peak` is at most `limit`, sought around `start`; `peak` grows with the number.
fn largest(
    start: usize,
    limit: u64,
    peak: &mut impl FnMut(usize) -> Result<u64>,
) -> Result<Option<usize>> {
    let one = peak(1)?;
    if one > limit {
        return Ok(None);
    }
    // Between a number that fits and one that does not.
    let (mut fits, mut too_large) = ((1, one), None);
    let mut next = start.clamp(2, MAX_BATCH);
    for _ in 0..MAX_TRIES {
        let found = (next, peak(next)?);
        if found.1 <= limit {
            fits = found;
        } else {
            too_large = Some(found);
        }
        let (from, to) = match too_large {
            Some((number, _)) if number - fits.0 <= 1 => break,
            None if fits.0 == MAX_BATCH => break,
            Some(too_large) => (fits, too_large),
            None => ((1, one), fits),
        };
        // Where a straight line through both meets the limit.
        let slope = to.1.saturating_sub(from.1) as f64 / (to.0 - from.0) as f64;
        let guess = (from.0 as f64 + (limit - from.1) as f64 / slope.max(1.0)) as usize;
        next = match too_large {
            Some((number, _)) => guess.clamp(fits.0 + 1, number - 1),
            None => guess.saturating_add(1).clamp(fits.0 + 1, MAX_BATCH),
        };
    }
    Ok(Some(fits.0))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch_size, accumulation, policy, estimate } = self;
        let peak = Bytes(estimate.peak_bytes);
        write!(
            f,
            "batch_size = {batch_size}, accumulation = {accumulation}, gradient_checkpointing = \"{policy}\" ({peak})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_batch_fits_and_one_row_more_does_not(
            fixed in 0..1_u64 << 30,
            row in 1..1_u64 << 24,
            start in 1..4096_usize,
            answer in 1..100_000_usize,
        ) {
            // As a cache rounds: a straight line within a little.
            let peak = |rows: usize| fixed + row * rows as u64 + (rows as u64 * 7919) % row.div_ceil(2);
            let limit = peak(answer).max(fixed + row * answer as u64 + row / 2);
            let mut tries = 0;
            let found = largest(start, limit, &mut |rows| {
                tries += 1;
                Ok(peak(rows))
            }).unwrap().unwrap();
            prop_assert!(peak(found) <= limit, "{found} needs more than there is");
            prop_assert!(peak(found + 1) > limit, "{found} of {answer}");
            prop_assert!(tries <= MAX_TRIES + 1);
        }
    }

    #[test]
    fn there_is_no_largest_batch_where_one_row_does_not_fit() -> Result<()> {
        assert_eq!(largest(8, 99, &mut |rows| Ok(100 * rows as u64))?, None);
        // And the bound of configs is one where memory never ends.
        assert_eq!(largest(8, u64::MAX, &mut |rows| Ok(rows as u64))?, Some(MAX_BATCH));
        Ok(())
    }
}
