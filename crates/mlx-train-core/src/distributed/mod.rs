//! Processes that compute together: groups and collectives, over MLX's own backends.
//!
//! [`Group::of_environment`] joins the ranks that `mlx-train launch`, Python's `mlx.launch` or `mpirun` has
//! started, and is this process alone without them, so that one program serves both. Whatever waits for other
//! ranks has a deadline: a rank that waits longer ends with a message, and never hangs.

mod agreement;
mod backend;
pub(crate) mod bucket;
mod collectives;
mod error;
pub(crate) mod gather;
mod group;
mod mesh;
mod parallelism;
pub(crate) mod pipeline;
mod placement;
mod shard;
mod watch;

pub use agreement::FOLLOWER_EXIT_STATUS;
pub use backend::{Backend, MPI_LIBRARY};
pub use error::DistributedError;
pub use group::Group;
pub use mesh::Mesh;
pub use parallelism::Parallelism;
pub use pipeline::{
    BlockCosts, Operation, PipelineBlocks, PipelineError, PipelineOptions, Schedule, ScheduleKind,
    partition,
};
pub use placement::{Placement, Split};
pub(crate) use shard::Turn;
pub use shard::{Shard, Sharding, SplitBy, Splits, way};
#[doc(hidden)]
pub use shard::{ShardField, SplitField};
pub use watch::{DEADLINE_EXIT_STATUS, Deadline, LAUNCHER};
