//! Snapshots go to disk and come back.

use crate::support::{assert_is, config, new_run, run_of, save, snapshot};
use mlx_train_core::{
    Error,
    store::{Check, CheckpointError, Checkpoints, Loaded, Saver, Snapshot},
};
use std::fs;

#[test]
fn what_was_saved_is_what_is_loaded() {
    let (_folder, checkpoints) = run_of(&config(), &[3, 12]);
    for check in [Check::Hashes, Check::Sizes] {
        assert_is(&checkpoints.load(3, check).unwrap(), &snapshot(3, None));
        assert_is(&checkpoints.load_latest(check).unwrap(), &snapshot(12, None));
    }
    let path = checkpoints.folder().join("step-00000003");
    assert_is(&Loaded::read(path, Check::Hashes).unwrap(), &snapshot(3, None));
}

#[test]
fn a_resumed_run_is_the_same_run_and_goes_on_counting() {
    let (_folder, checkpoints) = run_of(&config(), &[1, 2]);
    let again = Checkpoints::open(checkpoints.folder()).unwrap();
    assert_eq!(again.run_id(), checkpoints.run_id());
    let mut saver = Saver::new(again.clone(), &config()).unwrap();
    // From step 1 on: step 2 is saved again, and is the latest.
    let other = Snapshot { progress: "other".into(), ..snapshot(2, None) };
    save(&mut saver, other.clone()).result.unwrap();
    assert_is(&again.load_latest(Check::Hashes).unwrap(), &other);
    assert_eq!(again.load_latest(Check::Hashes).unwrap().manifest.serial, 2);
}

#[test]
fn a_new_run_does_not_begin_on_top_of_another() {
    let (_folder, checkpoints) = run_of(&config(), &[1]);
    let refused = Checkpoints::create(checkpoints.folder());
    assert!(matches!(refused, Err(Error::Checkpoint(CheckpointError::Occupied { .. }))));
}

#[test]
fn a_second_process_is_refused_and_what_a_dead_one_left_is_cleared() {
    let (_folder, checkpoints) = new_run();
    let left = checkpoints.folder().join(".saving-step-00000001-1-abcdabcd");
    fs::create_dir(&left).unwrap();
    let saver = Saver::new(checkpoints.clone(), &config()).unwrap();
    assert!(!left.exists());
    fs::create_dir(&left).unwrap();
    let text = Saver::new(checkpoints.clone(), &config()).unwrap_err().to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(left.exists(), "it may be the other's");
    drop(saver);
    Saver::new(checkpoints, &config()).unwrap();
    assert!(!left.exists());
}
