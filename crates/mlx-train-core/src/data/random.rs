//! Random numbers that are a function of a counter, so that any one is computed by itself.

/// The odd number nearest to 2^64 divided by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The start of the numbers that belong to a seed and an epoch.
pub(super) fn epoch_state(seed: u64, epoch: u64) -> u64 {
    mix(seed).wrapping_add(mix(!epoch))
}

/// A number below `len`, by the high bits of `bits`: Lemire, arXiv:1805.10941, without the rejection
/// (its bias is `len / 2^64`).
pub(super) fn below(bits: u64, len: usize) -> usize {
    ((u128::from(bits) * len as u128) >> 64) as usize
}

/// A number in 0 to 1, without 1, by the 53 high bits of `bits`.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (-53_f64).exp2()
}
