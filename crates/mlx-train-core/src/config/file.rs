//! Reading a file within bounds.

use super::{
    ConfigError,
    node::{Origin, Place},
};
use crate::file::FileError;
use std::{fs::File, io::Read, path::Path, sync::Arc};

/// No config is larger; a file that is, is another file.
pub(crate) const LARGEST_MIB: usize = 16;

/// The text of a file, without a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let limit = (LARGEST_MIB << 20) as u64;
    let mut bytes = Vec::new();
    // One byte more than the limit tells a file that is too large from one that just fits.
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(FileError::read(path))?;
    let origin = Arc::new(Origin::File(path.to_owned()));
    if bytes.len() as u64 > limit {
        return Err(ConfigError::TooLarge {
            origin: Place::whole(&origin),
            limit_mib: LARGEST_MIB,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let valid = String::from_utf8_lossy(valid);
        let line = valid.matches('\n').count() + 1;
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count();
        ConfigError::NotUtf8 { place: Place::new(&origin, line, column + 1) }
    })
}
