//! How blocks are cut into stages.

use std::{cmp::Reverse, collections::BinaryHeap};

/// How many blocks each stage gets so that the slowest is as fast as can be: at least one each.
///
/// A block takes `block_seconds[s]` on stage s, which takes `other_seconds[s]` besides. Each block in turn goes to
/// the stage that is done first with it, which no other choice beats, since blocks are alike.
pub(super) fn balance(
    num_blocks: usize,
    block_seconds: &[f64],
    other_seconds: &[f64],
) -> Vec<usize> {
    let mut blocks = vec![1; block_seconds.len()];
    let with_one_more = |stage: usize, blocks: usize| {
        let seconds = (blocks + 1) as f64 * block_seconds[stage] + other_seconds[stage];
        // The bits of positive floats are in the order of the floats.
        Reverse((seconds.to_bits(), stage))
    };
    let mut next: BinaryHeap<_> = (0..blocks.len()).map(|stage| with_one_more(stage, 1)).collect();
    for _ in blocks.len()..num_blocks {
        if let Some(Reverse((_, stage))) = next.pop() {
            blocks[stage] += 1;
            next.push(with_one_more(stage, blocks[stage]));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slowest(blocks: &[usize], block: &[f64], other: &[f64]) -> f64 {
        let seconds = blocks.iter().zip(block).zip(other);
        seconds.map(|((&blocks, block), other)| blocks as f64 * block + other).fold(0.0, f64::max)
    }

    #[test]
    fn slow_devices_and_those_with_more_to_do_get_fewer_blocks() {
        assert_eq!(balance(12, &[1.0, 1.0], &[0.0, 0.0]), [6, 6]);
        assert_eq!(balance(12, &[1.0, 2.0], &[0.0, 0.0]), [8, 4]);
        assert_eq!(balance(12, &[1.0, 1.0], &[0.0, 4.0]), [8, 4]);
        assert_eq!(balance(2, &[1.0, 100.0], &[0.0, 0.0]), [1, 1]);
    }

    proptest! {
        #[test]
        fn no_other_cut_of_two_stages_is_faster(
            num_blocks in 2..20_usize, a in 0.1..10.0_f64, b in 0.1..10.0_f64, c in 0.0..20.0_f64,
        ) {
            let (block, other) = ([a, b], [0.0, c]);
            let cut = balance(num_blocks, &block, &other);
            prop_assert_eq!(cut.iter().sum::<usize>(), num_blocks);
            let found = slowest(&cut, &block, &other);
            for first in 1..num_blocks {
                prop_assert!(found <= slowest(&[first, num_blocks - first], &block, &other));
            }
        }
    }
}
