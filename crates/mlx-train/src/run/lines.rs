//! Files of JSON objects, one a line, that are readable while they grow.

use crate::{
    Result,
    file::{FileError, write_whole_with},
    growing::Growing,
};
use serde_json::{Map, Value};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, ErrorKind},
    path::{Path, PathBuf},
};

/// One object of such a file.
pub(crate) type Line = Map<String, Value>;

/// Such a file, open at its end.
#[derive(Debug)]
pub(super) struct Lines(Growing);

impl Lines {
    /// Opens or makes the file, after it is rid of all lines but those to `keep`.
    ///
    /// What is no whole line of JSON, like the last one of a process that was killed, goes too.
    pub(super) fn open(path: PathBuf, mut keep: impl FnMut(&Line) -> bool) -> Result<Self> {
        let mut is_clean = true;
        visit(&path, |line, text| {
            is_clean &= line.is_some_and(|line| keep(&line)) && text.ends_with(b"\n");
            Ok(())
        })?;
        if !is_clean {
            write_whole_with(&path, |file| {
                visit(&path, |line, text| match line {
                    Some(line) if keep(&line) => {
                        let failed = |source| FileError::Write { path: path.clone(), source };
                        file.write_all(text.trim_ascii_end()).map_err(failed)?;
                        Ok(file.write_all(b"\n").map_err(failed)?)
                    }
                    _ => Ok(()),
                })
            })?;
        }
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.map_err(|source| FileError::Write { path: path.clone(), source })?;
        Ok(Self(Growing::new(path, file)))
    }

    /// Writes one more line.
    pub(super) fn append(&mut self, line: &Line) -> Result<()> {
        self.0.append(format!("{}\n", Value::from(line.clone())).as_bytes())
    }

    /// Waits until the lines are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

/// Calls `each` with every object of the file; a file that is not there has none.
///
/// Returns how many lines are none, apart from a last one that is still being written.
pub(super) fn read(path: &Path, mut each: impl FnMut(Line)) -> Result<usize> {
    let mut num_damaged = 0;
    visit(path, |line, text| {
        match line {
            Some(line) => each(line),
            None => num_damaged += usize::from(text.ends_with(b"\n")),
        }
        Ok(())
    })?;
    Ok(num_damaged)
}

fn visit(path: &Path, mut each: impl FnMut(Option<Line>, &[u8]) -> Result<()>) -> Result<()> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error).into()),
    };
    let (mut reader, mut text) = (BufReader::new(file), Vec::new());
    while reader.read_until(b'\n', &mut text).map_err(failed)? > 0 {
        each(serde_json::from_slice(&text).ok(), &text)?;
        text.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::fs;

    fn line(value: Value) -> Line {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn lines_are_there_as_soon_as_they_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let mut lines = Lines::open(path.clone(), |_| true).unwrap();
        lines.append(&line(json!({"step": 1, "text": "two\nlines"}))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1,\"text\":\"two\\nlines\"}\n");
        lines.append(&line(json!({"step": 2}))).unwrap();
        let mut found = Vec::new();
        assert_eq!(read(&path, |line| found.push(line)).unwrap(), 0);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_not_kept_torn_or_damaged_is_cut_and_the_rest_stays_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{\"step\": 1}\nrubbish\n{\"step\":2}\n{\"step\":3}\n{\"step\":4,\"lo")
            .unwrap();
        assert_eq!(read(&path, |_| ()).unwrap(), 1, "the torn line may still grow");
        let keep = |line: &Line| line["step"].as_u64() <= Some(2);
        let mut lines = Lines::open(path.clone(), keep).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\": 1}\n{\"step\":2}\n");
        lines.append(&line(json!({"step": 3}))).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\": 1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }

    #[test]
    fn a_whole_last_line_without_its_end_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{\"step\":1}").unwrap();
        let mut lines = Lines::open(path.clone(), |_| true).unwrap();
        lines.append(&line(json!({"step": 2}))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }
}
