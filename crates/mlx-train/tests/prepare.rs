//! Data from files, as a person uses it: prepared, looked at, trained on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-train"));
    command.args(args).current_dir(folder).env("OPENBLAS_NUM_THREADS", "1").stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts that a command was refused in words that have these parts.
fn refusal(output: &Output, code: i32, expected: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in expected {
        assert!(message.contains(part), "{message}\nlacks {part}");
    }
}

/// The files of a folder by name.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &Path| fs::read(path).unwrap();
    entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(&path)))
        .collect()
}

fn lines(lines: impl IntoIterator<Item = Value>) -> String {
    lines.into_iter().map(|line| line.to_string() + "\n").collect()
}

/// A tokenizer of bytes that knows `the`, and an end of text, as Hugging Face writes one.
fn tokenizer() -> String {
    // GPT-2 writes each byte as a character that can be seen.
    let is_seen = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let unseen = (0..256).filter(|byte| !is_seen(byte)).count() as u32;
    let characters = (0..256).filter(is_seen).chain(256..256 + unseen);
    let characters = characters.map(|code| char::from_u32(code).unwrap().to_string());
    let words = ["<|endoftext|>".to_owned()].into_iter().chain(characters);
    let words = words.chain(["th", "the"].map(ToOwned::to_owned));
    let vocab: Map<String, Value> = words.zip(0..).map(|(word, id)| (word, json!(id))).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 0, "content": "<|endoftext|>", "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        }],
        "normalizer": null, "post_processor": null, "truncation": null, "padding": null,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"]] },
    })
    .to_string()
}

/// A folder with `texts.jsonl`, `text.txt` and `tokenizer.json`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = |n: usize| format!("the {n}th of the texts {}", "and the other ".repeat(n % 7));
    let write = |name: &str, content: String| fs::write(folder.path().join(name), content).unwrap();
    write("texts.jsonl", lines((0..100).map(|n| json!({ "text": text(n) }))));
    write("text.txt", (0..100).map(text).collect());
    write("tokenizer.json", tokenizer());
    folder
}

const TINY: &[&str] = &[
    "train",
    "--model=transformer",
    "--output=run",
    "--set=model.hidden_size=16",
    "--set=model.num_layers=1",
    "--set=model.num_heads=2",
    "--set=data.seq_len=16",
    "--set=train.steps=2",
    "--set=train.batch_size=2",
];

fn train(folder: &Path, further: &[&str]) -> Output {
    run(folder, &[TINY, further].concat())
}

#[test]
fn a_killed_preparation_goes_on_and_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let text = |n: u32| json!({ "text": format!("{n} {}", "text ".repeat(n as usize % 100)) });
    fs::write(folder.path().join("texts.jsonl"), lines((0..1_600).map(text))).unwrap();
    let args = |output: &'static str| {
        [
            "data",
            "prepare",
            "texts.jsonl",
            "--shard-tokens=8000",
            "--held-out=0.1",
            "--output",
            output,
        ]
    };
    stdout(&run(folder.path(), &args("whole")));

    let killed = folder.path().join("killed");
    let num_shards = || {
        let entries = fs::read_dir(&killed).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|found| found == "bin")).count()
    };
    let mut kills = 0;
    let patience = Instant::now() + Duration::from_mins(1);
    loop {
        let mut child = command(folder.path(), &args("killed"));
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = num_shards();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if num_shards() > before + 3 {
                // Some time into the next file, another each time.
                thread::sleep(Duration::from_micros(700 * kills));
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            assert!(Instant::now() < patience, "it hangs");
        };
        if let Some(status) = status {
            assert!(status.success());
            break;
        }
        kills += 1;
        let unfinished = run(folder.path(), &["data", "info", "killed"]);
        if !killed.join("index.json").exists() {
            refusal(&unfinished, 2, &["no index.json", "`data prepare`"]);
        }
    }
    assert!(kills >= 5, "{kills}");
    let (killed, whole) = (contents(&killed), contents(&folder.path().join("whole")));
    assert!(whole.len() > 80, "{} files", whole.len());
    assert_eq!(killed.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert!(killed == whole, "the same names, other bytes");
}

#[test]
fn token_files_are_told_and_trained_on_and_their_tokenizer_writes_the_text() {
    let folder = folder();
    let prepare =
        ["data", "prepare", "texts.jsonl", "--output=tokens", "--tokenizer=tokenizer.json"];
    let text = stdout(&run(folder.path(), &[&prepare[..], &["--held-out=0.1"]].concat()));
    assert!(text.contains("90 documents") && text.contains("10 documents"), "{text}");
    assert!(text.contains("--set model.vocab_size=259"), "{text}");

    let info = stdout(&run(folder.path(), &["data", "info", "tokens", "--verify"]));
    assert!(info.contains("tokenizer.json, vocabulary 259") && info.contains("verified"), "{info}");
    let info = stdout(&run(folder.path(), &["data", "info", "tokens", "--json"]));
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["training"]["documents"], 90);
    assert_eq!((&info["dtype"], &info["eos"]), (&json!("u16"), &json!(0)));

    let tokens = ["--set=data.kind=tokens", "--set=data.path=tokens"];
    let small = train(folder.path(), &[&tokens[..], &["--set=model.vocab_size=258"]].concat());
    refusal(&small, 2, &["vocabulary has 258", "259 different tokens", "model.vocab_size=259"]);
    assert!(!folder.path().join("run").exists(), "nothing is left behind");

    for rows in ["windows", "packed", "padded"] {
        let rows = format!("--set=data.rows={rows}");
        let further = [&tokens[..], &["--set=model.vocab_size=259", "--force", &rows]].concat();
        assert!(stdout(&train(folder.path(), &further)).contains("held-out loss"));
    }
    // The run does not need what it was made of.
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    fs::remove_dir_all(folder.path().join("tokens")).unwrap();
    let generate = ["generate", "run", "--prompt", "the other é", "--max-tokens=3"];
    let text = stdout(&run(folder.path(), &generate));
    assert!(text.starts_with("the other é"), "{text}");
    let checkpoints = fs::read_dir(folder.path().join("run/checkpoints")).unwrap();
    let step = checkpoints.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let of_checkpoint = [&["generate", step.to_str().unwrap()][..], &generate[2..]].concat();
    assert_eq!(stdout(&run(folder.path(), &of_checkpoint)), text);
    let prompt = ["generate", "run", "--prompt", &"the ".repeat(8), "--max-tokens=1000000"];
    // Two tokens each, not four bytes.
    refusal(&run(folder.path(), &prompt), 2, &["max_tokens"]);
}

#[test]
fn what_is_prepared_already_is_not_prepared_again_and_other_data_is_refused() {
    let folder = folder();
    let prepare = ["data", "prepare", "texts.jsonl", "text.txt", "--output=tokens"];
    stdout(&run(folder.path(), &prepare));
    let again = run(folder.path(), &prepare);
    assert!(stdout(&again).contains("101 documents"));
    assert!(String::from_utf8_lossy(&again.stderr).contains("prepared already"));
    let other = [&prepare[..], &["--held-out=0.5"]].concat();
    refusal(&run(folder.path(), &other), 2, &["the share held out was 0 and is 0.5", "--force"]);
    stdout(&run(folder.path(), &[&other[..], &["--force"]].concat()));
    for (args, expected) in [
        (&["texts.jsonl", "--field=content"][..], "line 1: there is no `content`"),
        (&["none.jsonl"], "none.jsonl"),
        (&["."], "it is a folder"),
        (&["text.txt", "--held-out=1"], "below 1"),
        (&["text.txt", "--shard-tokens=0"], "at least 1 token"),
        (&["text.txt", "--tokenizer=text.txt"], "text.txt: this describes no tokenizer"),
    ] {
        let refused = run(folder.path(), &[&["data", "prepare", "--output=other"], args].concat());
        refusal(&refused, if expected.starts_with("line") { 1 } else { 2 }, &[expected]);
    }
}

#[test]
fn texts_and_prompts_are_trained_on_as_they_are() {
    let folder = folder();
    let pairs = (0..40)
        .map(|n| json!({ "prompt": format!("{n} + 1 ="), "completion": format!("{}", n + 1) }));
    fs::write(folder.path().join("pairs.jsonl"), lines(pairs)).unwrap();
    let jsonl = ["--force", "--set=model.vocab_size=259", "--set=data.kind=jsonl"];
    for path in ["--set=data.path=pairs.jsonl", "--set=data.path=texts.jsonl"] {
        let text = stdout(&train(folder.path(), &[&jsonl[..], &[path]].concat()));
        assert!(text.contains("held-out loss"), "{text}");
    }
    let windows = ["--set=data.path=pairs.jsonl", "--set=data.rows=windows"];
    let refused = train(folder.path(), &[&jsonl[..], &windows].concat());
    refusal(&refused, 2, &["learn prompts", "data.rows=packed"]);
    let named = train(folder.path(), &[&jsonl[..], &["--set=data.path=text.txt"]].concat());
    refusal(&named, 2, &["does not end in .jsonl"]);

    let text = ["--force", "--set=model.vocab_size=259", "--set=data.path=text.txt"];
    let text = [&text[..], &["--set=data.tokenizer=tokenizer.json"]].concat();
    assert!(stdout(&train(folder.path(), &text)).contains("held-out loss"));
    fs::remove_file(folder.path().join("run/tokenizer.json")).unwrap();
    refusal(&run(folder.path(), &["generate", "run"]), 2, &["has no tokenizer.json"]);
}

#[test]
fn tables_are_trained_on_with_classes_or_numbers() {
    let folder = folder();
    let rows = (0..30).map(|n| format!("{n},{},{}", n % 3, n % 2));
    let table: Vec<String> = ["x,y,kind".to_owned()].into_iter().chain(rows).collect();
    fs::write(folder.path().join("table.csv"), table.join("\n")).unwrap();
    let train = |further: &[&str]| {
        let args = [
            "train",
            "--model=mlp",
            "--output=run",
            "--force",
            "--set=model.input_size=2",
            "--set=model.output_size=2",
            "--set=train.steps=2",
            "--set=train.batch_size=4",
            "--set=data.kind=csv",
            "--set=data.path=table.csv",
        ];
        run(folder.path(), &[&args[..], further].concat())
    };
    let text = stdout(&train(&["--set=data.label=kind", "--set=data.num_classes=2"]));
    assert!(text.contains("held-out accuracy"), "{text}");
    refusal(&train(&[]), 2, &["data.label"]);
    let refused = train(&["--set=data.label=kind", "--set=data.num_classes=1"]);
    refusal(&refused, 2, &["table.csv: line 3, column 3 (`kind`)"]);
    let one = ["--set=data.label=kind", "--set=data.num_classes=2", "--set=data.features=[\"y\"]"];
    refusal(&train(&one), 2, &["shape"]);
    refusal(&run(folder.path(), &["generate", "run"]), 2, &["was not trained on text"]);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_program_without_parquet_says_how_to_get_it() {
    let folder = folder();
    fs::write(folder.path().join("a.parquet"), "PAR1").unwrap();
    let parquet = ["--set=data.kind=parquet", "--set=data.path=a.parquet"];
    refusal(&train(folder.path(), &parquet), 2, &["cargo feature `parquet`"]);
    let prepare = run(folder.path(), &["data", "prepare", "a.parquet", "--output=tokens"]);
    refusal(&prepare, 2, &["cargo feature `parquet`"]);
}
