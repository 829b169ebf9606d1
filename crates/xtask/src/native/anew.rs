//! Making a folder anew without losing the whole one that is there.
//!
//! `setup --force` without a network and without kept wheels would end with no MLX at all if it began
//! by clearing. A folder holds absolute paths (the environment's scripts, the libraries' names), so the
//! new one is made in place and the old one waits aside.

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file of a folder that is written last: without it the folder is not whole.
pub const STAMP: &str = "complete";

/// Empties the place of `dir`, then makes it; where that fails, what was there before is put back.
///
/// Only a folder that `is_whole` is worth keeping. A set-up that was killed leaves it aside; the next
/// one removes it when it succeeds, and puts it back when it fails.
///
/// # Errors
/// Those of `make`, and when a folder cannot be moved or removed.
pub fn make_anew<T>(dir: &Path, is_whole: bool, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let aside = aside(dir);
    if is_whole {
        clear(&aside)?;
        std::fs::rename(dir, &aside).map_err(Error::io("move", dir))?;
    } else {
        clear(dir)?;
    }
    let result = make();
    if result.is_ok() {
        clear(&aside)?;
    } else if aside.exists() && put_back(&aside, dir).is_ok() {
        // Why it failed matters more than a failure to move: the folder stays aside for the next run.
        println!("this failed; what was there before is back in {}", dir.display());
    }
    result
}

/// Where the earlier one waits.
fn aside(dir: &Path) -> PathBuf {
    dir.with_added_extension("earlier")
}

fn put_back(aside: &Path, dir: &Path) -> Result<()> {
    clear(dir)?;
    std::fs::rename(aside, dir).map_err(Error::io("move", aside))
}

/// Removes a folder; the stamp first, so that a removal cut short leaves nothing that looks whole.
fn clear(dir: &Path) -> Result<()> {
    let stamp = dir.join(STAMP);
    unless_gone(std::fs::remove_file(&stamp)).map_err(Error::io("remove", &stamp))?;
    unless_gone(std::fs::remove_dir_all(dir)).map_err(Error::io("remove", dir))
}

fn unless_gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes one file below `dir`.
    fn write(dir: &Path, text: &str) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        std::fs::write(dir.join("file"), text).map_err(Error::io("write", dir))
    }

    fn read(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("file")).expect("readable")
    }

    fn fails(dir: &Path) -> Result<()> {
        write(dir, "half")?;
        Err(Error::malformed("wheels", "no network"))
    }

    #[test]
    fn a_failure_puts_the_whole_one_back_and_success_replaces_it() {
        let home = tempfile::tempdir().expect("a folder");
        let dir = &home.path().join("mlx-0.32.2-cpu");
        write(dir, "old").expect("written");
        make_anew(dir, true, || fails(dir)).expect_err("no network");
        assert_eq!(read(dir), "old");
        make_anew(dir, true, || write(dir, "new")).expect("made");
        assert_eq!(read(dir), "new");
        assert!(!aside(dir).exists());
    }

    #[test]
    fn one_cut_short_is_not_kept_and_a_failed_first_attempt_stays_to_be_looked_at() {
        let home = tempfile::tempdir().expect("a folder");
        let dir = &home.path().join("mlx");
        write(dir, "cut short").expect("written");
        let make = || {
            assert!(!dir.exists());
            fails(dir)
        };
        make_anew(dir, false, make).expect_err("no network");
        assert_eq!(read(dir), "half");
    }

    #[test]
    fn what_a_killed_set_up_left_aside_comes_back_when_the_next_one_fails() {
        let home = tempfile::tempdir().expect("a folder");
        let dir = &home.path().join("mlx");
        let killed = || {
            write(&aside(dir), "old").expect("written");
            write(dir, "half").expect("written");
        };
        killed();
        make_anew(dir, false, || fails(dir)).expect_err("no network");
        assert_eq!(read(dir), "old");
        killed();
        make_anew(dir, false, || write(dir, "new")).expect("made");
        assert_eq!(read(dir), "new");
        assert!(!aside(dir).exists());
    }
}
