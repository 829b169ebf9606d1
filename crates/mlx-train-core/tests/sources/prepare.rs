//! Texts to token files: the same bytes whatever happens on the way.

use crate::{contents, file, refusal, tokenizer::BYTE_LEVEL};
use mlx_train_core::data::{Prepare, TokenFiles, Tokenizer, Tokens, read_documents};
use proptest::prelude::*;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    slice,
};
use tempfile::TempDir;

fn documents(tokens: &Tokens) -> Vec<Vec<i32>> {
    let ranges = tokens.documents(0..tokens.num_documents()).unwrap();
    ranges.into_iter().map(|range| tokens.get(range).unwrap()).collect()
}

/// A mistake in the settings.
type Change = fn(&mut Prepare);

/// A text and a JSONL file.
fn inputs(texts: &[String]) -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::new().unwrap();
    let paths = ["a.txt", "b.jsonl"].map(|name| folder.path().join(name));
    fs::write(&paths[0], texts.join("\n")).unwrap();
    let lines: Vec<String> = texts.iter().map(|text| json!({ "text": text }).to_string()).collect();
    fs::write(&paths[1], lines.join("\n")).unwrap();
    (folder, paths.into())
}

fn prepare(inputs: &[PathBuf], output: &Path, shard_tokens: usize) -> Prepare {
    let mut prepare =
        Prepare::new(inputs.to_vec(), output, Tokenizer::open(&BYTE_LEVEL.1).unwrap());
    prepare.shard_tokens = shard_tokens;
    prepare
}

fn some_texts() -> Vec<String> {
    (0..200).map(|n| format!("the {n}th cat and the hat {}", "ate ".repeat(n % 17))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn files_hold_the_documents_of_the_texts(
        texts in prop::collection::vec("[a-z 猫\n]{1,30}", 1..10), shard_tokens in 1_usize..200,
    ) {
        let (folder, paths) = inputs(&texts);
        let files = prepare(&paths, &folder.path().join("out"), shard_tokens).run(|_| {}).unwrap();
        files.verify().unwrap();
        let tokenizer = files.tokenizer().unwrap();
        let expected: Vec<Vec<i32>> = paths
            .iter()
            .flat_map(|path| documents(read_documents(path, "text", &tokenizer).unwrap().tokens()))
            .collect();
        prop_assert_eq!(documents(files.training()), expected);
    }
}

#[test]
fn the_files_do_not_depend_on_the_number_of_threads() {
    let (folder, paths) = inputs(&some_texts());
    let all: Vec<_> = [1, 2, 7]
        .into_iter()
        .map(|num_threads| {
            let output = folder.path().join(num_threads.to_string());
            let mut prepare = prepare(&paths, &output, 500);
            (prepare.num_threads, prepare.held_out) = (num_threads, 0.1);
            prepare.run(|_| {}).unwrap();
            contents(&output)
        })
        .collect();
    assert!(all[0].len() > 10, "several files");
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

#[test]
fn work_that_was_interrupted_after_any_file_ends_in_the_same_bytes() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path().join("out");
    let mut prepare = prepare(&paths, &output, 700);
    prepare.held_out = 0.1;
    // What a process that is killed now would leave behind.
    let mut left = Vec::new();
    let mut shards = usize::MAX;
    prepare
        .run(|progress| {
            if progress.shards != shards {
                shards = progress.shards;
                left.push(contents(&output));
            }
        })
        .unwrap();
    let expected = contents(&output);
    assert!(left.len() > 5, "{}", left.len());
    for before in left {
        let again = TempDir::new().unwrap();
        for (name, content) in &before {
            fs::write(again.path().join(name), content).unwrap();
        }
        // Killed while it wrote the next file, after the rename and before the journal, or before both.
        fs::write(again.path().join(".abc.partial"), "half a file").unwrap();
        prepare.output = again.path().to_owned();
        let mut earlier = None;
        prepare.run(|progress| earlier = Some(progress.earlier_shards)).unwrap();
        let num_shards = before.keys().filter(|name| name.contains(".bin")).count();
        assert_eq!(earlier, Some(num_shards), "no file is made twice");
        assert_eq!(contents(again.path()), expected);
    }
}

#[test]
fn finished_work_is_not_done_again() {
    let (folder, paths) = inputs(&some_texts());
    let prepare = prepare(&paths, &folder.path().join("out"), 700);
    prepare.run(|_| {}).unwrap();
    let mut records = 0;
    prepare.run(|_| records += 1).unwrap();
    assert_eq!(records, 0);
}

#[test]
fn other_settings_or_inputs_are_refused_with_what_differs_unless_told() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path().join("out");
    let first = prepare(&paths, &output, 700);
    first.run(|_| {}).unwrap();
    for (change, expected) in [
        ((|p| p.shard_tokens = 600) as Change, "tokens of a file was 700 and is 600"),
        (|p| p.held_out = 0.25, "the share held out was 0 and is 0.25"),
        (|p| p.field = "content".to_owned(), "the field was text and is content"),
        (|p| p.tokenizer = Tokenizer::bytes(), "the tokenizer was "),
        (|p| p.inputs.truncate(1), "the input was "),
        (|p| fs::write(&p.inputs[0], "the cat").unwrap(), "a.txt was changed"),
    ] {
        let mut other = first.clone();
        change(&mut other);
        let message = refusal(other.run(|_| {}), &output, &[expected, "--force"]);
        assert!(message.contains("made otherwise"), "{message}");
    }
    let mut other = first.clone();
    (other.shard_tokens, other.replace) = (1 << 20, true);
    let files = other.run(|_| {}).unwrap();
    assert_eq!(files.index().training.len(), 1, "the old files are gone");
}

#[test]
fn files_of_others_are_neither_replaced_nor_removed() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path();
    let mut prepare = prepare(&paths, output, 700);
    for (name, expected) in [
        ("tokenizer.json", "another tokenizer"),
        ("index.json", "not prepared from texts"),
        ("prepare.json", "remove it to start again"),
    ] {
        fs::write(output.join(name), "{}").unwrap();
        let message = prepare.run(|_| {}).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        prepare.replace = name != "tokenizer.json";
        if prepare.replace {
            refusal(prepare.run(|_| {}), &output.join(name), &["not of a preparation"]);
        }
        prepare.replace = false;
        assert_eq!(fs::read(output.join(name)).unwrap(), b"{}");
        fs::remove_file(output.join(name)).unwrap();
    }
    prepare.run(|_| {}).unwrap();
    prepare.tokenizer = Tokenizer::bytes();
    prepare.replace = true;
    assert!(prepare.run(|_| {}).unwrap().tokenizer().unwrap().is_bytes());
}

#[test]
fn a_journal_that_leads_nowhere_is_refused() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path().join("out");
    let prepare = prepare(&paths, &output, 700);
    prepare.run(|_| {}).unwrap();
    let path = output.join("prepare.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [("\"input\": 1", "\"input\": 2"), ("\"offset\": ", "\"offset\": 99")] {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        refusal(prepare.run(|_| {}), &path, &["behind the end", "remove it"]);
    }
}

#[test]
fn held_out_documents_are_in_neither_part_twice() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path().join("out");
    let mut prepare = prepare(&paths[1..], &output, 700);
    prepare.held_out = 0.1;
    let files = prepare.run(|_| {}).unwrap();
    let held_out = files.held_out().unwrap();
    assert_eq!(held_out.num_documents(), 20);
    let mut both = [documents(files.training()), documents(held_out)].concat();
    let mut all =
        documents(read_documents(&paths[1], "text", &prepare.tokenizer).unwrap().tokens());
    both.sort();
    all.sort();
    assert_eq!(both, all);
}

#[test]
fn a_record_that_cannot_be_used_is_named_by_file_and_line() {
    for (name, content, expected) in [
        (
            "a.jsonl",
            &b"{\"text\": \"x\"}\n\n{\"txt\": 1}\n"[..],
            &["line 3: there is no `text`"][..],
        ),
        ("b.jsonl", b"{\"prompt\": \"x\", \"completion\": \"y\"}", &["line 1", "is no document"]),
        ("c.jsonl", b"{\"tokens\": [100000]}", &["line 1: token 100000"]),
        ("d.txt", b"one\ntwo\nthr\xffee", &["line 3: byte 11 of the file is not UTF-8"]),
        ("e.gz", b"", &["unpack it"]),
        ("f.parquet", b"PAR1", &["arquet"]),
    ] {
        let (folder, path) = file(name, content);
        let output = folder.path().join("out");
        refusal(prepare(slice::from_ref(&path), &output, 700).run(|_| {}), &path, expected);
        assert!(!TokenFiles::is_at(&output), "{name}");
    }
}

#[test]
fn work_that_cannot_be_done_is_refused_in_words() {
    let (folder, path) = file("a.txt", "");
    let output = folder.path().join("out");
    for (change, expected) in [
        ((|p| p.inputs.clear()) as Change, "there is no input"),
        (|p| p.held_out = 1.0, "at least 0 and below 1"),
        (|p| p.held_out = f64::NAN, "at least 0 and below 1"),
        (|p| p.shard_tokens = 0, "at least 1 token"),
        (|p| p.num_threads = 0, "at least 1 thread"),
        (|p| p.inputs[0].set_extension("none").then_some(()).unwrap(), "does not exist"),
        (|p| assert!(p.inputs[0].pop()), "it is a folder"),
        (|_| (), "of 1 documents, 0 tokens are for training"),
        (|p| p.held_out = 0.5, "0 held out"),
    ] {
        let mut prepare = prepare(slice::from_ref(&path), &output, 700);
        prepare.replace = true;
        change(&mut prepare);
        let message = prepare.run(|_| {}).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks {expected}");
    }
}

#[test]
fn two_processes_do_not_write_one_folder() {
    let (folder, path) = file("a.txt", "the cat");
    let output = folder.path().join("out");
    fs::create_dir(&output).unwrap();
    let lock = fs::File::open(&output).unwrap();
    lock.lock().unwrap();
    refusal(prepare(slice::from_ref(&path), &output, 7).run(|_| {}), &output, &["another process"]);
    drop(lock);
    prepare(&[path], &output, 7).run(|_| {}).unwrap();
}

#[test]
fn a_file_that_was_lost_is_missed_before_the_work_goes_on() {
    let (folder, paths) = inputs(&some_texts());
    let output = folder.path().join("out");
    let prepare = prepare(&paths, &output, 700);
    let mut left = BTreeMap::new();
    prepare
        .run(|progress| {
            if progress.shards >= 2 && left.is_empty() {
                left = contents(&output);
            }
        })
        .unwrap();
    let again = TempDir::new().unwrap();
    for (name, content) in left.iter().filter(|(name, _)| *name != "training-00001.bin") {
        fs::write(again.path().join(name), content).unwrap();
    }
    let lost = again.path().join("training-00001.bin");
    let mut prepare = prepare;
    prepare.output = again.path().to_owned();
    refusal(prepare.run(|_| {}), &lost, &["does not exist"]);
}
