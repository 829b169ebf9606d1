//! CSV: numbers in columns with names.
//!
//! As RFC 4180 has it: fields are separated by commas, or by tabs where the file's name ends in
//! `.tsv`; the first line holds the names; a field with a comma or a line end in it stands in quotation
//! marks.

use super::{
    InMemory,
    files::malformed,
    table::{Columns, Table, check_names},
};
use crate::{Result, file::FileError};
use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};
use std::{fs::File, path::Path};

/// Reads the columns of a file: features `(N, F)` f32 with labels `(N,)` int32 where the label has
/// classes, or `(N, 1)` f32 where it is a number.
///
/// The columns that are not used may hold anything. A byte order mark, `\r\n`, blank lines, and spaces
/// around fields are no mistakes.
///
/// ```
/// use mlx_train_core::data::{Columns, Dataset, csv};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("flowers.csv");
/// std::fs::write(&path, "length,width,kind\n5.1,3.5,0\n7.0,3.2,1\n").unwrap();
/// let columns = Columns { label: "kind".into(), features: vec![], num_classes: Some(2) };
/// assert_eq!(csv::read(&path, &columns)?.batch(&[1])?.x.shape(), [1, 2]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// [`FileError`] when the file cannot be read; [`DataError::Malformed`](super::DataError::Malformed)
/// with line and column where a field is no finite number, a label no class, a line has more or fewer
/// fields than the first, or bytes are not UTF-8; when a name is missing, stands there twice, or is not
/// one of the columns.
pub fn read(path: impl AsRef<Path>, columns: &Columns) -> Result<InMemory> {
    let path = path.as_ref();
    let file = File::open(path).map_err(FileError::read(path))?;
    let is_tsv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    let mut reader = ReaderBuilder::new()
        .delimiter(if is_tsv { b'\t' } else { b',' })
        .trim(csv::Trim::All)
        .from_reader(file);
    let names = names(path, &mut reader)?;
    let picked = columns.pick(path, &names)?.columns;
    let mut table = Table::default();
    let mut record = StringRecord::new();
    let mut row = Vec::with_capacity(picked.len());
    while reader.read_record(&mut record).map_err(|error| failed(path, error))? {
        row.clear();
        for (index, &column) in picked.iter().enumerate() {
            let is_label = index + 1 == picked.len();
            let number = number(&record[column])
                .and_then(|number| if is_label { columns.label(number) } else { Ok(number) })
                .map_err(|problem| {
                    let line = record.position().map_or(0, Position::line);
                    let name = &names[column];
                    malformed(
                        path,
                        format!("line {line}, column {} (`{name}`): {problem}", column + 1),
                    )
                })?;
            row.push(number);
        }
        table.push(row.iter().copied());
    }
    columns.dataset(path, table)
}

fn names(path: &Path, reader: &mut Reader<File>) -> Result<Vec<String>> {
    let header = reader.headers().map_err(|error| failed(path, error))?;
    let names: Vec<String> = header.iter().map(ToOwned::to_owned).collect();
    if names.is_empty() {
        let problem =
            "it is empty: its first line names the columns, and each further one is a row";
        return Err(malformed(path, problem));
    }
    if names.iter().all(|name| name.parse::<f64>().is_ok()) {
        let problem = "line 1: it has numbers where the names of the columns are expected: put a line \
                       with names before it";
        return Err(malformed(path, problem));
    }
    check_names(path, &names)?;
    Ok(names)
}

fn number(field: &str) -> Result<f32, String> {
    match field.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err(format!(
            "`{field}` is no finite number: remove the row, or put a number in its place"
        )),
        Err(_) if field.is_empty() => {
            Err("the field is empty: remove the row, or put a number in its place".to_owned())
        }
        Err(_) => Err(format!("{field:?} is no number: write it as one, or leave the column out")),
    }
}

fn failed(path: &Path, error: csv::Error) -> crate::Error {
    let line = |position: &Option<Position>| position.as_ref().map_or(0, Position::line);
    let problem = match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => format!(
            "line {}: it has {len} fields, and the first line {expected_len}: add or remove some, or put \
             quotation marks around a field with a comma",
            line(pos)
        ),
        ErrorKind::Utf8 { pos, err } => format!(
            "line {}, column {}: byte {} of the field is not UTF-8: convert the file to UTF-8",
            line(pos),
            err.field() + 1,
            err.valid_up_to() + 1
        ),
        _ => match error.into_kind() {
            ErrorKind::Io(source) => return FileError::read(path)(source).into(),
            other => format!("it is no CSV file ({other:?}): write it again"),
        },
    };
    malformed(path, problem)
}
