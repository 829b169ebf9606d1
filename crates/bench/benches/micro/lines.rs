//! What Criterion kept of a benchmark, as a line of JSON like those of the other benchmarks.

use crate::{GROUPS, Group};
use criterion::Throughput;
use mlx_train_bench::{record::Record, timing::Quantiles};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Who a benchmark is of.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: String,
    full_id: String,
    throughput: Option<Throughput>,
}

/// What was measured: how many iterations each sample has, and how many nanoseconds they took.
#[derive(Deserialize)]
struct Samples {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// Prints a line for each benchmark that was measured after `began`, in their order; a trial measures none.
pub fn print(home: &Path, began: SystemTime) {
    let mut folders = Vec::new();
    measured(home, began, &mut folders);
    folders.sort();
    for (_, folder) in folders {
        let benchmark: Benchmark = read(&folder.join("benchmark.json"));
        let group = GROUPS.iter().find(|group| group.name == benchmark.group_id).unwrap();
        record(group, &benchmark, &read(&folder.join("sample.json"))).print().unwrap();
    }
}

/// Adds the folders below this one whose samples are new, with the time of these.
fn measured(folder: &Path, began: SystemTime, found: &mut Vec<(SystemTime, PathBuf)>) {
    // Without a benchmark there is none.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let kept = path.join("sample.json");
        // Others are earlier ones, for Criterion to compare with.
        if path.ends_with("new") && kept.exists() {
            let time = fs::metadata(kept).unwrap().modified().unwrap();
            found.extend((time >= began).then_some((time, path)));
        } else if path.is_dir() {
            measured(&path, began, found);
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn record(group: &Group, benchmark: &Benchmark, Samples { iters, times }: &Samples) -> Record {
    let Benchmark { function_id, full_id, throughput, .. } = benchmark;
    let seconds = times.iter().zip(iters).map(|(nanoseconds, count)| nanoseconds * 1e-9 / count);
    let seconds = Quantiles::of(seconds.collect());
    let (tokens, bytes) = match *throughput {
        Some(Throughput::Elements(tokens)) => (Some(tokens), None),
        Some(Throughput::Bytes(bytes)) => (None, Some(bytes)),
        _ => (None, None),
    };
    let a_second = |count| count as f64 / seconds.median;
    Record {
        benchmark: "micro",
        framework: if function_id.starts_with("bare") { "bare" } else { "mlx-train" },
        model: group.name,
        shapes: (group.shapes)(),
        dtype: group.dtype,
        compiled: false,
        seconds,
        // Criterion warms up before it measures, and keeps nothing of that.
        first_seconds: f64::NAN,
        tokens_per_second: tokens.map(a_second),
        peak_bytes: 0,
        further: json!({
            "name": full_id,
            "num_samples": iters.len(),
            "num_iterations": iters.iter().sum::<f64>(),
            "gigabytes_per_second": bytes.map(|bytes| a_second(bytes) / 1e9),
        }),
    }
}
