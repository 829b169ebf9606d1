//! Reading files of others with a bound, and what the readers of this room share.

use super::DataError;
use crate::{Result, file::FileError};
use std::{fmt::Write, fs::File, io::Read, path::Path};

/// The content of a file that should be small; one of more than `max_bytes` is refused.
pub(super) fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(FileError::read(path))?;
    if bytes.len() as u64 > max_bytes {
        let problem = format!("it has more than {max_bytes} bytes, so it is not what it should be");
        return Err(malformed(path, problem));
    }
    Ok(bytes)
}

/// An error about the content of a file.
pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> crate::Error {
    DataError::Malformed { path: path.to_owned(), problem: problem.into() }.into()
}

/// Two digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}
