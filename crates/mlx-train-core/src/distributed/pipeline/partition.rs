//! Which blocks go to which stage.

use super::PipelineError;
use crate::Result;
use std::ops::Range;

/// Cuts a stack into one run of blocks for each stage, so that the slowest stage is as fast as can be; of such cuts,
/// into the most even one.
///
/// `blocks` are the costs of the blocks, one number each in any unit that all of them share; the first stage has
/// `before`, too, the cost of what runs before the stack, and the last `after`. A stage takes its costs divided by
/// its speed. Every stage gets a block.
///
/// ```
/// use mlx_train_core::distributed::partition;
/// // A head that costs as much as two blocks, on machines of which the first is twice as fast.
/// assert_eq!(partition(&[1.0; 7], 0.0, 2.0, &[2.0, 1.0])?, [0..6, 6..7]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// [`PipelineError::TooFewBlocks`]; [`PipelineError::Cost`] for a cost that is negative or not finite, or a speed that
/// is not positive.
pub fn partition(
    blocks: &[f64],
    before: f64,
    after: f64,
    speeds: &[f64],
) -> Result<Vec<Range<usize>>> {
    let (num_blocks, num_stages) = (blocks.len(), speeds.len());
    if num_stages == 0 || num_blocks < num_stages {
        return Err(PipelineError::TooFewBlocks { num_blocks, num_stages }.into());
    }
    let is_cost = |cost: &&f64| !(cost.is_finite() && **cost >= 0.0);
    if let Some(&cost) = blocks.iter().chain([&before, &after]).find(is_cost) {
        return Err(PipelineError::Cost { what: "cost", value: cost }.into());
    }
    if let Some(&speed) = speeds.iter().find(|speed| !(speed.is_finite() && **speed > 0.0)) {
        return Err(PipelineError::Cost { what: "speed", value: speed }.into());
    }
    let costs = Costs::new(blocks, [before, after], speeds);
    let (slowest, _) = costs.best(f64::max, f64::INFINITY);
    let (_, ranges) = costs.best(|sum, time| sum + time * time, slowest);
    Ok(ranges)
}

/// How long the slowest stage of a cut takes.
pub(super) fn slowest(blocks: &[f64], ends: [f64; 2], speeds: &[f64], cut: &[Range<usize>]) -> f64 {
    let costs = Costs::new(blocks, ends, speeds);
    let times = cut.iter().enumerate().map(|(stage, blocks)| costs.time(stage, blocks.clone()));
    times.fold(0.0, f64::max)
}

/// What runs of blocks cost.
struct Costs<'a> {
    /// The cost of the blocks before each.
    sums: Vec<f64>,
    ends: [f64; 2],
    speeds: &'a [f64],
}

impl<'a> Costs<'a> {
    fn new(blocks: &[f64], ends: [f64; 2], speeds: &'a [f64]) -> Self {
        let mut sums = vec![0.0];
        for cost in blocks {
            sums.push(sums[sums.len() - 1] + cost);
        }
        Self { sums, ends, speeds }
    }

    /// How long a stage takes for these blocks.
    fn time(&self, stage: usize, blocks: Range<usize>) -> f64 {
        let mut cost = self.sums[blocks.end] - self.sums[blocks.start];
        if stage == 0 {
            cost += self.ends[0];
        }
        if stage + 1 == self.speeds.len() {
            cost += self.ends[1];
        }
        cost / self.speeds[stage]
    }

    /// The cut for which `join`, over the times of all stages, is least, where none is longer than `limit`; and that
    /// least.
    fn best(&self, join: fn(f64, f64) -> f64, limit: f64) -> (f64, Vec<Range<usize>>) {
        let (num_blocks, num_stages) = (self.sums.len() - 1, self.speeds.len());
        // Of the stages so far over the first blocks: the least, and where the last of these stages begins.
        let mut least = vec![(f64::INFINITY, 0); num_blocks + 1];
        least[0].0 = 0.0;
        let mut starts = Vec::with_capacity(num_stages);
        for stage in 0..num_stages {
            let mut next = vec![(f64::INFINITY, 0); num_blocks + 1];
            for (end, next) in next.iter_mut().enumerate().skip(stage + 1) {
                for (start, &(before, _)) in least.iter().enumerate().take(end).skip(stage) {
                    let time = self.time(stage, start..end);
                    let joined = if time <= limit { join(before, time) } else { f64::INFINITY };
                    if joined < next.0 {
                        *next = (joined, start);
                    }
                }
            }
            starts.push(next.iter().map(|(_, start)| *start).collect::<Vec<_>>());
            least = next;
        }
        let mut end = num_blocks;
        let mut ranges: Vec<_> = starts
            .iter()
            .rev()
            .map(|starts| {
                let range = starts[end]..end;
                end = range.start;
                range
            })
            .collect();
        ranges.reverse();
        (least[num_blocks].0, ranges)
    }
}

/// The cut of a stack into stages of these numbers of blocks.
///
/// # Errors
/// [`PipelineError::Blocks`] unless they are as many as there are stages, positive, and together all blocks.
pub(crate) fn cut(
    blocks: &[usize],
    num_blocks: usize,
    num_stages: usize,
) -> Result<Vec<Range<usize>>, PipelineError> {
    let fits = blocks.len() == num_stages
        && blocks.iter().sum::<usize>() == num_blocks
        && !blocks.contains(&0);
    if !fits {
        return Err(PipelineError::Blocks { blocks: blocks.to_vec(), num_blocks, num_stages });
    }
    let mut start = 0;
    let range = |&count: &usize| {
        let range = start..start + count;
        start = range.end;
        range
    };
    Ok(blocks.iter().map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::iter::once;

    /// Every way to cut `num_blocks` into `num_stages` runs.
    fn every_cut(start: usize, num_blocks: usize, num_stages: usize) -> Vec<Vec<Range<usize>>> {
        if num_stages == 1 {
            return vec![vec![start..num_blocks]];
        }
        let with_first = |end: usize| {
            let rest = every_cut(end, num_blocks, num_stages - 1);
            rest.into_iter().map(move |rest| once(start..end).chain(rest).collect())
        };
        (start + 1..=num_blocks - (num_stages - 1)).flat_map(with_first).collect()
    }

    proptest! {
        #[test]
        fn no_other_cut_has_a_faster_slowest_stage(
            blocks in vec(0.1..9.0_f64, 4..9),
            speeds in vec(0.5..4.0_f64, 1..5),
            before in 0.0..9.0_f64,
            after in 0.0..9.0_f64,
        ) {
            let ranges = partition(&blocks, before, after, &speeds);
            let ranges = ranges.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(ranges.iter().all(|range| !range.is_empty()));
            let covered: Vec<usize> = ranges.iter().cloned().flatten().collect();
            prop_assert_eq!(covered, (0..blocks.len()).collect::<Vec<_>>());
            let slowest = |cut: &[Range<usize>]| slowest(&blocks, [before, after], &speeds, cut);
            let best = every_cut(0, blocks.len(), speeds.len());
            let best = best.iter().map(|cut| slowest(cut)).fold(f64::INFINITY, f64::min);
            prop_assert!(slowest(&ranges) <= best);
        }
    }

    #[test]
    fn equal_blocks_are_cut_evenly_wherever_that_is_as_fast() -> Result<()> {
        assert_eq!(partition(&[1.0; 8], 0.0, 0.0, &[1.0; 4])?, [0..2, 2..4, 4..6, 6..8]);
        let lengths: Vec<usize> =
            partition(&[1.0; 10], 0.0, 0.0, &[1.0; 4])?.iter().map(Range::len).collect();
        assert!(lengths.iter().all(|length| (2..=3).contains(length)), "{lengths:?}");
        Ok(())
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_the_number() {
        let refused = |blocks: &[f64], speeds: &[f64]| {
            partition(blocks, 0.0, 0.0, speeds).unwrap_err().to_string()
        };
        assert!(refused(&[1.0], &[1.0; 2]).contains("1 blocks"));
        assert!(refused(&[1.0, -2.0], &[1.0]).contains("-2"));
        assert!(refused(&[1.0, 2.0], &[1.0, 0.0]).contains("speed 0"));
        assert_eq!(cut(&[3, 1], 4, 2), Ok(vec![0..3, 3..4]));
        for blocks in [&[3, 2][..], &[4, 0], &[4], &[2, 1, 1]] {
            let refused = cut(blocks, 4, 2).unwrap_err().to_string();
            assert!(refused.contains("4 blocks") && refused.contains("2 stages"), "{refused}");
        }
    }
}
