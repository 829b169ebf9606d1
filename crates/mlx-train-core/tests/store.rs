//! Weights on disk: what is saved comes back, and what is not whole is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_rs::{
    Array, Dtype,
    builder::Builder,
    nn::{Linear, LinearBuilder},
    ops::{
        array_eq, broadcast_to,
        indexing::{IntoStrideBy, TryIndexOp},
    },
};
use mlx_train_core::{
    Error,
    store::{
        ArrayFile, LoadOptions, Mismatch, StoreError, load_weights, save_arrays, save_weights,
    },
};
use proptest::prelude::*;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::{TempDir, tempdir};

/// Layers `0` to `num_layers - 1`, `(3, 2)` weights that all hold `value`.
fn model(num_layers: usize, value: f32) -> Vec<Linear> {
    let layer = || {
        let mut layer = LinearBuilder::new(2, 3).bias(false).build().unwrap();
        *layer.weight = Array::full::<f32>(&[3, 2], Array::from_f32(value)).unwrap();
        layer
    };
    (0..num_layers).map(|_| layer()).collect()
}

fn weight(model: &[Linear], layer: usize) -> Vec<f32> {
    model[layer].weight.try_as_slice::<f32>().unwrap().to_vec()
}

fn in_folder() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    (folder, path)
}

fn load(model: &mut Vec<Linear>, path: &Path) -> mlx_train_core::Result<()> {
    load_weights(model, path, &LoadOptions::default())
}

/// A file of a header and bytes, as any tool or attacker might write it.
fn raw(header: &str, bytes: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), bytes].concat()
}

#[test]
fn what_was_saved_is_what_is_loaded() {
    let (_folder, path) = in_folder();
    save_weights(&model(2, 1.5), &path).unwrap();
    let mut other = model(2, 0.0);
    load(&mut other, &path).unwrap();
    assert_eq!(weight(&other, 1), [1.5; 6]);
}

#[test]
fn layers_lie_in_the_file_in_natural_order_after_the_format() {
    let (_folder, path) = in_folder();
    save_weights(&model(12, 1.0), &path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let place = |key: &str| text.find(key).unwrap_or_else(|| panic!("no {key}"));
    assert!(place("\"format\":\"pt\"") < place("\"0.weight\""));
    assert!(place("\"2.weight\"") < place("\"10.weight\""));
    assert_eq!(ArrayFile::open(&path).unwrap().names()[2], "2.weight");
}

#[test]
fn every_dtype_and_layout_survives() {
    let (_folder, path) = in_folder();
    let base = Array::from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0], &[2, 3]);
    let transposed = base.transpose_axes(&[1, 0]).unwrap();
    let every_second = Array::from_slice(&[1_i64, 2, 3, 4, 5], &[5]);
    let every_second = every_second.try_index((1..5).stride_by(2)).unwrap();
    let mut arrays = vec![
        ("transposed".to_owned(), transposed),
        ("broadcast".to_owned(), broadcast_to(Array::from_f32(7.0), &[4, 2]).unwrap()),
        ("scalar".to_owned(), Array::from_int(-3)),
        ("empty".to_owned(), Array::from_slice::<f32>(&[], &[0, 3])),
        ("strided".to_owned(), every_second),
        ("lazy".to_owned(), base.add(&base).unwrap()),
    ];
    for dtype in [
        Dtype::Bool,
        Dtype::Uint8,
        Dtype::Uint16,
        Dtype::Uint32,
        Dtype::Uint64,
        Dtype::Int8,
        Dtype::Int16,
        Dtype::Int32,
        Dtype::Int64,
        Dtype::Float16,
        Dtype::Float32,
        Dtype::Bfloat16,
        Dtype::Complex64,
    ] {
        arrays.push((format!("{dtype:?}"), base.as_dtype(dtype).unwrap()));
    }
    save_arrays(arrays.iter().map(|(name, array)| (name.as_str(), array)), &[], &path).unwrap();
    let mut file = ArrayFile::open(&path).unwrap();
    assert_eq!(file.names().len(), arrays.len());
    for (name, saved) in &arrays {
        let loaded = file.read(name).unwrap();
        assert_eq!((loaded.shape(), loaded.dtype()), (saved.shape(), saved.dtype()), "{name}");
        let equal = array_eq(&loaded, saved, None).unwrap().try_item_exact::<bool>().unwrap();
        assert!(equal, "{name}: {loaded} != {saved}");
    }
}

#[test]
fn every_difference_is_listed_at_once_and_nothing_changes() {
    let (_folder, path) = in_folder();
    let (right, wide) = (Array::from_slice(&[9.0_f32; 6], &[3, 2]), Array::from_f32(1.0));
    let half = right.as_dtype(Dtype::Float16).unwrap();
    let saved =
        [("0.weight", &right), ("1.weight", &wide), ("2.weight", &half), ("10.bias", &wide)];
    save_arrays(saved, &[], &path).unwrap();

    let mut model = model(4, 0.0);
    let error = load(&mut model, &path).unwrap_err();
    let Error::Store(StoreError::Mismatch { problems, .. }) = &error else { panic!("{error}") };
    assert!(matches!(&problems[0], Mismatch::Shape { name, .. } if name == "1.weight"));
    assert!(matches!(&problems[1], Mismatch::Dtype { name, .. } if name == "2.weight"));
    assert!(matches!(&problems[2], Mismatch::Missing { name } if name == "3.weight"));
    assert!(matches!(&problems[3], Mismatch::Unexpected { name } if name == "10.bias"));
    assert_eq!(problems.len(), 4);
    let text = error.to_string();
    assert!(text.contains("model.safetensors"), "{text}");
    assert!(text.contains("1.weight: [] in the file, [3, 2] in the model"), "{text}");
    assert!(text.contains("2.weight: F16 in the file, F32 in the model"), "{text}");
    assert_eq!(weight(&model, 0), [0.0; 6]);
}

#[test]
fn names_in_a_file_cannot_flood_or_command_a_terminal() {
    let (_folder, path) = in_folder();
    let array = Array::from_f32(1.0);
    let names: Vec<String> = (0..200).map(|index| format!("a{index}\n\u{1b}[31m")).collect();
    save_arrays(names.iter().map(|name| (name.as_str(), &array)), &[], &path).unwrap();
    let error = load(&mut model(1, 0.0), &path).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\u{1b}') && text.contains(r"unexpected  a0\n\u{1b}[31m"), "{text}");
    assert!(text.lines().count() < 60 && text.contains("… and 151 more"), "{text}");
    let Error::Store(StoreError::Mismatch { problems, .. }) = error else { panic!("{error}") };
    assert_eq!(problems.len(), 201);
}

#[test]
fn dtypes_are_converted_only_when_asked_and_only_between_floats() {
    let (_folder, path) = in_folder();
    let whole = Array::from_slice(&[2.5_f32; 6], &[3, 2]);
    let cast = LoadOptions { cast: true, ..Default::default() };

    save_arrays([("0.weight", &whole.as_dtype(Dtype::Bfloat16).unwrap())], &[], &path).unwrap();
    let mut floats = model(1, 0.0);
    let text = load(&mut floats, &path).unwrap_err().to_string();
    assert!(text.contains("BF16 in the file") && text.contains("cast: true"), "{text}");
    load_weights(&mut floats, &path, &cast).unwrap();
    assert_eq!(weight(&floats, 0), [2.5; 6]);

    save_arrays([("0.weight", &whole.as_dtype(Dtype::Int32).unwrap())], &[], &path).unwrap();
    assert!(load_weights(&mut floats, &path, &cast).is_err());
}

#[test]
fn names_of_other_tools_are_mapped_and_collisions_found() {
    let (_folder, path) = in_folder();
    let array = Array::from_slice(&[4.0_f32; 6], &[3, 2]);
    save_arrays([("h.0.w", &array), ("step", &Array::from_int(3))], &[], &path).unwrap();
    let mut model = model(1, 0.0);
    let wanted = "h.0.w".to_owned();
    let rename = |name: &str| (name == wanted).then(|| "0.weight".to_owned());
    let options = LoadOptions { rename: Some(&rename), ..Default::default() };
    load_weights(&mut model, &path, &options).unwrap();
    assert_eq!(weight(&model, 0), [4.0; 6]);

    save_arrays([("h.0.w", &array), ("other", &array)], &[], &path).unwrap();
    let options = LoadOptions { rename: Some(&|_| Some("0.weight".into())), ..options };
    let text = load_weights(&mut model, &path, &options).unwrap_err().to_string();
    assert!(text.contains("twice       0.weight"), "{text}");
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let (_folder, path) = in_folder();
    save_weights(&model(1, 1.0), &path).unwrap();
    let array = Array::from_f32(1.0);
    for name in ["", "__metadata__"] {
        assert!(save_arrays([(name, &array)], &[], &path).is_err());
    }
    let text = save_arrays([("a", &array), ("a", &array)], &[], &path).unwrap_err().to_string();
    assert!(text.contains("`a`") && text.contains("two arrays"), "{text}");
    load(&mut model(1, 0.0), &path).unwrap();
    assert!(save_weights(&model(1, 1.0), "/nowhere/at/all.safetensors").is_err());
}

/// Files that are not whole, with a part of the message that each must give.
#[test]
fn damaged_and_hostile_files_are_refused_by_name() {
    let (folder, path) = in_folder();
    save_weights(&model(1, 1.0), &path).unwrap();
    let whole = fs::read(&path).unwrap();
    let array = r#""dtype":"F32","shape":[3,2]"#;
    let one = |begin: &str, end: &str| {
        format!(r#"{{"0.weight":{{{array},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "has 0 bytes"),
        (vec![0; 5], "has 5 bytes"),
        (vec![0; 8], "its header is refused"),
        (whole[..whole.len() - 1].to_vec(), "holds 23 bytes of arrays, its header promises 24"),
        ([whole.as_slice(), &[0]].concat(), "holds 25 bytes of arrays"),
        (whole[..40].to_vec(), "announces a header of"),
        (u64::MAX.to_le_bytes().to_vec(), "header of 18446744073709551615 bytes"),
        ([&u64::MAX.to_le_bytes(), whole.as_slice()].concat(), "announces a header"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "git lfs pull"),
        (raw("{", &[]), "its header is refused"),
        (raw("[1, 2]", &[]), "its header is refused"),
        (raw("\u{1F980} nonsense", &[]), "its header is refused"),
        (raw(&one("-4", "20"), &[0; 24]), "its header is refused"),
        (raw(&one("0", "23"), &[0; 23]), "its header is refused"),
        (raw(&one("24", "0"), &[0; 24]), "its header is refused"),
        (raw(&one("8", "32"), &[0; 32]), "its header is refused"),
        (raw(&one("0", "18446744073709551615"), &[0; 24]), "its header is refused"),
        (raw(&one("0", "24").replace("[3,2]", "[4611686018427387904,8]"), &[0; 24]), "overflow"),
        (raw(&one("0", "24").replace("F32", "F31"), &[0; 24]), "unknown variant `F31`"),
        (
            raw(
                &format!(
                    r#"{{"0.weight":{{{array},"data_offsets":[0,24]}},"b":{{{array},"data_offsets":[12,36]}}}}"#
                ),
                &[0; 36],
            ),
            "invalid offset for tensor `b`",
        ),
    ];
    for (bytes, part) in cases {
        fs::write(&path, bytes).unwrap();
        let mut model = model(1, 0.5);
        let text = load(&mut model, &path).unwrap_err().to_string();
        assert!(text.contains("model.safetensors"), "{text}");
        assert!(text.contains(part), "`{part}` is not in: {text}");
        assert_eq!(weight(&model, 0), [0.5; 6]);
    }
    let inner = folder.path().join("inner");
    fs::create_dir_all(inner.join("model.safetensors")).unwrap();
    let text = load(&mut model(1, 0.0), &inner).unwrap_err().to_string();
    assert!(text.contains("not an ordinary file"), "{text}");
    let text = load(&mut model(1, 0.0), &folder.path().join("no.safetensors")).unwrap_err();
    assert!(text.to_string().contains("it does not exist"), "{text}");
}

#[test]
fn a_bool_that_is_neither_is_refused() {
    let (_folder, path) = in_folder();
    let header = r#"{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}"#;
    fs::write(&path, raw(header, &[0, 1, 2])).unwrap();
    let text = ArrayFile::open(&path).unwrap().read("a").unwrap_err().to_string();
    assert!(text.contains("neither 0 nor 1"), "{text}");
}

#[test]
fn arrays_that_mlx_cannot_hold_are_refused() {
    let (_folder, path) = in_folder();
    for (dtype, shape, bytes) in [("F8_E4M3", "[2]", 2), ("F32", "[0,4294967296]", 0)] {
        let header =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{bytes}]}}}}"#);
        fs::write(&path, raw(&header, &vec![0; bytes])).unwrap();
        let text = ArrayFile::open(&path).unwrap().read("a").unwrap_err().to_string();
        assert!(text.contains("MLX has no") && text.contains(dtype), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn flipped_bytes_never_panic_and_change_all_or_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..8),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        // Saved once: each save waits for the disk.
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let (_folder, path) = in_folder();
            save_weights(&model(2, 1.0), &path).unwrap();
            fs::read(&path).unwrap()
        });
        let (_folder, path) = in_folder();
        let mut bytes = WHOLE.clone();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        let mut model = model(2, 0.25);
        if load(&mut model, &path).is_err() {
            prop_assert_eq!([weight(&model, 0), weight(&model, 1)], [[0.25; 6], [0.25; 6]]);
        }
        if let Ok(mut file) = ArrayFile::open(&path) {
            for name in file.names() {
                let _ = file.read(&name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_names_shapes_and_values_come_back(
        arrays in prop::collection::btree_map(
            "[a-z0-9._]{1,12}",
            prop::collection::vec(0_i32..4, 0..4).prop_flat_map(|shape| {
                let elements = shape.iter().product::<i32>() as usize;
                (Just(shape), prop::collection::vec(any::<f32>(), elements))
            }),
            0..8,
        ),
    ) {
        let (_folder, path) = in_folder();
        let made: Vec<_> = arrays
            .iter()
            .map(|(name, (shape, values))| (name.as_str(), Array::from_slice(values, shape)))
            .collect();
        save_arrays(made.iter().map(|(name, array)| (*name, array)), &[("a", "b")], &path).unwrap();
        let mut file = ArrayFile::open(&path).unwrap();
        prop_assert_eq!(&file.metadata().unwrap()["a"], "b");
        prop_assert_eq!(file.names().len(), arrays.len());
        for (name, (shape, values)) in &arrays {
            let array = file.read(name).unwrap();
            prop_assert_eq!(array.shape(), shape.as_slice());
            if !values.is_empty() {
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(array.try_as_slice::<f32>().unwrap()), bits(values));
            }
        }
    }
}
