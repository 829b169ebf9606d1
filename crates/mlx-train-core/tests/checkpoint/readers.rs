//! Readers never panic, and never take memory out of proportion to what they read.

use crate::{
    allocator::peak_bytes_of,
    support::{files, run_of, sharded, step_path},
};
use mlx_train_core::store::untrusted::read_all;
use proptest::prelude::*;
use std::{fs, sync::LazyLock};

/// The files of a real checkpoint.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (_folder, checkpoints) = run_of(&sharded(), &[4]);
    let step = step_path(&checkpoints, 4);
    files(&step).into_iter().map(|name| fs::read(step.join(name)).unwrap()).collect()
});

/// What reading may take: a small file its buffers, a large one some multiple of itself.
fn assert_bounded(bytes: &[u8]) {
    let (_, peak) = peak_bytes_of(|| read_all(bytes));
    let bound = (64 << 10) + 100 * bytes.len();
    assert!(peak <= bound, "{peak} bytes for {} of input", bytes.len());
}

#[test]
fn every_file_of_a_checkpoint_is_taken_by_a_reader() {
    for bytes in FILES.iter() {
        assert!(read_all(bytes) > 0, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn documents_that_are_all_structure_are_bounded() {
    let header = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    for unit in ["[],", "{},", "0,", "\"\",", "[[", "{\"\":", "[0,"] {
        let many = unit.repeat(10_000);
        for text in [
            format!("[{many}0]"),
            format!("{{\"a\":[{many}0]}}"),
            format!("{{\"progress\":[{many}0]}}"),
            format!("{{\"weight_map\":{{\"a\":[{many}0]}}}}"),
            many,
        ] {
            assert_bounded(text.as_bytes());
            assert_bounded(&header(&text));
        }
    }
    let numbered =
        |entry: &dyn Fn(usize) -> String| (0..10_000).map(entry).collect::<Vec<_>>().join(",");
    let entries = numbered(&|index| format!("\"{index}\":\"\""));
    for text in [
        format!("{{\"__metadata__\":{{{entries}}}}}"),
        format!("{{\"weight_map\":{{{entries}}}}}"),
        format!("{{{entries}}}"),
    ] {
        assert_bounded(text.as_bytes());
        assert_bounded(&header(&text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        assert_bounded(&bytes);
    }

    #[test]
    fn arbitrary_text_of_json_is_read_or_refused(text in r#"[\[\]{}",:0-9a-z.\- e]{0,300}"#) {
        assert_bounded(text.as_bytes());
    }

    #[test]
    fn mutated_files_are_read_or_refused(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..6),
    ) {
        let mut bytes = FILES[file.index(FILES.len())].clone();
        for (place, value, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = value,
                1 => bytes.insert(place, value),
                2 => bytes.truncate(place),
                _ => { bytes.remove(place); }
            }
        }
        assert_bounded(&bytes);
    }
}
