//! What files and folders are called.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    process,
};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";
/// In the folder of all checkpoints: which run they are of.
pub(super) const RUN: &str = "run.json";
pub(super) const LATEST: &str = "latest";
pub(super) const BEST: &str = "best";
/// Locked by the process that saves.
pub(super) const LOCK: &str = ".lock";

/// What the name of a folder begins with while it is written, while another takes its place, and
/// while it is removed.
pub(super) const SAVING: &str = ".saving-";
pub(super) const REPLACED: &str = ".replaced-";
pub(super) const DELETING: &str = ".deleting-";

/// The folder of a step: `step-00001000`.
pub(super) fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step that a folder is named after.
pub(super) fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// A name beside that of a step that no other process and no other save has.
pub(super) fn aside_name(prefix: &str, step: u64) -> String {
    format!("{prefix}{}-{}-{:08x}", step_name(step), process::id(), random() as u32)
}

/// The step of a folder that gave way to another of its step.
pub(super) fn replaced_step(name: &str) -> Option<u64> {
    let (step, _process_and_random) = name.strip_prefix(REPLACED)?.rsplit_once('-')?;
    step_of(step.rsplit_once('-')?.0)
}

/// A number that differs from process to process and from call to call.
pub(super) fn random() -> u64 {
    // The standard library keys its hash maps from the system's randomness.
    RandomState::new().build_hasher().finish()
}

/// Files that Finder and other desktops leave in every folder that they show.
pub(super) fn is_of_a_desktop(name: &str) -> bool {
    name.starts_with("._") || [".DS_Store", "Thumbs.db", "desktop.ini"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_step_is_one() {
        assert_eq!(step_of("step-00001000"), Some(1000));
        assert_eq!(step_of(&step_name(u64::MAX)), Some(u64::MAX));
        for name in ["step-1000", "step-+0000100", "step-", "step-00001000x", "latest", ".saving-"]
        {
            assert_eq!(step_of(name), None, "{name}");
        }
        assert_eq!(step_of(&aside_name(SAVING, 3)), None);
        assert_eq!(replaced_step(&aside_name(REPLACED, 3)), Some(3));
        assert_eq!(replaced_step(&aside_name(SAVING, 3)), None);
    }

    #[test]
    fn two_saves_of_one_step_are_not_written_to_one_folder() {
        assert_ne!(aside_name(SAVING, 3), aside_name(SAVING, 3));
    }
}
