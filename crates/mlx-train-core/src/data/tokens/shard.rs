//! One token file: a header of 128 bytes, the tokens, and where documents end.
//!
//! Numbers are little-endian and unsigned.
//!
//! | bytes | hold |
//! |---|---|
//! | 0..8 | `\x89mlxtok\n`, which a transfer as text would damage |
//! | 8..12 | the version of this format, 1 |
//! | 12..16 | bytes of a token: 2 or 4 |
//! | 16..24 | how many tokens follow |
//! | 24..32 | how many documents end in this file |
//! | 32..36 | size of the vocabulary; every token is below it |
//! | 36..64 | zero |
//! | 64..96 | fingerprint of the tokenizer |
//! | 96..128 | SHA-256 of bytes 0..96 and of everything from 128 on |
//! | 128.. | the tokens, then zeros up to a multiple of 8 |
//! | then | for each document, 8 bytes: how many tokens of this file come before its end |
//!
//! A document may go on in the next file. Ends increase strictly, so no document is empty.

use crate::{
    Result,
    data::files::{hex, malformed},
    ffi::FileMap,
    file::{FileError, write_whole_with},
};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"\x89mlxtok\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
/// The part of the header that the hash covers.
const HASHED_BYTES: usize = 96;
const END_BYTES: usize = 8;

/// The bytes of a token in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// Two bytes, for a vocabulary of up to 65,536.
    U16,
    /// Four bytes.
    U32,
}

impl Width {
    /// The smaller width that every token of a vocabulary fits.
    pub fn of(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// 2 or 4.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
        })
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: Width,
    pub(super) num_tokens: usize,
    pub(super) num_documents: usize,
    pub(super) vocab_size: u32,
    pub(super) fingerprint: [u8; 32],
    pub(super) sha256: [u8; 32],
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |start: usize, field: &[u8]| {
            bytes[start..start + field.len()].copy_from_slice(field);
        };
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(self.width.bytes() as u32).to_le_bytes());
        put(16, &(self.num_tokens as u64).to_le_bytes());
        put(24, &(self.num_documents as u64).to_le_bytes());
        put(32, &self.vocab_size.to_le_bytes());
        put(64, &self.fingerprint);
        put(96, &self.sha256);
        bytes
    }

    /// Reads a header and believes nothing in it: `Err` says what is wrong.
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let u32_at = |start: usize| u32::from_le_bytes(field(bytes, start));
        let u64_at = |start: usize| u64::from_le_bytes(field(bytes, start));
        if bytes[..8] != MAGIC {
            return Err(format!(
                "this is no token file: it starts with {:02x?} instead of {MAGIC:02x?}; make one with \
                 `data prepare`",
                &bytes[..8]
            ));
        }
        if u32_at(8) != VERSION {
            return Err(format!(
                "its format is version {}, and this program reads version {VERSION}: update the program, \
                 or prepare the data again",
                u32_at(8)
            ));
        }
        let width = match u32_at(12) {
            2 => Width::U16,
            4 => Width::U32,
            other => {
                return Err(damaged(format_args!("its tokens take {other} bytes, not 2 or 4")));
            }
        };
        let vocab_size = u32_at(32);
        if vocab_size == 0 || vocab_size > 1 << 31 || Width::of(vocab_size) != width {
            return Err(damaged(format_args!("a vocabulary of {vocab_size} does not fit {width}")));
        }
        if bytes[36..64] != [0; 28] {
            return Err(damaged(format_args!("bytes 36 to 63 are not zero")));
        }
        let count = |start: usize| {
            usize::try_from(u64_at(start))
                .map_err(|_| damaged(format_args!("a count of {} is too large", u64_at(start))))
        };
        Ok(Self {
            width,
            num_tokens: count(16)?,
            num_documents: count(24)?,
            vocab_size,
            fingerprint: field(bytes, 64),
            sha256: field(bytes, 96),
        })
    }

    /// Where the ends of documents are, or nothing when the counts are larger than any file.
    fn ends(&self) -> Option<Range<usize>> {
        let tokens = self.num_tokens.checked_mul(self.width.bytes())?;
        let start = HEADER_BYTES.checked_add(tokens.checked_next_multiple_of(END_BYTES)?)?;
        Some(start..start.checked_add(self.num_documents.checked_mul(END_BYTES)?)?)
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], start: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[start + index])
}

fn damaged(what: fmt::Arguments<'_>) -> String {
    format!("its header is damaged ({what}): get the file again, or prepare the data again")
}

/// The content of a file that is to be written.
#[derive(Debug)]
pub(super) struct Content {
    width: Width,
    vocab_size: u32,
    tokens: Vec<u8>,
    ends: Vec<u64>,
}

impl Content {
    pub(super) fn new(vocab_size: u32) -> Self {
        Self { width: Width::of(vocab_size), vocab_size, tokens: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn num_tokens(&self) -> usize {
        self.tokens.len() / self.width.bytes()
    }

    pub(super) fn num_documents(&self) -> usize {
        self.ends.len()
    }

    /// Adds tokens; they were checked to be below the vocabulary's size.
    pub(super) fn push(&mut self, tokens: &[u32]) {
        self.tokens.reserve(tokens.len() * self.width.bytes());
        match self.width {
            Width::U16 => {
                self.tokens.extend(tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()));
            }
            Width::U32 => self.tokens.extend(tokens.iter().flat_map(|token| token.to_le_bytes())),
        }
    }

    /// Ends the document whose tokens were pushed last, if any were since the one before.
    pub(super) fn end_document(&mut self) {
        let end = self.num_tokens() as u64;
        if self.ends.last().copied().unwrap_or(0) < end {
            self.ends.push(end);
        }
    }

    /// Writes the file, whole or not at all, and returns its hash.
    pub(super) fn write(&self, path: &Path, fingerprint: [u8; 32]) -> Result<[u8; 32]> {
        let padding = self.tokens.len().next_multiple_of(END_BYTES) - self.tokens.len();
        let padding = &[0; END_BYTES][..padding];
        let ends: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        let mut header = Header {
            width: self.width,
            num_tokens: self.num_tokens(),
            num_documents: self.ends.len(),
            vocab_size: self.vocab_size,
            fingerprint,
            sha256: [0; 32],
        };
        let mut hash = Sha256::new();
        for part in [&header.to_bytes()[..HASHED_BYTES], &self.tokens, padding, &ends] {
            hash.update(part);
        }
        header.sha256 = hash.finalize().into();
        write_whole_with(path, |file| {
            [&header.to_bytes()[..], &self.tokens, padding, &ends]
                .into_iter()
                .try_for_each(|part| file.write_all(part))
                .map_err(FileError::write(path))
        })?;
        Ok(header.sha256)
    }
}

/// A token file that is mapped into memory.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: FileMap,
    header: Header,
}

impl Shard {
    /// Maps a file and checks its header against its size; no token is read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = FileMap::open(path).map_err(FileError::read(path))?;
        let mut bytes = [0; HEADER_BYTES];
        if map.len() < HEADER_BYTES {
            let problem = format!(
                "it has {} bytes, and a token file starts with a header of {HEADER_BYTES}: it was cut \
                 short; get it again, or prepare the data again",
                map.len()
            );
            return Err(malformed(path, problem));
        }
        read(&map, 0, &mut bytes).map_err(FileError::read(path))?;
        let header = Header::parse(&bytes).map_err(|problem| malformed(path, problem))?;
        if header.ends().map(|ends| ends.end) != Some(map.len()) {
            let problem = format!(
                "its header promises {} tokens of {} bytes and {} documents, and it has {} bytes: it was \
                 cut short or added to; get it again, or prepare the data again",
                header.num_tokens,
                header.width.bytes(),
                header.num_documents,
                map.len()
            );
            return Err(malformed(path, problem));
        }
        Ok(Self { path: path.to_owned(), map, header })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.map.len()
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Appends the tokens of a range; one that is not below the vocabulary's size is refused.
    pub(super) fn copy(&self, range: Range<usize>, out: &mut Vec<i32>) -> Result<()> {
        let (width, before) = (self.header.width.bytes(), out.len());
        let at = |token: usize| HEADER_BYTES + token * width;
        // Blocks have an even number of tokens, as the range does not start inside of one.
        self.map
            .read(at(range.start)..at(range.end), |block| match self.header.width {
                Width::U16 => out.extend(pieces(block).map(|t| i32::from(u16::from_le_bytes(t)))),
                Width::U32 => out.extend(pieces(block).map(|t| u32::from_le_bytes(t) as i32)),
            })
            .map_err(FileError::read(&self.path))?;
        let is_token = |&token: &i32| (token as u32) < self.header.vocab_size;
        if let Some(wrong) = out[before..].iter().position(|token| !is_token(token)) {
            let problem = format!(
                "token {} is {}, and its vocabulary has {}: the file is damaged; get it again, or \
                 prepare the data again",
                range.start + wrong,
                out[before + wrong] as u32,
                self.header.vocab_size
            );
            return Err(malformed(&self.path, problem));
        }
        Ok(())
    }

    /// How many tokens come before the ends of some of its documents.
    pub(super) fn ends(&self, documents: Range<usize>) -> Result<Vec<usize>> {
        let Some(region) = self.header.ends() else { return Ok(Vec::new()) };
        // The end before the first is read too, to see that they increase.
        let first = documents.start.saturating_sub(1);
        let at = |document: usize| region.start + document * END_BYTES;
        let mut ends = Vec::with_capacity(documents.end - first);
        self.map
            .read(at(first)..at(documents.end), |block| {
                ends.extend(pieces(block).map(|end| u64::from_le_bytes(end) as usize));
            })
            .map_err(FileError::read(&self.path))?;
        let increase = ends.is_sorted_by(|one, next| one < next);
        let inside = ends.first().is_none_or(|&end| end > 0)
            && ends.last().is_none_or(|&end| end <= self.header.num_tokens);
        if !(increase && inside) {
            let problem = format!(
                "documents {first} to {} do not end one after another within its {} tokens: the file is \
                 damaged; get it again, or prepare the data again",
                documents.end, self.header.num_tokens
            );
            return Err(malformed(&self.path, problem));
        }
        Ok(ends.split_off(documents.start - first))
    }

    /// Reads everything and compares it with the hash.
    pub(super) fn verify(&self) -> Result<()> {
        let mut hash = Sha256::new();
        for range in [0..HASHED_BYTES, HEADER_BYTES..self.map.len()] {
            self.map
                .read(range, |block| hash.update(block))
                .map_err(FileError::read(&self.path))?;
        }
        let found: [u8; 32] = hash.finalize().into();
        if found != self.header.sha256 {
            let problem = format!(
                "its content has the SHA-256 {}, and its header says {}: the file is damaged; get it \
                 again, or prepare the data again",
                hex(&found),
                hex(&self.header.sha256)
            );
            return Err(malformed(&self.path, problem));
        }
        self.copy_all()
    }

    /// Looks at every token and every document.
    fn copy_all(&self) -> Result<()> {
        let mut tokens = Vec::new();
        for start in (0..self.header.num_tokens).step_by(1 << 16) {
            tokens.clear();
            self.copy(start..self.header.num_tokens.min(start + (1 << 16)), &mut tokens)?;
        }
        self.ends(0..self.header.num_documents).map(drop)
    }
}

fn read(map: &FileMap, start: usize, out: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    map.read(start..start + out.len(), |block| {
        out[filled..filled + block.len()].copy_from_slice(block);
        filled += block.len();
    })
}

/// Pieces of `N` bytes; what is left at the end is not one.
fn pieces<const N: usize>(block: &[u8]) -> impl Iterator<Item = [u8; N]> {
    block.as_chunks::<N>().0.iter().copied()
}
