//! Parquet: columns of texts and of numbers, and which files are refused.

use crate::{refusal, tokenizer::BYTE_LEVEL};
use mlx_train_core::data::{
    Columns, Dataset, Prepare, Tokenizer, Tokens, parquet::read, read_documents,
};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

const SCHEMA: &str = "message rows {
    optional binary text (UTF8);
    required double length;
    required int64 kind;
}";

type Row = (Option<&'static str>, f64, i64);

const ROWS: [Row; 7] = [
    (Some("the cat"), 0.5, 0),
    (None, 1.5, 1),
    (Some("the hat"), 2.5, 0),
    (Some(""), 3.5, 1),
    (Some("and 猫"), 4.5, 0),
    (Some("the other"), 5.5, 1),
    (Some("ate"), 6.5, 0),
];

/// Groups of three rows, as large files have groups of a million.
fn write(path: &Path, rows: &[Row]) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties.into()).unwrap();
    for rows in rows.chunks(3) {
        let mut group = writer.next_row_group().unwrap();
        let mut text = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> =
            rows.iter().filter_map(|row| row.0).map(ByteArray::from).collect();
        let defined: Vec<i16> = rows.iter().map(|row| i16::from(row.0.is_some())).collect();
        text.typed::<ByteArrayType>().write_batch(&texts, Some(&defined), None).unwrap();
        text.close().unwrap();
        let mut length = group.next_column().unwrap().unwrap();
        let lengths: Vec<f64> = rows.iter().map(|row| row.1).collect();
        length.typed::<DoubleType>().write_batch(&lengths, None, None).unwrap();
        length.close().unwrap();
        let mut kind = group.next_column().unwrap().unwrap();
        let kinds: Vec<i64> = rows.iter().map(|row| row.2).collect();
        kind.typed::<Int64Type>().write_batch(&kinds, None, None).unwrap();
        kind.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn rows() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, &ROWS);
    (folder, path)
}

fn documents(tokens: &Tokens, tokenizer: &Tokenizer) -> Vec<String> {
    let document = |index| {
        let tokens = tokens.get(tokens.document(index).unwrap()).unwrap();
        let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
        tokenizer.decode(&tokens).unwrap()
    };
    (0..tokens.num_documents()).map(document).collect()
}

#[test]
fn texts_are_documents_and_those_without_text_are_left_out() {
    let (folder, path) = rows();
    let expected = ["the cat", "the hat", "and 猫", "the other", "ate"];
    let bytes = Tokenizer::bytes();
    let sequences = read_documents(&path, "text", &bytes).unwrap();
    assert_eq!(documents(sequences.tokens(), &bytes), expected);

    let tokenizer = Tokenizer::open(&BYTE_LEVEL.1).unwrap();
    let files =
        Prepare::new([&path], folder.path().join("out"), tokenizer.clone()).run(|_| {}).unwrap();
    let expected = expected.map(|text| text.to_owned() + "<|endoftext|>");
    assert_eq!(documents(files.training(), &tokenizer), expected);
}

#[test]
fn work_on_rows_goes_on_in_the_middle_of_a_file() {
    let (folder, path) = rows();
    let output = folder.path().join("out");
    let mut prepare = Prepare::new([&path], &output, Tokenizer::bytes());
    prepare.shard_tokens = 5;
    let mut journals = Vec::new();
    let whole =
        prepare.run(|_| journals.push(fs::read(output.join("prepare.json")).unwrap())).unwrap();
    let expected = documents(whole.training(), &Tokenizer::bytes());
    for journal in journals {
        fs::remove_file(output.join("index.json")).unwrap();
        fs::write(output.join("prepare.json"), journal).unwrap();
        let again = prepare.run(|_| {}).unwrap();
        assert_eq!(documents(again.training(), &Tokenizer::bytes()), expected);
    }
}

#[test]
fn numbers_of_any_type_are_features_and_labels() {
    let (_folder, path) = rows();
    let mut columns = Columns {
        label: "kind".to_owned(),
        features: vec!["length".to_owned()],
        num_classes: Some(2),
    };
    let batch = read(&path, &columns).unwrap().batch(&[0, 5]).unwrap();
    assert_eq!(batch.x.try_as_slice::<f32>().unwrap(), [0.5, 5.5]);
    assert_eq!(batch.y.try_as_slice::<i32>().unwrap(), [0, 1]);

    (columns.label, columns.features) = ("length".to_owned(), vec!["kind".to_owned()]);
    columns.num_classes = None;
    let batch = read(&path, &columns).unwrap().batch(&[5]).unwrap();
    assert_eq!(batch.x.try_as_slice::<f32>().unwrap(), [1.0]);
    assert_eq!(batch.y.try_as_slice::<f32>().unwrap(), [5.5]);
}

#[test]
fn what_cannot_be_used_is_refused_with_row_and_column() {
    let (folder, path) = rows();
    let columns = |label: &str, feature: &str, num_classes| Columns {
        label: label.to_owned(),
        features: vec![feature.to_owned()],
        num_classes,
    };
    for (columns, expected) in [
        (columns("kind", "text", None), &["row 0, `text`", "\"the cat\" is no number"][..]),
        (columns("kind", "width", None), &["no column `width`", "text, length, kind"]),
        (columns("kind", "length", Some(1)), &["row 1, `kind`", "1 is not one of 1 classes"]),
    ] {
        refusal(read(&path, &columns), &path, expected);
    }
    let bytes = Tokenizer::bytes();
    refusal(
        read_documents(&path, "content", &bytes),
        &path,
        &["no column `content`", "text, length"],
    );
    refusal(
        read_documents(&path, "length", &bytes),
        &path,
        &["row 0: `length` is 0.5, not a text"],
    );

    let nan = folder.path().join("nan.parquet");
    write(&nan, &[(None, f64::NAN, 0)]);
    refusal(
        read(&nan, &columns("kind", "length", None)),
        &nan,
        &["row 0, `length`", "no finite number"],
    );

    let whole = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.parquet");
    for length in [0, 3, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&cut, &whole[..length]).unwrap();
        refusal(read_documents(&cut, "text", &bytes), &cut, &["cannot be read as Parquet"]);
    }
}
