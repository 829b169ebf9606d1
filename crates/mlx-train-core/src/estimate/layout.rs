//! Where the elements of an array are in its buffer: what decides whether an operation can go on with the same
//! buffer, and how large a new one is.
//!
//! MLX's description of a graph has shapes alone. The strides follow from the operations; where an axis is not
//! told (`Transpose`), the likeliest one is taken.

use super::shapes::{num_elements, without_ones};

/// The strides of an array, in elements, and what MLX knows of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) strides: Vec<i64>,
    /// How many elements of the buffer the array spans: fewer than it has if it is broadcast.
    pub(super) data_size: u64,
    /// Whether there are no holes between them.
    pub(super) contiguous: bool,
    /// Whether they lie in the order of the axes.
    pub(super) row_contiguous: bool,
    /// Whether they lie in the opposite order.
    pub(super) col_contiguous: bool,
}

impl Layout {
    /// Elements in the order of the axes, as in a new array.
    pub(super) fn row_major(shape: &[i32]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * i64::from(shape[axis]);
        }
        let data_size = num_elements(shape);
        let longest = shape.iter().max().map_or(1, |&length| i64::from(length) as u64);
        Self {
            strides,
            data_size,
            contiguous: true,
            row_contiguous: true,
            col_contiguous: data_size <= 1 || data_size == longest,
        }
    }

    /// The stride of an axis that counts from the end.
    pub(super) fn stride_from_end(&self, axis: usize) -> Option<i64> {
        self.strides.len().checked_sub(axis + 1).map(|axis| self.strides[axis])
    }

    /// Axes of length 1 repeated, and new ones in front.
    pub(super) fn broadcast(&self, from: &[i32], to: &[i32]) -> Self {
        let new = to.len().saturating_sub(from.len());
        let strides = (0..to.len()).map(|axis| match axis.checked_sub(new) {
            Some(old) if from[old] != 1 => self.strides[old],
            _ => 0,
        });
        let grows = num_elements(to) > num_elements(from);
        Self {
            strides: strides.collect(),
            row_contiguous: self.row_contiguous && !grows,
            col_contiguous: self.col_contiguous && !grows,
            ..self.clone()
        }
    }

    /// The likeliest exchange of axes that makes `to` of `from`.
    pub(super) fn transpose(&self, from: &[i32], to: &[i32]) -> Self {
        let axes = likeliest_axes(from, to);
        let strides: Vec<i64> = axes.iter().map(|&axis| self.strides[axis]).collect();
        let mut out = Self { strides, ..self.clone() };
        if self.contiguous && self.data_size == num_elements(from) {
            (out.row_contiguous, out.col_contiguous) = order(to, &out.strides);
        }
        out
    }

    /// Axes of length 1 put in or left out.
    pub(super) fn with_other_ones(&self, from: &[i32], to: &[i32]) -> Self {
        let mut kept = from.iter().zip(&self.strides).filter(|&(&length, _)| length != 1);
        let stride = |&length: &i32| match length {
            1 => 1,
            _ => kept.next().map_or(1, |(_, &stride)| stride),
        };
        Self { strides: to.iter().map(stride).collect(), ..self.clone() }
    }

    /// The same elements under other axes; `None` where they have to be copied.
    pub(super) fn reshape(&self, from: &[i32], to: &[i32]) -> Option<Self> {
        let mut out = Self::row_major(to);
        if num_elements(from) == 0 || self.row_contiguous {
            out.data_size = self.data_size;
            return Some(out);
        }
        if without_ones(from) == without_ones(to) {
            return Some(self.with_other_ones(from, to));
        }
        if from.is_empty() {
            out.strides.fill(0);
        } else {
            out.strides = split_axes(joined_axes(from, &self.strides), to)?;
        }
        let Self { data_size, contiguous, row_contiguous, col_contiguous, .. } = *self;
        Some(Self { data_size, contiguous, row_contiguous, col_contiguous, ..out })
    }

    /// A part of the elements, each axis from some index on.
    pub(super) fn slice(&self, to: &[i32]) -> Self {
        let last = |(&length, &stride): (&i32, &i64)| (i64::from(length) - 1).max(0) * stride.abs();
        let data_size = to.iter().zip(&self.strides).map(last).sum::<i64>() as u64 + 1;
        let held = to.iter().zip(&self.strides).filter(|&(_, &stride)| stride > 0);
        let held: u64 = held.map(|(&length, _)| length as u64).product();
        let (row_contiguous, col_contiguous) = order(to, &self.strides);
        Self {
            strides: self.strides.clone(),
            data_size,
            contiguous: held == data_size,
            row_contiguous,
            col_contiguous,
        }
    }

    /// Whether the last two axes are those of a matrix that BLAS reads as it is, transposed or not.
    pub(super) fn is_matrix(&self, shape: &[i32]) -> bool {
        let (Some(row), Some(column)) = (self.stride_from_end(1), self.stride_from_end(0)) else {
            return true;
        };
        let [.., rows, columns] = *shape else { return true };
        (row == i64::from(columns) && column == 1) || (row == 1 && column == i64::from(rows))
    }
}

/// Whether elements with these strides lie in the order of the axes, and in the opposite one.
fn order(shape: &[i32], strides: &[i64]) -> (bool, bool) {
    (
        is_in_order(shape, strides, (0..shape.len()).rev()),
        is_in_order(shape, strides, 0..shape.len()),
    )
}

/// Whether each of these axes lies around those before it.
fn is_in_order(shape: &[i32], strides: &[i64], mut axes: impl Iterator<Item = usize>) -> bool {
    let mut expected = 1;
    axes.all(|axis| {
        let fits = shape[axis] == 1 || strides[axis] == expected;
        expected *= i64::from(shape[axis]);
        fits
    })
}

/// Which axis of `from` each axis of `to` was.
///
/// Of several possibilities: the last two exchanged for a matrix, the middle two for the heads of attention,
/// then as few others as the lengths allow.
fn likeliest_axes(from: &[i32], to: &[i32]) -> Vec<usize> {
    let exchanged = |a: usize, b: usize| {
        let mut axes: Vec<usize> = (0..from.len()).collect();
        axes.swap(a, b);
        axes
    };
    let count = from.len();
    let mut likely = Vec::new();
    if count >= 4 {
        likely.push(exchanged(count - 3, count - 2));
    }
    if count >= 2 {
        likely.push(exchanged(count - 2, count - 1));
    }
    if count >= 3 {
        likely.push((1..count).chain([0]).collect());
        likely.push((count - 1..count).chain(0..count - 1).collect());
        likely.push(exchanged(0, 1));
        likely.push(exchanged(0, count - 1));
    }
    let fits = |axes: &Vec<usize>| axes.iter().zip(to).all(|(&axis, length)| from[axis] == *length);
    likely.into_iter().find(fits).unwrap_or_else(|| {
        let mut free: Vec<usize> = (0..count).collect();
        let mut take = |length: &i32| {
            let at = free.iter().position(|&axis| from[axis] == *length).unwrap_or(0);
            if free.is_empty() { 0 } else { free.remove(at) }
        };
        to.iter().map(&mut take).collect()
    })
}

/// Neighbouring axes that lie one in the other, as one: lengths and strides.
fn joined_axes(shape: &[i32], strides: &[i64]) -> Vec<(i64, i64)> {
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (&length, &stride) in shape.iter().zip(strides) {
        let length = i64::from(length);
        match joined.last_mut() {
            Some(_) if length == 1 => {}
            Some(last) if stride * length == last.1 => *last = (last.0 * length, stride),
            _ => joined.push((length, stride)),
        }
    }
    joined
}

/// The strides of `to`, each of whose axes is a part of one of `axes`; `None` if one is not.
fn split_axes(mut axes: Vec<(i64, i64)>, to: &[i32]) -> Option<Vec<i64>> {
    let mut strides = Vec::with_capacity(to.len());
    let mut at = 0;
    for &length in to {
        let length = i64::from(length);
        match axes.get_mut(at) {
            Some((left, stride)) if length > 0 && *left % length == 0 => {
                *left /= length;
                strides.push(*left * *stride);
                at += usize::from(*left == 1);
            }
            _ if length == 1 => strides.push(*strides.last()?),
            _ => return None,
        }
    }
    Some(strides)
}
