//! Datasets: what their batches hold, in which order, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod loader;
mod sequences;

use flate2::{Compression, write::GzEncoder};
use mlx_rs::Array;
use mlx_train_core::{
    Error, Result,
    data::{
        Batch, DataLoader, Dataset, InMemory, LoaderOptions, Text, batches, bigram_entropy, idx,
    },
    file::FileError,
};
use proptest::prelude::*;
use std::{fs, io::Write, path::PathBuf};
use tempfile::TempDir;

/// Rows whose features and target are their own number.
fn numbered(rows: i32) -> InMemory {
    let numbers: Vec<i32> = (0..rows).collect();
    let numbers = Array::from_slice(&numbers, &[rows]);
    InMemory::new(numbers.reshape(&[rows, 1]).unwrap(), numbers).unwrap()
}

fn ints(array: &Array) -> Vec<i32> {
    array.try_as_slice::<i32>().unwrap().to_vec()
}

fn options(batch_size: usize, seed: u64) -> LoaderOptions {
    LoaderOptions { batch_size, seed, ..LoaderOptions::default() }
}

fn draw(loader: &mut DataLoader, count: usize) -> Vec<i32> {
    (0..count).flat_map(|_| ints(&loader.next_batch().unwrap().y)).collect()
}

#[test]
fn an_epoch_has_every_row_once_and_the_next_has_another_order() {
    // Batches of 4 run over the end of the first epoch.
    let rows = draw(&mut DataLoader::new(numbered(10), options(4, 1)).unwrap(), 5);
    for epoch in [&rows[..10], &rows[10..]] {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(rows[..10], rows[10..]);
}

#[test]
fn a_batch_may_be_larger_than_the_dataset() {
    let mut rows = draw(&mut DataLoader::new(numbered(3), options(7, 1)).unwrap(), 1);
    rows.sort_unstable();
    assert_eq!(rows.len(), 7);
    assert!(rows.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{rows:?}");
}

#[test]
fn features_and_targets_stay_together() -> Result<()> {
    let Batch { x, y, .. } = DataLoader::new(numbered(50), options(20, 7))?.next_batch()?;
    assert_eq!(x.shape(), [20, 1]);
    assert_eq!(ints(&x), ints(&y));
    Ok(())
}

proptest! {
    #[test]
    fn a_split_covers_every_row_once(rows in 2_i32..60, fraction in 0.05_f64..0.95, seed: u64) {
        let Ok((training, held_out)) = numbered(rows).split(fraction, seed) else {
            return Ok(()); // one part would be empty
        };
        let mut all = [ints(&training.targets().unwrap()), ints(&held_out.targets().unwrap())].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..rows).collect::<Vec<_>>());
    }

    #[test]
    fn every_window_predicts_the_byte_after_each_of_its_bytes(
        bytes in prop::collection::vec(any::<u8>(), 2..200), seq_len in 1_usize..20,
    ) {
        let text = Text::new(bytes.clone(), "a test");
        let Ok(windows) = text.windows(seq_len) else {
            prop_assert!(bytes.len() <= seq_len);
            return Ok(());
        };
        prop_assert_eq!(windows.len(), bytes.len() - seq_len);
        let last = windows.len() - 1;
        let Batch { x, y, .. } = windows.batch(&[0, last]).unwrap();
        let (x, y) = (ints(&x), ints(&y));
        prop_assert_eq!(&x[1..seq_len], &y[..seq_len - 1]);
        prop_assert_eq!(y[2 * seq_len - 1], i32::from(bytes[bytes.len() - 1]));
    }

    #[test]
    fn any_bytes_are_an_idx_file_or_a_clear_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let folder = TempDir::new().unwrap();
        let path = write(&folder, "any", &bytes);
        if let Err(error) = idx::read(&path) {
            prop_assert!(error.to_string().contains("any"), "{error}");
        }
    }
}

#[test]
fn a_batch_that_no_axis_can_hold_is_refused_instead_of_allocated() {
    for size in [1 << 31, usize::MAX] {
        let message = DataLoader::new(numbered(3), options(size, 1)).unwrap_err().to_string();
        assert!(message.contains(&format!("a batch of {size} rows")), "{message}");
    }
    let message = Text::new("abc", "short.txt").windows(usize::MAX).unwrap_err().to_string();
    assert!(message.contains("use a longer text"), "{message}");
}

#[test]
fn one_seed_gives_one_split_and_one_order() -> Result<()> {
    let parts = |seed| {
        let (training, held_out) = numbered(30).split(0.3, seed)?;
        Ok::<_, Error>((ints(&training.targets()?), ints(&held_out.targets()?)))
    };
    assert_eq!(parts(1)?, parts(1)?);
    assert_ne!(parts(1)?, parts(2)?);
    assert_eq!(parts(1)?.1.len(), 9);
    Ok(())
}

#[test]
fn evaluation_reads_every_row_in_order_with_a_smaller_last_batch() -> Result<()> {
    let data = numbered(7);
    let read: Vec<Vec<i32>> =
        batches(&data, 3).map(|batch| Ok(ints(&batch?.y))).collect::<Result<_>>()?;
    assert_eq!(read, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    Ok(())
}

#[test]
fn chunks_predict_each_byte_once() -> Result<()> {
    let chunks = Text::new("abcdefgh", "a test").chunks(3)?;
    assert_eq!(chunks.len(), 2); // 8 bytes: "abc" and "def" predict "bcd" and "efg"
    let Batch { x, y, .. } = chunks.batch(&[0, 1])?;
    assert_eq!(ints(&x), b"abcdef".map(i32::from));
    assert_eq!(ints(&y), b"bcdefg".map(i32::from));
    Ok(())
}

#[test]
fn the_held_out_part_of_a_text_is_its_end() -> Result<()> {
    let (training, held_out) = Text::new("0123456789", "a test").split(0.2)?;
    assert_eq!((training.as_bytes(), held_out.as_bytes()), (&b"01234567"[..], &b"89"[..]));
    assert!(bigram_entropy(&held_out)?.abs() < 1e-12);
    Ok(())
}

#[test]
fn texts_without_a_window_are_refused() {
    let folder = TempDir::new().unwrap();
    let empty = write(&folder, "empty.txt", b"");
    let message = Text::open(&empty).unwrap_err().to_string();
    assert!(
        message.ends_with("empty.txt: the text has zero bytes: name a file with text to train on")
    );

    let message = Text::open(folder.path().join("none.txt")).unwrap_err().to_string();
    assert!(message.contains("none.txt`: it does not exist"), "{message}");

    let short = Text::new("abc", "short.txt");
    let message = short.windows(3).unwrap_err().to_string();
    let expected = "short.txt has 3 tokens, and a window of sequence length 3 needs 4: use a longer text or a shorter \
                    sequence";
    assert_eq!(message, expected);
    assert_eq!(short.windows(2).unwrap().len(), 1);
    assert!(short.windows(0).is_err());
    assert!(short.windows(usize::MAX).is_err());
    assert!(short.split(0.01).is_err());
    assert!(bigram_entropy(&Text::new("a", "one byte")).is_err());
}

#[test]
fn rows_that_do_not_fit_are_refused() -> Result<()> {
    let data = numbered(3);
    assert_eq!(
        data.batch(&[0, 3]).unwrap_err().to_string(),
        "there is no row 3 in a dataset of 3 rows (the first is row 0)"
    );
    assert!(data.batch(&[]).is_err());
    assert!(InMemory::new(Array::zeros::<f32>(&[3, 2])?, Array::zeros::<f32>(&[2])?).is_err());
    assert!(InMemory::new(Array::zeros::<f32>(&[0, 2])?, Array::zeros::<f32>(&[0])?).is_err());
    let refused = InMemory::with_labels(Array::zeros::<f32>(&[3, 2])?, &[0, 1, 2], 2, "labels.idx");
    assert_eq!(
        refused.unwrap_err().to_string(),
        "labels.idx: label 2 of row 2 is not one of 2 classes (0 to 1): check the labels, or raise the number of classes"
    );
    assert!(InMemory::with_labels(Array::zeros::<f32>(&[1, 2])?, &[-1], 2, "labels").is_err());
    Ok(())
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn idx_bytes(shape: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, shape.len() as u8];
    bytes.extend(shape.iter().flat_map(|axis| axis.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_folder_of_idx_files_is_a_training_and_a_test_set() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let images = idx_bytes(&[2, 2, 2], &[0, 255, 0, 0, 51, 0, 0, 0]);
    write(&folder, "train-images-idx3-ubyte.gz", &gzip(&images));
    write(&folder, "train-labels-idx1-ubyte.gz", &gzip(&idx_bytes(&[2], &[3, 9])));
    write(&folder, "t10k-images.idx3-ubyte", &images);
    let missing = idx::load_folder(folder.path(), 10).unwrap_err().to_string();
    assert!(missing.contains("t10k-labels-idx1-ubyte"), "{missing}");

    write(&folder, "t10k-labels.idx1-ubyte", &idx_bytes(&[2], &[1, 2]));
    let (training, test) = idx::load_folder(folder.path(), 10)?;
    assert_eq!(training.features()?.shape(), [2, 4]);
    assert_eq!(training.features()?.try_as_slice::<f32>()?[..5], [0.0, 1.0, 0.0, 0.0, 0.2]);
    assert_eq!((ints(&training.targets()?), ints(&test.targets()?)), (vec![3, 9], vec![1, 2]));

    let refused = idx::load_folder(folder.path(), 9).unwrap_err().to_string();
    assert!(refused.contains("label 9 of row 1"), "{refused}");
    Ok(())
}

#[test]
fn damaged_and_hostile_idx_files_are_refused_before_memory_is_reserved() {
    let folder = TempDir::new().unwrap();
    let good = idx_bytes(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let huge = idx_bytes(&[u32::MAX, u32::MAX, u32::MAX], &[0; 16]);
    let large = idx_bytes(&[1 << 20, 1 << 10], &[0; 16]);
    let mut longer = good.clone();
    longer.push(0);
    let mut floats = good.clone();
    floats[2] = 0x0d;
    let mut broken_gzip = gzip(&good);
    broken_gzip.truncate(broken_gzip.len() - 9);
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("empty", vec![], "ends inside of its header"),
        ("header", good[..7].to_vec(), "ends inside of its header"),
        ("cut", good[..good.len() - 1].to_vec(), "and it has 5"),
        ("longer", longer, "and it has more"),
        ("magic", b"PNG not IDX".to_vec(), "no IDX file"),
        ("no axes", vec![0, 0, 8, 0], "no IDX file"),
        ("floats", floats, "only unsigned bytes"),
        ("huge", huge.clone(), "more than the file can hold"),
        ("large", large.clone(), "more than the file can hold"),
        ("huge.gz", gzip(&huge), "more than the file can hold"),
        ("broken.gz", broken_gzip, "get it again"),
    ];
    for (name, bytes, expected) in cases {
        let message = idx::read(write(&folder, name, &bytes)).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(expected), "{name}: {message}");
    }
    let error = idx::read(folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, Error::File(FileError::Read { .. })), "{error}");
    assert_eq!(idx::read(write(&folder, "good", &good)).unwrap().shape, [2, 3]);
    assert_eq!(
        idx::read(write(&folder, "good.gz", &gzip(&good))).unwrap().bytes,
        [1, 2, 3, 4, 5, 6]
    );
}
