//! Loading of several ranks: all from one checkpoint, each what it holds, whatever layout saved it.

use super::{StateArrays, TrainError, TrainStep, ranks::Ranks, shared_saving::Holdings};
use crate::{
    Error, Result,
    distributed::Placement,
    model::BaseModel,
    store::{ArraySet, Check, CheckpointError, Checkpoints, Entry, Loaded, Mismatch, Opened},
};
use mlx_rs::Array;
use std::{
    collections::BTreeSet,
    path::{self, PathBuf},
};

/// The folder that rank 0 saves to, if it does, as all ranks see it.
///
/// # Errors
/// [`TrainError::NotShared`] on all ranks when one does not see it.
pub(super) fn folder_of_first(
    ranks: &Ranks,
    of_first: Option<Checkpoints>,
) -> Result<Option<Checkpoints>> {
    let told = ranks.text_of_first(|| match &of_first {
        Some(checkpoints) => {
            let folder = path::absolute(checkpoints.folder());
            let folder = folder.unwrap_or_else(|_| checkpoints.folder().to_owned());
            format!("{} {}", checkpoints.run_id(), folder.display())
        }
        None => String::new(),
    })?;
    let Some((run_id, folder)) = told.split_once(' ') else { return Ok(None) };
    let folder = PathBuf::from(folder);
    let found = Checkpoints::open(&folder).map_err(|error| error.to_string());
    let found = found.and_then(|found| match found.run_id() {
        id if id == run_id => Ok(()),
        id => Err(format!("it is of run {id}, not {run_id}")),
    });
    let path = folder.clone();
    let shared = found.map_err(|problem| TrainError::NotShared { path, problem }.into());
    ranks.agree(shared)?;
    // Rank 0 keeps the path that its user has given, which stands in its messages.
    Ok(of_first.or_else(|| Some(Checkpoints::of_rank(folder, run_id.to_owned()))))
}

/// The checkpoint that rank 0 has found.
pub(super) fn entry_of_first(
    ranks: &Ranks,
    found: Option<PathBuf>,
) -> Result<Result<Entry, CheckpointError>> {
    let absolute =
        found.as_ref().map(|found| path::absolute(found).unwrap_or_else(|_| found.clone()));
    let told = ranks.text_of_first(|| {
        absolute.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    })?;
    Ok(Entry::open(found.unwrap_or_else(|| PathBuf::from(told))))
}

/// Verifies a checkpoint together, each rank some of its files.
///
/// # Errors
/// As [`Entry::load`], on all ranks.
pub(super) fn open(
    ranks: &Ranks,
    entry: Result<Entry, CheckpointError>,
    check: Check,
) -> Result<Opened> {
    let open = |entry: Entry| entry.open_arrays(check, ranks.rank(), ranks.world_size());
    ranks.agree(entry.map_err(Error::from).and_then(open))
}

/// Reads what this rank holds of a checkpoint.
///
/// # Errors
/// [`TrainError::StateMismatch`] when it is of another model, optimizer or precision; when the disk fails on any rank.
pub(super) fn read<M: BaseModel + ?Sized>(
    ranks: &Ranks,
    opened: Opened,
    step: &TrainStep<'_, M>,
    holdings: &Holdings,
) -> Result<Loaded> {
    let Opened { path, manifest, mut weights, mut training, progress, config } = opened;
    let (now, placements) = (step.snapshot()?, step.placements()?);
    let StateArrays { weights: of_weights, training: of_training } = now;
    let mut problems = Vec::new();
    compare(&weights, &of_weights, &placements.weights, &holdings.weights, &mut problems);
    compare(&training, &of_training, &placements.training, &holdings.training, &mut problems);
    let compared = if problems.is_empty() {
        Ok(())
    } else {
        Err(TrainError::StateMismatch { problems }.into())
    };
    let read = compared.and_then(|()| {
        let weights = read_parts(&mut weights, of_weights, &placements.weights)?;
        let training = read_parts(&mut training, of_training, &placements.training)?;
        Ok((weights, training))
    });
    let (weights, training) = ranks.agree(read)?;
    Ok(Loaded { path, manifest, weights, training, progress, config })
}

/// Adds every difference between saved arrays and those of this rank; others may hold more of the names.
fn compare(
    saved: &ArraySet,
    now: &[(String, Array)],
    placements: &[Placement],
    of_all: &BTreeSet<String>,
    problems: &mut Vec<Mismatch>,
) {
    for ((name, array), placement) in now.iter().zip(placements) {
        match saved.shape(name) {
            None => problems.push(Mismatch::Missing { name: name.clone() }),
            Some(_) => problems.extend(saved.mismatch(name, placement.shape(), array.dtype())),
        }
    }
    let unexpected = saved.names().into_iter().filter(|name| !of_all.contains(name));
    problems.extend(unexpected.map(|name| Mismatch::Unexpected { name }));
}

fn read_parts(
    saved: &mut ArraySet,
    now: Vec<(String, Array)>,
    placements: &[Placement],
) -> Result<Vec<(String, Array)>> {
    let parts = now.into_iter().zip(placements).map(|((name, _), placement)| {
        let part = saved.read_part(&name, placement)?;
        Ok((name, part))
    });
    parts.collect()
}
