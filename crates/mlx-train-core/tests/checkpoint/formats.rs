//! What was written by earlier programs is read, and every byte of it and of what is written now is looked at.

use crate::support::{
    assert_is, change_manifest, config, copy_folder, files, find_error, run_of, save_one, sharded,
    snapshot, step_path,
};
use mlx_train_core::store::{Check, CheckpointConfig, Checkpoints, Checksums, Entry, Loaded};
use serde_json::Value;
use std::{fs, ops::Range, path::Path};
use tempfile::{TempDir, tempdir};

/// A copy of the run in `saved/format-1`: step 3 in one file, step 12 in shards.
fn old_run() -> (TempDir, Checkpoints) {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint/saved/format-1");
    let folder = tempdir().unwrap();
    let run = folder.path().join("checkpoints");
    fs::create_dir(&run).unwrap();
    for name in files(&saved) {
        if saved.join(&name).is_dir() {
            copy_folder(&saved.join(&name), &run.join(name));
        } else {
            fs::copy(saved.join(&name), run.join(name)).unwrap();
        }
    }
    let checkpoints = Checkpoints::open(run).unwrap();
    (folder, checkpoints)
}

/// Where the arrays of a file lie, if it has any.
fn arrays(file: &[u8]) -> Vec<(String, Range<usize>)> {
    let Some((length, rest)) = file.split_first_chunk() else { return Vec::new() };
    let Some(header) = rest.get(..u64::from_le_bytes(*length) as usize) else { return Vec::new() };
    let start = 8 + header.len();
    let header: Value = serde_json::from_slice(header).unwrap();
    let arrays = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let place = |end: &Value| start + end.as_u64().unwrap() as usize;
    arrays
        .map(|(name, it)| {
            let ends = &it["data_offsets"];
            (name.clone(), place(&ends[0])..place(&ends[1]))
        })
        .collect()
}

/// Flips a bit of each byte of each file; `check` gets the file, the array that the byte is in, and what is said.
fn flip_each_byte(step: &Path, check: impl Fn(&str, Option<&str>, &str)) {
    for file in files(step) {
        let path = step.join(&file);
        let whole = fs::read(&path).unwrap();
        let arrays = if file.ends_with(".safetensors") { arrays(&whole) } else { Vec::new() };
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            fs::write(&path, flipped).unwrap();
            let array = arrays.iter().find(|(_, range)| range.contains(&place));
            let array = array.map(|(name, _)| name.as_str());
            let text = find_error(step);
            assert!(text.contains(&format!("`{file}`")), "{file} at {place}: {text}");
            check(&file, array, &text);
            let entry = Entry::open(step).map_err(Into::into);
            let verified = entry.and_then(|entry| entry.verify(Check::Hashes).map(drop));
            assert_eq!(verified.unwrap_err().to_string(), text, "{file} at {place}");
        }
        fs::write(&path, whole).unwrap();
        Loaded::read(step, Check::Hashes).unwrap();
    }
}

#[test]
fn what_was_saved_with_hashes_of_files_is_loaded_and_the_run_goes_on() {
    let (_folder, checkpoints) = old_run();
    for check in [Check::Hashes, Check::Sizes] {
        assert_is(&checkpoints.load(3, check).unwrap(), &snapshot(3, None));
        assert_is(&checkpoints.load_latest(check).unwrap(), &snapshot(12, Some(0.25)));
    }
    save_one(&checkpoints, &config(), snapshot(13, Some(0.5)));
    let entries = checkpoints.list().unwrap();
    let manifests = entries.iter().map(|entry| entry.verify(Check::Hashes).unwrap());
    let formats: Vec<_> = manifests.map(|it| (it.step, it.format, it.serial)).collect();
    assert_eq!(formats, [(3, 1, 0), (12, 1, 1), (13, 3, 2)]);
    assert_is(&checkpoints.load_latest(Check::Hashes).unwrap(), &snapshot(13, Some(0.5)));
    assert_eq!(checkpoints.best().unwrap().unwrap().step, 12);
}

#[test]
fn a_flipped_byte_of_a_checkpoint_with_hashes_of_files_is_found_in_its_file() {
    let (_folder, checkpoints) = old_run();
    for step in [3, 12] {
        flip_each_byte(&step_path(&checkpoints, step), |_, _, _| ());
    }
}

#[test]
fn a_flipped_byte_is_found_in_its_file_and_array() {
    for config in [config(), sharded()] {
        let (_folder, checkpoints) = run_of(&config, &[4]);
        flip_each_byte(&step_path(&checkpoints, 4), |file, array, text| match array {
            Some(name) => {
                let named = format!("the bytes that were saved of the array `{name}`");
                assert!(text.contains(&named), "{name} of {file}: {text}");
            }
            None => assert!(!text.contains("of the array"), "{file}: {text}"),
        });
    }
}

#[test]
fn every_array_has_a_checksum_that_does_not_depend_on_where_it_lies() {
    let sums = |config: &CheckpointConfig| {
        let (_folder, checkpoints) = run_of(config, &[4]);
        let manifest = checkpoints.latest().unwrap().unwrap().manifest.unwrap();
        let mut all = Vec::new();
        for (name, entry) in manifest.files {
            match entry.checksums {
                Checksums::Xxh3 { arrays, .. } => all.extend(arrays),
                Checksums::Sha256(_) => panic!("{name} has an old checksum"),
            }
        }
        all.sort();
        all
    };
    let names: Vec<String> = sums(&config()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["linear.bias", "linear.weight", "optimizer.linear.weight.m", "rng.key"]);
    assert_eq!(sums(&config()), sums(&sharded()));
}

#[test]
fn a_manifest_that_lacks_the_checksum_of_an_array_or_has_one_too_many_is_refused() {
    type Change = fn(&mut serde_json::Map<String, Value>);
    let changes: [Change; 4] = [
        |arrays| _ = arrays.shift_remove("linear.bias"),
        |arrays| _ = arrays.insert("more".into(), "0".into()),
        |arrays| arrays.clear(),
        |arrays| {
            let sum = arrays.shift_remove("linear.bias").unwrap();
            arrays.insert("linear.biases".into(), sum);
        },
    ];
    for change in changes {
        let (_folder, checkpoints) = run_of(&config(), &[4]);
        let step = step_path(&checkpoints, 4);
        change_manifest(&step, |manifest| {
            let arrays = &mut manifest["files"]["model.safetensors"]["arrays"];
            change(arrays.as_object_mut().unwrap());
        });
        let text = find_error(&step);
        assert!(text.contains("`model.safetensors` does not have the bytes"), "{text}");
        assert!(Entry::open(&step).unwrap().verify(Check::Hashes).is_err());
    }
}
