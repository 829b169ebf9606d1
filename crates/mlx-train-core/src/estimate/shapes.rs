//! Shapes as lists of lengths.

/// How many elements an array of this shape has.
pub(super) fn num_elements(shape: &[i32]) -> u64 {
    shape.iter().map(|&length| u64::from(length.unsigned_abs())).product()
}

/// The lengths that are not 1.
pub(super) fn without_ones(shape: &[i32]) -> Vec<i32> {
    shape.iter().copied().filter(|&length| length != 1).collect()
}
