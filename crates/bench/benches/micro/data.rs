//! Batches of windows of token files in shuffled order, the same tokens in ever more files.
//!
//! This thread makes each batch itself: with threads that work ahead, what a batch costs would hide behind
//! what is done with the last one.

use crate::{Group, IS_OPTIMISED};
use criterion::{BenchmarkGroup, BenchmarkId, Throughput, measurement::WallTime};
use mlx_train::data::{DataLoader, LoaderOptions, TokenFiles, TokenWriter, Tokenizer};
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;

pub const GROUP: Group = Group {
    name: "data",
    dtype: "int32",
    shapes: || json!({ "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "num_tokens": NUM_TOKENS, "num_shards": NUM_SHARDS }),
    bench,
};

const BATCH_SIZE: usize = 8;
const SEQ_LEN: usize = 256;
const NUM_TOKENS: usize = if IS_OPTIMISED { 1 << 22 } else { 1 << 16 };
const NUM_SHARDS: &[usize] = if IS_OPTIMISED { &[1, 10, 100, 1000] } else { &[1, 10] };

fn bench(group: &mut BenchmarkGroup<'_, WallTime>) {
    for &num_shards in NUM_SHARDS {
        let mut files = None;
        let mut loader = None;
        group.throughput(Throughput::Elements((BATCH_SIZE * SEQ_LEN) as u64));
        group.bench_function(BenchmarkId::new("next batch", num_shards), |b| {
            let files = files.get_or_insert_with(|| written(num_shards));
            let loader = loader.get_or_insert_with(|| loader_of(files.path()));
            b.iter(|| loader.next_batch().unwrap());
        });
        group.throughput(Throughput::Elements(NUM_TOKENS as u64));
        group.bench_function(BenchmarkId::new("open", num_shards), |b| {
            let files = files.get_or_insert_with(|| written(num_shards));
            b.iter(|| loader_of(files.path()));
        });
    }
}

/// A folder of this many files.
fn written(num_shards: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shard_tokens = NUM_TOKENS.div_ceil(num_shards);
    let mut writer = TokenWriter::create(folder.path(), &Tokenizer::bytes(), shard_tokens).unwrap();
    let token = |index: u32| index.wrapping_mul(index) / 7 % 256;
    let tokens: Vec<_> = (0..NUM_TOKENS as u32).map(token).collect();
    writer.push(false, &tokens).unwrap();
    assert_eq!(writer.finish().unwrap().index().training.len(), num_shards);
    folder
}

fn loader_of(folder: &Path) -> DataLoader {
    let windows = TokenFiles::open(folder).unwrap().training().windows(SEQ_LEN).unwrap();
    let options =
        LoaderOptions { batch_size: BATCH_SIZE, num_workers: 0, ..LoaderOptions::default() };
    DataLoader::new(windows, options).unwrap()
}
