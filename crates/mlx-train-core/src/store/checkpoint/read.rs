//! Files of a checkpoint, none of which is trusted.

use super::CheckpointError;
use serde::de::DeserializeOwned;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

/// The length of a file of a checkpoint, which has to be an ordinary one.
pub(super) fn plain_file_bytes(folder: &Path, name: &str) -> Result<u64, CheckpointError> {
    let damaged = |problem: String| CheckpointError::damaged(folder, name, problem);
    // Of a link itself: it may lead anywhere, and to open a named pipe would wait for its writer.
    match fs::symlink_metadata(folder.join(name)) {
        Ok(about) if about.is_file() => Ok(about.len()),
        Ok(about) if about.is_symlink() => Err(damaged("is a link, which is not followed".into())),
        Ok(_) => Err(damaged("is no ordinary file".into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(damaged("is missing".into())),
        Err(error) => Err(damaged(format!("cannot be read: {error}"))),
    }
}

/// The bytes of a file that may have at most `max_bytes`.
pub(super) fn read_bounded(
    folder: &Path,
    name: &str,
    max_bytes: u64,
) -> Result<Vec<u8>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::damaged(folder, name, problem);
    let num_bytes = plain_file_bytes(folder, name)?;
    if num_bytes > max_bytes {
        return Err(damaged(format!("has {num_bytes} bytes where at most {max_bytes} can be")));
    }
    let mut bytes = Vec::new();
    File::open(folder.join(name))
        .and_then(|file| file.take(max_bytes).read_to_end(&mut bytes))
        .map_err(|error| damaged(format!("cannot be read: {error}")))?;
    Ok(bytes)
}

/// How many values a document may have. One takes up to a hundred bytes of memory and only two of a
/// file, so the length of the file is no bound.
const MAX_VALUES: usize = 100_000;

/// Reads JSON whose shape is not known beforehand, or says what is wrong with it.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // Before each value but the first of a list or an object stands one of these. In a string they
    // are counted too, but no honest file comes near the limit.
    let values = bytes.iter().filter(|&byte| b",[{".contains(byte)).count();
    if values > MAX_VALUES {
        return Err(format!("has {values} values where at most {MAX_VALUES} can be"));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("is not understood: {error}"))
}
