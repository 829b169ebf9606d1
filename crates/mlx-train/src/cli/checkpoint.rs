//! `checkpoint`: what a run has saved, looked at, verified, thinned out and exported.

use super::{
    Failure::{self, Failed, Refused},
    args::{CheckpointCommand, ExportDtype},
    models::print_json,
};
use crate::{
    Error,
    clock::utc,
    mlx_rs::Dtype,
    profile::Bytes,
    store::{Check, CheckpointError, Checkpoints, Entry, ExportOptions, Keep, Location, Manifest},
};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

pub(super) fn run(command: CheckpointCommand, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        CheckpointCommand::List { path, json } => list(&checkpoints(&path)?, json, out),
        CheckpointCommand::Verify { path, quick } => {
            let check = if quick { Check::Sizes } else { Check::Hashes };
            match Location::find(&path).map_err(Refused)? {
                Location::Step(entry) => verify(&[*entry], check, out),
                Location::Run(checkpoints) => {
                    verify(&checkpoints.list().map_err(Failed)?, check, out)
                }
            }
        }
        CheckpointCommand::Prune { path, keep_last, keep_best, dry_run } => {
            let keep = Keep { last: keep_last, best: keep_best };
            prune(&checkpoints(&path)?, keep, dry_run, out)
        }
        CheckpointCommand::Export { path, output, averaged, dtype, force } => {
            let options = ExportOptions { averaged, dtype: dtype.map(mlx_dtype) };
            let weights = output.join("model.safetensors");
            if weights.exists() && !force {
                return Err(Refused(Error::message(format!(
                    "`{}` exists; name another folder with --output, or replace it with --force",
                    weights.display()
                ))));
            }
            let entry = Location::find(&path).map_err(Refused)?.entry().map_err(failure)?;
            let exported = entry.export(&output, options).map_err(failure)?;
            let (num_arrays, size) = (exported.num_arrays, Bytes(exported.num_bytes));
            writeln!(out, "wrote {} ({num_arrays} arrays, {size})", exported.weights.display())?;
            Ok(writeln!(out, "wrote {}", exported.config.display())?)
        }
    }
}

/// What was not there or cannot be done was refused; anything else went wrong at work.
fn failure(error: Error) -> Failure {
    match error {
        Error::Checkpoint(
            CheckpointError::NotFound { .. } | CheckpointError::Unexportable { .. },
        ) => Refused(error),
        _ => Failed(error),
    }
}

/// All checkpoints of a run.
fn checkpoints(path: &Path) -> Result<Checkpoints, Failure> {
    match Location::find(path).map_err(Refused)? {
        Location::Run(checkpoints) => Ok(checkpoints),
        Location::Step(_) => Err(Refused(Error::message(format!(
            "`{}` is one checkpoint; name the folder of its run",
            path.display()
        )))),
    }
}

fn list(checkpoints: &Checkpoints, as_json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let entries = checkpoints.list().map_err(Failed)?;
    let step = |entry: Option<Entry>| entry.map(|entry| entry.step);
    let latest = step(checkpoints.latest().map_err(Failed)?);
    let best = step(checkpoints.best().map_err(Failed)?);
    let is = |entry: &Entry, of: Option<u64>| Some(entry.step) == of;
    if as_json {
        let rows = entries.iter().map(|it| to_json(it, is(it, latest), is(it, best)));
        return print_json(&rows.collect(), out);
    }
    if entries.is_empty() {
        return Ok(writeln!(out, "no checkpoint was saved yet")?);
    }
    let metric = entries.iter().rev().find_map(|it| it.manifest.as_ref().ok()?.metric.as_ref());
    let metric = metric.map_or("metric", |metric| &metric.name);
    let mut rows = vec![["step", "saved (UTC)", "size", metric, ""].map(str::to_owned)];
    for entry in &entries {
        let marks = [("latest", is(entry, latest)), ("best", is(entry, best))];
        let marks = marks.into_iter().filter(|(_, is_it)| *is_it).map(|(mark, _)| mark);
        let mut marks: Vec<String> = marks.map(str::to_owned).collect();
        rows.push(match &entry.manifest {
            Ok(manifest) => [
                entry.step.to_string(),
                utc(manifest.saved_at_seconds),
                Bytes(manifest.num_bytes()).to_string(),
                manifest
                    .metric
                    .as_ref()
                    .map_or("-".into(), |metric| format!("{:.4}", metric.value)),
                marks.join(", "),
            ],
            Err(error) => {
                marks.push(problem_of(error));
                let dash = || "-".to_owned();
                [entry.step.to_string(), dash(), dash(), dash(), marks.join(", ")]
            }
        });
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [step, saved, size, metric, marks] in &rows {
        let [a, b, c, d] = widths;
        let line = format!("{step:>a$}  {saved:b$}  {size:>c$}  {metric:>d$}  {marks}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn to_json(entry: &Entry, is_latest: bool, is_best: bool) -> Value {
    let manifest = entry.manifest.as_ref().ok();
    json!({
        "step": entry.step,
        "path": entry.path,
        "saved_at_seconds": manifest.map(|it| it.saved_at_seconds),
        "bytes": manifest.map(Manifest::num_bytes),
        "metric": manifest.and_then(|it| it.metric.as_ref()),
        "latest": is_latest,
        "best": is_best,
        "problem": entry.manifest.as_ref().err().map(problem_of),
    })
}

/// What is wrong, without the path that stands beside it.
fn problem_of(error: &CheckpointError) -> String {
    match error {
        CheckpointError::Damaged { file, problem, .. } => format!("damaged: `{file}` {problem}"),
        other => other.to_string(),
    }
}

fn verify(entries: &[Entry], check: Check, out: &mut impl Write) -> Result<(), Failure> {
    let mut damaged = 0;
    let mut newest_whole: Option<(u64, &PathBuf)> = None;
    for entry in entries {
        let name = entry.path.file_name().unwrap_or_default().display();
        match entry.verify(check) {
            Ok(manifest) => {
                writeln!(out, "{name}  ok, {}", Bytes(manifest.num_bytes()))?;
                newest_whole = newest_whole.max(Some((manifest.serial, &entry.path)));
            }
            Err(Error::Checkpoint(error)) => {
                damaged += 1;
                writeln!(out, "{name}  {}", problem_of(&error))?;
            }
            Err(error) => return Err(Failed(error)),
        }
        // Each may take a while.
        out.flush()?;
    }
    if damaged == 0 {
        return Ok(());
    }
    let way_out = match newest_whole {
        Some((_, path)) => format!(
            "the newest whole one is `{0}`: go on from it with `--resume {0}`",
            path.display()
        ),
        None => "copy it again or go on from another one".to_owned(),
    };
    let count = match entries {
        [_] => "the checkpoint is damaged".to_owned(),
        _ => format!("damaged: {damaged} of {} checkpoints", entries.len()),
    };
    Err(Failed(Error::message(format!("{count}; {way_out}"))))
}

fn prune(
    checkpoints: &Checkpoints,
    keep: Keep,
    dry_run: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let removed = checkpoints.prune(keep, dry_run).map_err(Failed)?;
    if removed.is_empty() {
        return Ok(writeln!(out, "nothing to remove")?);
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    for entry in removed {
        let size = entry.manifest.as_ref().map_or(0, Manifest::num_bytes);
        writeln!(out, "{verb} {} ({})", entry.path.display(), Bytes(size))?;
    }
    Ok(())
}

fn mlx_dtype(dtype: ExportDtype) -> Dtype {
    match dtype {
        ExportDtype::F32 => Dtype::Float32,
        ExportDtype::F16 => Dtype::Float16,
        ExportDtype::Bf16 => Dtype::Bfloat16,
    }
}
