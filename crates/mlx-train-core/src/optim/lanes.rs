//! Work on several parameters at the same time, on a CPU.

use crate::{Result, ffi};
use mlx_rs::{Array, Device, Stream, with_stream};
use std::{iter, thread};

/// More threads than these wait for memory, not for each other.
const MOST: usize = 4;

thread_local! {
    /// The default stream and others; MLX has a thread for each, which stays.
    static STREAMS: Vec<Stream> = {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let cpu = Device::cpu();
        let others = (1..cores.min(MOST)).map(|_| Stream::new_with_device(&cpu));
        iter::once(Stream::cpu()).chain(others).collect()
    };
}

/// Streams among which parameters are divided. MLX computes an operation of a CPU in one thread, that of its stream, so
/// that updates of parameters in several streams run beside each other. What each computes stays the same.
///
/// Norms stay where they are: taken during the backward pass, they would hold up the threads of its products.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes {
    /// Of each parameter; none where all stay in the default stream.
    streams: Vec<Stream>,
}

impl Lanes {
    /// Divides the parameters that these are arrays of, by their sizes.
    ///
    /// # Errors
    /// When MLX fails.
    pub(crate) fn over(arrays: &[Array]) -> Result<Self> {
        if !ffi::is_on_cpu()? {
            return Ok(Self::default());
        }
        STREAMS.with(|streams| {
            let lanes = divided(arrays.iter().map(Array::size), streams.len());
            Ok(Self { streams: lanes.into_iter().map(|lane| streams[lane].clone()).collect() })
        })
    }

    /// What `f` makes of an array of each parameter, its gradient, say.
    ///
    /// # Errors
    /// What `f` returns, or when MLX fails.
    pub(crate) fn map(arrays: &[Array], f: impl Fn(&Array) -> Result<Array>) -> Result<Vec<Array>> {
        let lanes = Self::over(arrays)?;
        let arrays = arrays.iter().enumerate();
        arrays.map(|(parameter, array)| lanes.run(parameter, || f(array))).collect()
    }

    /// Runs `f`, which works on this parameter.
    pub(crate) fn run<T>(&self, parameter: usize, f: impl FnOnce() -> T) -> T {
        match self.streams.get(parameter) {
            Some(stream) => with_stream(stream, f),
            None => f(),
        }
    }
}

/// The lane of each piece of work of these sizes: the one that has the least to do when its turn comes.
fn divided(sizes: impl Iterator<Item = usize>, num_lanes: usize) -> Vec<usize> {
    let mut loads = vec![0; num_lanes];
    let lanes = sizes.map_while(|size| {
        let lane = (0..num_lanes).min_by_key(|&lane| loads[lane])?;
        loads[lane] += size;
        Some(lane)
    });
    lanes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_have_about_as_much_to_do() {
        assert_eq!(divided([8, 1, 2, 4, 1].into_iter(), 2), [0, 1, 1, 1, 1]);
        assert_eq!(divided([3, 3, 3].into_iter(), 1), [0, 0, 0]);
    }

    #[test]
    fn work_in_lanes_has_the_same_bits() -> Result<()> {
        let normal = |size| {
            let key = crate::rng::key(size as u64)?;
            Ok(mlx_rs::random::normal::<f32>(&[size], None, None, &key)?)
        };
        let arrays = (100..140).map(normal).collect::<Result<Vec<_>>>()?;
        let work = |x: &Array| -> Result<Array> { Ok(x.exp()?.multiply(x)?.sum(None)?) };
        let in_lanes = Lanes::map(&arrays, work)?;
        // What follows in another stream waits for them.
        let total = mlx_rs::ops::stack(&in_lanes, 0)?.sum(None)?;
        let plain = arrays.iter().map(work).collect::<Result<Vec<_>>>()?;
        let plain_total = mlx_rs::ops::stack(&plain, 0)?.sum(None)?;
        ffi::eval(in_lanes.iter().chain(&plain).chain([&total, &plain_total]))?;
        for (a, b) in in_lanes.iter().zip(&plain).chain([(&total, &plain_total)]) {
            assert_eq!(a.try_item_exact::<f32>()?.to_bits(), b.try_item_exact::<f32>()?.to_bits());
        }
        Ok(())
    }
}
