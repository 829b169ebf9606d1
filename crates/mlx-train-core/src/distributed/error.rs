//! What processes that train together fail with.

use super::{Backend, Parallelism, Split};
use std::time::Duration;

/// What a group of processes, or a collective in it, is refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DistributedError {
    /// A name that is no backend.
    #[error("there is no backend `{name}`; there are ring, mpi, nccl and jaccl")]
    UnknownBackend {
        /// The name.
        name: String,
    },
    /// A backend that this MLX or this machine does not have.
    #[error("the backend {backend} is not there: {}", missing(*.backend))]
    NoBackend {
        /// The backend.
        backend: Backend,
    },
    /// A group could not be started.
    #[error("rank {rank} could not join the group over {backend}: {reason}")]
    Start {
        /// The backend.
        backend: Backend,
        /// What the environment says this process is, or `?`.
        rank: String,
        /// What MLX says, or what is wrong with the environment.
        reason: String,
    },
    /// A group that its backend cannot split.
    #[error(
        "{backend} cannot split a group; use mpi or nccl, or one way of splitting the model for all ranks"
    )]
    NoSplit {
        /// The backend.
        backend: Backend,
    },
    /// A text that is no layout of ranks.
    #[error(
        "`{text}` is no layout of ranks ({reason}); write `none`, or how many parts there are of each way by commas, \
         such as `dp=4`, `fsdp=4`, `tp=2`, `pp=2` or `dp=2,tp=2`"
    )]
    Parallelism {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layout for another number of ranks.
    #[error(
        "the layout `{parallelism}` takes {} ranks and there are {world_size}; start as many, or write a layout \
         whose product is {world_size}", .parallelism.num_ranks()
    )]
    WorldSize {
        /// The layout.
        parallelism: Parallelism,
        /// How many ranks there are.
        world_size: usize,
    },
    /// An array that cannot be cut like that.
    #[error(
        "axis {} of an array {shape:?} cannot be cut into {} equal parts, of which number {} is held",
        .split.axis, .split.parts, .split.part
    )]
    Split {
        /// The shape of the array.
        shape: Vec<i32>,
        /// The cut.
        split: Split,
    },
    /// A rank that the group does not have, or this one itself.
    #[error("rank {rank} cannot {what} rank {peer} of {world_size}{hint}")]
    Peer {
        /// What it was about to do, as in `send to`.
        what: &'static str,
        /// This rank.
        rank: usize,
        /// The other.
        peer: usize,
        /// How many there are.
        world_size: usize,
        /// What can be done, or nothing.
        hint: &'static str,
    },
    /// Rows that cannot be divided among the ranks.
    #[error(
        "{what} of an array {shape:?} over {world_size} ranks: axis 0 has to be a multiple of {world_size}; pad it"
    )]
    Uneven {
        /// The collective.
        what: &'static str,
        /// The shape of the array.
        shape: Vec<i32>,
        /// How many ranks there are.
        world_size: usize,
    },
    /// A model with sizes that a number of ranks does not divide.
    #[error(
        "the model cannot be split over {num_ranks} ranks: {}; take multiples of {num_ranks}, or split it over {fewer}",
        .problems.join(", ")
    )]
    Indivisible {
        /// How many ranks there are.
        num_ranks: usize,
        /// Every such size, with its name and value.
        problems: Vec<String>,
        /// The next smaller number of ranks that divides all of these.
        fewer: usize,
    },
    /// A model that does not say how it is split.
    #[error(
        "the model does not say how it is split over {num_ranks} ranks (tp): put `#[derive(Shard)]` on it and on its \
         layers, and return `Some(self)` from `BaseModel::as_shard`"
    )]
    NoShard {
        /// How many ranks there are.
        num_ranks: usize,
    },
    /// A model that is split over ranks of which none would have less to do.
    #[error(
        "nothing of the model would be split over {num_ranks} ranks (tp): mark layers with `#[shard(columns)]` and its \
         like, with sizes that {num_ranks} divides"
    )]
    NothingSplit {
        /// How many ranks there are.
        num_ranks: usize,
    },
    /// A model whose layers are split already, and of whose parameters there may be but parts.
    #[error("the model is split over {num_ranks} ranks already; build it anew to split it again")]
    SplitBefore {
        /// Over how many ranks it is split.
        num_ranks: usize,
    },
    /// A split of something that is no parameter.
    #[error(
        "`{name}` is split, but the model has no parameter of that name; mark the fields on the way to it with `#[param]`"
    )]
    NoParameter {
        /// The name.
        name: String,
    },
    /// Another rank has failed at what all do together.
    #[error("rank {rank} failed: {reason}")]
    Rank {
        /// Which one.
        rank: usize,
        /// What it says.
        reason: String,
    },
    /// A time limit that is none.
    #[error("{limit:?} is no limit for a collective; give it at least a millisecond")]
    Limit {
        /// The limit.
        limit: Duration,
    },
}

fn missing(backend: Backend) -> &'static str {
    match backend {
        Backend::Ring => "this build of MLX has none",
        Backend::Mpi => {
            "install Open MPI, and where MLX does not find its library, name that, as in \
             `mpirun -x MLX_MPI_LIBNAME=libmpi.so.40`; or use ring"
        }
        Backend::Nccl => "it needs an NVIDIA GPU and MLX for CUDA; use ring",
        Backend::Jaccl => "it needs Macs with RDMA over Thunderbolt; use ring",
    }
}
