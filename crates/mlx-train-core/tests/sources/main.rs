//! Sources of data: what is read from files, and which files are refused in which words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csv;
mod jsonl;
#[cfg(feature = "parquet")]
mod parquet;
mod prepare;
mod token_files;
mod tokenizer;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A file in a new folder, which is there as long as the first value is.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// The files of a folder by name.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), path);
    entries.map(named).map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// The message of a refusal, which has to name the file and every part of `expected`.
fn refusal<T>(result: mlx_train_core::Result<T>, path: &Path, expected: &[&str]) -> String {
    let Err(error) = result else { panic!("{} was not refused: {expected:?}", path.display()) };
    let message = error.to_string();
    let name = path.file_name().unwrap().to_string_lossy();
    for part in expected.iter().copied().chain([&*name]) {
        assert!(message.contains(part), "{message}\nlacks {part}");
    }
    message
}
