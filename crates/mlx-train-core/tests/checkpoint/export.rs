//! Weights that leave a checkpoint: into a model, and into a folder for other tools.

use crate::support::{config, find_error, new_run, run_of, save, sharded, snapshot, step_path};
use mlx_rs::{Array, Dtype, builder::Builder, nn::LinearBuilder};
use mlx_train_core::{
    Error,
    store::{
        ArraySet, Entry, ExportOptions, HostArray, LoadOptions, Location, Saver, Snapshot,
        StoreError, load_weights, save_arrays,
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::tempdir;

/// A model whose one layer is that of the snapshots.
fn model() -> Vec<mlx_rs::nn::Linear> {
    vec![LinearBuilder::new(3, 2).bias(false).build().unwrap()]
}

fn weight(model: &[mlx_rs::nn::Linear]) -> Vec<f32> {
    model[0].weight.try_as_slice::<f32>().unwrap().to_vec()
}

/// The snapshot's `linear.weight` under the model's name, nothing else.
fn rename(name: &str) -> Option<String> {
    (name == "linear.weight").then(|| "0.weight".to_owned())
}

fn load(path: &Path, one_by_one: bool) -> mlx_train_core::Result<Vec<f32>> {
    let mut model = model();
    let options = LoadOptions { rename: Some(&rename), one_by_one, ..LoadOptions::default() };
    load_weights(&mut model, path, &options)?;
    Ok(weight(&model))
}

#[test]
fn weights_load_from_shards_their_index_a_checkpoint_and_a_run() {
    let (folder, checkpoints) = run_of(&sharded(), &[3, 5]);
    let five = step_path(&checkpoints, 5);
    for one_by_one in [false, true] {
        for path in
            [folder.path(), checkpoints.folder(), &five, &five.join("model.safetensors.index.json")]
        {
            assert_eq!(load(path, one_by_one).unwrap(), [5.0, 5.25, -5.0, 0.0, 1.0, 2.0]);
        }
        assert!((load(&step_path(&checkpoints, 3), one_by_one).unwrap()[0] - 3.0).abs() < 1e-9);
    }
    // A checkpoint is verified, an index alone is not.
    fs::write(five.join("config.json"), "{}").unwrap();
    assert!(load(&five, false).unwrap_err().to_string().contains("`config.json`"));
    load(&five.join("model.safetensors.index.json"), false).unwrap();
    assert!(find_error(&five).contains("config.json"));
}

#[cfg(unix)]
#[test]
fn shards_of_a_download_may_be_links_as_in_hugging_faces_cache() {
    let (_folder, checkpoints) = run_of(&sharded(), &[2]);
    let download = tempdir().unwrap();
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        std::os::unix::fs::symlink(
            step_path(&checkpoints, 2).join(name),
            download.path().join(name),
        )
        .unwrap();
    }
    let index = "model.safetensors.index.json";
    fs::copy(step_path(&checkpoints, 2).join(index), download.path().join(index)).unwrap();
    assert!((load(download.path(), false).unwrap()[0] - 2.0).abs() < 1e-9);
}

#[test]
fn loading_one_by_one_checks_everything_before_the_first_is_replaced() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut layers = vec![model().remove(0), model().remove(0)];
    let options = LoadOptions { one_by_one: true, ..LoadOptions::default() };
    let (right, wrong) = (Array::from_slice(&[9.0_f32; 6], &[2, 3]), Array::from_f32(1.0));
    save_arrays([("0.weight", &right), ("1.weight", &wrong)], &[], &path).unwrap();
    let before = weight(&layers);
    let error = load_weights(&mut layers, &path, &options).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Mismatch { .. })), "{error}");
    assert_eq!(weight(&layers), before);
    save_arrays([("0.weight", &right), ("1.weight", &right)], &[], &path).unwrap();
    load_weights(&mut layers, &path, &options).unwrap();
    assert_eq!(weight(&layers), [9.0; 6]);
}

/// The only checkpoint of a run with averaged weights and an integer.
fn with_average() -> (tempfile::TempDir, Entry) {
    let (folder, checkpoints) = new_run();
    let mut with_average = snapshot(7, None);
    let average = HostArray::take(&Array::from_slice(&[0.5_f32; 6], &[2, 3])).unwrap();
    with_average.training.push(("ema.linear.weight".into(), average));
    let count = HostArray::take(&Array::from_int(300)).unwrap();
    with_average.weights.push(("count".into(), count));
    let mut saver = Saver::new(checkpoints.clone(), &config()).unwrap();
    save(&mut saver, with_average).result.unwrap();
    let entry = Location::find(folder.path()).unwrap().entry().unwrap();
    (folder, entry)
}

#[test]
fn an_export_holds_the_weights_in_the_dtype_that_was_asked_for() {
    let (folder, entry) = with_average();
    for (averaged, dtype, expected, name) in [
        (false, None, [7.0, 7.25, -7.0, 0.0, 1.0, 2.0], "float32"),
        (true, None, [0.5; 6], "float32"),
        (false, Some(Dtype::Bfloat16), [7.0, 7.25, -7.0, 0.0, 1.0, 2.0], "bfloat16"),
        (true, Some(Dtype::Float16), [0.5; 6], "float16"),
    ] {
        let out = folder.path().join(format!("{averaged}-{name}"));
        let exported = entry.export(&out, ExportOptions { averaged, dtype }).unwrap();
        assert_eq!(exported.num_bytes, fs::metadata(&exported.weights).unwrap().len());
        let mut set = ArraySet::open(&out).unwrap();
        assert_eq!(set.names(), ["count", "linear.bias", "linear.weight"]);
        let array = set.read("linear.weight").unwrap();
        assert_eq!((array.shape(), array.dtype()), (&[2, 3][..], dtype.unwrap_or(Dtype::Float32)));
        let array = array.as_dtype(Dtype::Float32).unwrap();
        assert_eq!(array.try_as_slice::<f32>().unwrap(), expected);
        // Not averaged because it does not train, and no float.
        assert_eq!(set.read("count").unwrap().try_item_exact::<i32>().unwrap(), 300);
        let config: Value = serde_json::from_slice(&fs::read(exported.config).unwrap()).unwrap();
        assert_eq!((&config["model_type"], &config["hidden_size"]), (&json!("mlp"), &json!(3)));
        assert_eq!(config["torch_dtype"], name);
        assert_eq!(config["mlx_train"]["checkpoint"], "step-00000007");
        // What was exported is what is loaded.
        assert_eq!(load_cast(&out), expected);
    }
}

/// Beside a weight of twos an adapter `B A = [[3, 6, 9], [-1, -2, -3]]`, at a scale of 4 / 1; averaged, of `B = 0`.
fn with_adapter(config: Value) -> (tempfile::TempDir, Entry) {
    let (folder, checkpoints) = new_run();
    let weight = Array::from_slice(&[2.0_f32; 6], &[2, 3]);
    let a = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[1, 3]);
    let (b, average) =
        (Array::from_slice(&[3.0_f32, -1.0], &[2, 1]), Array::from_slice(&[0.0_f32; 2], &[2, 1]));
    let taken = Snapshot::take(
        1,
        [("linear.weight", &weight), ("linear.lora_a", &a), ("linear.lora_b", &b)],
        [("ema.linear.lora_a", &a), ("ema.linear.lora_b", &average)],
    );
    let mut saver = Saver::new(checkpoints.clone(), &sharded()).unwrap();
    save(&mut saver, Snapshot { config, ..taken.unwrap() }).result.unwrap();
    let entry = Entry::open(step_path(&checkpoints, 1)).unwrap();
    (folder, entry)
}

#[test]
fn adapters_are_exported_as_part_of_the_weights_beside_them() {
    let lora = json!({ "rank": 1, "alpha": 4.0 });
    let (folder, entry) = with_adapter(json!({ "model": { "name": "mlp", "lora": lora } }));
    for (averaged, expected) in [(false, [14.0, 26.0, 38.0, -2.0, -6.0, -10.0]), (true, [2.0; 6])] {
        let out = folder.path().join(averaged.to_string());
        let exported = entry.export(&out, ExportOptions { averaged, dtype: None }).unwrap();
        assert_eq!(ArraySet::open(&out).unwrap().names(), ["linear.weight"]);
        assert_eq!(load(&out, false).unwrap(), expected);
        let config: Value = serde_json::from_slice(&fs::read(exported.config).unwrap()).unwrap();
        assert_eq!((exported.num_arrays, &config["lora"]), (1, &Value::Null));
    }
    let (folder, entry) = with_adapter(json!({ "model": { "name": "mlp" } }));
    let refused = entry.export(folder.path().join("out"), ExportOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("no section `lora`"), "{refused}");
}

fn load_cast(path: &Path) -> Vec<f32> {
    let mut model = model();
    let options = LoadOptions { cast: true, rename: Some(&rename), ..LoadOptions::default() };
    load_weights(&mut model, path, &options).unwrap();
    weight(&model)
}

#[test]
fn python_mlx_reads_an_export_and_the_shards_of_a_checkpoint() {
    let (folder, checkpoints) = run_of(&sharded(), &[6]);
    let (step, out) = (step_path(&checkpoints, 6), folder.path().join("out"));
    let options = ExportOptions { averaged: false, dtype: Some(Dtype::Bfloat16) };
    Entry::open(&step).unwrap().export(&out, options).unwrap();
    let args = [out.to_str().unwrap(), step.to_str().unwrap()];
    let mut read = parity::run("tests/parity/checkpoint.py", &args);
    for (name, array) in snapshot(6, None).weights {
        let array = array.to_array().unwrap();
        let half = array.as_dtype(Dtype::Bfloat16).unwrap();
        let (export, shards) = (format!("export.{name}"), format!("shards.{name}"));
        parity::assert_close(&export, &half, &parity::take(&mut read, &export), 0.0, 0.0);
        parity::assert_close(&shards, &array, &parity::take(&mut read, &shards), 0.0, 0.0);
    }
}

#[test]
fn an_export_that_would_lose_something_is_refused() {
    let (folder, checkpoints) = run_of(&config(), &[1, 70_000]);
    let out = folder.path().join("out");
    let export = |step, options: ExportOptions| {
        Entry::open(step_path(&checkpoints, step)).unwrap().export(&out, options)
    };
    let text = export(1, ExportOptions { averaged: true, dtype: None }).unwrap_err().to_string();
    assert!(text.contains("no averaged weights"), "{text}");
    let half = ExportOptions { averaged: false, dtype: Some(Dtype::Float16) };
    export(1, half).unwrap();
    let before = fs::read(out.join("model.safetensors")).unwrap();
    let text = export(70_000, half).unwrap_err().to_string();
    assert!(text.contains("linear.") && text.contains("bf16"), "{text}");
    assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), before);
    fs::write(step_path(&checkpoints, 1).join("state.json"), "{}").unwrap();
    assert!(export(1, half).unwrap_err().to_string().contains("state.json"));
}

#[test]
fn a_snapshot_copies_views_and_empty_arrays_in_order_of_their_elements() {
    let base = Array::from_slice(&[1_i64, 2, 3, 4, 5, 6], &[2, 3]);
    let turned = base.transpose_axes(&[1, 0]).unwrap();
    let empty = Array::from_slice::<f32>(&[], &[0, 3]);
    let arrays = [("turned", &turned), ("empty", &empty)];
    let snapshot = Snapshot::take(1, arrays, []).unwrap();
    assert_eq!(snapshot.num_bytes(), 48);
    for ((_, copy), (name, array)) in snapshot.weights.iter().zip(arrays) {
        let back = copy.to_array().unwrap();
        assert_eq!((back.shape(), back.dtype()), (array.shape(), array.dtype()), "{name}");
        assert_eq!(&HostArray::take(&back).unwrap(), copy, "{name}");
    }
    assert_eq!(snapshot.weights[0].1.bytes()[8..16], 4_i64.to_le_bytes());
    let new = |shape: &[i32], bytes: &[u8]| HostArray::new(Dtype::Bool, shape, bytes.to_vec());
    new(&[2], &[0, 1]).unwrap();
    for (shape, bytes) in [(&[2][..], &[0][..]), (&[-1], &[]), (&[2], &[0, 2])] {
        let text = new(shape, bytes).unwrap_err().to_string();
        assert!(text.contains("Bool array of shape"), "{text}");
    }
}
