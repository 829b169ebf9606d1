//! Draws from a list of weights, each in constant time.

use super::{DataError, random};
use crate::Result;

/// A table from which index `i` is drawn with probability `weight[i] / sum(weights)`.
///
/// Each of `n` columns holds one index, and an alias for the rest of its height 1/n, so that a draw
/// is one column and one comparison. Source: Walker 1977, "An efficient method for generating discrete
/// random variables with general distributions"; built as by Vose 1991, "A linear algorithm for
/// generating random numbers with a given distribution". It takes 16 bytes a weight.
#[derive(Debug)]
pub(super) struct AliasTable {
    columns: Box<[Column]>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// Which share of the column is its own index's, 0 to 1.
    own: f64,
    alias: usize,
}

impl AliasTable {
    /// # Errors
    /// [`DataError::Invalid`] unless weights are finite, none is negative, and one is above zero.
    pub(super) fn new(weights: &[f64]) -> Result<Self> {
        if let Some(row) = weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
            let problem = format!(
                "the weight of row {row} is {}: weights are finite and not negative",
                weights[row]
            );
            return Err(DataError::Invalid(problem).into());
        }
        // As shares of the largest, so that the sum stays finite.
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let total: f64 = weights.iter().map(|weight| weight / largest).sum();
        if largest <= 0.0 {
            let problem =
                "no row has a weight above zero: give one to each row that is to be drawn";
            return Err(DataError::Invalid(problem.into()).into());
        }
        let num_columns = weights.len() as f64;
        // Heights whose mean is 1: those below it are filled up from those above it.
        let mut heights: Vec<f64> =
            weights.iter().map(|weight| weight / largest / total * num_columns).collect();
        let mut columns: Box<[Column]> =
            (0..weights.len()).map(|index| Column { own: 1.0, alias: index }).collect();
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&index| heights[index] < 1.0);
        while let (Some(index), Some(&donor)) = (low.pop(), high.last()) {
            columns[index] = Column { own: heights[index], alias: donor };
            heights[donor] -= 1.0 - heights[index];
            if heights[donor] < 1.0 {
                high.pop();
                low.push(donor);
            }
        }
        // What rounding leaves over is one column high, unless its weight is nothing at all.
        let by_weight = |a: &usize, b: &usize| weights[*a].total_cmp(&weights[*b]);
        let heaviest = (0..weights.len()).max_by(by_weight).unwrap_or(0);
        for index in low.into_iter().filter(|&index| weights[index] == 0.0) {
            columns[index] = Column { own: 0.0, alias: heaviest };
        }
        Ok(Self { columns })
    }

    /// The index that belongs to a random number, of which all bits count.
    pub(super) fn draw(&self, bits: u64) -> usize {
        let column = random::below(bits, self.columns.len());
        let Column { own, alias } = self.columns[column];
        if random::unit(random::mix(bits)) < own { column } else { alias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The probability of each index, summed over the columns.
    fn probabilities(table: &AliasTable) -> Vec<f64> {
        let share = 1.0 / table.columns.len() as f64;
        let mut sums = vec![0.0; table.columns.len()];
        for (index, column) in table.columns.iter().enumerate() {
            sums[index] += column.own * share;
            sums[column.alias] += (1.0 - column.own) * share;
        }
        sums
    }

    proptest! {
        #[test]
        fn probabilities_are_the_weights_shares(
            weights in prop::collection::vec(prop_oneof![Just(0.0), 1e-3_f64..1e3], 1..60),
        ) {
            prop_assume!(weights.iter().any(|&weight| weight > 0.0));
            let total: f64 = weights.iter().sum();
            let table = AliasTable::new(&weights).unwrap();
            for (weight, probability) in weights.iter().zip(probabilities(&table)) {
                prop_assert!((weight / total - probability).abs() < 1e-12);
                prop_assert!(*weight > 0.0 || probability == 0.0);
            }
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let table = AliasTable::new(&[1.0, 0.0, 3.0, 6.0]).unwrap();
        let mut counts = [0_u32; 4];
        for draw in 0..10_000 {
            counts[table.draw(random::mix(draw))] += 1;
        }
        // Five standard deviations, 50 at most.
        let close = |count: u32, expected: u32| count.abs_diff(expected) < 250;
        assert!(close(counts[0], 1000) && close(counts[2], 3000) && close(counts[3], 6000));
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        for (weights, problem) in [
            (&[1.0, -1.0][..], "the weight of row 1 is -1"),
            (&[f64::NAN], "the weight of row 0 is NaN"),
            (&[1.0, f64::INFINITY], "the weight of row 1 is inf"),
            (&[0.0, 0.0], "no row has a weight above zero"),
            (&[], "no row has a weight above zero"),
        ] {
            let message = AliasTable::new(weights).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        let huge = AliasTable::new(&[f64::MAX, f64::MAX]).unwrap();
        assert_eq!(probabilities(&huge), [0.5, 0.5]);
    }
}
