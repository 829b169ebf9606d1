//! What is not as it was saved is refused by name, and nothing of it is loaded.

use crate::support::{
    copy_folder, files, find_error, reseal, run_of, save_one, sharded, snapshot, step_path,
};
use mlx_train_core::store::{Check, CheckpointConfig, Checkpoints, Entry, Loaded};
use proptest::prelude::*;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::{TempDir, tempdir};

/// A checkpoint of several shards, and another of the same step of another run; never changed.
static SAVED: LazyLock<(TempDir, PathBuf, TempDir, PathBuf)> = LazyLock::new(|| {
    let (folder, checkpoints) = run_of(&sharded(), &[4]);
    let (other_folder, other) = run_of(&sharded(), &[4]);
    (folder, step_path(&checkpoints, 4), other_folder, step_path(&other, 4))
});

/// A copy of the checkpoint, under a name that says nothing.
fn copy() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("copy");
    copy_folder(&SAVED.1, &path);
    (folder, path)
}

/// Asserts that a checkpoint is refused, in words that name the file.
fn assert_refused(path: &Path, file: &str, case: &str) {
    let text = match Loaded::read(path, Check::Hashes) {
        Ok(_) => panic!("{file} {case}: it was loaded"),
        Err(error) => error.to_string(),
    };
    assert!(text.contains(&format!("`{file}`")), "{file} {case}: {text}");
    assert!(text.contains("copy it again"), "{file} {case}: {text}");
    let verified = Entry::open(path).map_err(Into::into).and_then(|it| it.verify(Check::Hashes));
    assert!(verified.is_err(), "{file} {case}");
}

#[test]
fn a_copy_under_another_name_is_loaded() {
    let (_folder, path) = copy();
    assert_eq!(files(&path).len(), 9, "{:?}", files(&path));
    Loaded::read(&path, Check::Hashes).unwrap();
}

#[test]
fn each_file_that_is_changed_is_refused_by_name() {
    for file in files(&SAVED.1) {
        let whole = fs::read(SAVED.1.join(&file)).unwrap();
        let (_folder, path) = copy();
        let target = path.join(&file);
        let check = |bytes: &[u8], case: &str| {
            fs::write(&target, bytes).unwrap();
            assert_refused(&path, &file, case);
        };
        check(&[], "emptied");
        check(&whole[..whole.len() / 2], "cut in half");
        check(&whole[..whole.len() - 1], "cut by one byte");
        check(&[whole.as_slice(), b"\n"].concat(), "longer by one byte");
        check(&vec![0; whole.len()], "zeroed");
        // A prime, so that every part of a header is hit.
        for place in (0..whole.len()).step_by(11).chain([whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            check(&flipped, &format!("flipped at {place}"));
        }
        fs::write(&target, &whole).unwrap();
        Loaded::read(&path, Check::Hashes).unwrap();
    }
}

#[test]
fn each_file_that_is_missing_or_no_file_is_refused_by_name() {
    for file in files(&SAVED.1) {
        let (folder, path) = copy();
        let target = path.join(&file);
        fs::remove_file(&target).unwrap();
        if file == "manifest.json" {
            // Without it, nothing says that the folder is a checkpoint.
            let text = find_error(&path);
            assert!(text.contains("is not the folder of a checkpoint"), "{text}");
            let named = folder.path().join("step-00000004");
            copy_folder(&path, &named);
            assert_refused(&named, &file, "missing");
            continue;
        }
        assert_refused(&path, &file, "missing");
        fs::create_dir(&target).unwrap();
        assert_refused(&path, &file, "a folder");
        fs::remove_dir(&target).unwrap();
        #[cfg(unix)]
        {
            // Even one that leads to the very bytes: next time it may lead elsewhere.
            std::os::unix::fs::symlink(SAVED.1.join(&file), &target).unwrap();
            assert_refused(&path, &file, "a link");
            fs::remove_file(&target).unwrap();
            let _listener = std::os::unix::net::UnixListener::bind(&target).unwrap();
            assert_refused(&path, &file, "a socket");
        }
    }
}

#[test]
fn a_file_of_another_checkpoint_is_refused_by_name() {
    for file in files(&SAVED.1) {
        let (ours, theirs) = (SAVED.1.join(&file), SAVED.3.join(&file));
        if fs::read(&ours).unwrap() == fs::read(&theirs).unwrap() {
            continue;
        }
        let (_folder, path) = copy();
        fs::copy(theirs, path.join(&file)).unwrap();
        // State and manifest disagree, and nothing says which is right: either may be blamed.
        let text = find_error(&path);
        assert!(text.contains("`state.json`") || text.contains(&format!("`{file}`")), "{text}");
    }
}

#[test]
fn a_checkpoint_of_another_run_or_step_is_refused_by_its_manifest() {
    let (folder, checkpoints) = run_of(&sharded(), &[4]);
    let ours = step_path(&checkpoints, 4);
    let refused = |path: &Path, part: &str| {
        assert_refused(path, "manifest.json", part);
        assert!(find_error(path).contains(part), "{}", find_error(path));
    };
    fs::rename(&ours, step_path(&checkpoints, 5)).unwrap();
    refused(&step_path(&checkpoints, 5), "is of step 4, its folder is of step 5");
    copy_folder(&SAVED.1, &ours);
    refused(&ours, "this folder is of run");
    let text = checkpoints.load(4, Check::Hashes).unwrap_err().to_string();
    assert!(text.contains(checkpoints.run_id()), "{text}");
    drop(folder);
}

#[test]
fn a_file_too_many_is_refused_but_not_those_of_desktops() {
    let (_folder, path) = copy();
    for name in [".DS_Store", "._model.safetensors", "Thumbs.db"] {
        fs::write(path.join(name), "").unwrap();
    }
    Loaded::read(&path, Check::Hashes).unwrap();
    fs::write(path.join("model.safetensors"), "").unwrap();
    assert_refused(&path, "model.safetensors", "too many");
}

#[test]
fn a_damaged_latest_names_the_newest_whole_one_before_it() {
    let (_folder, checkpoints) = run_of(&sharded(), &[1, 2, 3]);
    let break_one = |step| {
        let path = step_path(&checkpoints, step).join("training-00002-of-00002.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    break_one(3);
    break_one(2);
    let text = checkpoints.load_latest(Check::Hashes).unwrap_err().to_string();
    let older = step_path(&checkpoints, 1);
    assert!(text.contains("step-00000003` is damaged: `training-00002-of-00002"), "{text}");
    assert!(text.contains(&format!("--resume {}", older.display())), "{text}");
    // A flipped bit in an array is what the quick check does not see.
    checkpoints.load_latest(Check::Sizes).unwrap();
}

#[test]
fn a_damaged_manifest_does_not_make_an_older_checkpoint_the_latest() {
    for lose_pointer in [false, true] {
        let (_folder, checkpoints) = run_of(&sharded(), &[1, 2]);
        fs::write(step_path(&checkpoints, 2).join("manifest.json"), "{}").unwrap();
        if lose_pointer {
            fs::remove_file(checkpoints.folder().join("latest")).unwrap();
        }
        let text = checkpoints.load_latest(Check::Hashes).unwrap_err().to_string();
        assert!(text.contains("step-00000002` is damaged: `manifest.json`"), "{text}");
        assert!(text.contains("--resume") && text.contains("step-00000001"), "{text}");
    }
}

#[test]
fn after_a_damaged_latest_the_next_save_is_the_latest() {
    let (_folder, checkpoints) = run_of(&sharded(), &[1, 2]);
    fs::write(step_path(&checkpoints, 2).join("manifest.json"), "{}").unwrap();
    save_one(&checkpoints, &sharded(), snapshot(3, None));
    assert_eq!(checkpoints.load_latest(Check::Hashes).unwrap().manifest.step, 3);
    assert_eq!(fs::read_to_string(checkpoints.folder().join("latest")).unwrap(), "step-00000003\n");
}

#[test]
fn lost_or_damaged_pointers_and_run_files_are_recovered_from_the_steps() {
    let (_folder, checkpoints) =
        run_of(&CheckpointConfig { keep_last: 0, ..sharded() }, &[1, 2, 3]);
    let at = |name: &str| checkpoints.folder().join(name);
    let latest =
        || Checkpoints::open(checkpoints.folder()).unwrap().latest().unwrap().unwrap().step;
    for content in ["", "step-00000009\n", "step-00000001\n", "../../etc/passwd", "\u{0}\u{ff}"] {
        fs::write(at("latest"), content).unwrap();
        assert_eq!(latest(), 3, "{content:?}");
    }
    for content in [&b""[..], b"{\"run_id\": \"0000000000000000\"}", &[0xff; 9000]] {
        fs::write(at("run.json"), content).unwrap();
        let again = Checkpoints::open(checkpoints.folder()).unwrap();
        assert_eq!(again.run_id(), checkpoints.run_id());
        again.load_latest(Check::Hashes).unwrap();
    }
    for name in ["latest", "best", "run.json"] {
        _ = fs::remove_file(at(name));
    }
    assert_eq!(latest(), 3);
    // The next save puts them back.
    save_one(&Checkpoints::open(checkpoints.folder()).unwrap(), &sharded(), snapshot(4, Some(0.5)));
    assert_eq!(fs::read_to_string(at("latest")).unwrap(), "step-00000004\n");
    assert_eq!(fs::read_to_string(at("best")).unwrap(), "step-00000004\n");
    assert_eq!(Checkpoints::open(checkpoints.folder()).unwrap().run_id(), checkpoints.run_id());
}

/// A manifest that vouches for a hostile file: its author is the attacker.
#[test]
fn hostile_files_with_right_hashes_are_refused_by_name() {
    let index = |shard: &str| format!(r#"{{"weight_map":{{"linear.weight":"{shard}"}}}}"#);
    let model = "model.safetensors.index.json";
    let shard = "model-00001-of-00002.safetensors";
    let deep = format!(r#"{{"run_id":"","step":4,"progress":{}}}"#, "[".repeat(1000));
    let long = [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat();
    let empty = [&2_u64.to_le_bytes()[..], b"{}"].concat();
    for (file, bytes, part) in [
        (
            model,
            index("../../secret.safetensors").into_bytes(),
            "only a `.safetensors` file beside",
        ),
        (model, index("/etc/passwd").into_bytes(), "only a `.safetensors` file beside"),
        (model, index("sub/x.safetensors").into_bytes(), "only a `.safetensors` file beside"),
        (model, index(r"..\\x.safetensors").into_bytes(), "only a `.safetensors` file beside"),
        (model, index("other.safetensors").into_bytes(), "other.safetensors"),
        (model, index("training-00001-of-00002.safetensors").into_bytes(), "lacks the array"),
        (model, b"{\"weight_map\":{}}".to_vec(), "lists no arrays"),
        (model, b"{\"weight_map\":7}".to_vec(), "is not understood"),
        (shard, long, "announces a header of 1099511627776 bytes"),
        (shard, empty, "lacks the array"),
        ("state.json", deep.into_bytes(), "recursion limit"),
        ("state.json", b"[0,".repeat(60_000), "120000 values where at most 100000 can be"),
        ("state.json", vec![b' '; 9 << 20], "where at most 8388608 can be"),
        (
            "state.json",
            b"{\"run_id\":\"x\",\"step\":4,\"progress\":1}".to_vec(),
            "another checkpoint",
        ),
        ("state.json", b"null".to_vec(), "is not understood"),
        ("config.json", b"{\"a\":".to_vec(), "is not understood"),
    ] {
        let (_folder, path) = copy();
        fs::write(path.join(file), bytes).unwrap();
        reseal(&path, |_| ());
        for check in [Check::Hashes, Check::Sizes] {
            let text = match Loaded::read(&path, check) {
                Ok(_) => panic!("{file} {part}: it was loaded"),
                Err(error) => error.to_string(),
            };
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}

#[test]
fn hostile_manifests_are_refused() {
    for (part, change) in [
        ("`../x` is missing", r#"{"files":{"../x":{"bytes":1,"sha256":""}}}"#),
        ("does not list `state.json`", r#"{"files":{"config.json":{"bytes":1,"sha256":""}}}"#),
        ("has format 4, this program reads 3; update", r#"{"format":4}"#),
        ("has format 0, this program reads 3; update", r#"{"format":0}"#),
        ("a file has either", r#"{"files":{"x":{"bytes":1}}}"#),
        ("a file has either", r#"{"files":{"x":{"bytes":1,"sha256":"","xxh3_128":""}}}"#),
        ("a file has either", r#"{"files":{"x":{"bytes":1,"sha256":"","arrays":{"a":""}}}}"#),
        ("it is of format 2 and of 1 rank(s)", r#"{"format":2}"#),
        ("it is of format 1 and of 2 rank(s)", r#"{"format":1,"ranks":2}"#),
        ("it is of format 3 and of 0 rank(s)", r#"{"ranks":0}"#),
        ("it is of format 3 and of 99 rank(s)", r#"{"ranks":99}"#),
        ("it is of format 2 and of 99 rank(s)", r#"{"format":2,"ranks":99}"#),
        ("`model.rank-00001-of-00002.safetensors`", r#"{"format":2,"ranks":2}"#),
        ("unknown field", r#"{"more":1}"#),
        ("is not understood", r#"{"step":-1}"#),
        (r"is of run \u{1b}[31m", r#"{"run_id":"\u001b[31m"}"#),
    ] {
        let (folder, checkpoints) = run_of(&sharded(), &[4]);
        let path = step_path(&checkpoints, 4);
        reseal(&path, |manifest| {
            let change: serde_json::Value = serde_json::from_str(change).unwrap();
            for (key, value) in change.as_object().unwrap() {
                // Listing fewer files means that fewer are there.
                if let Some(files) = value.as_object() {
                    let listed = manifest["files"].as_object_mut().unwrap();
                    if files.contains_key("config.json") {
                        listed.remove("state.json");
                    } else {
                        listed.extend(files.clone());
                    }
                } else {
                    manifest[key] = value.clone();
                }
            }
        });
        let text = find_error(&path);
        assert!(text.contains(part), "{part} is not in: {text}");
        drop(folder);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_over_a_file_is_refused_or_what_was_there(
        file in 0_usize..9,
        place in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let (_folder, path) = copy();
        let target = path.join(&files(&path)[file]);
        let mut content = fs::read(&target).unwrap();
        let begin = place.index(content.len());
        let end = content.len().min(begin + bytes.len());
        content[begin..end].copy_from_slice(&bytes[..end - begin]);
        let same = content == fs::read(&target).unwrap();
        fs::write(&target, content).unwrap();
        prop_assert_eq!(Loaded::read(&path, Check::Hashes).is_ok(), same);
        // The quick check may miss it, but must not panic.
        _ = Loaded::read(&path, Check::Sizes);
    }
}
