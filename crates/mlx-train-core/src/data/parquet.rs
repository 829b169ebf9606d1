//! Parquet: a column of texts, or columns of numbers. Behind the cargo feature `parquet`.
//!
//! Pages may be uncompressed or compressed with snappy or gzip; the reader of zstd is in C and left out.

use super::{
    InMemory,
    files::malformed,
    table::{Columns, Table, check_names},
};
use crate::{Result, file::FileError};
use parquet::{
    errors::ParquetError,
    file::{
        reader::FileReader,
        serialized_reader::{ReadOptionsBuilder, SerializedFileReader},
    },
    record::{Field, reader::RowIter},
    schema::types::Type,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Reads columns of numbers, of any numeric type or booleans: features `(N, F)` f32 with labels `(N,)`
/// int32 where the label has classes, or `(N, 1)` f32 where it is a number.
///
/// # Errors
/// [`FileError`] when the file cannot be read; [`DataError::Malformed`](super::DataError::Malformed)
/// with row and column where a value is null, no number or not finite, or a label no class; when a
/// column is missing, or the file is damaged or compressed with zstd.
pub fn read(path: impl AsRef<Path>, columns: &Columns) -> Result<InMemory> {
    let path = path.as_ref();
    let reader = open(path, 0)?;
    let fields = reader.metadata().file_metadata().schema().get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    check_names(path, &names)?;
    let picked: Vec<&str> =
        columns.pick(path, &names)?.columns.iter().map(|&column| names[column].as_str()).collect();
    let mut table = Table::default();
    let mut numbers = Vec::with_capacity(picked.len());
    for (index, row) in rows(path, reader, &picked)?.enumerate() {
        let row = row.map_err(|error| failed(path, &error))?;
        numbers.clear();
        for name in &picked {
            let is_label = numbers.len() + 1 == picked.len();
            // The file has its columns in an order of its own.
            let value = row.get_column_iter().find(|(column, _)| column == name);
            let number = value
                .ok_or_else(|| "there is no value".to_owned())
                .and_then(|(_, value)| number(value))
                .and_then(|number| if is_label { columns.label(number) } else { Ok(number) })
                .map_err(|problem| malformed(path, format!("row {index}, `{name}`: {problem}")))?;
            numbers.push(number);
        }
        table.push(numbers.iter().copied());
    }
    columns.dataset(path, table)
}

fn number(value: &Field) -> Result<f32, String> {
    let number = match value {
        Field::Bool(value) => f32::from(u8::from(*value)),
        Field::Byte(value) => f32::from(*value),
        Field::Short(value) => f32::from(*value),
        Field::Int(value) => *value as f32,
        Field::Long(value) => *value as f32,
        Field::UByte(value) => f32::from(*value),
        Field::UShort(value) => f32::from(*value),
        Field::UInt(value) => *value as f32,
        Field::ULong(value) => *value as f32,
        Field::Float16(value) => value.to_f32(),
        Field::Float(value) => *value,
        Field::Double(value) => *value as f32,
        other => {
            return Err(format!("{other} is no number: write it as one, or leave the column out"));
        }
    };
    if number.is_finite() {
        return Ok(number);
    }
    Err(format!("{number} is no finite number: remove the row, or put a number in its place"))
}

/// The texts of one column, a row at a time.
pub(super) struct TextRows {
    path: PathBuf,
    field: String,
    rows: RowIter<'static>,
    next: u64,
    /// What a row takes in the file, compressed and on average.
    row_bytes: f64,
}

/// A row of a column of texts.
pub(super) struct TextRow {
    pub(super) number: u64,
    /// How much of the file is read once this row is, as well as can be told.
    pub(super) bytes_read: u64,
    pub(super) text: String,
}

impl TextRows {
    /// Starts at a row, without reading the groups of rows before it.
    pub(super) fn open(path: &Path, field: &str, first: u64) -> Result<Self> {
        let whole = open(path, 0)?;
        let groups = whole.metadata().row_groups();
        let (mut skipped, mut num_groups) = (0, 0);
        for group in groups {
            let end = skipped + group.num_rows().max(0) as u64;
            if end > first {
                break;
            }
            (skipped, num_groups) = (end, num_groups + 1);
        }
        let num_rows: i64 = groups.iter().map(|group| group.num_rows().max(0)).sum();
        let file_bytes = fs::metadata(path).map_err(FileError::read(path))?.len();
        let names: Vec<String> = {
            let fields = whole.metadata().file_metadata().schema().get_fields();
            fields.iter().map(|field| field.name().to_owned()).collect()
        };
        if !names.iter().any(|name| name == field) {
            let problem = format!(
                "it has no column `{field}` (columns: {}): name the one of the texts",
                names.join(", ")
            );
            return Err(malformed(path, problem));
        }
        let reader = if num_groups == 0 { whole } else { open(path, num_groups)? };
        let mut rows = rows(path, reader, &[field])?;
        if let Some(before) = first.checked_sub(skipped + 1) {
            rows.nth(before as usize);
        }
        Ok(Self {
            path: path.to_owned(),
            field: field.to_owned(),
            rows,
            next: first,
            row_bytes: file_bytes as f64 / num_rows.max(1) as f64,
        })
    }

    /// The next row; one of null is skipped.
    pub(super) fn read(&mut self) -> Result<Option<TextRow>> {
        for row in self.rows.by_ref() {
            let number = self.next;
            self.next += 1;
            let row = row.map_err(|error| failed(&self.path, &error))?;
            let value = row.into_columns().into_iter().next().map(|(_, value)| value);
            let bytes_read = (self.next as f64 * self.row_bytes) as u64;
            let found = |text| Ok(Some(TextRow { number, bytes_read, text }));
            let other = match value {
                Some(Field::Str(text)) => return found(text),
                Some(Field::Null) | None => continue,
                // Strings of writers that do not say so.
                Some(Field::Bytes(bytes)) => match String::from_utf8(bytes.data().to_vec()) {
                    Ok(text) => return found(text),
                    Err(_) => "not UTF-8".to_owned(),
                },
                Some(other) => format!("{other}, not a text"),
            };
            let problem = format!(
                "row {number}: `{}` is {other}: name the column of the texts, or correct the row",
                self.field
            );
            return Err(malformed(&self.path, problem));
        }
        Ok(None)
    }
}

impl std::fmt::Debug for TextRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextRows")
            .field("path", &self.path)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// A file without its first groups of rows.
fn open(path: &Path, skip_groups: usize) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let options = ReadOptionsBuilder::new()
        .with_predicate(Box::new(move |_, index| index >= skip_groups))
        .build();
    SerializedFileReader::new_with_options(file, options).map_err(|error| failed(path, &error))
}

/// The rows of a file, with these of its columns.
fn rows(
    path: &Path,
    reader: SerializedFileReader<File>,
    names: &[&str],
) -> Result<RowIter<'static>> {
    let schema = reader.metadata().file_metadata().schema();
    let wanted = schema.get_fields().iter().filter(|field| names.contains(&field.name()));
    let projection = Type::group_type_builder(schema.name())
        .with_fields(wanted.cloned().collect())
        .build()
        .map_err(|error| failed(path, &error))?;
    RowIter::from_file_into(Box::new(reader))
        .project(Some(projection))
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &ParquetError) -> crate::Error {
    malformed(
        path,
        format!(
            "it cannot be read as Parquet ({error}): write it again, compressed with snappy or not at all"
        ),
    )
}
