//! Saving and loading a checkpoint against writing and reading a plain file of as many bytes.

use crate::{
    Options,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use mlx_train::{
    Array, Error, Result,
    mlx_rs::{
        random::{key, normal},
        transforms::eval,
    },
    profile::Memory,
    store::{Check, CheckpointConfig, Checkpoints, Saver, Snapshot},
};
use serde_json::json;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// How many arrays there are; the first third are weights, the others the state of an optimizer.
const NUM_ARRAYS: usize = 48;

/// 4 MiB of f32 each.
const SHAPE: [i32; 2] = [1024, 1024];

/// Measures, and prints a line for each of the two.
///
/// Each round saves, writes, loads and reads, so that both meet the disk in the same state. What was
/// just written comes from the system's cache: the work of the store is compared, not the disk's.
pub fn run(options: &Options) -> Result<()> {
    let arrays = arrays()?;
    let content = vec![0x5a; arrays.iter().map(|(_, array)| array.nbytes()).sum()];

    let mut rounds = Vec::new();
    Memory::reset_peak()?;
    for _ in 0..NUM_WARMUPS + options.steps {
        let folder = tempfile::tempdir();
        let folder =
            folder.map_err(|error| Error::message(format!("no folder to save in: {error}")))?;
        rounds.push(Round::measure(folder.path(), &arrays, &content)?);
    }
    let peak_bytes = Memory::now()?.peak_bytes;

    let column = |figure: fn(&Round) -> f64| {
        Quantiles::of(rounds[NUM_WARMUPS as usize..].iter().map(figure).collect())
    };
    let gigabytes = content.len() as f64 / 1e9;
    let speed = |seconds: Quantiles| gigabytes / seconds.median;
    let record = |framework, figure: fn(&Round) -> f64, further| Record {
        benchmark: "checkpoint",
        framework,
        model: "arrays",
        shapes: json!({ "num_arrays": NUM_ARRAYS, "shape": SHAPE, "bytes": content.len() }),
        dtype: "float32",
        compiled: false,
        seconds: column(figure),
        first_seconds: rounds.first().map_or(0.0, figure),
        tokens_per_second: None,
        peak_bytes,
        further,
    };
    let plain = json!({
        "save_gigabytes_per_second": speed(column(|round| round.write)),
        "load_gigabytes_per_second": speed(column(|round| round.read)),
    });
    record("plain file", |round| round.write, plain).print()?;
    let ours = json!({
        "save_gigabytes_per_second": speed(column(|round| round.save)),
        "load_gigabytes_per_second": speed(column(|round| round.load)),
        "load_unverified_gigabytes_per_second": speed(column(|round| round.load_unverified)),
        "training_stands_still_seconds": column(|round| round.stall),
    });
    record("mlx-train", |round| round.save, ours).print()
}

/// Seconds of one of each.
struct Round {
    save: f64,
    /// The part of `save` for which training waits.
    stall: f64,
    load: f64,
    load_unverified: f64,
    write: f64,
    read: f64,
}

impl Round {
    fn measure(folder: &Path, arrays: &[(String, Array)], content: &[u8]) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::message(format!("cannot measure in `{}`: {error}", folder.display()))
        };
        let checkpoints = Checkpoints::create(folder.join("checkpoints"))?;
        let (stall, save) = timed(|| save(checkpoints.clone(), arrays));
        let file = folder.join("plain");
        let (written, write) = timed(|| write_synced(&file, content));
        written.map_err(failed)?;

        let (loaded, load) = timed(|| checkpoints.load_latest(Check::Hashes));
        loaded?;
        let (loaded, load_unverified) = timed(|| checkpoints.load_latest(Check::Sizes));
        loaded?;
        let (content, read) = timed(|| fs::read(&file));
        content.map_err(failed)?;
        Ok(Self { save, stall: stall?, load, load_unverified, write, read })
    }
}

fn arrays() -> Result<Vec<(String, Array)>> {
    let arrays = (0..NUM_ARRAYS).map(|index| {
        // Zeros might be written faster.
        let array = normal::<f32>(&SHAPE, None, None, &key(index as u64)?)?;
        Ok((format!("{index:02}"), array))
    });
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    eval(arrays.iter().map(|(_, array)| array))?;
    Ok(arrays)
}

/// Saves to the end, and returns for how long training would have stood still.
fn save(checkpoints: Checkpoints, arrays: &[(String, Array)]) -> Result<f64> {
    let (weights, training) = arrays.split_at(NUM_ARRAYS / 3);
    let mut saver = Saver::new(checkpoints, &CheckpointConfig::default())?;
    saver.save(|| Snapshot::take(1, named(weights), named(training)))?;
    let mut stall = 0.0;
    for outcome in saver.finish() {
        outcome.result?;
        stall += (outcome.timing.waited + outcome.timing.copied).as_secs_f64();
    }
    Ok(stall)
}

fn named(arrays: &[(String, Array)]) -> impl Iterator<Item = (&str, &Array)> {
    arrays.iter().map(|(name, array)| (name.as_str(), array))
}

/// What a program does that wants its file to survive a power cut.
fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}
