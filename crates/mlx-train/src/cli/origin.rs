//! Where a run begins: at its first step in a folder of its own, or at a checkpoint.

use super::{
    args::{LATEST, TrainArgs},
    program_name,
};
use crate::{
    Error, Result,
    distributed::Backend,
    run::{Environment, RunFolder},
    store::{Check, Checkpoints, Location},
    train::Resume,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Below this folder are the runs that were not given another one.
pub(super) const RUNS: &str = "runs";

/// The checkpoint that a run goes on from.
pub(super) struct Origin {
    /// The run.
    pub(super) folder: RunFolder,
    /// All its checkpoints.
    pub(super) checkpoints: Checkpoints,
    /// Which of them it is.
    pub(super) resume: Resume,
    /// The file with the settings that it was saved under.
    pub(super) config: PathBuf,
}

impl Origin {
    /// What `--resume` says, if it is there.
    ///
    /// # Errors
    /// When there is no such run or checkpoint, or it is not whole.
    pub(super) fn of(args: &TrainArgs) -> Result<Option<Self>> {
        let Some(named) = &args.resume else {
            return Ok(None);
        };
        match (named.as_os_str() == LATEST, &args.output) {
            (true, None) => Self::at(&newest_run(Path::new(RUNS))?),
            (true, Some(run)) => Self::at(run),
            (false, None) => Self::at(named),
            (false, Some(output)) => Err(Error::message(format!(
                "--resume names `{}` and --output `{}`, but a run goes on in its own folder; leave \
                 one of them out",
                named.display(),
                output.display()
            ))),
        }
        .map(Some)
    }

    /// The latest checkpoint of the run in this folder, or the checkpoint in this folder.
    fn at(path: &Path) -> Result<Self> {
        let location = Location::find(path)?;
        let (checkpoints, resume) = match &location {
            Location::Run(checkpoints) => (checkpoints.clone(), Resume::Latest),
            Location::Step(entry) => {
                (Checkpoints::open(parent(&entry.path))?, Resume::Step(entry.step))
            }
        };
        let folder = RunFolder::create(parent(checkpoints.folder()), true)?;
        if checkpoints.folder().file_name() != folder.checkpoints().file_name() {
            return Err(Error::message(format!(
                "`{}` is not the folder `checkpoints` of a run; put it into the folder of its run",
                checkpoints.folder().display()
            )));
        }
        let entry = location.entry()?;
        if let Err(error) = entry.verify(Check::Sizes) {
            // Of the latest one, this says which older one is whole.
            return Err(match resume {
                Resume::Latest => checkpoints.load_latest(Check::Sizes).err().unwrap_or(error),
                _ => error,
            });
        }
        let config = entry.path.join("config.json");
        Ok(Self { folder, checkpoints, resume, config })
    }
}

/// The run that saved last.
fn newest_run(runs: &Path) -> Result<PathBuf> {
    let saved_at = |run: &Path| {
        let latest = Checkpoints::open(run.join("checkpoints")).ok()?.latest().ok()??;
        Some(latest.manifest.ok()?.saved_at_seconds)
    };
    let folders = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = folders.filter_map(|run| Some((saved_at(&run)?, run))).max();
    newest.map(|(_, run)| run).ok_or_else(|| {
        Error::message(format!(
            "no run below `{}` has a checkpoint to go on from; name a run with --resume RUN",
            runs.display()
        ))
    })
}

/// Makes the folder of a new run; with `replace`, in the place of an earlier one.
///
/// # Errors
/// When there is an earlier one and `replace` is false; when another process saves checkpoints there.
pub(super) fn new_folder(path: PathBuf, replace: bool) -> Result<(RunFolder, Checkpoints)> {
    let earlier = Checkpoints::open(path.join("checkpoints")).ok();
    let latest = earlier.as_ref().map(Checkpoints::latest).transpose()?.flatten();
    if let Some(latest) = latest.filter(|_| !replace) {
        return Err(Error::message(format!(
            "`{}` holds a run that has saved step {}; go on with `{}`, or replace it with --force",
            path.display(),
            latest.step,
            resume_command(&path, 1)
        )));
    }
    let folder = RunFolder::create(path, replace)?;
    let checkpoints = folder.new_checkpoints()?;
    Ok((folder, checkpoints))
}

/// The variable in which `launch` tells ranks how it was started, as a shell takes it.
pub(super) const LAUNCHED_BY: &str = "MLX_TRAIN_LAUNCHED_BY";

/// What goes on with a run of as many ranks, as a shell takes it: started by what has started this process.
pub(super) fn resume_command(run: &Path, ranks: usize) -> String {
    let command = [program_name(), "train".into(), "--resume".into(), run.display().to_string()];
    let command = Environment { command: command.to_vec(), ..Environment::default() };
    let command = command.command_line();
    match (Backend::of_environment(), env::var(LAUNCHED_BY)) {
        (Some(_), Ok(launch)) => format!("{launch} -- {command}"),
        _ if ranks <= 1 => command,
        (Some(Backend::Mpi), Err(_)) => format!("mpirun -n {ranks} {command}"),
        _ => format!("{} launch -n {ranks} -- {command}", program_name()),
    }
}

/// The folder above; that of a relative path of one name is the current one.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
