//! How many blocks each stage gets where blocks, or machines, are not all alike.

use super::{partition, slowest};
use crate::{Array, Result, distributed::Mesh};
use std::{iter::once, ops::Range};

/// How much longer than the best cut an even one may take and still be chosen: times that are measured are not exact,
/// and machines that are alike are to have as many blocks.
const EVEN_ENOUGH: f64 = 1.05;

/// How long the parts of a model take, forward and backward, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockCosts {
    /// What comes before the model's stack.
    pub before: f64,
    /// The blocks of the stack.
    pub blocks: Vec<f64>,
    /// What comes behind it: a head and a loss take longer than an embedding.
    pub after: f64,
}

impl BlockCosts {
    /// How long all of it takes.
    pub fn seconds(&self) -> f64 {
        self.before + self.blocks.iter().sum::<f64>() + self.after
    }

    /// How many blocks each stage of a mesh gets, from what all of its ranks have measured: a machine that takes half
    /// as long for the whole model is twice as fast, and a stage is as fast as its slowest machine. An even cut that
    /// takes less than a twentieth longer than the best is preferred. All ranks have to call it, and get the same.
    ///
    /// # Errors
    /// As [`partition`]; when MLX fails.
    pub fn balance(&self, mesh: &Mesh) -> Result<Vec<usize>> {
        let own: Vec<f32> = self.numbers().map(|cost| cost as f32).collect();
        let measured = mesh.all().all_gather(&Array::from_slice(&own, &[1, own.len() as i32]))?;
        mesh.all().eval("what all ranks have measured", [&measured])?;
        let measured: Vec<Self> =
            measured.try_as_slice::<f32>()?.chunks_exact(own.len()).map(Self::of_numbers).collect();
        let parallelism = mesh.parallelism();
        let stage_size = parallelism.data * parallelism.tensor;
        let speeds = measured.chunks(stage_size).map(|stage| {
            let slowest = stage.iter().map(Self::seconds).fold(0.0, f64::max);
            slowest.recip()
        });
        let speeds: Vec<f64> = speeds.collect();
        let Self { before, blocks, after } = Self::mean_shares(&measured);
        let best = partition(&blocks, before, after, &speeds)?;
        let even = partition(&vec![1.0; blocks.len()], 0.0, 0.0, &vec![1.0; speeds.len()])?;
        let slowest = |cut| slowest(&blocks, [before, after], &speeds, cut);
        let chosen = if slowest(&even) <= EVEN_ENOUGH * slowest(&best) { even } else { best };
        Ok(chosen.iter().map(Range::len).collect())
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        once(self.before).chain(self.blocks.iter().copied()).chain(once(self.after))
    }

    fn of_numbers(numbers: &[f32]) -> Self {
        let at = |index: usize| numbers.get(index).copied().map_or(0.0, f64::from);
        let last = numbers.len().saturating_sub(1);
        Self { before: at(0), blocks: (1..last).map(at).collect(), after: at(last) }
    }

    /// The shares of the parts in the whole, as the machines have measured them on average.
    fn mean_shares(measured: &[Self]) -> Self {
        let mean = |of: &dyn Fn(&Self) -> f64| {
            let shares = measured.iter().map(|costs| of(costs) / costs.seconds());
            shares.sum::<f64>() / measured.len() as f64
        };
        let num_blocks = measured.first().map_or(0, |costs| costs.blocks.len());
        Self {
            before: mean(&|costs| costs.before),
            blocks: (0..num_blocks).map(|index| mean(&|costs| costs.blocks[index])).collect(),
            after: mean(&|costs| costs.after),
        }
    }
}
