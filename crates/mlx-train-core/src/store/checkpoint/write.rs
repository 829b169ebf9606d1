//! A step's folder, written whole or not at all.
//!
//! Everything goes to a hidden folder beside, reaches the disk, and appears by one rename.

use super::{
    HostArray, Snapshot, fault,
    manifest::{self, FORMAT, FileEntry, Manifest, Metric},
    names::{CONFIG, DELETING, MANIFEST, REPLACED, SAVING, STATE, aside_name, step_name, step_of},
    sealed::seal,
    state::State,
    write_file::write_file,
};
use crate::{
    Error, Result,
    ffi::mlx_version,
    file::FileError,
    store::{
        StoreError,
        array_file::natural_order,
        array_set::{Index, index_name, rank_stem, shard_name},
        layout::{Described, FileLayout},
        slices::{SLICES, Slices},
    },
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// What a checkpoint says of itself beside what is in the snapshot.
pub(super) struct Label<'a> {
    pub(super) run_id: &'a str,
    pub(super) serial: u64,
    pub(super) metric: Option<Metric>,
    pub(super) max_shard_bytes: u64,
}

/// What a rank writes of a step.
#[derive(Debug)]
pub(crate) struct Part {
    /// Which rank it is.
    pub(crate) rank: usize,
    /// How many there are.
    pub(crate) ranks: usize,
    /// The arrays that it writes; of the rest, what rank 0 has counts.
    pub(crate) snapshot: Snapshot,
    /// Where the weights among them lie that are parts.
    pub(crate) weights: Slices,
    /// Where the others lie that are parts.
    pub(crate) training: Slices,
}

/// The size and checksums of files, by name.
pub(crate) type Files = BTreeMap<String, FileEntry>;

/// Writes the folder of a step into `folder`; one of that step that is there already gives way.
pub(super) fn write_step(
    folder: &Path,
    snapshot: &Snapshot,
    label: &Label<'_>,
) -> Result<Manifest> {
    let aside = Aside::create(folder.join(aside_name(SAVING, snapshot.step)))?;
    let mut step = StepWriter::new(&aside.path, label.max_shard_bytes);
    step.arrays("model", &snapshot.weights, &Content::Whole(Some(("format", "pt"))))?;
    step.arrays("training", &snapshot.training, &Content::Whole(None))?;
    let files = step.files;
    complete(folder, aside, files, snapshot, label, 1)
}

/// Writes the files of a rank into the hidden folder of a step.
pub(super) fn write_part(aside: &Path, part: &Part, max_shard_bytes: u64) -> Result<Files> {
    let Part { rank, ranks, snapshot, weights, training } = part;
    // Each rank may be the first that comes.
    match fault::point().and_then(|()| fs::create_dir(aside)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let path = aside.to_owned();
            return Err(FileError::Folder { path, source: error }.into());
        }
        _ => {}
    }
    let mut writer = StepWriter::new(aside, max_shard_bytes);
    let of_rank = |stem| rank_stem(stem, *rank, *ranks);
    writer.arrays(&of_rank("model"), &snapshot.weights, &Content::Parts(weights))?;
    writer.arrays(&of_rank("training"), &snapshot.training, &Content::Parts(training))?;
    sync_folder(aside)?;
    Ok(writer.files)
}

/// Makes the folder of a step appear to which all ranks have written `files`, which rank 0 does.
pub(super) fn write_rest(
    aside: PathBuf,
    snapshot: &Snapshot,
    label: &Label<'_>,
    ranks: usize,
    files: Files,
) -> Result<Manifest> {
    let folder = aside.parent().unwrap_or(Path::new(".")).to_owned();
    let aside = Aside { path: aside };
    for (name, entry) in &files {
        let path = aside.path.join(name);
        let found = fs::metadata(&path).map_err(FileError::read(&path))?.len();
        if found != entry.bytes {
            return Err(Error::message(format!(
                "`{}` has {found} bytes here, and the rank that wrote it says {}; use a file system that all \
                 ranks share",
                path.display(),
                entry.bytes
            )));
        }
    }
    complete(&folder, aside, files, snapshot, label, ranks)
}

/// Adds to the files of arrays what makes them a checkpoint, and lets it appear.
fn complete(
    folder: &Path,
    aside: Aside,
    files: Files,
    snapshot: &Snapshot,
    label: &Label<'_>,
    ranks: usize,
) -> Result<Manifest> {
    let mut step = StepWriter { files, ..StepWriter::new(&aside.path, label.max_shard_bytes) };
    step.json(STATE, &State::of(snapshot, label.run_id))?;
    step.json(CONFIG, &snapshot.config)?;
    let manifest = Manifest {
        format: FORMAT,
        run_id: label.run_id.to_owned(),
        serial: label.serial,
        step: snapshot.step,
        model: snapshot.model.clone(),
        saved_at_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs()),
        metric: label.metric.clone(),
        ranks,
        versions: BTreeMap::from([
            ("mlx".into(), mlx_version()?),
            ("mlx-train".into(), env!("CARGO_PKG_VERSION").into()),
        ]),
        files: step.files,
    };
    let path = aside.path.join(MANIFEST);
    let text = seal(&manifest).map_err(|error| unsavable(&path, &error))?;
    if text.len() as u64 > manifest::MAX_BYTES {
        let (name, problem) = ("the manifest".into(), "it is over 64 MB; save fewer arrays".into());
        return Err(StoreError::Unsavable { name, path, problem }.into());
    }
    write_file(&path, text.as_bytes(), &[])?;
    sync_folder(&aside.path)?;
    aside.appear_as(&folder.join(step_name(snapshot.step)))?;
    Ok(manifest)
}

/// The files of a step, one after another.
struct StepWriter<'a> {
    folder: &'a Path,
    files: Files,
    max_shard_bytes: u64,
}

/// What the arrays of a file are.
enum Content<'a> {
    /// Whole ones; perhaps an entry of the file's metadata.
    Whole(Option<(&'a str, &'a str)>),
    /// Those of a rank, which are parts if they are named here.
    Parts(&'a Slices),
}

impl<'a> StepWriter<'a> {
    fn new(folder: &'a Path, max_shard_bytes: u64) -> Self {
        Self { folder, files: BTreeMap::new(), max_shard_bytes }
    }

    fn file(&mut self, name: String, head: &[u8], arrays: &[(&str, &[u8])]) -> Result<()> {
        let entry = write_file(&self.folder.join(&name), head, arrays)?;
        self.files.insert(name, entry);
        Ok(())
    }

    fn json(&mut self, name: &str, content: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(content)
            .map_err(|error| unsavable(&self.folder.join(name), &error))?;
        self.file(name.to_owned(), (text + "\n").as_bytes(), &[])
    }

    /// One file of arrays, or shards and their index.
    fn arrays(
        &mut self,
        stem: &str,
        arrays: &[(String, HostArray)],
        content: &Content<'_>,
    ) -> Result<()> {
        let shards = shards(arrays, self.max_shard_bytes);
        let mut index = Index::default();
        for (number, shard) in shards.iter().enumerate() {
            let name = shard_name(stem, number, shards.len());
            let described: Vec<_> = shard
                .iter()
                .map(|(name, it)| Described { name, dtype: it.dtype(), shape: it.shape() })
                .collect();
            let path = self.folder.join(&name);
            let slices = match content {
                Content::Whole(_) => String::new(),
                Content::Parts(slices) => {
                    slices_of(shard, slices).map_err(|error| unsavable(&path, &error))?
                }
            };
            let metadata = match content {
                Content::Whole(metadata) => metadata.as_slice(),
                Content::Parts(_) => &[(SLICES, slices.as_str())],
            };
            let layout = FileLayout::new(&described, metadata, &path)?;
            let in_order = layout.order.iter().map(|&place| shard[place]);
            let arrays: Vec<(&str, &[u8])> =
                in_order.map(|(name, array)| (name.as_str(), array.bytes())).collect();
            self.file(name.clone(), &layout.head, &arrays)?;
            for (array, it) in shard {
                index.metadata.total_size += it.bytes().len() as u64;
                if index.weight_map.insert(array.clone(), name.clone()).is_some() {
                    return Err(StoreError::Unsavable {
                        name: array.clone(),
                        path: self.folder.join(stem),
                        problem: "two arrays have that name; rename one".into(),
                    }
                    .into());
                }
            }
        }
        if shards.len() > 1 { self.json(&index_name(stem), &index) } else { Ok(()) }
    }
}

/// Where the parts among the arrays of a file lie, as its metadata tells it.
fn slices_of(shard: &[&(String, HostArray)], slices: &Slices) -> serde_json::Result<String> {
    let of_shard = shard.iter().filter_map(|(name, _)| Some((name, slices.get(name)?)));
    serde_json::to_string(&of_shard.collect::<BTreeMap<_, _>>())
}

/// Splits arrays in natural order of names; one that is over the limit has a shard of its own.
fn shards(arrays: &[(String, HostArray)], max_shard_bytes: u64) -> Vec<Vec<&(String, HostArray)>> {
    let mut sorted: Vec<_> = arrays.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| natural_order(a, b));
    let mut shards = vec![Vec::new()];
    let mut held_bytes = 0;
    for array in sorted {
        let num_bytes = array.1.bytes().len() as u64;
        if held_bytes > 0 && held_bytes + num_bytes > max_shard_bytes {
            shards.push(Vec::new());
            held_bytes = 0;
        }
        held_bytes += num_bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(array);
        }
    }
    shards
}

fn unsavable(path: &Path, error: &serde_json::Error) -> Error {
    let (name, problem) = ("the JSON".into(), error.to_string());
    StoreError::Unsavable { name, path: path.to_owned(), problem }.into()
}

/// Makes the names in a folder last; only Unix can sync a folder.
fn sync_folder(folder: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        fault::point()
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(FileError::write(folder))?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fault::point().and_then(|()| fs::rename(from, to)).map_err(FileError::write(to))
}

fn remove(folder: &Path) -> Result<(), FileError> {
    fault::point().and_then(|()| fs::remove_dir_all(folder)).map_err(FileError::write(folder))
}

/// A folder that is removed unless it appears.
struct Aside {
    path: PathBuf,
}

impl Aside {
    fn create(path: PathBuf) -> Result<Self, FileError> {
        fault::point()
            .and_then(|()| fs::create_dir(&path))
            .map_err(|source| FileError::Folder { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// Takes the name `target`, and the place of what has that name.
    fn appear_as(self, target: &Path) -> Result<(), FileError> {
        let folder = target.parent().unwrap_or(Path::new("."));
        // A folder cannot be renamed onto another. In between, the old one counts under its new name.
        let replaced = target.symlink_metadata().is_ok().then(|| beside(target, REPLACED));
        if let Some(replaced) = &replaced {
            rename(target, replaced)?;
        }
        let appeared = rename(&self.path, target);
        match (&replaced, &appeared) {
            (Some(replaced), Ok(())) => {
                sync_folder(folder)?;
                // The new one is there; what cannot be removed now is swept by the next run.
                _ = remove(replaced);
                Ok(())
            }
            (Some(replaced), Err(_)) => rename(replaced, target).and(appeared),
            (None, Ok(())) => sync_folder(folder),
            (None, Err(_)) => appeared,
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !fault::is_dead() {
            // Nothing is there after the rename. What cannot be removed now is swept by the next run.
            _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the folder of a step, which disappears under its name before any of its files is gone.
pub(super) fn remove_aside(step: &Path) -> Result<(), FileError> {
    let aside = beside(step, DELETING);
    rename(step, &aside)?;
    sync_folder(step.parent().unwrap_or(Path::new(".")))?;
    remove(&aside)
}

/// A hidden name beside the folder of a step.
fn beside(step: &Path, prefix: &str) -> PathBuf {
    let number = step.file_name().and_then(|name| step_of(name.to_str()?));
    step.with_file_name(aside_name(prefix, number.unwrap_or_default()))
}
