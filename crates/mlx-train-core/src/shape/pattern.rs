//! What `assert_shape!` expands to; not part of the public API.
//!
//! The expansion compares sizes itself and calls [`mismatch`] when that has failed, to find out why.

use super::ShapeError;
use std::fmt::{self, Display, Write};

/// An array and the axes that it must have.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// The array, as it is written in the source.
    pub array: &'static str,
    /// Its axes.
    pub axes: &'static [Axis],
}

/// One axis, or any number of them.
#[derive(Debug, Clone, Copy)]
pub enum Axis {
    /// `_`: any size.
    Any,
    /// `..`: any number of axes.
    Rest,
    /// Factors that multiply to the size.
    Product(&'static [Factor]),
}

/// A part of an axis.
#[derive(Debug, Clone, Copy)]
pub enum Factor {
    /// A name that the assertion binds.
    Name(&'static str),
    /// An integer.
    Literal(i64),
    /// An expression, whose size is in the slice of values.
    Value {
        /// The expression, as it is written in the source.
        text: &'static str,
        /// Its place in the slice of values.
        index: usize,
    },
}

/// What can be the size of an axis.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the size of an axis",
    label = "not an integer",
    note = "sizes are integers: i32, i64, u32, u64, usize, or references to them"
)]
pub trait Size: Copy {
    /// The size; one beyond `i64` equals no axis, and neither does the largest `i64`.
    fn size(self) -> i64;
}

macro_rules! sizes {
    ($($integer:ty)*) => {$(
        impl Size for $integer {
            #[inline]
            fn size(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }
        }
    )*};
}

sizes!(i32 i64 u32 u64 usize);

impl<T: Size> Size for &T {
    #[inline]
    fn size(self) -> i64 {
        (*self).size()
    }
}

/// The size of an axis that an expression stands for.
#[inline]
pub fn size(size: impl Size) -> i64 {
    size.size()
}

/// Whether the factors multiply to the size.
#[inline]
pub fn is_product(size: i32, factors: &[i64]) -> bool {
    product(factors) == i64::from(size)
}

/// The size divided by the factors, if they divide it.
#[inline]
pub fn quotient(size: i32, factors: &[i64]) -> Option<i32> {
    let (size, divisor) = (i64::from(size), product(factors));
    let divides = divisor > 0 && size % divisor == 0;
    // A quotient by a positive number is no larger than the size.
    divides.then(|| (size / divisor) as i32)
}

/// One too large equals no axis, so it may stop growing.
#[inline]
fn product(factors: &[i64]) -> i64 {
    factors.iter().fold(1, |product, &factor| factor.saturating_mul(product))
}

/// Why arrays of these shapes do not match.
#[cold]
#[inline(never)]
pub fn mismatch(
    patterns: &[Pattern],
    shapes: &[&[i32]],
    values: &[i64],
    location: &'static str,
) -> ShapeError {
    let mut sizes = Sizes { names: Vec::new(), values };
    let (at, difference) = sizes.first_difference(patterns, shapes).unwrap_or_default();
    let (array, axes) = patterns.get(at).map_or(("", [].as_slice()), |p| (p.array, p.axes));
    let mut reason = difference;
    for (index, (name, size)) in sizes.known(patterns).into_iter().enumerate() {
        let separator = if index == 0 { " (" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(reason, "{separator}{name} = {size}");
    }
    if reason.contains(" (") {
        reason.push(')');
    }
    ShapeError::Shape {
        array,
        actual: shapes.get(at).copied().unwrap_or_default().into(),
        expected: Axes(axes).to_string().into(),
        reason: reason.into(),
        location,
    }
}

/// Sizes that are known so far.
struct Sizes<'a> {
    names: Vec<(&'static str, i64)>,
    values: &'a [i64],
}

impl Sizes<'_> {
    /// The array and what is wrong with it, in the order in which the expansion looks.
    fn first_difference(
        &mut self,
        patterns: &[Pattern],
        shapes: &[&[i32]],
    ) -> Option<(usize, String)> {
        for (at, (pattern, shape)) in patterns.iter().zip(shapes).enumerate() {
            let has_rest = pattern.axes.iter().any(|axis| matches!(axis, Axis::Rest));
            let (num_axes, rank) = (pattern.axes.len() - usize::from(has_rest), shape.len());
            if rank < num_axes || (rank > num_axes && !has_rest) {
                let least = if has_rest { "at least " } else { "" };
                let plural = if rank == 1 { "axis" } else { "axes" };
                let difference = format!("it has {rank} {plural}, not {least}{num_axes}");
                return Some((at, difference));
            }
        }
        let axes = sizes_of_axes(patterns, shapes);
        for axis in &axes {
            if let [Factor::Name(name)] = axis.factors {
                self.bind(name, axis.size);
            }
        }
        loop {
            let num_names = self.names.len();
            for axis in &axes {
                if let Err(difference) = self.divide(axis) {
                    return Some((axis.array, difference));
                }
            }
            if self.names.len() == num_names {
                break;
            }
        }
        axes.iter().find_map(|axis| {
            let expected = self.product(axis.factors)?;
            (expected != axis.size).then(|| {
                (axis.array, format!("axis {} is {}, not {expected}", axis.place, axis.size))
            })
        })
    }

    /// Binds a name to its first size.
    fn bind(&mut self, name: &'static str, size: i64) {
        if self.get(name).is_none() {
            self.names.push((name, size));
        }
    }

    /// Binds the one unknown name of a product, if there is one and the product divides.
    fn divide(&mut self, axis: &SizedAxis) -> Result<(), String> {
        let mut unknown = axis.factors.iter().filter_map(|factor| match factor {
            Factor::Name(name) => self.get(name).is_none().then_some(*name),
            _ => None,
        });
        let (Some(name), None) = (unknown.next(), unknown.next()) else { return Ok(()) };
        let others: Vec<i64> =
            axis.factors.iter().filter_map(|factor| self.product(&[*factor])).collect();
        let divisor = product(&others);
        match i32::try_from(axis.size).ok().and_then(|size| quotient(size, &others)) {
            Some(size) => {
                self.bind(name, i64::from(size));
                Ok(())
            }
            None => Err(format!("axis {} is {}, no multiple of {divisor}", axis.place, axis.size)),
        }
    }

    /// The size of a product, if all its names are known.
    fn product(&self, factors: &[Factor]) -> Option<i64> {
        let sizes: Option<Vec<i64>> = factors
            .iter()
            .map(|factor| match factor {
                Factor::Name(name) => self.get(name),
                Factor::Literal(size) => Some(*size),
                Factor::Value { index, .. } => self.values.get(*index).copied(),
            })
            .collect();
        Some(product(&sizes?))
    }

    fn get(&self, name: &str) -> Option<i64> {
        self.names.iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
    }

    /// Names and expressions in the order in which they are written, with their sizes.
    fn known(&self, patterns: &[Pattern]) -> Vec<(&'static str, i64)> {
        let mut known: Vec<(&'static str, i64)> = Vec::new();
        for axis in patterns.iter().flat_map(|pattern| pattern.axes) {
            let Axis::Product(factors) = axis else { continue };
            for factor in *factors {
                let text = match factor {
                    Factor::Name(name) => name,
                    Factor::Literal(_) => continue,
                    Factor::Value { text, .. } => text,
                };
                if let Some(size) = self.product(&[*factor])
                    && known.iter().all(|(seen, _)| seen != text)
                {
                    known.push((text, size));
                }
            }
        }
        known
    }
}

/// An axis that something is said about, and its size.
struct SizedAxis {
    array: usize,
    place: usize,
    factors: &'static [Factor],
    size: i64,
}

/// The axes of arrays that have as many as they should.
fn sizes_of_axes(patterns: &[Pattern], shapes: &[&[i32]]) -> Vec<SizedAxis> {
    let mut sized = Vec::new();
    for (array, (pattern, shape)) in patterns.iter().zip(shapes).enumerate() {
        let num_skipped = (shape.len() + 1).saturating_sub(pattern.axes.len());
        let mut place = 0;
        for axis in pattern.axes {
            match axis {
                Axis::Rest => place += num_skipped,
                Axis::Any => place += 1,
                Axis::Product(factors) => {
                    let size = shape.get(place).map_or(0, |&size| i64::from(size));
                    sized.push(SizedAxis { array, place, factors, size });
                    place += 1;
                }
            }
        }
    }
    sized
}

/// Axes as they are written in the source.
struct Axes(&'static [Axis]);

impl Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self
            .0
            .iter()
            .map(|axis| match axis {
                Axis::Any => "_".to_owned(),
                Axis::Rest => "..".to_owned(),
                Axis::Product(factors) => {
                    let factors: Vec<String> = factors.iter().map(ToString::to_string).collect();
                    factors.join("*")
                }
            })
            .collect();
        write!(f, "[{}]", axes.join(", "))
    }
}

impl Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Literal(size) => write!(f, "{size}"),
            Self::Value { text, .. } => write!(f, "{{{text}}}"),
        }
    }
}
