//! Arithmetic and traffic, and how long a device takes for them.

use super::cluster::{Device, Number};
use serde::Serialize;
use std::{
    iter::Sum,
    ops::{Add, Mul},
};

/// What a device has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Work {
    /// Floating-point operations of matrix products; a product and its sum are two.
    pub flops: f64,
    /// Bytes that everything else reads and writes.
    pub bytes: f64,
    /// How many operations are handed to the device.
    pub operations: f64,
}

impl Work {
    /// How many seconds `device` takes for it, with matrix products of this kind of number.
    ///
    /// `flops / speed + bytes / bandwidth + operations * overhead`: what is not a matrix product waits for memory.
    /// Source: the roofline of Williams et al., Communications of the ACM 52(4), 2009, whose two roofs are for
    /// different operations here and therefore add up.
    pub fn seconds(&self, device: &Device, number: Number) -> f64 {
        self.flops / device.flops(number)
            + self.bytes / device.bytes_per_second
            + self.operations * device.seconds_per_operation
    }

    /// The same where matrix products are divided among `tensor` ranks to the share `flops`, and the rest to the
    /// share `bytes`.
    pub(super) fn divided(self, tensor: usize, flops: f64, bytes: f64) -> Self {
        Self {
            flops: self.flops * left(flops, tensor),
            bytes: self.bytes * left(bytes, tensor),
            operations: self.operations,
        }
    }

    /// What one has more than the other, nothing where it has less.
    pub(super) fn beyond(self, other: Self) -> Self {
        let beyond = |a: f64, b: f64| (a - b).max(0.0);
        Self {
            flops: beyond(self.flops, other.flops),
            bytes: beyond(self.bytes, other.bytes),
            operations: beyond(self.operations, other.operations),
        }
    }
}

/// What each of so many ranks has of something that is divided to a share.
pub(super) fn left(share: f64, ranks: usize) -> f64 {
    1.0 - share + share / ranks as f64
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flops: self.flops + other.flops,
            bytes: self.bytes + other.bytes,
            operations: self.operations + other.operations,
        }
    }
}

impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            flops: self.flops * factor,
            bytes: self.bytes * factor,
            operations: self.operations * factor,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(works: I) -> Self {
        works.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_sum_of_products_memory_and_overhead() {
        let device = Device {
            f32_flops: 1e12,
            bf16_flops: 4e12,
            bytes_per_second: 1e11,
            seconds_per_operation: 1e-5,
            ..Device::default()
        };
        let work = Work { flops: 2e12, bytes: 5e10, operations: 100.0 };
        assert!((work.seconds(&device, Number::F32) - (2.0 + 0.5 + 0.001)).abs() < 1e-12);
        assert!((work.seconds(&device, Number::Bf16) - (0.5 + 0.5 + 0.001)).abs() < 1e-12);
    }

    #[test]
    fn what_is_divided_in_part_shrinks_in_part() {
        let work = Work { flops: 100.0, bytes: 100.0, operations: 10.0 };
        let of_four = work.divided(4, 1.0, 0.5);
        assert_eq!(of_four, Work { flops: 25.0, bytes: 62.5, operations: 10.0 });
        assert_eq!(work.divided(1, 1.0, 1.0), work);
    }
}
