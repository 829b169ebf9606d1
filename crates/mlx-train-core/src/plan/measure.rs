//! A cluster as it is: what the devices of a group of ranks can do, and what carries arrays between them.

use super::{
    cluster::{Cluster, Device, Host, Link},
    fit::fit,
};
use crate::{
    Array, Result,
    bytes::Bytes,
    distributed::{Backend, Group},
    estimate::Machine,
    ffi::{self, device_info},
};
use mlx_rs::{
    Dtype,
    ops::{full, matmul},
};
use std::{slice::from_ref, time::Instant};

/// How often each thing is measured; the median counts.
const REPEATS: usize = 5;

/// A product of matrices that tells their speed takes at least so long, in seconds, or has so many rows.
const LONG_ENOUGH: f64 = 0.05;
const FIRST_ROWS: i32 = 256;
const MAX_ROWS: i32 = 8192;

/// How many numbers the arrays have that tell how fast memory is, as activations do, and how long the chain of them is.
const NUMBERS: i32 = 1 << 20;
const LINKS: i32 = 16;

/// How many operations that have nothing to do tell what each takes.
const SMALL_OPERATIONS: u32 = 1000;

/// The sums over ranks that tell what connects them, in f32 numbers: 4 KiB to 16 MiB.
const SUMMED: [i32; 5] = [1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22];

impl Cluster {
    /// Measures the devices of all ranks at the same time, as they are when they train, and sums over them. All
    /// ranks have to call it, and get the same; `host` is the name of the machine that a rank is on.
    ///
    /// Ranks of one host share its memory where they compute on the CPU. Hosts are taken to be connected as the
    /// devices on them are, at the pace of the slowest link. It takes some seconds.
    ///
    /// # Errors
    /// When MLX fails. A rank that waits longer than the limit of the group ends.
    pub fn measure(group: &Group, host: &str) -> Result<Self> {
        let hosts = of_all_ranks(group, &[host_number(host)])?;
        let sharing = hosts.iter().filter(|number| hosts.get(group.rank()) == Some(number)).count();
        let own = measure_device(group, sharing.max(1))?;
        let devices = of_all_ranks(group, &numbers(&own))?;
        let (link, overlap) = measure_link(group, own.f32_flops)?;

        let mut together: Vec<(&[f32], Vec<&[f32]>)> = Vec::new();
        for (host, device) in hosts.iter().zip(&devices) {
            match together.last_mut() {
                Some((last, devices)) if *last == host => devices.push(device),
                _ => together.push((host, vec![device])),
            }
        }
        let hosts = together.into_iter().map(|(_, devices)| Host {
            count: 1,
            devices: devices.len(),
            device: mean(&own, &devices),
            link,
        });
        let backend = group.backend().unwrap_or(Backend::Ring).into();
        Ok(Self { backend, overlap, link, hosts: hosts.collect() })
    }
}

/// The device of this rank, which it shares the memory of with others if it is a CPU.
fn measure_device(group: &Group, sharing: usize) -> Result<Device> {
    let info = device_info()?;
    let memory = Machine::here()?.limit.map_or(0, |limit| limit.bytes);
    Ok(Device {
        memory: Bytes(if info.is_gpu { memory } else { memory / sharing as u64 }),
        name: info.name,
        f32_flops: product_speed(group, Dtype::Float32)?,
        bf16_flops: product_speed(group, Dtype::Bfloat16)?,
        bytes_per_second: memory_speed(group)?,
        seconds_per_operation: overhead(group)?,
    })
}

/// Floating-point operations per second in products of matrices that are large enough.
fn product_speed(group: &Group, dtype: Dtype) -> Result<f64> {
    let mut rows = FIRST_ROWS;
    loop {
        let matrix = numbers_of(&[rows, rows], dtype)?;
        group.barrier()?;
        let seconds = median(|| ffi::eval(&[matmul(&matrix, &matrix)?]))?;
        // All ranks measure as often.
        let longest = largest(group, seconds)?;
        if longest >= LONG_ENOUGH || rows >= MAX_ROWS {
            return Ok(2.0 * f64::from(rows).powi(3) / seconds);
        }
        rows *= 2;
    }
}

/// Bytes per second of what training does besides products: most of it adds and multiplies, as `x + x * x` does.
fn memory_speed(group: &Group) -> Result<f64> {
    // Each of two operations reads two arrays and makes one.
    let moved = f64::from(LINKS * NUMBERS) * 2.0 * 3.0 * 4.0;
    let x = numbers_of(&[NUMBERS], Dtype::Float32)?;
    group.barrier()?;
    let seconds = median(|| {
        let mut y = x.clone();
        for _ in 0..LINKS {
            y = x.add(y.multiply(&x)?)?;
        }
        ffi::eval(&[y])
    })?;
    Ok(moved / seconds)
}

/// Seconds that an operation takes which has nothing to do.
fn overhead(group: &Group) -> Result<f64> {
    let one = numbers_of(&[], Dtype::Float32)?;
    group.barrier()?;
    let seconds = median(|| {
        let mut x = one.clone();
        for _ in 0..SMALL_OPERATIONS {
            x = x.add(&one)?;
        }
        ffi::eval(&[x])
    })?;
    Ok(seconds / f64::from(SMALL_OPERATIONS))
}

/// What connects the ranks, as the sums over all of them tell, and how much of a sum passes while a device of this
/// speed computes.
fn measure_link(group: &Group, flops: f64) -> Result<(Link, f64)> {
    if group.is_alone() {
        return Ok((Link::default(), 0.0));
    }
    let mut points = Vec::with_capacity(SUMMED.len());
    for numbers in SUMMED {
        let seconds = largest(group, sum(group, numbers)?)?;
        points.push((4.0 * f64::from(numbers), seconds));
    }
    let (seconds, per_byte) = fit(&points);
    // Of a ring: `2 (n - 1)` steps, and each byte moves `2 (n - 1) / n` times.
    let ranks = group.world_size() as f64;
    let steps = 2.0 * (ranks - 1.0);
    let bytes_per_second = steps / ranks / per_byte.max(f64::MIN_POSITIVE);
    let latency_seconds = seconds / steps;
    let summing = points.last().map_or(0.0, |point| point.1);
    let overlap = overlap(group, flops, summing)?;
    Ok((
        Link {
            bytes_per_second: bytes_per_second.clamp(1.0, 1e18),
            latency_seconds: latency_seconds.min(10.0),
        },
        overlap,
    ))
}

/// The share of a sum over ranks that passes while the device computes for as long.
fn overlap(group: &Group, flops: f64, summing: f64) -> Result<f64> {
    if !device_info()?.is_gpu {
        // Sums and products are in one queue, that of the CPU.
        return Ok(0.0);
    }
    let numbers = SUMMED[SUMMED.len() - 1];
    let rows = (flops * summing / 2.0).cbrt().clamp(64.0, f64::from(MAX_ROWS)) as i32;
    let matrix = numbers_of(&[rows, rows], Dtype::Float32)?;
    let x = numbers_of(&[numbers], Dtype::Float32)?;
    let product = || -> Result<Array> { Ok(matmul(&matrix, &matrix)?) };
    group.barrier()?;
    let computing = largest(group, median(|| ffi::eval(&[product()?]))?)?;
    let summing = largest(group, sum(group, numbers)?)?;
    group.barrier()?;
    let both = median(|| {
        let arrays = [group.all_sum(&x)?, product()?];
        group.eval("a sum during a product", &arrays)
    })?;
    let both = largest(group, both)?;
    Ok(((computing + summing - both) / computing.min(summing)).clamp(0.0, 1.0))
}

/// Seconds of a sum over ranks.
fn sum(group: &Group, numbers: i32) -> Result<f64> {
    let x = numbers_of(&[numbers], Dtype::Float32)?;
    group.barrier()?;
    median(|| group.eval("a sum that is measured", from_ref(&group.all_sum(&x)?)))
}

/// The median time of `f`, which runs once more before.
fn median(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let began = Instant::now();
        f()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[REPEATS / 2].max(1e-9))
}

/// An array that has a value.
fn numbers_of(shape: &[i32], dtype: Dtype) -> Result<Array> {
    let array = full::<f32>(shape, Array::from_f32(0.5))?.as_dtype(dtype)?;
    ffi::eval([&array])?;
    Ok(array)
}

/// The largest of what ranks have.
fn largest(group: &Group, value: f64) -> Result<f64> {
    let values = of_all_ranks(group, &[value as f32])?;
    Ok(values.into_iter().flatten().fold(0.0, |most, value| f64::max(most, f64::from(value))))
}

/// What every rank has told.
fn of_all_ranks(group: &Group, told: &[f32]) -> Result<Vec<Vec<f32>>> {
    let own = Array::from_slice(told, &[1, told.len() as i32]);
    let all = group.all_gather(&own)?;
    group.eval("what other ranks have measured", from_ref(&all))?;
    Ok(all.try_as_slice::<f32>()?.chunks(told.len()).map(<[f32]>::to_vec).collect())
}

/// A number that tells hosts apart; whole as f32.
fn host_number(host: &str) -> f32 {
    let hash = host.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    (hash % (1 << 24)) as f32
}

/// A device as numbers, which all backends carry.
fn numbers(device: &Device) -> [f32; 5] {
    let &Device { memory, f32_flops, bf16_flops, bytes_per_second, seconds_per_operation, .. } =
        device;
    let numbers = [memory.0 as f64, f32_flops, bf16_flops, bytes_per_second, seconds_per_operation];
    numbers.map(|number| number as f32)
}

/// What devices of one host have on average, with the name of one of them.
fn mean(own: &Device, devices: &[&[f32]]) -> Device {
    let mean = |index: usize| {
        let numbers = devices.iter().filter_map(|device| device.get(index));
        numbers.map(|&number| f64::from(number)).sum::<f64>() / devices.len().max(1) as f64
    };
    Device {
        name: own.name.clone(),
        memory: Bytes(mean(0) as u64),
        f32_flops: mean(1),
        bf16_flops: mean(2),
        bytes_per_second: mean(3),
        seconds_per_operation: mean(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, ModelConfig};

    #[test]
    fn a_device_alone_is_measured_and_written_as_a_cluster_of_one() -> Result<()> {
        let cluster = Cluster::measure(&Group::alone(), "here")?;
        let [host] = &cluster.hosts[..] else { panic!("there is one host: {cluster:?}") };
        assert_eq!((host.count, host.devices), (1, 1));
        let Device { f32_flops, bytes_per_second, seconds_per_operation, .. } = host.device;
        assert!(f32_flops > 1e8 && bytes_per_second > 1e7, "{cluster:?}");
        assert!(seconds_per_operation > 0.0 && seconds_per_operation < 0.1, "{cluster:?}");
        let text = cluster.to_text(Format::Toml)?;
        assert_eq!(Cluster::parse(&text, Format::Toml)?, cluster, "{text}");
        Ok(())
    }

    #[test]
    fn names_of_hosts_are_told_apart() {
        let numbers = ["mac-1", "mac-2", "mac-1.local"].map(|host| host_number(host) as u32);
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2]);
        assert_eq!(host_number("mac-1") as u32, numbers[0]);
    }
}
