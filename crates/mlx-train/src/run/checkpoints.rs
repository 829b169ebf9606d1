//! The checkpoints of a run, as its report lists them.

use std::{fs, path::Path};

/// A folder in `checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    /// All files in it together.
    pub(super) bytes: u64,
}

/// The folders in `checkpoints`, by name in the order of their numbers; none if there is no such folder.
///
/// It only looks: whether a checkpoint is whole is for `checkpoint verify` to say.
pub(super) fn list(checkpoints: &Path) -> Vec<Listed> {
    let folders = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut listed: Vec<_> = folders
        .map(|entry| Listed {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: bytes_in(&entry.path()),
        })
        // What is written aside has a name that begins with a dot.
        .filter(|listed| !listed.name.starts_with('.'))
        .collect();
    let number = |name: &str| -> Option<u64> {
        name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    };
    listed.sort_by(|a, b| (number(&a.name), &a.name).cmp(&(number(&b.name), &b.name)));
    listed
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|m| m.len())
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn checkpoints_are_in_the_order_of_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-900", "step-1000", ".step-2000.partial"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("step-900/weights"), [0; 100]).unwrap();
        fs::write(folder.path().join("latest"), "step-1000").unwrap();
        let names: Vec<_> = list(folder.path()).into_iter().map(|c| (c.name, c.bytes)).collect();
        assert_eq!(names, [("step-900".to_owned(), 100), ("step-1000".to_owned(), 0)]);
        assert_eq!(list(&folder.path().join("none")), []);
    }
}
