//! CSV: columns of numbers by name, and which files are refused.

use crate::{file, refusal};
use mlx_train_core::data::{Batch, Columns, Dataset, InMemory, csv};
use proptest::prelude::*;

fn columns(label: &str, features: &[&str], num_classes: Option<usize>) -> Columns {
    let features = features.iter().map(ToString::to_string).collect();
    Columns { label: label.to_owned(), features, num_classes }
}

fn all(data: &InMemory) -> (Vec<f32>, Batch) {
    let batch = data.batch(&(0..data.len()).collect::<Vec<_>>()).unwrap();
    (batch.x.try_as_slice::<f32>().unwrap().to_vec(), batch)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_are_read_as_they_were_written_however_they_are_quoted(
        rows in prop::collection::vec((any::<[f32; 3]>(), any::<[bool; 3]>()), 1..8),
        name in "[a-z,\"\n ]{0,6}[a-z]", crlf: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        prop_assume!(name.trim() == name && name != "y" && name != "b");
        let quoted = name.replace('"', "\"\"");
        let mut text = format!("\"{quoted}\",b,y{end}");
        let mut numbers = Vec::new();
        for (row, quotes) in &rows {
            let row = row.map(|number| if number.is_finite() { number } else { 0.5 });
            let fields: Vec<String> = row
                .iter()
                .zip(quotes)
                .map(|(number, &quote)| if quote { format!("\"{number}\"") } else { number.to_string() })
                .collect();
            text += &(fields.join(",") + end);
            numbers.push(row);
        }
        let (_folder, path) = file("a.csv", text);
        let data = csv::read(&path, &columns("y", &["b", &name], None)).unwrap();
        let (x, batch) = all(&data);
        let expected: Vec<f32> = numbers.iter().flat_map(|row| [row[1], row[0]]).collect();
        prop_assert_eq!(x, expected);
        prop_assert_eq!(batch.y.shape(), [rows.len() as i32, 1]);
        let labels: Vec<f32> = numbers.iter().map(|row| row[2]).collect();
        prop_assert_eq!(batch.y.try_as_slice::<f32>().unwrap(), labels);
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error_with_the_file(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let (_folder, path) = file("a.csv", [b"x,y\n1,2\n", &bytes[..]].concat());
        if let Err(error) = csv::read(&path, &columns("y", &[], None)) {
            prop_assert!(error.to_string().contains("a.csv"), "{error}");
        }
    }
}

#[test]
fn classes_are_integers_and_other_columns_may_hold_anything() {
    let text = "\u{feff}id,length, width ,kind\r\na, 5.1 ,3.5,0\r\n\r\n,7e0,3.2,1\r\n";
    let (_folder, path) = file("flowers.csv", text);
    let data = csv::read(&path, &columns("kind", &["width", "length"], Some(2))).unwrap();
    let (x, batch) = all(&data);
    assert_eq!(x, [3.5, 5.1, 3.2, 7.0]);
    assert_eq!(batch.y.try_as_slice::<i32>().unwrap(), [0, 1]);

    let (_folder, path) = file("flowers.tsv", "length\tkind\n5.1\t0\n");
    assert_eq!(csv::read(&path, &columns("kind", &[], Some(2))).unwrap().len(), 1);
}

#[test]
fn what_cannot_be_learned_is_refused_with_line_column_and_fix() {
    for (text, expected) in [
        ("x,y\n1,2\n3,nan\n", &["line 3, column 2 (`y`)", "`nan` is no finite number"][..]),
        ("x,y\ninf,2\n", &["line 2, column 1 (`x`)", "no finite number"]),
        ("x,y\n1e99,2\n", &["line 2, column 1 (`x`)", "no finite number"]),
        ("x,y\n,2\n", &["line 2, column 1 (`x`)", "the field is empty"]),
        ("x,y\n\"a\nb\",2\n", &["line 2, column 1 (`x`)", "\"a\\nb\" is no number"]),
        ("x,y\n\"1\n\",2\nz,3\n", &["line 4, column 1 (`x`)", "\"z\" is no number"]),
        ("x,y\n1,2\n3\n", &["line 3", "1 fields", "the first line 2"]),
        ("x,y\n1,2,3\n", &["line 2", "3 fields"]),
        ("x,x,y\n1,2,3\n", &["line 1: column 2 is a second `x`"]),
        ("x,,y\n1,2,3\n", &["line 1: column 2 has no name"]),
        ("x,z\n1,2\n", &["no column `y`", "columns: x, z"]),
        ("x;y\n1;2\n", &["no column `y`", "columns: x;y"]),
        ("1,2\n3,4\n", &["numbers where the names"]),
        ("y\n1\n", &["no column beside the label"]),
        ("x,y\n", &["no row"]),
        ("", &["it is empty"]),
    ] {
        let (_folder, path) = file("a.csv", text);
        refusal(csv::read(&path, &columns("y", &[], None)), &path, expected);
    }
    let (_folder, path) = file("a.csv", b"x,y\n1,2\ncaf\xe9,2\n");
    refusal(csv::read(&path, &columns("y", &[], None)), &path, &["line 3, column 1", "byte 4"]);
}

#[test]
fn a_label_that_is_no_class_is_refused_where_it_stands() {
    for (label, expected) in
        [("2", "2 is not one of 2 classes (0 to 1)"), ("0.5", "0.5"), ("-1", "-1")]
    {
        let (_folder, path) = file("a.csv", format!("x,y\n1,0\n1,{label}\n"));
        let refused = csv::read(&path, &columns("y", &[], Some(2)));
        refusal(refused, &path, &["line 3, column 2 (`y`)", expected]);
    }
}

#[test]
fn a_column_is_used_once() {
    let (_folder, path) = file("a.csv", "x,y\n1,2\n");
    for features in [&["x", "x"][..], &["x", "y"]] {
        let error = csv::read(&path, &columns("y", features, None)).unwrap_err().to_string();
        assert!(error.contains("is used twice"), "{error}");
    }
}
