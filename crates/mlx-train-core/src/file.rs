//! Files that appear whole or not at all, and what can go wrong with any file.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

/// A file that the system does not read or write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It was to be read.
    #[error("cannot read `{}`: {}", .path.display(), advice(.source, "it does not exist; check the path"))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It was to be written.
    #[error("cannot write `{}`: {}", .path.display(), advice(.source, "its folder does not exist; create it first"))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a folder that was to be made.
    #[error("cannot make the folder `{}`: {}", .path.display(), advice(.source, "the system has no place for it; choose another"))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl FileError {
    /// Makes an [`io::Error`] say what was to be read.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// Makes an [`io::Error`] say what was to be written.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

fn advice(source: &io::Error, not_found: &'static str) -> &'static str {
    match source.kind() {
        ErrorKind::NotFound => not_found,
        ErrorKind::PermissionDenied => {
            "permission is denied; check those of the file and of its folder"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full; free some space or choose another folder"
        }
        ErrorKind::IsADirectory => "it is a folder; name a file in it",
        ErrorKind::AlreadyExists => "something of that name is there; choose another name",
        ErrorKind::NotADirectory => "a part of the path is a file; check the path",
        ErrorKind::UnexpectedEof => "it became shorter while it was read; try again",
        _ => "the system refused; its reason follows",
    }
}

/// Writes `content` to `path`, so that a reader finds the old content or all of the new.
///
/// The content goes to a file aside in the same folder, reaches the disk, and takes the place of
/// `path` by one rename. When anything fails, or the process dies, what was at `path` is still
/// there; a file aside that a killed process left behind starts with `.` and ends in `.partial`.
/// A link stays and its target is written; a file that is replaced passes on its permissions.
///
/// # Errors
/// [`FileError::Write`] when the folder does not exist, something is at `path` that is no ordinary
/// file, or the disk fails.
pub fn write_whole(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<(), FileError> {
    let path = path.as_ref();
    write_whole_with(path, |file| file.write_all(content.as_ref()).map_err(FileError::write(path)))
}

/// [`write_whole`] of content that is never in memory at once; `write` may fail with any error.
///
/// # Errors
/// What `write` returns; as [`write_whole`].
pub fn write_whole_with<E: From<FileError>>(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let failed = || FileError::write(path);
    let old = old_permissions(path).map_err(failed())?;
    let target = followed(path);
    let folder = folder_of(&target);

    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    if old.is_none() {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; of these the umask takes some away.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut aside = builder.tempfile_in(folder).map_err(failed())?;
    let mut buffer = BufWriter::new(aside.as_file_mut());
    write(&mut buffer)?;
    buffer.flush().map_err(failed())?;
    drop(buffer);
    if let Some(old) = old {
        aside.as_file().set_permissions(old).map_err(failed())?;
    }
    aside.as_file().sync_all().map_err(failed())?;
    aside.persist(&target).map_err(|refused| failed()(refused.error))?;
    // The rename itself is on disk once the folder is; only Unix can sync a folder.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())?;
    }
    Ok(())
}

/// The permissions of the file that is there; refuses what a rename would destroy, like a device.
fn old_permissions(path: &Path) -> io::Result<Option<Permissions>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found.permissions())),
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => Err(io::Error::new(ErrorKind::InvalidInput, "it is no ordinary file")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where links lead, also to a file that is not there yet; a circle of links was refused before.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    while let Ok(next) = fs::read_link(&path) {
        path = folder_of(&path).join(next);
    }
    path
}

/// The parent of a bare file name would be the empty path.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let failed = write_whole_with(&path, |file| {
            file.write_all(b"half of the new").unwrap();
            Err(Error::message("interrupted"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "interrupted");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_reader_finds_the_old_or_the_new_file_at_any_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let (old, new) = ("o".repeat(100_000), "n".repeat(100_000));
        write_whole(&path, &old).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20 {
                    write_whole(&path, &new).unwrap();
                    write_whole(&path, &old).unwrap();
                }
            });
            while !writer.is_finished() {
                let read = fs::read_to_string(&path).unwrap();
                assert!(read == old || read == new, "{} bytes", read.len());
            }
        });
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_whole(folder.path().join("nowhere/a.txt"), "").unwrap_err().to_string();
        assert!(error.contains("nowhere/a.txt") && error.contains("create it first"), "{error}");
    }

    #[test]
    fn a_folder_in_the_way_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_whole(folder.path(), "").unwrap_err().to_string();
        assert!(error.contains("it is a folder"), "{error}");
    }

    #[cfg(unix)]
    mod on_unix {
        use super::*;
        use std::os::unix::{
            fs::{PermissionsExt, symlink},
            net::UnixListener,
        };

        fn mode(path: &Path) -> u32 {
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        }

        #[test]
        fn a_new_file_has_ordinary_permissions() {
            let folder = tempfile::tempdir().unwrap();
            let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
            write_whole(&ours, "").unwrap();
            fs::write(&plain, "").unwrap();
            assert_eq!(mode(&ours), mode(&plain));
        }

        // 0o666 is more than the usual umask leaves to a new file.
        #[test]
        fn a_replaced_file_passes_on_its_permissions() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.txt");
            for wanted in [0o600, 0o666, 0o755] {
                fs::write(&path, "old").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(wanted)).unwrap();
                write_whole(&path, "new").unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), "new");
                assert_eq!(mode(&path), wanted);
            }
        }

        #[test]
        fn links_stay_and_their_target_is_written_even_if_it_is_new() {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            fs::create_dir(at("inner")).unwrap();
            // Each link is relative to its own folder.
            symlink("inner/second", at("first")).unwrap();
            symlink("../target", at("inner/second")).unwrap();
            for text in ["new", "newer"] {
                write_whole(at("first"), text).unwrap();
                assert_eq!(fs::read_to_string(at("target")).unwrap(), text);
                assert!(fs::symlink_metadata(at("first")).unwrap().is_symlink());
                assert!(fs::symlink_metadata(at("inner/second")).unwrap().is_symlink());
            }
        }

        #[test]
        fn what_is_no_file_is_refused_instead_of_replaced() {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            symlink("circle", at("circle")).unwrap();
            let _listener = UnixListener::bind(at("socket")).unwrap();
            for name in ["circle", "socket"] {
                let before = fs::symlink_metadata(at(name)).unwrap().file_type();
                let error = write_whole(at(name), "").unwrap_err();
                assert!(matches!(error, FileError::Write { .. }), "{error}");
                assert_eq!(fs::symlink_metadata(at(name)).unwrap().file_type(), before);
            }
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }
}
