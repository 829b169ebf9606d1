//! Token files: what is written is read, and what is damaged is refused.

use crate::{contents, refusal, tokenizer::BYTE_LEVEL};
use mlx_rs::Array;
use mlx_train_core::data::{Batch, Dataset, TokenFiles, TokenWriter, Tokenizer, Tokens};
use proptest::prelude::*;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::TempDir;

fn ints(array: &Array) -> Vec<i32> {
    array.try_as_slice::<i32>().unwrap().to_vec()
}

/// Documents of tokens of the tokenizer of bytes.
fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..256_u32, 1..20), 1..12)
}

fn write(folder: &Path, documents: &[Vec<u32>], shard_tokens: usize) -> TokenFiles {
    let mut writer = TokenWriter::create(folder, &Tokenizer::bytes(), shard_tokens).unwrap();
    for document in documents {
        writer.push(false, document).unwrap();
        writer.end_document(false);
    }
    writer.finish().unwrap()
}

/// A folder with tokens 1 to 4 in its first file and 5 in its second; 1 to 3 are the first document.
fn two_files() -> TempDir {
    // Written once: a file that has to reach the disk takes its time.
    static FILES: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
        let folder = TempDir::new().unwrap();
        write(folder.path(), &[vec![1, 2, 3], vec![4, 5]], 4);
        contents(folder.path())
    });
    let folder = TempDir::new().unwrap();
    for (name, content) in &*FILES {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// The documents of a sequence.
fn read(tokens: &Tokens) -> Vec<Vec<u32>> {
    let ranges = tokens.documents(0..tokens.num_documents()).unwrap();
    for (index, range) in ranges.iter().enumerate() {
        assert_eq!(tokens.document(index).unwrap(), *range, "one by one as all together");
    }
    let document = |range| tokens.get(range).unwrap().into_iter().map(|token| token as u32);
    ranges.into_iter().map(|range| document(range).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn documents_are_read_as_they_were_written(documents in documents(), shard_tokens in 3_usize..40) {
        let folder = TempDir::new().unwrap();
        let files = write(folder.path(), &documents, shard_tokens);
        prop_assert_eq!(read(files.training()), documents.clone());
        let num_tokens: usize = documents.iter().map(Vec::len).sum();
        prop_assert_eq!(files.training().len(), num_tokens);
        let shards = &files.index().training;
        prop_assert_eq!(shards.len(), num_tokens.div_ceil(shard_tokens));
        prop_assert!(shards.iter().rev().skip(1).all(|shard| shard.tokens == shard_tokens));
        files.verify().unwrap();
    }

    #[test]
    fn windows_of_files_are_those_of_the_same_tokens_in_memory(
        documents in documents(), shard_tokens in 5_usize..40, seq_len in 1_usize..20,
    ) {
        let folder = TempDir::new().unwrap();
        let files = write(folder.path(), &documents, shard_tokens);
        let ends = documents.iter().scan(0, |end, document| {
            *end += document.len();
            Some(*end)
        });
        let memory = Tokens::new(documents.concat(), ends.collect(), 256, "memory").unwrap();
        for windows in [Tokens::windows, Tokens::chunks] {
            let (Ok(ours), Ok(same)) = (windows(files.training(), seq_len), windows(&memory, seq_len))
            else {
                prop_assert!(memory.len() <= seq_len);
                return Ok(());
            };
            prop_assert_eq!(ours.len(), same.len());
            let rows: Vec<usize> = (0..same.len()).collect();
            let (ours, same) = (ours.batch(&rows).unwrap(), same.batch(&rows).unwrap());
            prop_assert_eq!(ints(&ours.x), ints(&same.x));
            prop_assert_eq!(ints(&ours.y), ints(&same.y));
        }
    }

    #[test]
    fn a_split_loses_nothing_and_cuts_a_document_only_where_none_ends_near(
        documents in documents(), fraction in 0.05_f64..0.95,
    ) {
        let folder = TempDir::new().unwrap();
        let files = write(folder.path(), &documents, 16);
        let Ok((training, held_out)) = files.split(fraction) else { return Ok(()) };
        prop_assert!(!training.is_empty() && !held_out.is_empty());
        let (first, second) = (read(&training), read(&held_out));
        let (len, wanted) = (files.training().len(), (files.training().len() as f64 * fraction).round());
        let ends = documents.iter().scan(0, |end, document| {
            *end += document.len();
            Some(*end)
        });
        let nearest = ends.filter(|&end| end < len).map(|end| (len - end).abs_diff(wanted as usize)).min();
        let moved = held_out.len().abs_diff(wanted as usize);
        if nearest.is_some_and(|nearest| nearest <= wanted as usize / 2) {
            prop_assert_eq!(Some(moved), nearest);
            prop_assert_eq!([first, second].concat(), documents);
        } else {
            prop_assert_eq!(moved, 0);
            prop_assert_eq!(first.len() + second.len(), documents.len() + 1, "both have some of one");
            prop_assert_eq!([first, second].concat().concat(), documents.concat());
        }
    }

    #[test]
    fn any_change_of_a_header_is_refused_by_name(byte in 0_usize..128, change in 1_u8..=255) {
        let folder = two_files();
        let path = folder.path().join("training-00000.bin");
        let mut content = fs::read(&path).unwrap();
        content[byte] ^= change;
        fs::write(&path, content).unwrap();
        refusal(TokenFiles::open(folder.path()), &path, &[]);
    }

    #[test]
    fn any_other_length_is_refused_by_name(length in 0_usize..300) {
        let folder = two_files();
        let path = folder.path().join("training-00000.bin");
        let mut content = fs::read(&path).unwrap();
        prop_assume!(length != content.len());
        content.resize(length, 0);
        fs::write(&path, content).unwrap();
        refusal(TokenFiles::open(folder.path()), &path, &["cut"]);
    }

    #[test]
    fn any_change_of_the_content_is_found(position in 0.0_f64..1.0, change in 1_u8..=255) {
        let folder = two_files();
        let path = folder.path().join("training-00000.bin");
        let mut content = fs::read(&path).unwrap();
        let byte = 128 + ((content.len() - 128) as f64 * position) as usize;
        content[byte] ^= change;
        fs::write(&path, content).unwrap();
        // Where the last document ends is looked at when the folder is opened.
        let found = TokenFiles::open(folder.path()).and_then(|files| files.verify());
        prop_assert!(found.is_err());
    }

    #[test]
    fn any_index_is_read_or_refused_by_name(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("index.json");
        fs::write(&path, bytes).unwrap();
        refusal(TokenFiles::open(folder.path()), &path, &["prepare the data again"]);
    }
}

/// A folder of two files whose index had `from` replaced by `to`.
fn with_index(from: &str, to: &str) -> (TempDir, PathBuf) {
    let folder = two_files();
    let path = folder.path().join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    (folder, path)
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused_with_the_difference() {
    for (from, to, file, expected) in [
        ("\"vocab_size\": 256", "\"vocab_size\": 300", "training-00000.bin", "vocabulary is 256"),
        ("\"tokens\": 4", "\"tokens\": 5", "training-00000.bin", "number of tokens is 4"),
        ("\"documents\": 1", "\"documents\": 2", "training-00000.bin", "number of documents is 1"),
        ("training-00001", "training-00002", "training-00001.bin", "does not list it"),
        ("\"version\": 1", "\"version\": 2", "index.json", "version 2"),
        ("\"eos\"", "\"eso\"", "index.json", "eso"),
        ("training-00000", "../training-00000", "index.json", "no name of a file"),
        ("training-00000", "/etc/passwd", "index.json", "no name of a file"),
        ("\"tokens\": 4", "\"tokens\": -4", "index.json", "-4"),
    ] {
        let (folder, _) = with_index(from, to);
        refusal(TokenFiles::open(folder.path()), &folder.path().join(file), &[expected]);
    }
}

#[test]
fn files_of_two_vocabularies_are_refused_as_one_folder() {
    let (ours, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(ours.path(), &[vec![1, 2, 3, 4], vec![4, 5]], 4);
    let tokenizer = Tokenizer::open(&BYTE_LEVEL.1).unwrap();
    let mut writer = TokenWriter::create(other.path(), &tokenizer, 4).unwrap();
    writer.push(false, &[1, 2, 3, 4]).unwrap();
    writer.finish().unwrap();
    let name = "training-00000.bin";
    fs::copy(other.path().join(name), ours.path().join(name)).unwrap();
    let path = ours.path().join(name);
    refusal(TokenFiles::open(ours.path()), &path, &["vocabulary is 278", "index.json says 256"]);
}

#[test]
fn a_missing_file_and_an_unfinished_folder_are_named() {
    let folder = two_files();
    let path = folder.path().join("training-00001.bin");
    fs::remove_file(&path).unwrap();
    refusal(TokenFiles::open(folder.path()), &path, &["does not exist"]);
    fs::remove_file(folder.path().join("index.json")).unwrap();
    refusal(TokenFiles::open(folder.path()), folder.path(), &["no index.json", "`data prepare`"]);
    let none = folder.path().join("none");
    refusal(TokenFiles::open(&none), &none, &["does not exist"]);
}

#[test]
fn an_index_that_lost_its_last_file_is_refused() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &[vec![1, 2], vec![3, 4, 5]], 4);
    fs::remove_file(folder.path().join("training-00001.bin")).unwrap();
    let path = folder.path().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["training"].as_array_mut().unwrap().pop();
    fs::write(&path, index.to_string()).unwrap();
    refusal(TokenFiles::open(folder.path()), folder.path(), &["end within a document", "2 of 4"]);
}

#[test]
fn a_token_that_is_none_is_refused_when_it_is_read() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &[vec![1; 50]], 100);
    let path = folder.path().join("training-00000.bin");
    let mut content = fs::read(&path).unwrap();
    content[128 + 2 * 7 + 1] = 1; // token 7 becomes 256 + 1
    fs::write(&path, content).unwrap();
    let windows = TokenFiles::open(folder.path()).unwrap().training().windows(4).unwrap();
    windows.batch(&[0]).unwrap();
    refusal(windows.batch(&[6]), &path, &["token 7 is 257", "vocabulary has 256"]);
}

#[test]
fn wide_tokens_and_held_out_documents_and_the_tokenizer_are_kept() {
    let folder = TempDir::new().unwrap();
    let tokenizer = Tokenizer::open(&BYTE_LEVEL.1).unwrap();
    let mut writer = TokenWriter::create(folder.path(), &tokenizer, 3).unwrap();
    for (held_out, text) in [(false, "the cat"), (true, "the hat"), (false, "and the other")] {
        writer.push(held_out, &tokenizer.encode(text).unwrap()).unwrap();
        writer.end_document(held_out);
        writer.end_document(held_out); // a document without a token
    }
    let files = writer.finish().unwrap();
    let again = files.tokenizer().unwrap();
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    let texts = |tokens: &Tokens| -> Vec<String> {
        read(tokens).iter().map(|document| again.decode(document).unwrap()).collect()
    };
    assert_eq!(texts(files.training()), ["the cat", "and the other"]);
    assert_eq!(texts(files.held_out().unwrap()), ["the hat"]);
    assert_eq!(texts(&files.split(0.5).unwrap().1), ["the hat"], "a fraction is not needed");

    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refusal(files.tokenizer(), folder.path(), &["tokenizer.json is missing"]);
    let occupied = TokenWriter::create(folder.path(), &tokenizer, 3);
    refusal(occupied, folder.path(), &["has token files already"]);
}

#[test]
fn a_token_outside_of_the_vocabulary_is_never_written() {
    let folder = TempDir::new().unwrap();
    let mut writer = TokenWriter::create(folder.path(), &Tokenizer::bytes(), 3).unwrap();
    let message = writer.push(false, &[256]).unwrap_err().to_string();
    assert!(message.contains("token 256") && message.contains("256:"), "{message}");
    assert!(Tokens::new(vec![256], vec![1], 256, "a test").is_err());
    for ends in [vec![], vec![0, 2], vec![1], vec![2, 2], vec![3]] {
        assert!(Tokens::new(vec![1, 2], ends, 256, "a test").is_err());
    }
}

#[test]
fn a_window_goes_over_files_and_documents() {
    let folder = TempDir::new().unwrap();
    let files = write(folder.path(), &[vec![1, 2, 3], vec![4, 5], vec![6, 7]], 2);
    let Batch { x, y, .. } = files.training().windows(6).unwrap().batch(&[0]).unwrap();
    assert_eq!(ints(&x), [1, 2, 3, 4, 5, 6]);
    assert_eq!(ints(&y), [2, 3, 4, 5, 6, 7]);
}
