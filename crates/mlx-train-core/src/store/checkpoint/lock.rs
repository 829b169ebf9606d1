//! One process at a time saves to a folder, and only it clears what dead ones left there.

use super::{
    CheckpointError,
    names::{DELETING, LOCK, REPLACED, SAVING, replaced_step, step_name},
};
use crate::{Result, file::FileError};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
    process,
};

/// The right to save to a folder; ends with the value, or with the process, however it dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    /// `None` on file systems that have no locks: there any process may save.
    _file: Option<File>,
}

impl FolderLock {
    /// Takes the lock, and removes half-written and half-removed checkpoints, which then are nobody's.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let failed = || FileError::write(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed())?;
        match file.try_lock() {
            Ok(()) => {
                // For the message of whoever comes second; nothing depends on it.
                _ = file.set_len(0).and_then(|()| write!(file, "{}", process::id()));
                clear(folder)?;
                Ok(Self { _file: Some(file) })
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let known = file.take(20).read_to_string(&mut owner).is_ok() && !owner.is_empty();
                let owner =
                    if known { format!("process {owner}") } else { "another process".into() };
                Err(CheckpointError::Busy { path: folder.to_owned(), owner }.into())
            }
            // Names hold the process and a random number, so that two writers do not collide; what
            // dead ones left stays, because they cannot be told from the living.
            Err(TryLockError::Error(_)) => Ok(Self { _file: None }),
        }
    }
}

/// Removes folders whose process died while it wrote or removed them, and brings back those whose
/// successor never appeared.
fn clear(folder: &Path) -> Result<(), FileError> {
    for item in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let item = item.map_err(FileError::read(folder))?;
        let (name, path) = (item.file_name().to_string_lossy().into_owned(), item.path());
        let step = replaced_step(&name).map(|step| folder.join(step_name(step)));
        match step {
            Some(step) if step.symlink_metadata().is_err() => {
                fs::rename(&path, &step).map_err(FileError::write(&step))?;
            }
            _ if [SAVING, REPLACED, DELETING].iter().any(|prefix| name.starts_with(prefix)) => {
                fs::remove_dir_all(&path).map_err(FileError::write(&path))?;
            }
            _ => {}
        }
    }
    Ok(())
}
