//! One checkpoint of several ranks: which of them writes what, and what each does for it.
//!
//! Every rank writes files of its own into one hidden folder. When all have, rank 0 adds the rest and lets the
//! folder appear. That all have is for the caller to find out: ranks talk in `train`, and files do not tell when
//! they are whole.

use super::{
    CheckpointConfig, Checkpoints, Saved, Snapshot,
    lock::FolderLock,
    names::{SAVING, aside_name},
    saver::{label_of, tidied},
    write::{Files, Part, write_part, write_rest},
};
use crate::{Result, distributed::Placement, store::slices::Slice};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::HashMap, fs, ops::Range};

/// An array of a snapshot as a rank holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// Weights and the rest of a snapshot have names of their own.
    pub(crate) is_weight: bool,
    pub(crate) name: String,
    /// The shape of the whole.
    pub(crate) shape: Vec<i32>,
    /// What is held of each axis.
    pub(crate) ranges: Vec<Range<i32>>,
    /// The size of that.
    pub(crate) bytes: u64,
}

impl Holding {
    pub(crate) fn new(is_weight: bool, name: &str, placement: &Placement, bytes: u64) -> Self {
        let (shape, ranges) = (placement.shape().to_vec(), placement.ranges());
        Self { is_weight, name: name.to_owned(), shape, ranges, bytes }
    }

    /// Where it lies in its whole, unless it is all of it.
    pub(crate) fn slice(&self) -> Option<Slice> {
        let is_whole =
            self.ranges.iter().zip(&self.shape).all(|(range, &size)| *range == (0..size));
        (!is_whole).then(|| Slice {
            shape: self.shape.iter().map(|&size| size as usize).collect(),
            offset: self.ranges.iter().map(|range| range.start as usize).collect(),
        })
    }
}

/// Which of its arrays each rank writes, as places in its list: of those that several hold, one does, and all write
/// about as many bytes.
pub(crate) fn divide(ranks: &[Vec<Holding>]) -> Vec<Vec<usize>> {
    let mut holders: HashMap<_, Vec<(usize, usize)>> = HashMap::new();
    for (rank, holdings) in ranks.iter().enumerate() {
        for (index, Holding { is_weight, name, ranges, .. }) in holdings.iter().enumerate() {
            holders.entry((*is_weight, name, ranges)).or_default().push((rank, index));
        }
    }
    let holding =
        |holders: &[(usize, usize)]| holders.first().map(|&(rank, index)| &ranks[rank][index]);
    let mut all: Vec<Vec<(usize, usize)>> = holders.into_values().collect();
    // What has one holder goes first, and then the largest; any order that all ranks agree on will do.
    all.sort_by_key(|holders| {
        let bytes = holding(holders).map_or(0, |it| it.bytes);
        (holders.len() > 1, Reverse(bytes), holders.clone())
    });
    let mut written = vec![0; ranks.len()];
    let mut indices = vec![Vec::new(); ranks.len()];
    for holders in all {
        let bytes = holding(&holders).map_or(0, |it| it.bytes);
        if let Some((rank, index)) =
            holders.into_iter().min_by_key(|&(rank, _)| (written[rank], rank))
        {
            written[rank] += bytes;
            indices[rank].push(index);
        }
    }
    for indices in &mut indices {
        indices.sort_unstable();
    }
    indices
}

/// What a rank needs to write its part of a checkpoint, in a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct SharedFolder {
    pub(crate) checkpoints: Checkpoints,
    pub(crate) config: CheckpointConfig,
}

impl SharedFolder {
    /// The right to save, which rank 0 takes for all.
    ///
    /// # Errors
    /// As [`Saver::new`](super::Saver::new).
    pub(crate) fn lock(&self) -> Result<FolderLock> {
        let lock = FolderLock::take(self.checkpoints.folder())?;
        self.checkpoints.write_run()?;
        Ok(lock)
    }

    /// The name of the hidden folder of a step, which rank 0 chooses.
    pub(crate) fn hidden_name(step: u64) -> String {
        aside_name(SAVING, step)
    }

    /// Writes a rank's files.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn write_part(&self, hidden: &str, part: &Part) -> Result<Files> {
        let path = self.checkpoints.folder().join(hidden);
        write_part(&path, part, self.config.max_shard_bytes())
    }

    /// Lets the checkpoint appear to which all ranks have written these files; the best and the last stay.
    ///
    /// # Errors
    /// When the disk fails, or a file of another rank is not there.
    pub(crate) fn complete(
        &self,
        hidden: &str,
        snapshot: &Snapshot,
        ranks: usize,
        files: Files,
    ) -> Result<Saved> {
        let Self { checkpoints, config } = self;
        let label = label_of(checkpoints, config, snapshot.metric)?;
        let hidden = checkpoints.folder().join(hidden);
        let manifest = write_rest(hidden, snapshot, &label, ranks, files)?;
        Ok(tidied(checkpoints, config, snapshot.step, &manifest))
    }

    /// Removes what ranks have written of a checkpoint that will not be.
    pub(crate) fn discard(&self, hidden: &str) {
        // What cannot be removed now is swept by the next run.
        _ = fs::remove_dir_all(self.checkpoints.folder().join(hidden));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::write::Files, *};
    use crate::{
        Array,
        distributed::Split,
        store::{Check, Entry, HostArray, Loaded, Slices},
    };
    use mlx_rs::Dtype;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// What is wrong with a part, and how it came about.
    type Spoil = (&'static str, &'static dyn Fn(&mut Slice));

    /// Arrays by name, weights and the rest.
    type State = Vec<(bool, String, Array)>;

    /// How ranks hold the arrays of a state.
    #[derive(Debug, Clone, Copy)]
    enum Layout {
        Copies,
        /// Parts of the first axis that can be divided.
        Rows,
        /// Parts of the last axis, where there are several.
        Columns,
        /// Two parts of the last axis, and of these parts of the first.
        Both,
    }

    fn numbers(shape: &[i32], first: i32, dtype: Dtype) -> Array {
        let size: i32 = shape.iter().product();
        Array::from_iter(first..first + size, shape).as_dtype(dtype).unwrap()
    }

    fn state() -> State {
        [
            (true, "blocks.0.weight", numbers(&[8, 12], 0, Dtype::Float32)),
            (true, "blocks.1.weight", numbers(&[4, 4, 8], 5, Dtype::Bfloat16)),
            (true, "bias", numbers(&[3], 7, Dtype::Float32)),
            (true, "empty", numbers(&[0, 4], 0, Dtype::Float32)),
            (false, "optimizer.blocks.0.weight.m", numbers(&[8, 12], -40, Dtype::Float32)),
            (false, "ema.blocks.0.weight", numbers(&[8, 12], 50, Dtype::Float32)),
            (false, "optimizer.updates", Array::from_int(9)),
            (false, "flags", numbers(&[2, 4], -3, Dtype::Int32).lt(Array::from_int(0)).unwrap()),
        ]
        .map(|(is_weight, name, array)| (is_weight, name.to_owned(), array))
        .into()
    }

    fn placement(shape: &[i32], layout: Layout, rank: usize, ranks: usize) -> Placement {
        let cut = |placement: Placement, axis: Option<usize>, parts, part| {
            let is_cut = axis.is_some_and(|axis| {
                let length = placement.local_shape()[axis];
                length > 0 && (length as usize).is_multiple_of(parts)
            });
            match axis.filter(|_| is_cut) {
                Some(axis) => placement.split(Split { axis, parts, part }).unwrap(),
                None => placement,
            }
        };
        let whole = Placement::whole(shape);
        let first = (!shape.is_empty()).then_some(0);
        let last = (shape.len() > 1).then(|| shape.len() - 1);
        match layout {
            Layout::Copies => whole,
            Layout::Rows => cut(whole, first, ranks, rank),
            Layout::Columns => cut(whole, last, ranks, rank),
            Layout::Both => cut(cut(whole, last, 2, rank % 2), first, ranks / 2, rank / 2),
        }
    }

    /// What one rank holds of a state.
    fn held(state: &State, layout: Layout, rank: usize, ranks: usize) -> State {
        let part = |(is_weight, name, array): &(bool, String, Array)| {
            let part = placement(array.shape(), layout, rank, ranks).slice(array).unwrap();
            (*is_weight, name.clone(), part.contiguous().unwrap())
        };
        state.iter().map(part).collect()
    }

    fn shared(folder: &TempDir) -> SharedFolder {
        let path = folder.path().join("checkpoints");
        let checkpoints = Checkpoints::open(&path).or_else(|_| Checkpoints::create(&path)).unwrap();
        SharedFolder { checkpoints, config: CheckpointConfig::default() }
    }

    /// Saves what ranks hold; `spoil` may change what they say of it.
    fn save(
        folder: &TempDir,
        parts: &[State],
        placements: &dyn Fn(usize, &str) -> Placement,
        mut spoil: impl FnMut(usize, &mut Slices),
    ) -> PathBuf {
        let (shared, ranks) = (shared(folder), parts.len());
        let holdings = |rank: usize| {
            let holding = |(is_weight, name, array): &(bool, String, Array)| {
                Holding::new(*is_weight, name, &placements(rank, name), array.nbytes() as u64)
            };
            parts[rank].iter().map(holding).collect::<Vec<_>>()
        };
        let all: Vec<Vec<Holding>> = (0..ranks).map(holdings).collect();
        let hidden = SharedFolder::hidden_name(3);
        let mut files = Files::new();
        let mut last = None;
        for (rank, indices) in divide(&all).into_iter().enumerate() {
            let mut slices = Slices::new();
            slices.extend(indices.iter().filter_map(|&index| {
                Some((all[rank][index].name.clone(), all[rank][index].slice()?))
            }));
            spoil(rank, &mut slices);
            let of = |wanted: bool| {
                let own = indices.iter().map(|&index| &parts[rank][index]);
                own.filter(move |it| it.0 == wanted).map(|(_, name, array)| (name.clone(), array))
            };
            let snapshot = Snapshot::take(3, of(true), of(false)).unwrap();
            let names = |wanted: bool| {
                let names: Vec<String> = of(wanted).map(|(name, _)| name).collect();
                let slices = slices.iter().filter(|(name, _)| names.contains(name));
                slices.map(|(name, slice)| (name.clone(), slice.clone())).collect()
            };
            let (weights, training) = (names(true), names(false));
            let part = Part { rank, ranks, snapshot, weights, training };
            files.extend(shared.write_part(&hidden, &part).unwrap());
            last = Some(part.snapshot);
        }
        shared.complete(&hidden, &last.unwrap(), ranks, files).unwrap().path
    }

    fn save_as(folder: &TempDir, state: &State, layout: Layout, ranks: usize) -> PathBuf {
        let shape = |name: &str| state.iter().find(|it| it.1 == name).unwrap().2.shape().to_vec();
        let parts: Vec<State> = (0..ranks).map(|rank| held(state, layout, rank, ranks)).collect();
        let place = |rank: usize, name: &str| placement(&shape(name), layout, rank, ranks);
        save(folder, &parts, &place, |_, _| ())
    }

    /// What a rank reads of a checkpoint.
    fn load_part(path: &PathBuf, like: &State, layout: Layout, rank: usize, ranks: usize) -> State {
        let mut opened =
            Entry::open(path).unwrap().open_arrays(Check::Hashes, rank, ranks).unwrap();
        let part = |(is_weight, name, array): &(bool, String, Array)| {
            let set = if *is_weight { &mut opened.weights } else { &mut opened.training };
            let placement = placement(array.shape(), layout, rank, ranks);
            (*is_weight, name.clone(), set.read_part(name, &placement).unwrap())
        };
        like.iter().map(part).collect()
    }

    fn assert_same(found: &State, expected: &State, case: &str) {
        assert_eq!(found.len(), expected.len());
        for ((_, name, found), (_, _, expected)) in found.iter().zip(expected) {
            let [found, expected] = [found, expected].map(|it| HostArray::take(it).unwrap());
            assert!(found == expected, "{name} of {case}");
        }
    }

    #[test]
    fn every_layout_reads_what_every_other_has_written_bit_for_bit() {
        let state = state();
        let layouts =
            [(Layout::Copies, 2), (Layout::Rows, 4), (Layout::Columns, 2), (Layout::Both, 4)];
        for (saved, num_saved) in layouts {
            let folder = tempfile::tempdir().unwrap();
            let path = save_as(&folder, &state, saved, num_saved);
            for (layout, ranks) in layouts.into_iter().chain([(Layout::Copies, 1)]) {
                for rank in 0..ranks {
                    let case =
                        format!("{saved:?} over {num_saved} as {layout:?} {rank} of {ranks}");
                    let found = load_part(&path, &state, layout, rank, ranks);
                    assert_same(&found, &held(&state, layout, rank, ranks), &case);
                }
            }
            let mut averaged = Entry::open(&path).unwrap().averaged_weights().unwrap();
            for (name, from) in [("blocks.0.weight", "ema.blocks.0.weight"), ("bias", "bias")] {
                let expected = &state.iter().find(|it| it.1 == from).unwrap().2;
                let [found, expected] = [&averaged.read(name).unwrap(), expected]
                    .map(|it| HostArray::take(it).unwrap());
                assert!(found == expected, "averaged {name} of {saved:?}");
            }
            // And one process that knows nothing of ranks.
            let Loaded { weights, training, .. } = Loaded::read(&path, Check::Hashes).unwrap();
            let mut found: State = weights.into_iter().map(|(name, it)| (true, name, it)).collect();
            found.extend(training.into_iter().map(|(name, it)| (false, name, it)));
            let by_name = |state: &mut State| state.sort_by(|a, b| (!a.0, &a.1).cmp(&(!b.0, &b.1)));
            let mut expected = state.clone();
            by_name(&mut found);
            by_name(&mut expected);
            assert_same(&found, &expected, &format!("{saved:?} over {num_saved} as one"));
        }
    }

    #[test]
    fn what_ranks_have_saved_with_hashes_of_files_is_read_by_every_layout() {
        let state = state();
        let saved = "tests/checkpoint/saved/format-2/step-00000003";
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(saved);
        assert_eq!(Entry::open(&path).unwrap().verify(Check::Hashes).unwrap().format, 2);
        for (layout, ranks) in [(Layout::Rows, 2), (Layout::Both, 4), (Layout::Copies, 1)] {
            for rank in 0..ranks {
                let found = load_part(&path, &state, layout, rank, ranks);
                let expected = held(&state, layout, rank, ranks);
                assert_same(&found, &expected, &format!("{layout:?} {rank} of {ranks}"));
            }
        }
    }

    #[test]
    fn copies_are_written_once_and_by_all_ranks() {
        let state: State = (0..8)
            .map(|index| (true, format!("w{index}"), numbers(&[64, 64], index, Dtype::Float32)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = save_as(&folder, &state, Layout::Copies, 4);
        for rank in 1..=4 {
            let file = path.join(format!("model.rank-{rank:05}-of-00004.safetensors"));
            let bytes = fs::metadata(file).unwrap().len();
            assert!((2 * 64 * 64 * 4..2 * 64 * 64 * 4 + 1024).contains(&bytes), "{rank}: {bytes}");
        }
    }

    #[test]
    fn a_rank_reads_what_it_holds_and_nothing_else() {
        let (folder, state) = (tempfile::tempdir().unwrap(), state());
        let path = save_as(&folder, &state, Layout::Rows, 2);
        let entry = Entry::open(&path).unwrap();
        let mut opened = entry.open_arrays(Check::Sizes, 0, 2).unwrap();
        // The other rank's arrays are no more; what is asked for lies in this rank's file.
        let other = path.join("model.rank-00002-of-00002.safetensors");
        fs::File::options().write(true).open(other).unwrap().set_len(0).unwrap();
        let part = |rank| placement(&[8, 12], Layout::Rows, rank, 2);
        opened.weights.read_part("blocks.0.weight", &part(0)).unwrap();
        assert!(opened.weights.read_part("blocks.0.weight", &part(1)).is_err());
    }

    #[test]
    fn parts_that_do_not_fill_their_whole_are_refused_by_name() {
        let name = "blocks.0.weight";
        let spoiled: [Spoil; 7] = [
            ("overlap or leave gaps", &|it| it.offset[0] = 0),
            ("overlap or leave gaps", &|it| it.offset[0] = 3),
            ("not within the whole", &|it| it.offset[0] = 5),
            ("not within the whole", &|it| it.offset[0] = usize::MAX),
            ("not within the whole", &|it| it.offset.push(0)),
            ("as one of shape", &|it| it.shape[0] = 9),
            ("as one of shape", &|it| it.shape = vec![usize::MAX, 1 << 40]),
        ];
        let state = state();
        for (problem, spoil) in spoiled {
            let folder = tempfile::tempdir().unwrap();
            let parts: Vec<State> =
                (0..2).map(|rank| held(&state, Layout::Rows, rank, 2)).collect();
            let shape =
                |name: &str| state.iter().find(|it| it.1 == name).unwrap().2.shape().to_vec();
            let place = |rank: usize, name: &str| placement(&shape(name), Layout::Rows, rank, 2);
            let path = save(&folder, &parts, &place, |rank, slices| {
                if rank == 1 {
                    slices.get_mut(name).into_iter().for_each(spoil);
                }
            });
            for found in [
                Loaded::read(&path, Check::Hashes).map(drop),
                Entry::open(&path).unwrap().verify(Check::Sizes).map(drop),
                Entry::open(&path).unwrap().open_arrays(Check::Sizes, 0, 2).map(drop),
            ] {
                let text = found.unwrap_err().to_string();
                assert!(text.contains(problem) && text.contains(name), "{problem}: {text}");
            }
        }
        // A whole so large that its parts together cannot be.
        let folder = tempfile::tempdir().unwrap();
        let parts: Vec<State> = (0..2).map(|rank| held(&state, Layout::Rows, rank, 2)).collect();
        let shape = |name: &str| state.iter().find(|it| it.1 == name).unwrap().2.shape().to_vec();
        let place = |rank: usize, name: &str| placement(&shape(name), Layout::Rows, rank, 2);
        let path = save(&folder, &parts, &place, |_, slices| {
            slices.get_mut(name).into_iter().for_each(|it| it.shape = vec![usize::MAX, usize::MAX]);
        });
        let text = Loaded::read(&path, Check::Hashes).unwrap_err().to_string();
        assert!(text.contains("overlap or leave gaps"), "{text}");
    }

    #[test]
    fn a_file_of_a_rank_that_is_changed_or_gone_is_refused_by_name() {
        let (folder, state) = (tempfile::tempdir().unwrap(), state());
        let path = save_as(&folder, &state, Layout::Rows, 2);
        for file in
            ["model.rank-00002-of-00002.safetensors", "training.rank-00001-of-00002.safetensors"]
        {
            let whole = fs::read(path.join(file)).unwrap();
            let refused = |case: &str| {
                let text = Loaded::read(&path, Check::Hashes).unwrap_err().to_string();
                assert!(text.contains(&format!("`{file}`")), "{case}: {text}");
                // Of two ranks one looks at it, and that one finds it.
                let found = (0..2).filter(|&rank| {
                    Entry::open(&path).unwrap().open_arrays(Check::Hashes, rank, 2).is_err()
                });
                assert!(found.count() > 0, "{case}");
            };
            for place in (0..whole.len()).step_by(37) {
                let mut flipped = whole.clone();
                flipped[place] ^= 4;
                fs::write(path.join(file), flipped).unwrap();
                refused(&format!("{file} flipped at {place}"));
            }
            // The last array of a file, which is one of bools if it has some.
            let mut flipped = whole.clone();
            *flipped.last_mut().unwrap() ^= 1;
            fs::write(path.join(file), flipped).unwrap();
            let text = Loaded::read(&path, Check::Hashes).unwrap_err().to_string();
            assert!(text.contains("were saved of the array `"), "{text}");
            fs::remove_file(path.join(file)).unwrap();
            refused(&format!("{file} removed"));
            fs::write(path.join(file), whole).unwrap();
        }
        Loaded::read(&path, Check::Hashes).unwrap();
    }
}
