//! Parts of arrays in files: where each lies in its whole, and what overlaps.

use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::Range};

/// The key in a file's metadata under which the parts among its arrays are told, as JSON.
pub(super) const SLICES: &str = "slices";

/// A box of a larger array: what it holds of each axis.
pub(super) type Region = Vec<Range<usize>>;

/// Where a part begins in its whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slice {
    /// The shape of the whole.
    pub(crate) shape: Vec<usize>,
    /// The index of its first element in the whole.
    pub(crate) offset: Vec<usize>,
}

/// The parts among the arrays of a file, by name; others are whole.
pub(crate) type Slices = BTreeMap<String, Slice>;

/// Where an array of a file lies in its whole, or what is wrong with that.
pub(super) fn place(
    slice: Option<&Slice>,
    info: &TensorInfo,
) -> Result<(Vec<usize>, Region), String> {
    let Some(Slice { shape, offset }) = slice else {
        return Ok((info.shape.clone(), whole(&info.shape)));
    };
    let region = (shape.len() == offset.len() && shape.len() == info.shape.len()).then(|| {
        let ends = offset.iter().zip(&info.shape).map(|(&start, &size)| start.checked_add(size));
        let bounded = ends.zip(shape).map(|(end, &size)| end.filter(|&end| end <= size));
        offset
            .iter()
            .zip(bounded)
            .map(|(&start, end)| Some(start..end?))
            .collect::<Option<Region>>()
    });
    match region.flatten() {
        Some(region) => Ok((shape.clone(), region)),
        None => Err(format!(
            "a part of shape {:?} at {offset:?} is not within the whole of shape {shape:?}",
            info.shape
        )),
    }
}

/// All of an array.
pub(super) fn whole(shape: &[usize]) -> Region {
    shape.iter().map(|&size| 0..size).collect()
}

/// How many times a whole may be cut into parts of parts; a mesh has three axes.
const MAX_CUTS: usize = 16;

/// Whether parts fill a region, each element once.
///
/// Parts have to be those that cuts through all of the region leave, and cuts through all of what these leave, as
/// those of ranks are.
pub(super) fn fill(region: &Region, parts: &[&Region]) -> bool {
    fill_with_cuts(region, parts, MAX_CUTS)
}

fn fill_with_cuts(region: &Region, parts: &[&Region], cuts_left: usize) -> bool {
    if let [part] = parts {
        return *part == region;
    }
    if parts.is_empty() || cuts_left == 0 {
        return false;
    }
    // What has no element needs none, however it is cut.
    if region.iter().any(Range::is_empty) {
        return true;
    }
    let mut parts = parts.to_vec();
    for (axis, range) in region.iter().enumerate() {
        parts.sort_by_key(|part| part[axis].start);
        let mut groups: Vec<Vec<&Region>> = Vec::new();
        let mut end = range.start;
        for part in &parts {
            match groups.last_mut() {
                Some(group) if part[axis].start < end => group.push(part),
                // Where nothing reaches over, the region can be cut. A gap is no cut.
                _ if part[axis].start == end => groups.push(vec![part]),
                _ => return false,
            }
            end = end.max(part[axis].end);
        }
        if end != range.end {
            return false;
        }
        if groups.len() > 1 {
            return groups.iter().all(|group| {
                let starts = group.iter().map(|part| part[axis].start).min();
                let ends = group.iter().map(|part| part[axis].end).max();
                let mut cut = region.clone();
                cut[axis] = starts.unwrap_or_default()..ends.unwrap_or_default();
                fill_with_cuts(&cut, group, cuts_left - 1)
            });
        }
    }
    false
}

/// Elements that follow one another in two arrays, as many as both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The place of the first in the one array, in elements, row-major.
    pub(super) from: usize,
    /// Its place in the other.
    pub(super) to: usize,
    /// How many there are.
    pub(super) len: usize,
}

/// The elements that two regions of a whole share, as runs in the arrays that hold these regions.
pub(super) fn shared_runs(from: &Region, to: &Region) -> impl Iterator<Item = Run> + use<> {
    let shared: Region = from
        .iter()
        .zip(to)
        .map(|(from, to)| from.start.max(to.start)..from.end.min(to.end))
        .collect();
    let is_empty = shared.iter().any(|range| range.start >= range.end);
    let sizes: Vec<usize> = shared.iter().map(Range::len).collect();
    let runs_on = |axis: usize| sizes[axis] == from[axis].len() && sizes[axis] == to[axis].len();
    // Behind this axis all is shared, so that its elements follow one another.
    let mut last = sizes.len().saturating_sub(1);
    while last > 0 && runs_on(last) {
        last -= 1;
    }
    let len = sizes[last.min(sizes.len())..].iter().product();
    let walk = |region: &Region| {
        let mut stride = 1;
        let mut strides = vec![0; region.len()];
        for (axis, range) in region.iter().enumerate().rev() {
            strides[axis] = stride;
            stride *= range.len();
        }
        let offsets = shared.iter().zip(region).map(|(shared, own)| shared.start - own.start);
        let start: usize = offsets.zip(&strides).map(|(offset, stride)| offset * stride).sum();
        (start, strides)
    };
    let outer = sizes[..last].to_vec();
    let count = if is_empty { 0 } else { outer.iter().product() };
    let ends = if is_empty { None } else { Some((walk(from), walk(to))) };
    (0..count).filter_map(move |number: usize| {
        let ((mut from, from_strides), (mut to, to_strides)) = ends.clone()?;
        let mut rest = number;
        for axis in (0..outer.len()).rev() {
            let index = rest % outer[axis];
            rest /= outer[axis];
            from += index * from_strides[axis];
            to += index * to_strides[axis];
        }
        Some(Run { from, to, len })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts regions of a whole at random places, and then those that are left.
    fn cut(whole: Region, cuts: &[(usize, usize, usize)]) -> Vec<Region> {
        let mut parts = vec![whole];
        for &(part, axis, at) in cuts {
            let part = part % parts.len();
            let region = parts.swap_remove(part);
            let range = region[axis % region.len()].clone();
            if range.len() < 2 {
                parts.push(region);
                continue;
            }
            let at = range.start + 1 + at % (range.len() - 1);
            for piece in [range.start..at, at..range.end] {
                let mut region = region.clone();
                let axis = axis % region.len();
                region[axis] = piece;
                parts.push(region);
            }
        }
        parts
    }

    fn cuts() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
        prop::collection::vec((0..9_usize, 0..9_usize, 0..9_usize), 0..8)
    }

    proptest! {
        #[test]
        fn cuts_fill_the_whole_and_without_one_or_with_one_twice_they_do_not(
            shape in prop::collection::vec(1..6_usize, 1..4), cuts in cuts(), at in 0..99_usize,
        ) {
            let whole = whole(&shape);
            let parts = cut(whole.clone(), &cuts);
            let mut all: Vec<&Region> = parts.iter().collect();
            prop_assert!(fill(&whole, &all));
            let one = all.swap_remove(at % all.len());
            prop_assert!(!fill(&whole, &all));
            all.extend([one, one]);
            prop_assert!(!fill(&whole, &all));
        }

        #[test]
        fn runs_of_all_parts_bring_every_element_to_its_place(
            shape in prop::collection::vec(1..6_usize, 1..4), cuts in cuts(), others in cuts(),
        ) {
            let number = |index: &[usize]| {
                index.iter().zip(&shape).fold(0, |number, (&index, &size)| number * size + index)
            };
            // The numbers of a region's elements in the whole, in the region's order.
            let elements = |region: &Region| {
                let mut numbers = vec![vec![]];
                for range in region {
                    numbers = numbers.iter().flat_map(|index: &Vec<usize>| {
                        range.clone().map(move |at| [index.as_slice(), &[at]].concat())
                    }).collect();
                }
                numbers.iter().map(|index| number(index)).collect::<Vec<_>>()
            };
            let held = cut(whole(&shape), &cuts);
            for wanted in cut(whole(&shape), &others) {
                let expected = elements(&wanted);
                let mut found = vec![usize::MAX; expected.len()];
                for part in &held {
                    let values = elements(part);
                    for Run { from, to, len } in shared_runs(part, &wanted) {
                        prop_assert!(len > 0);
                        for index in 0..len {
                            prop_assert_eq!(found[to + index], usize::MAX);
                            found[to + index] = values[from + index];
                        }
                    }
                }
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_scalar_is_one_run_and_fills_itself() {
        let scalar = Region::new();
        assert_eq!(
            shared_runs(&scalar, &scalar).collect::<Vec<_>>(),
            [Run { from: 0, to: 0, len: 1 }]
        );
        assert!(fill(&scalar, &[&scalar]) && !fill(&scalar, &[&scalar, &scalar]));
    }

    #[test]
    fn rows_of_rows_are_one_run() {
        let runs: Vec<_> = shared_runs(&vec![2..6, 0..3], &vec![4..8, 0..3]).collect();
        assert_eq!(runs, [Run { from: 6, to: 0, len: 6 }]);
    }
}
