//! Documents in files: the records that they are read in, and the tokens of each.

use super::{
    Sequences, Tokenizer, Tokens,
    files::malformed,
    jsonl::{Example, LineFormat},
    lines::{LineStart, Lines},
};
use crate::{Result, file::FileError};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How documents are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentFormat {
    /// The file is one document, of any text.
    Text,
    /// Each line is a JSON object with a document, see [`Example`].
    Jsonl,
    /// Each row of one column is a document.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl DocumentFormat {
    /// The format that a file's name says: `.jsonl`, `.ndjson` and `.parquet`; any other is a text.
    ///
    /// # Errors
    /// [`DataError::Malformed`](super::DataError::Malformed) for names of compressed and binary files, which are no text.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let advice = match &*extension {
            "jsonl" | "ndjson" => return Ok(Self::Jsonl),
            #[cfg(feature = "parquet")]
            "parquet" => return Ok(Self::Parquet),
            #[cfg(not(feature = "parquet"))]
            "parquet" => "build the program with the cargo feature `parquet` to read it",
            "gz" | "bz2" | "xz" | "zst" | "zip" | "tar" => "unpack it first",
            "json" => "write one object a line and name it .jsonl",
            "csv" | "tsv" | "bin" | "npy" | "safetensors" | "arrow" => {
                "name a text, a .jsonl or a .parquet file"
            }
            _ => return Ok(Self::Text),
        };
        Err(malformed(path, format!("a .{extension} file is no text: {advice}")))
    }
}

/// Reads the documents of a file and makes tokens of them, in memory: each document's, then the
/// tokenizer's token after a text, if it has one.
///
/// `field` is the key of the text in a JSONL file, or the column in a Parquet file. A document without
/// text is left out. Of a prompt with its completion, only the completion's tokens are predicted. Files
/// larger than memory are for [`Prepare`](super::Prepare).
///
/// # Errors
/// [`DataError::Malformed`](super::DataError::Malformed) with the line or row of the first record that cannot be used;
/// [`FileError`] when the file cannot be read.
pub fn read_documents(
    path: impl AsRef<Path>,
    field: &str,
    tokenizer: &Tokenizer,
) -> Result<Sequences> {
    let path = path.as_ref();
    let format = DocumentFormat::of(path)?;
    let mut records = Records::open(path, format, field, Place::default())?;
    let encoder = Encoder::new(path, format, field, tokenizer);
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    // Empty for as long as every token is predicted.
    let mut predicted = Vec::new();
    while let Some(record) = records.read()? {
        let document = encoder.encode(&record)?;
        if document.num_given > 0 {
            predicted.resize(tokens.len(), true);
            predicted.resize(tokens.len() + document.num_given, false);
        }
        tokens.extend(document.tokens);
        if record.ends_document && ends.last().copied().unwrap_or(0) < tokens.len() {
            ends.push(tokens.len());
        }
    }
    if tokens.is_empty() {
        return Err(malformed(path, "it has no text: name a file with text to train on"));
    }
    let num_tokens = tokens.len();
    let origin = path.display().to_string();
    let sequences = Sequences::new(Tokens::new(tokens, ends, tokenizer.vocab_size(), &origin)?);
    if predicted.is_empty() {
        return Ok(sequences);
    }
    predicted.resize(num_tokens, true);
    sequences.with_loss_mask(predicted)
}

/// Where a record starts in its file: what it takes to go on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// How many bytes come before it; in a Parquet file, how many rows.
    pub(super) offset: u64,
    /// How many line ends come before it.
    pub(super) lines: u64,
}

/// A document, or a piece of one.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) place: Place,
    /// How much of the file is read once this is, in bytes.
    pub(super) bytes_read: u64,
    content: Vec<u8>,
    pub(super) ends_document: bool,
}

impl Record {
    pub(super) fn len(&self) -> usize {
        self.content.len()
    }
}

/// The records of a file, one at a time.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Pieces(Pieces),
    Lines(Lines),
    #[cfg(feature = "parquet")]
    Rows(super::parquet::TextRows),
}

impl Records {
    /// Starts at a record.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(unused_variables, reason = "a line is searched for its field when it is parsed")
    )]
    pub(super) fn open(
        path: &Path,
        format: DocumentFormat,
        field: &str,
        start: Place,
    ) -> Result<Self> {
        let source = match format {
            DocumentFormat::Text => Source::Pieces(Pieces::open(path, start)?),
            DocumentFormat::Jsonl => {
                let start = LineStart { offset: start.offset, lines: start.lines };
                Source::Lines(Lines::open(path, start)?)
            }
            #[cfg(feature = "parquet")]
            DocumentFormat::Parquet => {
                Source::Rows(super::parquet::TextRows::open(path, field, start.offset)?)
            }
        };
        Ok(Self { path: path.to_owned(), source })
    }

    pub(super) fn read(&mut self) -> Result<Option<Record>> {
        match &mut self.source {
            Source::Pieces(pieces) => {
                pieces.read().map_err(|e| FileError::read(&self.path)(e).into())
            }
            Source::Lines(lines) => {
                let mut content = Vec::new();
                Ok(lines.read(&mut content)?.map(|LineStart { offset, lines }| Record {
                    place: Place { offset, lines },
                    bytes_read: offset + content.len() as u64,
                    content,
                    ends_document: true,
                }))
            }
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => Ok(rows.read()?.map(|row| Record {
                place: Place { offset: row.number, lines: 0 },
                bytes_read: row.bytes_read,
                content: row.text.into_bytes(),
                ends_document: true,
            })),
        }
    }
}

/// A long text is read in pieces, which end with a line where they can.
#[derive(Debug)]
struct Pieces {
    file: File,
    next: Place,
    /// What is read of the next piece already.
    buffer: Vec<u8>,
    done: bool,
}

const PIECE_BYTES: usize = if cfg!(test) { 16 } else { 1 << 18 };

impl Pieces {
    fn open(path: &Path, start: Place) -> Result<Self> {
        let mut file = File::open(path).map_err(FileError::read(path))?;
        file.seek(SeekFrom::Start(start.offset)).map_err(FileError::read(path))?;
        Ok(Self { file, next: start, buffer: Vec::new(), done: false })
    }

    /// The next piece, which depends on nothing but where it starts: a run that goes on there cuts the
    /// rest of the text in the same places.
    fn read(&mut self) -> std::io::Result<Option<Record>> {
        if self.done {
            return Ok(None);
        }
        // One byte more says whether the text goes on.
        let wanted = (PIECE_BYTES + 1 - self.buffer.len()) as u64;
        (&mut self.file).take(wanted).read_to_end(&mut self.buffer)?;
        let place = self.next;
        self.done = self.buffer.len() <= PIECE_BYTES;
        let end = if self.done { self.buffer.len() } else { cut(&self.buffer[..PIECE_BYTES]) };
        let rest = self.buffer.split_off(end);
        let content = std::mem::replace(&mut self.buffer, rest);
        let lines = place.lines + line_ends(&content);
        self.next = Place { offset: place.offset + end as u64, lines };
        let bytes_read = self.next.offset;
        Ok(Some(Record { place, bytes_read, content, ends_document: self.done }))
    }
}

/// After the last line end, else before the last character, of which bytes may be missing.
fn cut(bytes: &[u8]) -> usize {
    if let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') {
        return last + 1;
    }
    let starts_character = |&byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    let last = bytes.iter().rposition(starts_character).unwrap_or(0);
    // Bytes that are no UTF-8 have no such place.
    if last == 0 || bytes.len() - last > 4 { bytes.len() } else { last }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}

/// The tokens of a record.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) tokens: Vec<u32>,
    /// How many of them, at the start, are given and not predicted.
    pub(super) num_given: usize,
}

/// Makes tokens of a file's records; threads may share one.
#[derive(Debug)]
pub(super) struct Encoder {
    path: PathBuf,
    format: DocumentFormat,
    lines: LineFormat,
    tokenizer: Tokenizer,
}

impl Encoder {
    pub(super) fn new(
        path: &Path,
        format: DocumentFormat,
        field: &str,
        tokenizer: &Tokenizer,
    ) -> Self {
        let lines = LineFormat::new(path, field);
        Self { path: path.to_owned(), format, lines, tokenizer: tokenizer.clone() }
    }

    /// The tokens of a record, with the one after a text where the document ends.
    pub(super) fn encode(&self, record: &Record) -> Result<Encoded> {
        let all = |tokens| Ok(Encoded { tokens, num_given: 0 });
        let parsed;
        let text = if self.format == DocumentFormat::Jsonl {
            match self.lines.parse(record.place.lines + 1, &record.content)? {
                Example::Text(text) => parsed = text,
                Example::Tokens(tokens) => return self.check(record, tokens).and_then(all),
                Example::Completion { prompt, completion } => {
                    // Each for itself, so that the prompt's tokens are what they are when a user asks.
                    let mut tokens = self.tokenizer.encode(&prompt)?;
                    let num_given = tokens.len();
                    tokens.extend(self.tokenizer.encode(&completion)?);
                    tokens.extend(self.tokenizer.eos());
                    return Ok(Encoded { tokens, num_given });
                }
            }
            &parsed
        } else if self.tokenizer.is_bytes() {
            return all(record.content.iter().map(|&byte| u32::from(byte)).collect());
        } else {
            self.utf8(record)?
        };
        let mut tokens = self.tokenizer.encode(text)?;
        if record.ends_document && !tokens.is_empty() {
            tokens.extend(self.tokenizer.eos());
        }
        all(tokens)
    }

    /// The tokens of a record that may be cut anywhere, which one with a prompt may not.
    pub(super) fn encode_whole(&self, record: &Record) -> Result<Vec<u32>> {
        let Encoded { tokens, num_given } = self.encode(record)?;
        if num_given == 0 {
            return Ok(tokens);
        }
        let problem = "a `prompt` with its `completion` is no document, because only the completion is \
                       predicted: train on the .jsonl file itself";
        Err(self.lines.problem(record.place.lines + 1, problem))
    }

    /// Tokens that another program made are believed only after a look.
    fn check(&self, record: &Record, tokens: Vec<u32>) -> Result<Vec<u32>> {
        let vocab_size = self.tokenizer.vocab_size();
        match tokens.iter().find(|&&token| token >= vocab_size) {
            None => Ok(tokens),
            Some(token) => {
                let problem = format!(
                    "token {token} is not below the vocabulary's size of {vocab_size}: name the tokenizer \
                     that the tokens are of"
                );
                Err(self.lines.problem(record.place.lines + 1, &problem))
            }
        }
    }

    fn utf8<'a>(&self, record: &'a Record) -> Result<&'a str> {
        let text = std::str::from_utf8(&record.content).map_err(|error| {
            let valid = &record.content[..error.valid_up_to()];
            let line = record.place.lines + line_ends(valid) + 1;
            let byte = record.place.offset + valid.len() as u64;
            malformed(
                &self.path,
                format!(
                    "line {line}: byte {byte} of the file is not UTF-8: convert the file to UTF-8"
                ),
            )
        })?;
        // A byte order mark says how the file is written and is no part of its text.
        let is_start = record.place.offset == 0 && self.format == DocumentFormat::Text;
        Ok(text.strip_prefix('\u{feff}').filter(|_| is_start).unwrap_or(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the pieces from a place on hold.
    fn pieces(path: &Path, start: Place) -> Vec<(Place, Vec<u8>)> {
        let mut records = Records::open(path, DocumentFormat::Text, "", start).unwrap();
        let mut found: Vec<(Place, Vec<u8>)> = Vec::new();
        let mut ended = false;
        while let Some(record) = records.read().unwrap() {
            assert!(!ended, "only the last piece ends the document");
            ended = record.ends_document;
            found.push((record.place, record.content));
        }
        assert!(ended);
        found
    }

    proptest! {
        #[test]
        fn a_long_text_is_cut_in_the_same_places_wherever_reading_starts(text in "[a-c猫\n]{0,80}") {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.txt");
            std::fs::write(&path, &text).unwrap();
            let all = pieces(&path, Place::default());
            let joined: Vec<u8> = all.iter().flat_map(|(_, content)| content.clone()).collect();
            prop_assert_eq!(joined, text.as_bytes());
            for (index, (place, content)) in all.iter().enumerate() {
                prop_assert!(content.len() <= PIECE_BYTES);
                prop_assert!(std::str::from_utf8(content).is_ok(), "no character is cut");
                prop_assert_eq!(&pieces(&path, *place), &all[index..]);
                let before = &text.as_bytes()[..place.offset as usize];
                prop_assert_eq!(place.lines, line_ends(before));
            }
        }
    }
}
