//! Saving a checkpoint against `cp` of its files, and loading it against reading them.

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
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

/// How many arrays there are; the first third are weights, the others the state of an optimizer.
const NUM_ARRAYS: usize = 66;

/// 8 MiB of f32 each.
const SHAPE: [i32; 2] = [2048, 1024];

/// Measures, and prints a line for each of the two.
///
/// `cp` copies the files of a checkpoint to another folder of the same disk, and then each of them and the folder is
/// synced, as a save does: a copy that is not synced is in memory for some seconds, and lost with the power. Both
/// take turns in being the first. What is read was just written or read, and comes from the system's cache: the work
/// of the store is compared, not the disk's.
pub fn run(options: &Options) -> Result<()> {
    let arrays = arrays()?;
    let folder = tempfile::tempdir();
    let folder =
        folder.map_err(|error| Error::message(format!("no folder to save in: {error}")))?;
    let source = Source::new(folder.path(), &arrays)?;

    let mut rounds = Vec::new();
    Memory::reset_peak()?;
    for number in 0..NUM_WARMUPS + options.steps {
        let path = folder.path().join(number.to_string());
        fs::create_dir(&path).map_err(failed(&path))?;
        rounds.push(Round::measure(&path, &source, &arrays, number % 2 == 0)?);
        fs::remove_dir_all(&path).map_err(failed(&path))?;
    }
    let peak_bytes = Memory::now()?.peak_bytes;

    let column = |figure: fn(&Round) -> f64| {
        Quantiles::of(rounds[NUM_WARMUPS as usize..].iter().map(figure).collect())
    };
    let gigabytes = source.num_bytes as f64 / 1e9;
    let speed = |figure| gigabytes / column(figure).median;
    let ratio = |figure, to| column(to).median / column(figure).median;
    let record = |framework, figure: fn(&Round) -> f64, further| Record {
        benchmark: "checkpoint",
        framework,
        model: "arrays",
        shapes: json!({ "num_arrays": NUM_ARRAYS, "shape": SHAPE, "bytes": source.num_bytes }),
        dtype: "float32",
        compiled: false,
        seconds: column(figure),
        first_seconds: rounds.first().map_or(0.0, figure),
        tokens_per_second: None,
        peak_bytes,
        further,
    };
    let cp = json!({
        "save_gigabytes_per_second": speed(Round::copy_synced),
        "save_unsynced_gigabytes_per_second": speed(|round| round.copy),
        "load_gigabytes_per_second": speed(|round| round.read),
    });
    record("cp", Round::copy_synced, cp).print()?;
    let ours = json!({
        "save_gigabytes_per_second": speed(|round| round.save),
        "save_to_cp": ratio(|round| round.save, Round::copy_synced),
        "save_to_unsynced_cp": ratio(|round| round.save, |round| round.copy),
        "load_gigabytes_per_second": speed(|round| round.load),
        "load_to_read": ratio(|round| round.load, |round| round.read),
        "load_unverified_gigabytes_per_second": speed(|round| round.load_unverified),
        "training_stands_still_seconds": column(|round| round.stall),
    });
    record("mlx-train", |round| round.save, ours).print()
}

/// A checkpoint that is on disk.
struct Source {
    step: PathBuf,
    checkpoints: Checkpoints,
    num_bytes: u64,
}

impl Source {
    fn new(folder: &Path, arrays: &[(String, Array)]) -> Result<Self> {
        let checkpoints = Checkpoints::create(folder.join("source"))?;
        save(&mut Saver::new(checkpoints.clone(), &CheckpointConfig::default())?, arrays)?;
        let latest = checkpoints.latest()?;
        let latest = latest.ok_or_else(|| Error::message("nothing was saved"))?;
        let num_bytes = latest.manifest?.num_bytes();
        Ok(Self { step: latest.path, checkpoints, num_bytes })
    }
}

/// Seconds of one of each.
struct Round {
    save: f64,
    /// The part of `save` for which training waits.
    stall: f64,
    load: f64,
    load_unverified: f64,
    copy: f64,
    /// What it takes after that until the copy is on disk.
    sync: f64,
    read: f64,
}

impl Round {
    fn measure(
        folder: &Path,
        source: &Source,
        arrays: &[(String, Array)],
        saves_first: bool,
    ) -> Result<Self> {
        let checkpoints = Checkpoints::create(folder.join("checkpoints"))?;
        // What a run does once is not measured.
        let mut saver = Saver::new(checkpoints, &CheckpointConfig::default())?;
        let mut save_timed = || timed(|| save(&mut saver, arrays));
        let copied = folder.join("copied");
        let copy_timed = || {
            let (done, copy) = timed(|| copy_folder(&source.step, &copied));
            done?;
            let (done, sync) = timed(|| sync_folder(&copied));
            done.map_err(failed(&copied)).map(|()| (copy, sync))
        };
        let ((stall, save), copied) = if saves_first {
            (save_timed(), copy_timed())
        } else {
            let copied = copy_timed();
            (save_timed(), copied)
        };
        let (copy, sync) = copied?;

        let (loaded, load) = timed(|| source.checkpoints.load_latest(Check::Hashes));
        loaded?;
        let (loaded, load_unverified) = timed(|| source.checkpoints.load_latest(Check::Sizes));
        loaded?;
        let (content, read) = timed(|| read_folder(&source.step));
        content.map_err(failed(&source.step))?;
        Ok(Self { save, stall: stall?, load, load_unverified, copy, sync, read })
    }

    fn copy_synced(&self) -> f64 {
        self.copy + self.sync
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
fn save(saver: &mut Saver, arrays: &[(String, Array)]) -> Result<f64> {
    let (weights, training) = arrays.split_at(NUM_ARRAYS / 3);
    saver.save(|| Snapshot::take(1, named(weights), named(training)))?;
    let mut stall = 0.0;
    for outcome in saver.settle() {
        outcome.result?;
        stall += (outcome.timing.waited + outcome.timing.copied).as_secs_f64();
    }
    Ok(stall)
}

fn named(arrays: &[(String, Array)]) -> impl Iterator<Item = (&str, &Array)> {
    arrays.iter().map(|(name, array)| (name.as_str(), array))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    // Not `fs::copy`, which on some systems copies nothing until one of the two is changed.
    let status = Command::new("cp").arg("-R").args([from, to]).status().map_err(failed(from))?;
    if !status.success() {
        return Err(Error::message(format!("cp of `{}`: {status}", from.display())));
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        File::open(item?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

/// Reads all files into as many buffers as there are arrays, which are all held as the arrays are.
fn read_folder(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let array_bytes = SHAPE.map(|size| size as u64).iter().product::<u64>() * 4;
    let mut buffers = Vec::new();
    for item in fs::read_dir(folder)? {
        let mut file = File::open(item?.path())?;
        let mut left = file.metadata()?.len();
        while left > 0 {
            let mut buffer = vec![0; left.min(array_bytes) as usize];
            file.read_exact(&mut buffer)?;
            left -= buffer.len() as u64;
            buffers.push(buffer);
        }
    }
    Ok(buffers)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::message(format!("cannot measure in `{}`: {error}", path.display()))
}
