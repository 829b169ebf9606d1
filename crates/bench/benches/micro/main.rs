//! Micro-benchmarks of what is ours: `cargo xtask bench micro`, or `cargo xtask bench micro -- registry` for some.
//!
//! Criterion measures, and tells people on the standard error. Then the standard output gets one JSON line a
//! benchmark, of the very samples that Criterion kept. What a name calls `bare` is what ours is compared with.
//!
//! A debug build, as tests are, works on less: it shows that everything runs.

// As in tests, whatever fails ends the program.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod checkpoint;
mod config;
mod data;
mod lines;
mod registry;
mod shape;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use rustix::stdio::dup2_stdout;
use serde_json::Value;
use std::{
    env,
    io::{stderr, stdout},
    os::fd::AsFd,
    path::PathBuf,
    time::SystemTime,
};

/// Benchmarks of one thing.
struct Group {
    name: &'static str,
    dtype: &'static str,
    /// The sizes of what they work on.
    shapes: fn() -> Value,
    bench: fn(&mut BenchmarkGroup<'_, WallTime>),
}

const GROUPS: [Group; 5] =
    [registry::GROUP, config::GROUP, shape::GROUP, data::GROUP, checkpoint::GROUP];

/// Whether figures are of use.
const IS_OPTIMISED: bool = !cfg!(debug_assertions);

fn main() {
    let began = SystemTime::now();
    let home = env::var_os("CRITERION_HOME").map_or_else(
        || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("criterion"),
        PathBuf::from,
    );
    let lines = stdout().as_fd().try_clone_to_owned().unwrap();
    dup2_stdout(stderr()).unwrap();
    let mut criterion = Criterion::default().output_directory(&home).configure_from_args();
    for group in &GROUPS {
        let mut benchmarks = criterion.benchmark_group(group.name);
        (group.bench)(&mut benchmarks);
        benchmarks.finish();
    }
    dup2_stdout(lines).unwrap();
    lines::print(&home, began);
}
