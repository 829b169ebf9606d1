//! Starting the ranks of a group, and ending them together.
//!
//! [`Launch`] is what `mlx-train launch` does: each rank is a process of the same command, on this machine or on
//! those of a [`Hostfile`], whose environment says which rank it is, so that
//! [`Group::of_environment`](crate::distributed::Group::of_environment) joins them. A rank that dies, or stays
//! stopped, takes the others down.

mod environment;
mod guard;
mod hostfile;
mod lines;
mod mpi;
mod ranks;

pub use hostfile::Hostfile;
pub use ranks::Ended;

use crate::{Error, Result, distributed::Backend};
use environment::{Place, Plan};
use guard::{Remote, Signals};
use mpi::Mpi;
use ranks::{Process, Ranks, Source};
use std::{
    env,
    ffi::OsString,
    io::Write,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A command that runs as the ranks of a group.
#[derive(Debug, Clone)]
pub struct Launch {
    command: Vec<OsString>,
    world_size: usize,
    hostfile: Option<Hostfile>,
    backend: Option<Backend>,
    first_port: Option<u16>,
    variables: Vec<(String, String)>,
    folder: Option<PathBuf>,
    limit: Duration,
}

impl Launch {
    /// How many ranks a launch may have; more are a slip of the keyboard.
    pub const MAX_RANKS: usize = 1024;

    /// `world_size` ranks of a command, a program and its arguments, on this machine and over the ring.
    ///
    /// # Errors
    /// Without a program; for no rank at all, or more than [`Launch::MAX_RANKS`].
    pub fn new(command: Vec<OsString>, world_size: usize) -> Result<Self> {
        if command.is_empty() {
            return Err(Error::message(
                "there is no command to launch; give it after `--`, as in `launch -n 2 -- ./my-model`",
            ));
        }
        if !(1..=Self::MAX_RANKS).contains(&world_size) {
            return Err(Error::message(format!(
                "{world_size} ranks cannot be launched; ask for 1 to {}",
                Self::MAX_RANKS
            )));
        }
        Ok(Self {
            command,
            world_size,
            hostfile: None,
            backend: None,
            first_port: None,
            variables: Vec::new(),
            folder: None,
            limit: Duration::from_secs(30),
        })
    }

    /// A rank of a command on each host of a file, connected as it says, or else over the ring.
    ///
    /// # Errors
    /// Without a program.
    pub fn on_hosts(command: Vec<OsString>, hostfile: Hostfile) -> Result<Self> {
        let launch = Self::new(command, hostfile.num_ranks())?;
        let (backend, variables) = (hostfile.backend(), hostfile.variables().to_vec());
        Ok(Self { backend, variables, hostfile: Some(hostfile), ..launch })
    }

    /// Connects the ranks by this backend.
    #[must_use]
    pub fn backend(self, backend: Backend) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Uses this port for rank 0, and the ones after it for the others: in the place of any that are free on this
    /// machine, or of 32323 and those after it on several.
    #[must_use]
    pub fn first_port(self, port: u16) -> Self {
        Self { first_port: Some(port), ..self }
    }

    /// Gives all ranks a variable of their environment, as `NAME=VALUE`. Those on this machine have its own, too.
    ///
    /// # Errors
    /// When the name is none.
    pub fn variable(mut self, variable: &str) -> Result<Self> {
        self.variables.push(hostfile::variable(variable).map_err(Error::message)?);
        Ok(self)
    }

    /// Runs the ranks in this folder, which has to be there on every host: in the place of that of this process,
    /// where it is there.
    #[must_use]
    pub fn folder(self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..self }
    }

    /// How long a rank may stay stopped, and how long ranks have to end by themselves when one has failed.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs the ranks to their end. Their lines go to `out` and `err`, each behind the number of its rank.
    ///
    /// # Errors
    /// When the hosts lack what the backend needs, a port is taken or the command cannot be started; then nothing
    /// runs. When `out` takes no more, the ranks run on without it.
    pub fn run(&self, stop: &Stop, out: &mut dyn Write, err: &mut dyn Write) -> Result<Ended> {
        if let Some(folder) =
            self.folder.as_ref().filter(|folder| !folder.is_dir() && self.is_here())
        {
            let folder = folder.display();
            return Err(Error::message(format!("`{folder}` is no folder here; name another")));
        }
        let backend = self.backend.unwrap_or(Backend::Ring);
        if backend == Backend::Mpi {
            let (mpirun, _hosts) = self.mpi().process()?;
            return Ok(Ranks::start(vec![mpirun])?.run(self.limit, stop, out, err));
        }
        let place = Plan {
            backend,
            world_size: self.world_size,
            hostfile: self.hostfile.as_ref(),
            first_port: self.first_port,
            variables: &self.variables,
        }
        .place()?;
        let processes = (0..self.world_size).map(|rank| self.process(rank, &place));
        let ranks = Ranks::start(processes.collect::<Result<_>>()?)?;
        Ok(ranks.run(self.limit, stop, out, err))
    }

    /// Whether a rank runs on this machine.
    fn is_here(&self) -> bool {
        let hosts = self.hostfile.as_ref().map(|hostfile| &hostfile.hosts);
        hosts.is_none_or(|hosts| hosts.iter().any(hostfile::Host::is_here))
    }

    fn mpi(&self) -> Mpi<'_> {
        Mpi {
            command: &self.command,
            world_size: self.world_size,
            hostfile: self.hostfile.as_ref(),
            variables: &self.variables,
            folder: self.folder.as_deref(),
            limit: self.limit,
        }
    }

    /// A rank, on this machine or another.
    fn process(&self, rank: usize, place: &Place) -> Result<Process> {
        let seat = &place.seats[rank];
        let source = Source::Rank { rank, host: seat.host.clone() };
        let Some(host) = &seat.host else {
            let [program, arguments @ ..] = self.command.as_slice() else {
                return Err(Error::message("there is no command to launch"));
            };
            let mut command = Command::new(program);
            command.args(arguments);
            if let Some(folder) = &self.folder {
                command.current_dir(folder);
            }
            place.tell(seat, &mut command);
            return Ok(Process { source, command, signals: None });
        };
        let current = env::current_dir().unwrap_or_default();
        let command = guard::over_ssh(&Remote {
            host,
            seat,
            file: place.file.as_ref(),
            folder: self.folder.as_deref().unwrap_or(&current),
            is_folder_needed: self.folder.is_some(),
            command: &self.command,
            limit: self.limit,
        })?;
        Ok(Process { source, command, signals: Some(Signals { ask: "TERM", kill: "KILL" }) })
    }
}

/// Asks ranks to stop: once, and they save and end; twice, and they are killed. A clone asks the same ranks.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Asks once more.
    pub fn request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times it was asked.
    pub fn num_requests(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
