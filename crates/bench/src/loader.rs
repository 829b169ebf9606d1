//! How long a step waits for its data, at ten times the rate of `gpt-s` on this machine.

use crate::{
    Options,
    by_hand::ByHand,
    record::Record,
    timing::{NUM_WARMUPS, Quantiles, steps, timed},
    training::Work,
};
use mlx_train::{
    Error, Result,
    data::{DataLoader, LoaderOptions, TokenWriter, Tokenizer, Windows},
    profile::Memory,
};
use serde_json::json;
use std::{path::Path, thread::sleep, time::Duration};

/// How much faster than by `gpt-s` the batches are taken.
const SPEED_UP: f64 = 10.0;

/// As `gpt-s` has them.
const BATCH_SIZE: usize = 8;
const SEQ_LEN: usize = 256;

/// How many tokens the files have: 64 MB.
const NUM_TOKENS: usize = 1 << 25;

/// Measures, and prints a line.
///
/// Token files are mapped into memory, and windows of them drawn in a random order. In the place of
/// a step this thread sleeps, as it does while a GPU computes.
pub fn run(options: &Options) -> Result<()> {
    let step_seconds = gpt_s_seconds()? / SPEED_UP;
    let folder = tempfile::tempdir()
        .map_err(|error| Error::message(format!("no folder to write tokens to: {error}")))?;
    let windows = windows(folder.path())?;
    let options_of_loader = LoaderOptions { batch_size: BATCH_SIZE, ..Default::default() };
    let num_workers = options_of_loader.num_workers;
    let mut loader = DataLoader::new(windows, options_of_loader)?;

    let mut waits = Vec::new();
    Memory::reset_peak()?;
    for _ in 0..NUM_WARMUPS + 10 * options.steps {
        let (batch, wait) = timed(|| loader.next_batch());
        drop(batch?);
        waits.push(wait);
        sleep(Duration::from_secs_f64(step_seconds));
    }
    let first_seconds = waits.first().copied().unwrap_or_default();
    let waits = waits.split_off(NUM_WARMUPS as usize);
    let mean = waits.iter().sum::<f64>() / waits.len() as f64;
    let seconds = Quantiles::of(waits);
    Record {
        benchmark: "loader",
        framework: "mlx-train",
        model: Work::GptS.name(),
        shapes: json!({ "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "num_tokens": NUM_TOKENS }),
        dtype: "int32",
        compiled: false,
        tokens_per_second: Some((BATCH_SIZE * SEQ_LEN) as f64 / (step_seconds + mean)),
        seconds,
        first_seconds,
        peak_bytes: Memory::now()?.peak_bytes,
        further: json!({
            "step_seconds": step_seconds,
            "wait_share": mean / (step_seconds + mean),
            "num_workers": num_workers,
        }),
    }
    .print()
}

/// The median of a few steps.
fn gpt_s_seconds() -> Result<f64> {
    let work = Work::GptS;
    let mut by_hand = ByHand::new(work.model()?, &work.step_options(false)?)?;
    let batch = work.sizes().batches()?.swap_remove(0);
    Ok(steps(NUM_WARMUPS, || by_hand.step(&batch, 1e-4).map(drop))?.seconds.median)
}

fn windows(folder: &Path) -> Result<Windows> {
    let mut writer =
        TokenWriter::create(folder.join("tokens"), &Tokenizer::bytes(), NUM_TOKENS / 4)?;
    let text: Vec<u32> =
        (0..1 << 16).map(|index: u32| index.wrapping_mul(index) / 7 % 256).collect();
    for _ in 0..NUM_TOKENS / text.len() {
        writer.push(false, &text)?;
        writer.end_document(false);
    }
    writer.finish()?.training().windows(SEQ_LEN)
}
