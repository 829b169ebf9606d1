//! How long collectives take on a ring of equal links.
//!
//! Each rank passes its parts on to its neighbour, all at the same time, so a sum over n ranks moves every byte
//! `2 (n - 1) / n` times over each link, in `2 (n - 1)` steps: Patarasuk and Yuan, Journal of Parallel and
//! Distributed Computing 69(2), 2009. MPI and NCCL choose other ways for small arrays, whose latency is then lower.

use super::cluster::Link;
use crate::distributed::Backend;

/// A group of ranks, what connects neighbours in it, and what moves arrays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ring {
    pub(super) ranks: usize,
    pub(super) link: Link,
    pub(super) backend: Backend,
}

impl Ring {
    /// Every rank gets the sum of `bytes` of all.
    pub(super) fn all_reduce(&self, bytes: f64) -> f64 {
        2.0 * self.pass(bytes)
    }

    /// Every rank gets the parts of all, `bytes` together.
    pub(super) fn all_gather(&self, bytes: f64) -> f64 {
        self.pass(bytes)
    }

    /// Every rank gets its part of the sum of `bytes` of all. Where the backend has no such operation, the whole
    /// sum is made.
    pub(super) fn reduce_scatter(&self, bytes: f64) -> f64 {
        if self.backend.has_reduce_scatter() { self.pass(bytes) } else { self.all_reduce(bytes) }
    }

    /// One rank gets `bytes` of a neighbour.
    pub(super) fn send(&self, bytes: f64) -> f64 {
        self.link.latency_seconds + bytes / self.link.bytes_per_second
    }

    /// Once around, but for the last link.
    fn pass(&self, bytes: f64) -> f64 {
        let steps = self.ranks.saturating_sub(1) as f64;
        let share = steps / self.ranks.max(1) as f64;
        share * bytes / self.link.bytes_per_second + steps * self.link.latency_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ranks: usize, backend: Backend) -> Ring {
        let link = Link { bytes_per_second: 1e9, latency_seconds: 1e-3 };
        Ring { ranks, link, backend }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.max(1.0), "{found} {expected}");
    }

    #[test]
    fn four_ranks_take_what_a_hand_computes() {
        let four = ring(4, Backend::Nccl);
        // 2 * 3/4 of 8 GB at 1 GB/s, and 6 steps of a millisecond.
        near(four.all_reduce(8e9), 12.0 + 0.006);
        near(four.all_gather(8e9), 6.0 + 0.003);
        near(four.reduce_scatter(8e9), 6.0 + 0.003);
        near(four.send(8e9), 8.0 + 0.001);
    }

    #[test]
    fn without_a_scattered_sum_the_whole_sum_is_paid_for() {
        for (backend, is_whole) in [
            (Backend::Ring, true),
            (Backend::Mpi, true),
            (Backend::Nccl, false),
            (Backend::Jaccl, false),
        ] {
            let four = ring(4, backend);
            let whole = four.all_reduce(1e6);
            near(four.reduce_scatter(1e6), if is_whole { whole } else { whole / 2.0 });
        }
    }

    #[test]
    fn a_rank_alone_waits_for_nobody() {
        let alone = ring(1, Backend::Ring);
        assert_eq!((alone.all_reduce(1e9), alone.all_gather(1e9)), (0.0, 0.0));
    }
}
