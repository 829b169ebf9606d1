//! Starting the ranks of a group on this machine, and ending them together.
//!
//! [`Launch`] is what `mlx-train launch` does: each rank is a process of the same command, whose environment says
//! which rank it is, so that [`Group::of_environment`](crate::distributed::Group::of_environment) joins them. A
//! rank that dies, or stays stopped, takes the others down.

mod environment;
mod lines;
mod ranks;

pub use ranks::Ended;

use crate::{
    Error, Result,
    distributed::{Backend, DistributedError},
};
use environment::Place;
use ranks::Ranks;
use std::{
    ffi::OsString,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A command that runs as the ranks of a group, on this machine.
#[derive(Debug, Clone)]
pub struct Launch {
    command: Vec<OsString>,
    world_size: usize,
    backend: Backend,
    first_port: Option<u16>,
    limit: Duration,
}

impl Launch {
    /// How many ranks one machine may have; more are a slip of the keyboard.
    pub const MAX_RANKS: usize = 1024;

    /// `world_size` ranks of a command, a program and its arguments, over the ring.
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
                "{world_size} ranks cannot be launched on one machine; ask for 1 to {}",
                Self::MAX_RANKS
            )));
        }
        let limit = Duration::from_secs(30);
        Ok(Self { command, world_size, backend: Backend::Ring, first_port: None, limit })
    }

    /// Connects the ranks by this backend.
    ///
    /// # Errors
    /// When it is not there, or is not one that is launched here: `mpirun` starts the ranks of MPI.
    pub fn backend(self, backend: Backend) -> Result<Self> {
        match backend {
            Backend::Ring => {}
            Backend::Nccl if backend.is_available() => {}
            Backend::Nccl => {
                return Err(DistributedError::NoBackend { backend }.into());
            }
            Backend::Mpi => {
                return Err(Error::message(
                    "the ranks of mpi are started by `mpirun -n N COMMAND`, which works as it is; use that, or ring",
                ));
            }
            Backend::Jaccl => {
                return Err(Error::message(
                    "jaccl connects several Macs, and these ranks are all on this machine; use ring",
                ));
            }
        }
        Ok(Self { backend, ..self })
    }

    /// Uses this port for rank 0, and the ones after it for the others, in the place of any that are free.
    #[must_use]
    pub fn first_port(self, port: u16) -> Self {
        Self { first_port: Some(port), ..self }
    }

    /// How long a rank may stay stopped, and how long ranks have to end by themselves when one has failed.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs the ranks to their end. Their lines go to `out` and `err`, each behind the number of its rank.
    ///
    /// # Errors
    /// When a port is taken or the command cannot be started; then nothing runs. When `out` takes no more, the
    /// ranks run on without it.
    pub fn run(&self, stop: &Stop, out: &mut dyn Write, err: &mut dyn Write) -> Result<Ended> {
        let place = Place::new(self.backend, self.world_size, self.first_port)?;
        let ranks = Ranks::start(&self.command, &place)?;
        Ok(ranks.run(self.limit, stop, out, err))
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
