//! Processes that compute together.

use super::{
    Backend, DistributedError,
    watch::{Deadline, Watch, limit_exit},
};
use crate::{
    Array, Result,
    ffi::{self, RawGroup},
};
use std::{env, sync::Arc, time::Duration};

/// Processes that compute together, each of which has a rank; or this process alone.
///
/// A clone is the same group.
///
/// ```
/// use mlx_train_core::{Array, distributed::Group};
/// let group = Group::of_environment()?; // alone, unless `mlx-train launch` has started several
/// let sum = group.all_sum(&Array::from_f32(2.0))?;
/// assert_eq!(sum.try_item_cast::<f32>().ok(), Some(2.0 * group.world_size() as f32));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Group {
    rank: usize,
    world_size: usize,
    limit: Duration,
    /// `None` for a process alone.
    connected: Option<Arc<Connected>>,
}

/// What connects the ranks.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) raw: RawGroup,
    pub(super) backend: Backend,
    watch: Arc<Watch>,
}

impl Group {
    /// How long a rank waits for the others unless [`Group::with_limit`] says otherwise.
    pub const DEFAULT_LIMIT: Duration = Duration::from_mins(5);

    /// This process alone: every collective is the identity.
    pub fn alone() -> Self {
        Self { rank: 0, world_size: 1, limit: Self::DEFAULT_LIMIT, connected: None }
    }

    /// The group that whoever started this process has set up: that of [`Backend::of_environment`], or this
    /// process alone.
    ///
    /// # Errors
    /// As [`Group::init`].
    pub fn of_environment() -> Result<Self> {
        match Backend::of_environment() {
            Some(backend) => Self::init(backend, Self::DEFAULT_LIMIT),
            None => Ok(Self::alone()),
        }
    }

    /// Joins all ranks of a backend, which the environment describes. The process ends with
    /// [`DEADLINE_EXIT_STATUS`](super::DEADLINE_EXIT_STATUS) when they have not all come within `limit`, which is
    /// that of all collectives, too, and over MPI of the end of the process, which waits for that of the other ranks.
    ///
    /// # Errors
    /// [`DistributedError::NoBackend`]; [`DistributedError::Start`] when the environment is not that of a rank,
    /// or the ranks cannot connect.
    pub fn init(backend: Backend, limit: Duration) -> Result<Self> {
        if !backend.is_available() {
            return Err(DistributedError::NoBackend { backend }.into());
        }
        let rank = env::var("MLX_RANK").unwrap_or_else(|_| "?".into());
        let refused =
            |reason: String| DistributedError::Start { backend, rank: rank.clone(), reason };
        let watch = Arc::new(Watch::new()?);
        let what = format!("the other ranks to come over {backend}");
        let deadline = watch.limit(&format!("rank {rank}"), &what, limit)?;
        let raw = RawGroup::init(backend.c_name()).map_err(|error| refused(error.to_string()))?;
        drop(deadline);
        if backend == Backend::Mpi {
            limit_exit(&watch, format!("rank {}", raw.rank()), limit)?;
        }
        Self::of_raw(raw, backend, watch, limit)
    }

    /// The same group, whose collectives end within `limit`, or this process ends.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The ranks that give the same `color`, in the order of their ranks here. All ranks have to call it.
    ///
    /// # Errors
    /// [`DistributedError::NoSplit`] when the backend cannot; when MLX fails.
    pub fn split(&self, color: usize) -> Result<Self> {
        let Some(Connected { raw, backend, watch }) = self.connected.as_deref() else {
            return Ok(self.clone());
        };
        if !backend.can_split() {
            return Err(DistributedError::NoSplit { backend: *backend }.into());
        }
        let deadline = self.deadline("the ranks that split a group")?;
        let part = raw.split(to_i32(color)?, to_i32(self.rank())?)?;
        drop(deadline);
        Self::of_raw(part, *backend, Arc::clone(watch), self.limit)
    }

    fn of_raw(raw: RawGroup, backend: Backend, watch: Arc<Watch>, limit: Duration) -> Result<Self> {
        let lost = |_| crate::Error::message("MLX returned a group without ranks");
        let rank = usize::try_from(raw.rank()).map_err(lost)?;
        let world_size = usize::try_from(raw.size()).map_err(lost)?.max(1);
        let connected = Connected { raw, backend, watch };
        let connected = (world_size > 1).then(|| Arc::new(connected));
        Ok(Self { rank, world_size, limit, connected })
    }

    /// Which of the ranks this process is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Whether there is no other rank.
    pub fn is_alone(&self) -> bool {
        self.connected.is_none()
    }

    /// Whether this is the rank that prints and writes for all.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// What connects the ranks; `None` for a process alone.
    pub fn backend(&self) -> Option<Backend> {
        self.connected.as_ref().map(|connected| connected.backend)
    }

    /// Computes `arrays`, which wait for other ranks, within the limit of this group.
    ///
    /// # Errors
    /// As [`ffi::eval`].
    pub fn eval<'a>(&self, what: &str, arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
        let _deadline = self.deadline(what)?;
        ffi::eval(arrays)
    }

    /// Ends the process unless what is returned is dropped within the limit of this group; `what` says what it
    /// waits for.
    ///
    /// # Errors
    /// [`DistributedError::Limit`] for a limit of nothing.
    pub fn deadline(&self, what: &str) -> Result<Option<Deadline>> {
        let Self { rank, limit, connected, .. } = self;
        let limited = connected.as_ref();
        limited.map(|it| it.watch.limit(&format!("rank {rank}"), what, *limit)).transpose()
    }

    pub(super) fn parts(&self) -> Option<&Connected> {
        self.connected.as_deref()
    }
}

pub(super) fn to_i32(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| crate::Error::message(format!("{number} is no rank")))
}
