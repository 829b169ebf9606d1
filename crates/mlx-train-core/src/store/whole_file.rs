//! Files that appear whole or not at all.

use super::StoreError;
use crate::Result;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};
use tempfile::Builder;

/// Writes `path` through `write`, so that a reader finds the old content or all of the new.
///
/// The content goes to a file aside in the same folder, reaches the disk, and takes the place of
/// `path` by one rename. When anything fails, or the process dies, what was at `path` is still
/// there; a file aside that a killed process left behind starts with `.` and ends in `.partial`.
///
/// # Errors
/// What `write` returns; [`StoreError::Io`] when the folder does not exist or the disk fails.
pub fn write_whole(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let failed = || StoreError::io("write", path);
    if path.is_dir() {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(StoreError::Io { action: "write", path: path.to_owned(), source }.into());
    }
    // The parent of a bare file name is the empty path.
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut builder = Builder::new();
    builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        // Temporary files are private by default; this one ends as an ordinary file.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut aside = builder.tempfile_in(folder).map_err(failed())?;
    let mut buffer = BufWriter::new(aside.as_file_mut());
    write(&mut buffer)?;
    buffer.flush().map_err(failed())?;
    drop(buffer);
    aside.as_file().sync_all().map_err(failed())?;
    aside.persist(path).map_err(|refused| failed()(refused.error))?;
    // The rename itself is on disk once the folder is; only Unix can sync a folder.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::fs;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let failed = write_whole(&path, |file| {
            file.write_all(b"half of the new").unwrap();
            Err(Error::message("interrupted"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "interrupted");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere/a.txt");
        let error = write_whole(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("nowhere/a.txt") && error.contains("create its folder"), "{error}");
    }

    #[test]
    fn a_folder_in_the_way_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_whole(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("it is a folder"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_has_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_whole(&ours, |_| Ok(())).unwrap();
        fs::write(&plain, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(ours), mode(plain));
    }
}
