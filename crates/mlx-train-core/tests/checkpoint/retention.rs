//! Which checkpoints stay, and what happens when one cannot be saved.

use crate::support::{config, new_run, run_of, save, snapshot, step_path};
use mlx_train_core::{
    Error,
    store::{BestMode, Check, CheckpointConfig, CheckpointError, Checkpoints, Keep, Saver},
};
use proptest::prelude::*;
use std::{fs, time::Duration};

fn steps(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.list().unwrap().iter().map(|entry| entry.step).collect()
}

fn pointer(checkpoints: &Checkpoints, name: &str) -> String {
    fs::read_to_string(checkpoints.folder().join(name)).unwrap()
}

/// Saves steps 1, 2, … with these metrics.
fn save_all(checkpoints: &Checkpoints, config: &CheckpointConfig, metrics: &[Option<f64>]) {
    let mut saver = Saver::new(checkpoints.clone(), config).unwrap();
    for (step, &metric) in (1..).zip(metrics) {
        let outcome = save(&mut saver, snapshot(step, metric)).result.unwrap();
        assert_eq!(outcome.warning, None);
        assert_eq!(outcome.path, step_path(checkpoints, step));
    }
}

#[test]
fn the_last_and_the_best_stay() {
    let losses = [3.0, 1.0, 2.0, 1.5, 4.0, 5.0].map(Some);
    for (mode, keep_best, kept) in [
        (BestMode::Min, 0, &[2, 5, 6][..]),
        (BestMode::Min, 1, &[2, 5, 6]),
        (BestMode::Min, 2, &[2, 4, 5, 6]),
        (BestMode::Max, 1, &[5, 6]),
        (BestMode::Max, 3, &[1, 5, 6]),
    ] {
        let (_folder, checkpoints) = new_run();
        let config = CheckpointConfig { keep_last: 2, keep_best, mode, ..config() };
        save_all(&checkpoints, &config, &losses);
        assert_eq!(steps(&checkpoints), kept, "{mode:?} {keep_best}");
        assert_eq!(pointer(&checkpoints, "latest"), "step-00000006\n");
        let best = if mode == BestMode::Min { 2 } else { 6 };
        assert_eq!(pointer(&checkpoints, "best"), format!("step-{best:08}\n"));
        assert_eq!(checkpoints.best().unwrap().unwrap().step, best);
    }
}

#[test]
fn what_was_not_measured_or_is_not_finite_is_never_the_best() {
    let (_folder, checkpoints) = new_run();
    let config = CheckpointConfig { keep_last: 1, ..config() };
    let metrics = [None, Some(f64::NAN), Some(f64::NEG_INFINITY), Some(2.0), Some(3.0), None];
    save_all(&checkpoints, &config, &metrics);
    assert_eq!(steps(&checkpoints), [4, 6]);
    assert_eq!(pointer(&checkpoints, "best"), "step-00000004\n");
}

#[test]
fn nothing_is_removed_by_a_dry_run_or_where_all_are_kept() {
    let (_folder, checkpoints) = run_of(&CheckpointConfig { keep_last: 0, ..config() }, &[1, 2, 3]);
    let surplus = checkpoints.prune(Keep { last: 1, best: 0 }, true).unwrap();
    assert_eq!(surplus.iter().map(|entry| entry.step).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(steps(&checkpoints), [1, 2, 3]);
    checkpoints.prune(Keep { last: 1, best: 0 }, false).unwrap();
    assert_eq!(steps(&checkpoints), [3]);
}

#[test]
fn a_damaged_checkpoint_is_never_removed_nor_counted() {
    let (_folder, checkpoints) = run_of(&CheckpointConfig { keep_last: 0, ..config() }, &[1, 2, 3]);
    fs::write(step_path(&checkpoints, 2).join("manifest.json"), "").unwrap();
    checkpoints.prune(Keep { last: 2, best: 0 }, false).unwrap();
    assert_eq!(steps(&checkpoints), [1, 2, 3]);
    checkpoints.prune(Keep { last: 1, best: 0 }, false).unwrap();
    assert_eq!(steps(&checkpoints), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_latest_and_the_best_are_never_removed(
        metrics in prop::collection::vec(prop::option::of(0_u8..5), 1..8),
        keep_last in 1_usize..4,
        keep_best in 0_usize..3,
        mode in prop_oneof![Just(BestMode::Min), Just(BestMode::Max)],
    ) {
        let (_folder, checkpoints) = new_run();
        let config = CheckpointConfig { keep_last, keep_best, mode, ..config() };
        let metrics: Vec<Option<f64>> = metrics.into_iter().map(|it| it.map(f64::from)).collect();
        save_all(&checkpoints, &config, &metrics);
        let last = metrics.len() as u64;
        let kept = steps(&checkpoints);
        prop_assert!((last.saturating_sub(keep_last as u64) + 1..=last).all(|step| kept.contains(&step)));
        prop_assert_eq!(checkpoints.latest().unwrap().unwrap().step, last);
        let measured = metrics.iter().flatten().copied();
        let best = measured.reduce(|a, b| if mode.is_better(b, a) { b } else { a });
        let entry = checkpoints.best().unwrap();
        let found = entry.map(|entry| metrics[entry.step as usize - 1]);
        prop_assert_eq!(found.flatten(), best);
        prop_assert!(kept.len() <= keep_last + keep_best.max(1));
    }
}

#[test]
fn a_folder_that_vanished_is_a_failed_save_and_not_the_end() {
    let (folder, checkpoints) = new_run();
    let mut saver = Saver::new(checkpoints.clone(), &config()).unwrap();
    save(&mut saver, snapshot(1, None)).result.unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(checkpoints.folder(), &elsewhere).unwrap();
    let text = save(&mut saver, snapshot(2, None)).result.unwrap_err().to_string();
    assert!(text.contains("checkpoints") && text.contains("does not exist"), "{text}");
    fs::rename(&elsewhere, checkpoints.folder()).unwrap();
    save(&mut saver, snapshot(3, None)).result.unwrap();
    assert_eq!(steps(&checkpoints), [1, 3]);
    checkpoints.load_latest(Check::Hashes).unwrap();
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written_is_a_failed_save_that_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, checkpoints) = new_run();
    let mut saver = Saver::new(checkpoints.clone(), &config()).unwrap();
    save(&mut saver, snapshot(1, None)).result.unwrap();
    fs::set_permissions(checkpoints.folder(), fs::Permissions::from_mode(0o500)).unwrap();
    let result = save(&mut saver, snapshot(2, None)).result;
    fs::set_permissions(checkpoints.folder(), fs::Permissions::from_mode(0o700)).unwrap();
    // The superuser may write anywhere.
    if let Err(error) = result {
        assert!(error.to_string().contains("permission"), "{error}");
        assert_eq!(steps(&checkpoints), [1]);
    }
}

#[test]
fn names_that_a_file_cannot_hold_are_a_failed_save() {
    let (_folder, checkpoints) = new_run();
    let mut saver = Saver::new(checkpoints.clone(), &config()).unwrap();
    let mut twice = snapshot(1, None);
    twice.weights.push(twice.weights[0].clone());
    let text = save(&mut saver, twice).result.unwrap_err().to_string();
    assert!(text.contains("two arrays have that name"), "{text}");
    assert_eq!(steps(&checkpoints), [0; 0]);
}

#[test]
fn every_save_has_one_outcome_in_order_and_the_last_is_waited_for() {
    let (_folder, checkpoints) = new_run();
    let config = CheckpointConfig { keep_last: 0, ..config() };
    let mut saver = Saver::new(checkpoints.clone(), &config).unwrap();
    for step in 1..=4 {
        saver.save(|| Ok(snapshot(step, None))).unwrap();
    }
    let refused = saver.save(|| Err(Error::message("no snapshot")));
    assert_eq!(refused.unwrap_err().to_string(), "no snapshot");
    saver.save(|| Ok(snapshot(5, None))).unwrap();
    let outcomes = saver.finish();
    assert_eq!(outcomes.iter().map(|it| it.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(outcomes.iter().all(|it| it.result.is_ok() && it.timing.written > Duration::ZERO));
    assert_eq!(steps(&checkpoints), [1, 2, 3, 4, 5]);
    // The folder is free again, and a saver that is dropped has finished too.
    let mut saver = Saver::new(checkpoints.clone(), &config).unwrap();
    saver.save(|| Ok(snapshot(6, None))).unwrap();
    drop(saver);
    assert_eq!(steps(&checkpoints).last(), Some(&6));
}

#[test]
fn a_checkpoint_is_due_by_steps_or_by_time() {
    let by_steps = CheckpointConfig { every_steps: 10, ..CheckpointConfig::default() };
    assert!(by_steps.is_due(20, Duration::ZERO) && !by_steps.is_due(21, Duration::MAX));
    let by_time = CheckpointConfig {
        every_steps: 0,
        every_minutes: Some(0.5),
        ..CheckpointConfig::default()
    };
    assert!(
        by_time.is_due(7, Duration::from_secs(30)) && !by_time.is_due(0, Duration::from_secs(29))
    );
    let never = CheckpointConfig { every_steps: 0, ..CheckpointConfig::default() };
    assert!(!never.is_due(1000, Duration::MAX));
}

#[test]
fn a_step_that_is_not_there_is_refused_with_those_that_are() {
    let (folder, checkpoints) = run_of(&config(), &[1, 2]);
    let text = checkpoints.load(7, Check::Hashes).unwrap_err().to_string();
    assert!(text.contains("no step 7") && text.contains("1, 2"), "{text}");
    let text = Checkpoints::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("holds no checkpoints"), "{text}");
    let (_folder, empty) = new_run();
    let error = Checkpoints::open(empty.folder()).unwrap().load_latest(Check::Hashes).unwrap_err();
    assert!(matches!(error, Error::Checkpoint(CheckpointError::NotFound { .. })), "{error}");
}
