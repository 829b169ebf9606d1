//! Which documents are held out.

use crate::data::random::{GOLDEN, below, mix};

/// Chooses a fraction of the documents by their numbers alone, so that no file needs to be read twice
/// and a run that goes on chooses as before.
///
/// The documents are dealt into groups of one over the fraction, and one of each group is held out: the
/// share is exact however few documents there are, and no pattern in their order is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldOut {
    fraction: f64,
}

impl HeldOut {
    /// `fraction` is at least 0 and below 1.
    pub(super) fn new(fraction: f64) -> Self {
        Self { fraction }
    }

    pub(super) fn contains(self, document: u64) -> bool {
        if self.fraction <= 0.0 {
            return false;
        }
        let mut group = (document as f64 * self.fraction) as u64;
        // Rounding may have missed the group by one.
        while self.first(group) > document {
            group -= 1;
        }
        while self.first(group + 1) <= document {
            group += 1;
        }
        let (first, end) = (self.first(group), self.first(group + 1));
        let bits = mix(group.wrapping_mul(GOLDEN).wrapping_add(GOLDEN));
        document == first + below(bits, (end - first) as usize) as u64
    }

    /// The first document of a group.
    fn first(self, group: u64) -> u64 {
        (group as f64 / self.fraction).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_number_of_documents_has_its_share_held_out(fraction in 0.0_f64..0.99, num in 1_u64..2000) {
            let held_out = HeldOut::new(fraction);
            let found = (0..num).filter(|&document| held_out.contains(document)).count() as f64;
            // The group that is not whole may have its one or not.
            prop_assert!((found - num as f64 * fraction).abs() <= 2.0, "{found}");
        }
    }

    #[test]
    fn no_pattern_is_followed() {
        let held_out = HeldOut::new(0.1);
        let places: std::collections::HashSet<u64> =
            (0..1000).filter(|&document| held_out.contains(document)).map(|n| n % 10).collect();
        assert_eq!(places.len(), 10);
    }
}
