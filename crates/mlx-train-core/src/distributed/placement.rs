//! Which part of an array a rank holds.

use super::DistributedError;
use crate::{Array, Error, Result};
use std::ops::Range;

/// Which part of a whole array a rank holds: all of it, or the box that splits of its axes leave.
///
/// ```
/// use mlx_train_core::distributed::{Placement, Split};
/// // The second of two parts by rows, and of that the first of four.
/// let placement = Placement::whole(&[16, 6])
///     .split(Split { axis: 0, parts: 2, part: 1 })?
///     .split(Split { axis: 0, parts: 4, part: 0 })?;
/// assert_eq!(placement.ranges(), [8..10, 0..6]);
/// assert_eq!(placement.local_shape(), [2, 6]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    shape: Vec<i32>,
    splits: Vec<Split>,
}

/// An axis in equal parts, one of which is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The axis, from 0.
    pub axis: usize,
    /// How many parts there are.
    pub parts: usize,
    /// The part that is held, from 0.
    pub part: usize,
}

impl Placement {
    /// All of an array of this shape.
    pub fn whole(shape: &[i32]) -> Self {
        Self { shape: shape.to_vec(), splits: Vec::new() }
    }

    /// A part of what was held before: a second split of an axis cuts what the first has left of it.
    ///
    /// # Errors
    /// [`DistributedError::Split`] when there is no such axis, no such part, or the parts would be unequal.
    pub fn split(mut self, split: Split) -> Result<Self> {
        let length = self.local_shape().get(split.axis).copied();
        let divides = |length: i32| (length as usize).is_multiple_of(split.parts);
        if split.part >= split.parts || !length.is_some_and(divides) {
            return Err(DistributedError::Split { shape: self.local_shape(), split }.into());
        }
        if split.parts > 1 {
            self.splits.push(split);
        }
        Ok(self)
    }

    /// The shape of the whole.
    pub fn shape(&self) -> &[i32] {
        &self.shape
    }

    /// The splits, the first of which cuts the whole.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Whether all of the array is held.
    pub fn is_whole(&self) -> bool {
        self.splits.is_empty()
    }

    /// The shape of what is held.
    pub fn local_shape(&self) -> Vec<i32> {
        self.ranges().iter().map(|range| range.end - range.start).collect()
    }

    /// What is held of each axis.
    pub fn ranges(&self) -> Vec<Range<i32>> {
        let mut ranges: Vec<_> = self.shape.iter().map(|&length| 0..length).collect();
        for &Split { axis, parts, part } in &self.splits {
            // The splits were checked when they were added.
            if let Some(range) = ranges.get_mut(axis) {
                let length = (range.end - range.start) / parts as i32;
                let start = range.start + part as i32 * length;
                *range = start..start + length;
            }
        }
        ranges
    }

    /// What is held of `whole`: a view, with which all of `whole` stays in memory.
    ///
    /// # Errors
    /// When `whole` is of another shape, or MLX fails.
    pub fn slice(&self, whole: &Array) -> Result<Array> {
        if whole.shape() != self.shape {
            return Err(Error::message(format!(
                "an array of shape {:?} cannot be placed as one of shape {:?}",
                whole.shape(),
                self.shape
            )));
        }
        let mut held = whole.clone();
        for (axis, (range, &length)) in self.ranges().into_iter().zip(&self.shape).enumerate() {
            if range != (0..length) {
                let parts = held.split_at_indices(&[range.start, range.end], axis as i32)?;
                held = parts.into_iter().nth(1).unwrap_or(held);
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_of_parts_cover_every_element_once(
            rows in 1..4_usize, outer in 1..4_usize, inner in 1..4_usize, columns in 1..4_usize,
        ) {
            let shape = [(rows * outer * inner) as i32, (3 * columns) as i32];
            let count = shape[0] * shape[1];
            let whole = Array::from_iter(0..count, &shape);
            let mut seen = Vec::new();
            for (first, second, third) in (0..outer)
                .flat_map(|first| (0..inner).map(move |second| (first, second)))
                .flat_map(|(first, second)| (0..columns).map(move |third| (first, second, third)))
            {
                let placement = Placement::whole(&shape)
                    .split(Split { axis: 0, parts: outer, part: first })
                    .and_then(|it| it.split(Split { axis: 0, parts: inner, part: second }))
                    .and_then(|it| it.split(Split { axis: 1, parts: columns, part: third }));
                let placement = placement.map_err(|error| TestCaseError::fail(error.to_string()))?;
                let held = placement.slice(&whole).and_then(|held| Ok(held.flatten(None, None)?));
                let held = held.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(held.size() as i32, placement.local_shape().iter().product::<i32>());
                let held = held.multiply(Array::from_int(1)).and_then(|held| {
                    held.eval().map(|()| held)
                });
                let held = held.map_err(|error| TestCaseError::fail(error.to_string()))?;
                let elements = held.try_as_slice::<i32>();
                seen.extend_from_slice(elements.map_err(|error| TestCaseError::fail(error.to_string()))?);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn unequal_parts_are_refused_with_the_shape() {
        for split in [
            Split { axis: 0, parts: 4, part: 0 },
            Split { axis: 2, parts: 1, part: 0 },
            Split { axis: 1, parts: 2, part: 2 },
            Split { axis: 1, parts: 0, part: 0 },
        ] {
            let refused = Placement::whole(&[6, 8]).split(split).unwrap_err().to_string();
            assert!(refused.contains("[6, 8]"), "{refused}");
        }
    }
}
