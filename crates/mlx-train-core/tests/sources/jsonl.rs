//! JSONL: what a line holds, and which lines are refused.

use crate::{file, refusal, tokenizer::BYTE_LEVEL};
use mlx_train_core::data::{
    Dataset, Example, IGNORED_TARGET, JsonLines, Padding, Sequences, Tokenizer, read_documents,
};
use proptest::prelude::*;
use serde_json::json;

fn read(content: impl AsRef<[u8]>) -> mlx_train_core::Result<Vec<(u64, Example)>> {
    let (_folder, path) = file("a.jsonl", content);
    JsonLines::open(&path, "text").unwrap().collect()
}

fn text(text: &str) -> Example {
    Example::Text(text.to_owned())
}

proptest! {
    #[test]
    fn texts_and_tokens_are_read_as_they_were_written(
        texts in prop::collection::vec(any::<String>(), 0..5),
        tokens in prop::collection::vec(any::<u32>(), 0..5),
    ) {
        let mut lines: Vec<String> = texts.iter().map(|text| json!({ "text": text }).to_string()).collect();
        lines.push(json!({ "tokens": tokens, "source": 7 }).to_string());
        lines.push(json!({ "prompt": texts.concat(), "completion": "x" }).to_string());
        let found: Vec<Example> =
            read(lines.join("\n")).unwrap().into_iter().map(|(_, example)| example).collect();
        let (prompt, completion) = (texts.concat(), "x".to_owned());
        let mut expected: Vec<Example> = texts.into_iter().map(Example::Text).collect();
        expected.extend([Example::Tokens(tokens), Example::Completion { prompt, completion }]);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_are_examples_or_an_error_with_the_line(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'{'), Just(b'"'), Just(b'\n')], 0..64),
    ) {
        let (_folder, path) = file("a.jsonl", bytes);
        for example in JsonLines::open(&path, "text").unwrap() {
            if example.is_err() {
                refusal(example, &path, &[": line "]);
            }
        }
    }
}

#[test]
fn marks_line_ends_and_blank_lines_are_no_mistakes() {
    let content = b"\xef\xbb\xbf{\"text\": \"one\"}\r\n\r\n  \n{\"text\": \"two\"}";
    assert_eq!(read(content).unwrap(), [(1, text("one")), (4, text("two"))]);
}

#[test]
fn a_line_that_holds_no_example_is_refused_with_its_number_and_the_fix() {
    for (line, expected) in [
        (&b"{\"text\": \"cut"[..], &["column 13", "no JSON object"][..]),
        (b"[1]", &["no JSON object", "a line holds one"]),
        (b"\"text\"", &["no JSON object"]),
        (b"{\"text\": 7}", &["`text` is a number", "name the key"]),
        (b"{\"text\": null}", &["`text` is null"]),
        (b"{\"content\": \"x\", \"id\": 1}", &["no `text`", "keys: content, id"]),
        (b"{}", &["no `text`", "keys: none"]),
        (b"{\"prompt\": \"x\"}", &["no `text`"]),
        (b"{\"prompt\": \"x\", \"completion\": []}", &["`completion` is a list"]),
        (b"{\"text\": \"x\", \"tokens\": [1]}", &["two of", "keep one"]),
        (b"{\"tokens\": [1, -1]}", &["`tokens[1]` is -1"]),
        (b"{\"tokens\": [1.5]}", &["`tokens[0]` is 1.5"]),
        (b"{\"tokens\": [4294967296]}", &["`tokens[0]` is 4294967296"]),
        (b"{\"tokens\": \"1 2\"}", &["`tokens` is a string"]),
        (b"{\"text\": \"caf\xe9\"}", &["byte 14 is not UTF-8"]),
        (b"{\"text\": \"x\"} {}", &["no JSON object"]),
    ] {
        let (_folder, path) = file("a.jsonl", [b"{\"text\": \"fine\"}\n", line].concat());
        let read: mlx_train_core::Result<Vec<_>> =
            JsonLines::open(&path, "text").unwrap().collect();
        let message = refusal(read, &path, expected);
        assert!(message.contains("a.jsonl: line 2: "), "{message}");
    }
}

#[test]
fn the_field_of_the_text_has_any_name() {
    let (_folder, path) = file("a.jsonl", r#"{"prompt": "x", "completion": "y"}"#);
    let read = |field: &str| JsonLines::open(&path, field).unwrap().next().unwrap().unwrap().1;
    assert_eq!(read("prompt"), text("x"));
    assert_eq!(read("completion"), text("y"));
}

#[test]
fn documents_are_read_into_memory_with_their_ends() {
    let content = "{\"text\": \"one\"}\n{\"text\": \"\"}\n{\"tokens\": [7, 8]}\n";
    let (_folder, path) = file("a.jsonl", content);
    let sequences = read_documents(&path, "text", &Tokenizer::bytes()).unwrap();
    assert!(!sequences.has_loss_mask());
    let tokens = sequences.tokens();
    let documents: Vec<Vec<i32>> = (0..tokens.num_documents())
        .map(|d| tokens.get(tokens.document(d).unwrap()).unwrap())
        .collect();
    assert_eq!(
        documents,
        [b"one".map(i32::from).to_vec(), vec![7, 8]],
        "the empty one is left out"
    );

    let tokenizer = Tokenizer::open(&BYTE_LEVEL.1).unwrap();
    let sequences = read_documents(&path, "text", &tokenizer).unwrap();
    let first = sequences.tokens().document(0).unwrap();
    let text = [tokenizer.encode("one").unwrap(), vec![tokenizer.eos().unwrap()]].concat();
    let text: Vec<i32> = text.into_iter().map(|token| token as i32).collect();
    assert_eq!(sequences.tokens().get(first).unwrap(), text);

    for (content, expected) in [
        ("{\"tokens\": [7, 256]}", &["line 1: token 256", "size of 256"][..]),
        ("\n\n", &["it has no text"]),
    ] {
        let (_folder, path) = file("a.jsonl", content);
        refusal(read_documents(&path, "text", &Tokenizer::bytes()), &path, expected);
    }
    for (name, expected) in
        [("a.jsonl.gz", "unpack it"), ("a.csv", "no text"), ("a.json", ".jsonl")]
    {
        let (_folder, path) = file(name, "x");
        refusal(read_documents(&path, "text", &Tokenizer::bytes()), &path, &[expected]);
    }
}

#[test]
fn only_completions_are_learned() {
    let lines = [
        json!({ "prompt": "ab", "completion": "cd" }),
        json!({ "text": "ef" }),
        json!({ "prompt": "g", "completion": "hi" }),
    ];
    let (_folder, path) = file("a.jsonl", lines.map(|line| line.to_string()).join("\n"));
    let sequences = read_documents(&path, "text", &Tokenizer::bytes()).unwrap();
    let targets = |sequences: &Sequences, rows: &[usize]| {
        let y = sequences.padded(Padding::Longest).unwrap().batch(rows).unwrap().y;
        y.try_as_slice::<i32>().unwrap().to_vec()
    };
    let learned = |bytes: &str| -> Vec<i32> {
        let target = |byte| if byte == b'-' { IGNORED_TARGET } else { i32::from(byte) };
        bytes.bytes().map(target).collect()
    };
    assert_eq!(targets(&sequences, &[0, 1, 2]), learned("-cdf--hi-"));

    let (training, held_out) = sequences.split(0.3).unwrap();
    assert_eq!(targets(&training, &[0, 1]), learned("-cdf--"));
    assert_eq!(targets(&held_out, &[0]), learned("hi"));
}
