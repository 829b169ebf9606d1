//! A shuffled order that needs no memory.

use super::random::{GOLDEN, epoch_state, mix};

/// A random order of `0..len` in which any position is computed by itself.
///
/// A balanced Feistel network on the bits of the index, walked until the result is below `len`
/// (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, section 4); the round function
/// is the finaliser of `SplitMix64`. So the order of a dataset larger than memory costs nothing, and a
/// run resumes at any position at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

/// Four are enough for a large domain; small halves mix less in each.
const ROUNDS: usize = 8;

impl Permutation {
    /// The order of `0..len` that belongs to `seed` and `epoch`; other epochs have other orders.
    pub fn new(len: usize, seed: u64, epoch: u64) -> Self {
        let len = len as u64;
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = epoch_state(seed, epoch);
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        });
        Self { len, half_bits: bits.div_ceil(2), keys }
    }

    /// What stands at `position`, which is taken modulo the length; 0 in an empty order.
    pub fn at(&self, position: usize) -> usize {
        if self.len < 2 {
            return 0;
        }
        let mut index = self.encrypt(position as u64 % self.len);
        // Outside of the domain: follow the cycle back into it, four steps at most on average.
        while index >= self.len {
            index = self.encrypt(index);
        }
        index as usize
    }

    fn encrypt(&self, index: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (index >> self.half_bits, index & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let permutation = Permutation::new(len, seed, epoch);
        (0..len).map(|position| permutation.at(position)).collect()
    }

    proptest! {
        #[test]
        fn every_index_comes_once(len in 0_usize..3000, seed: u64, epoch: u64) {
            let mut indices = order(len, seed, epoch);
            indices.sort_unstable();
            prop_assert!(indices.into_iter().eq(0..len));
        }

        #[test]
        fn another_seed_or_epoch_is_another_order(len in 100_usize..3000, seed: u64, epoch: u64) {
            let first = order(len, seed, epoch);
            prop_assert_eq!(&first, &order(len, seed, epoch));
            prop_assert_ne!(&first, &order(len, seed ^ 1, epoch));
            prop_assert_ne!(&first, &order(len, seed, epoch ^ 1));
        }
    }

    #[test]
    fn low_and_high_indices_are_spread_over_the_whole_order() {
        let indices = order(10_000, 3, 0);
        for chunk in indices.chunks(1000) {
            let low = chunk.iter().filter(|&&index| index < 5000).count();
            // Half of 1000, and five standard deviations of 16.
            assert!((420..580).contains(&low), "{low} of 1000 indices are in the lower half");
        }
        let ascending = indices.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((4700..5300).contains(&ascending), "{ascending} of 9999 neighbours ascend");
    }

    #[test]
    fn all_orders_of_three_rows_occur() {
        let mut orders: Vec<_> = (0..200).map(|epoch| order(3, 0, epoch)).collect();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn the_largest_domain_works() {
        let permutation = Permutation::new(usize::MAX, 1, 0);
        assert_ne!(permutation.at(0), permutation.at(1));
    }
}
