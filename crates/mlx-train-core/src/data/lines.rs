//! The lines of a file that may be larger than memory.

use super::files::malformed;
use crate::{Result, file::FileError};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A longer line is refused before it is read whole, so that a file without line ends does not fill the
/// memory; the text of a large book has 2 MiB.
const MAX_LINE_BYTES: usize = if cfg!(test) { 64 } else { 1 << 28 };
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where a line starts: what it takes to go on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LineStart {
    /// How many bytes come before the line.
    pub(super) offset: u64,
    /// How many lines come before it.
    pub(super) lines: u64,
}

/// The lines of a file that are not blank, one at a time.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    next: LineStart,
}

impl Lines {
    pub(super) fn open(path: &Path, start: LineStart) -> Result<Self> {
        let open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start.offset))?;
            Ok(BufReader::with_capacity(1 << 16, file))
        };
        let reader = open().map_err(FileError::read(path))?;
        Ok(Self { path: path.to_owned(), reader, next: start })
    }

    /// Appends the next line that is not blank to `bytes`, without its end, and says where it starts.
    ///
    /// A line may end in `\n` or `\r\n`; a byte order mark at the start of the file is left out.
    pub(super) fn read(&mut self, bytes: &mut Vec<u8>) -> Result<Option<LineStart>> {
        let before = bytes.len();
        loop {
            let start = self.next;
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', bytes)
                .map_err(FileError::read(&self.path))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.next = LineStart { offset: start.offset + read, lines: start.lines + 1 };
            if read == limit && bytes.last() != Some(&b'\n') {
                let problem = format!(
                    "line {} has more than {MAX_LINE_BYTES} bytes: split it into several, or check that \
                     the file has one record a line",
                    self.next.lines
                );
                return Err(malformed(&self.path, problem));
            }
            if start.offset == 0 && bytes[before..].starts_with(BYTE_ORDER_MARK) {
                bytes.drain(before..before + BYTE_ORDER_MARK.len());
            }
            while bytes.len() > before && matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            if !bytes[before..].iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(start));
            }
            bytes.truncate(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &[u8]) -> Result<Vec<(String, LineStart)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let mut lines = Lines::open(&path, LineStart::default())?;
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        while let Some(start) = lines.read(&mut bytes)? {
            // A reader that starts at any line reads the same.
            let mut again = Vec::new();
            assert_eq!(Lines::open(&path, start)?.read(&mut again)?, Some(start));
            assert_eq!(again, bytes);
            found.push((String::from_utf8(std::mem::take(&mut bytes)).unwrap(), start));
        }
        Ok(found)
    }

    #[test]
    fn marks_ends_and_blank_lines_are_left_out_and_counted() {
        let found = all(b"\xef\xbb\xbfone\r\n\n \t\r\ntwo\nthree").unwrap();
        let expected = [("one", 0, 0), ("two", 13, 3), ("three", 17, 4)];
        let expected =
            expected.map(|(text, offset, lines)| (text.to_owned(), LineStart { offset, lines }));
        assert_eq!(found, expected);
        assert_eq!(all(b"\xef\xbb\xbf\n\n").unwrap(), []);
        assert_eq!(
            all(b"one\n\xef\xbb\xbftwo").unwrap()[1].0,
            "\u{feff}two",
            "only a file has one"
        );
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        assert_eq!(all(&[b'x'; MAX_LINE_BYTES]).unwrap().len(), 1);
        let long = [b"short\n", &[b'x'; MAX_LINE_BYTES + 1][..]].concat();
        let message = all(&long).unwrap_err().to_string();
        assert!(message.contains("a.jsonl: line 2 has more than 64 bytes"), "{message}");
    }
}
