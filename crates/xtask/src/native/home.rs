//! The per-user cache folder that holds native MLX, shared by every checkout.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A set-up takes two minutes with a good network; CUDA's gigabytes may take many more.
const LOCK_DEADLINE: Duration = Duration::from_mins(30);

/// `MLX_TRAIN_HOME`, or `mlx-train` in the user's cache folder.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// Finds the folder; it need not exist yet.
    ///
    /// # Errors
    /// [`Error::NoHome`], or [`Error::UnusableHome`] when Cargo's settings cannot hold the name.
    pub fn find() -> Result<Self> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let path = choose(variable("MLX_TRAIN_HOME"), variable("XDG_CACHE_HOME"), variable("HOME"))
            .ok_or(Error::NoHome)?;
        let absolute = std::path::absolute(&path).map_err(Error::io("resolve", &path))?;
        Self::at(absolute)
    }

    fn at(path: PathBuf) -> Result<Self> {
        match unusable(&path) {
            Some(what) => Err(Error::UnusableHome { path, what }),
            None => Ok(Self { path }),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of one build.
    pub fn build(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// What earlier set-ups made here, by name, of whichever checkout: builds whole or not.
    pub fn builds(&self) -> Vec<PathBuf> {
        let Ok(entries) = self.path.read_dir() else { return Vec::new() };
        let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        let others = [self.wheels(), self.tools()];
        let mut builds: Vec<_> = folders.filter(|path| !others.contains(path)).collect();
        builds.sort();
        builds
    }

    /// Where fetched wheels are kept, so that a later set-up needs no network.
    pub fn wheels(&self) -> PathBuf {
        self.path.join("wheels")
    }

    /// Programs that `xtask docs` installs for itself.
    pub fn tools(&self) -> PathBuf {
        self.path.join("tools")
    }

    /// Waits until no other set-up (and no left-over child of one) works in this folder.
    ///
    /// # Errors
    /// [`Error::Locked`] after half an hour; [`Error::Io`] when the folder cannot be made.
    pub fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.path).map_err(Error::io("create", &self.path))?;
        lock_within(&self.path.join("lock"), LOCK_DEADLINE)
    }
}

fn choose(mlx: Option<PathBuf>, cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let set = |path: &PathBuf| !path.as_os_str().is_empty();
    // A relative XDG folder is to be ignored, says the XDG base directory specification.
    let cache = cache.filter(|path| path.is_absolute());
    let home = home.filter(|path| path.is_absolute()).map(|home| home.join(".cache"));
    mlx.filter(set).or_else(|| cache.or(home).map(|cache| cache.join("mlx-train")))
}

/// What in a path breaks `rustc-flags` (split at spaces), an rpath (split at colons), or TOML.
fn unusable(path: &Path) -> Option<String> {
    let Some(text) = path.to_str() else { return Some("bytes that are not UTF-8".to_owned()) };
    let bad = |c: char| c.is_whitespace() || c.is_control() || ":;$'\"\\,".contains(c);
    let found = text.chars().find(|c| bad(*c))?;
    Some(if found == ' ' { "a space".to_owned() } else { format!("{found:?}") })
}

fn lock_within(path: &Path, deadline: Duration) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(Error::io("open", path))?;
    let start = Instant::now();
    let mut announced = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= deadline => {
                let minutes = deadline.as_secs() / 60;
                return Err(Error::Locked { path: path.to_path_buf(), minutes });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !announced {
            println!("another set-up holds {}; waiting for it", path.display());
            announced = true;
        }
        std::thread::sleep(Duration::from_millis(200).min(deadline));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    #[test]
    fn the_explicit_folder_wins_over_the_caches() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose(path("/m"), path("/c"), path("/h")), path("/m"));
        assert_eq!(choose(None, path("/c"), path("/h")), path("/c/mlx-train"));
        assert_eq!(choose(path(""), path("relative"), path("/h")), path("/h/.cache/mlx-train"));
        assert_eq!(choose(None, None, None), None);
    }

    #[test]
    fn folders_that_cargo_settings_cannot_hold_are_refused() {
        let refused = Home::at(PathBuf::from("/Users/a person/cache")).expect_err("a space");
        let message = refused.to_string();
        assert!(message.contains("has a space in its name"), "{message}");
        assert!(message.contains("MLX_TRAIN_HOME"), "{message}");
        assert!(Home::at(PathBuf::from("/a:b")).is_err());
        assert!(Home::at(PathBuf::from("/home/zoë/.cache")).is_ok());
    }

    #[test]
    fn a_second_set_up_gives_up_at_its_deadline_and_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = lock_within(&path, Duration::ZERO).expect("free");
        let refused = lock_within(&path, Duration::from_millis(1)).expect_err("held");
        assert!(refused.to_string().contains("another set-up has held"));
        drop(first);
        lock_within(&path, Duration::ZERO).expect("free again");
    }

    #[test]
    fn a_child_keeps_the_lock_when_its_parent_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let lock = lock_within(&path, Duration::ZERO).expect("free");
        let mut sleeper = shell::holding(&lock, "sleep").expect("a command");
        let mut child = sleeper.arg("30").spawn().expect("sleep runs");
        drop((lock, sleeper));
        assert!(lock_within(&path, Duration::from_millis(1)).is_err());
        child.kill().expect("alive");
        child.wait().expect("ended");
        lock_within(&path, Duration::ZERO).expect("free again");
    }
}
