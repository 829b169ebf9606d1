//! Reading a file within bounds, and writing one whole or not at all.

use super::{
    ConfigError,
    node::{Origin, Place},
};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// No config is larger; a file that is, is another file.
pub(crate) const LARGEST_MIB: usize = 16;

/// The text of a file, without a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let limit = (LARGEST_MIB << 20) as u64;
    let mut bytes = Vec::new();
    // One byte more than the limit tells a file that is too large from one that just fits.
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::io("read", path, error))?;
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

/// Writes a file whole or not at all: into a new file beside it, to the disk, then under its name.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    replace(path, bytes).map_err(|error| ConfigError::io("write", path, error))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A rename would replace a link itself; what it points at is meant.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut aside = tempfile::Builder::new()
        .prefix(".config-")
        .permissions(new_permissions(&path))
        .tempfile_in(&folder)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(&path).map_err(|error| error.error)?;
    // The name is on the disk once its folder is.
    File::open(&folder)?.sync_all()
}

/// Those of the file that is replaced, or else what any new file gets; temporary files are private.
fn new_permissions(path: &Path) -> Permissions {
    match fs::metadata(path) {
        Ok(existing) => existing.permissions(),
        Err(_) => Permissions::from_mode(0o666),
    }
}
