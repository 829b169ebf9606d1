//! Operations in which all ranks take part, with their gradients.
//!
//! Every rank has to compute the same collectives in the same order, or they take each other's numbers, or wait until
//! the deadline. MLX derives the order from the graph that it evaluates: what ranks compute in one evaluation has to
//! be of the same operations on all of them, and what is not is computed before. The gradient of a collective is that of the sum of the losses of all ranks, `L = L_0 + L_1 + …`, with respect to this rank's
//! input: sums and gathers turn around into sums and scatters. Where all ranks go on to compute one and the same
//! loss, as in tensor parallelism, see [`Group::copy_to_parallel`] and its neighbours.

use super::{
    DistributedError, Group,
    group::{Connected, to_i32},
};
use crate::{
    Array, Result,
    ffi::{self, Collective},
};
use mlx_rs::{
    Dtype, Stream,
    ops::{indexing::TryIndexOp, select, zeros_dtype},
    stop_gradient,
};
use std::slice::from_ref;

impl Group {
    /// The sum over all ranks of `x`, of any shape, the same on all.
    ///
    /// Its gradient is the sum of the gradients of all ranks.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn all_sum(&self, x: &Array) -> Result<Array> {
        self.with_gradient(x, Self::sum, Self::sum)
    }

    /// The largest over all ranks of each element of `x`. No gradient passes it.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn all_max(&self, x: &Array) -> Result<Array> {
        Ok(stop_gradient(self.collective(Collective::AllMax, x)?)?)
    }

    /// The smallest over all ranks of each element of `x`. No gradient passes it.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn all_min(&self, x: &Array) -> Result<Array> {
        Ok(stop_gradient(self.collective(Collective::AllMin, x)?)?)
    }

    /// The arrays of all ranks, one after the other along axis 0: `(N, ...)` to `(world_size * N, ...)`, and a
    /// scalar to `(world_size,)`.
    ///
    /// Its gradient is [`Group::reduce_scatter`].
    ///
    /// # Errors
    /// When MLX fails.
    pub fn all_gather(&self, x: &Array) -> Result<Array> {
        if x.ndim() == 0 && !self.is_alone() {
            return self.all_gather(&x.reshape(&[1])?);
        }
        self.with_gradient(x, Self::gather, Self::scatter_sum)
    }

    /// This rank's part of the sum over all ranks: `(world_size * N, ...)` to `(N, ...)`.
    ///
    /// Its gradient is [`Group::all_gather`]. Where the backend has no such operation, the whole sum is made first.
    ///
    /// # Errors
    /// [`DistributedError::Uneven`] unless axis 0 is a multiple of the number of ranks; when MLX fails.
    pub fn reduce_scatter(&self, x: &Array) -> Result<Array> {
        self.rows_of_a_rank("reduce-scatter", x)?;
        self.with_gradient(x, Self::scatter_sum, Self::gather)
    }

    /// `x` of the rank `root`, on all ranks; they pass arrays of one shape and dtype.
    ///
    /// Its gradient is the sum of the gradients of all ranks, for `root`, and zeros for the others.
    ///
    /// # Errors
    /// [`DistributedError::Peer`] when there is no such rank; when MLX fails.
    pub fn broadcast(&self, x: &Array, root: usize) -> Result<Array> {
        if root >= self.world_size() {
            return Err(self.no_peer("receive from", root, ""));
        }
        if x.dtype() == Dtype::Bool {
            return Ok(self.broadcast(&x.as_dtype(Dtype::Uint8)?, root)?.as_dtype(Dtype::Bool)?);
        }
        // Ranks that contribute nothing take part all the same, by the operations that `root` has.
        let is_root = self.rank() == root;
        let of_root = move |x: &Array| {
            Ok(select(Array::from_bool(is_root), x, zeros_dtype(&[], x.dtype())?)?)
        };
        self.with_gradient(
            x,
            move |group, x| group.sum(&of_root(x)?),
            move |group, gradient| of_root(&group.sum(gradient)?),
        )
    }

    /// Sends `x` to another rank, which has to [`Group::receive`] it. It goes when what is returned, `x` itself, is
    /// computed. No gradient passes it.
    ///
    /// # Errors
    /// [`DistributedError::Peer`] when there is no such rank, or no way to it: a ring has ways to neighbours, and
    /// NCCL has none in MLX; when MLX fails.
    pub fn send(&self, x: &Array, to: usize) -> Result<Array> {
        let stream = self.connected_to("send to", to)?.backend.stream();
        Ok(stop_gradient(self.send_on(&stream, x, to)?)?)
    }

    /// Receives an array of this shape and dtype from another rank, when it is computed. No gradient passes it.
    ///
    /// # Errors
    /// As [`Group::send`].
    pub fn receive(&self, shape: &[i32], dtype: Dtype, from: usize) -> Result<Array> {
        let stream = self.connected_to("receive from", from)?.backend.stream();
        Ok(stop_gradient(self.receive_on(&stream, shape, dtype, from)?)?)
    }

    /// As [`Group::send`], with nothing on other streams than this one; it has a gradient that is wrong.
    pub(super) fn send_on(&self, stream: &Stream, x: &Array, to: usize) -> Result<Array> {
        self.connected_to("send to", to)?.raw.send(x, to_i32(to)?, stream)
    }

    /// As [`Group::receive`], with nothing on other streams than this one.
    pub(super) fn receive_on(
        &self,
        stream: &Stream,
        shape: &[i32],
        dtype: Dtype,
        from: usize,
    ) -> Result<Array> {
        let like = zeros_dtype(shape, dtype)?;
        self.connected_to("receive from", from)?.raw.receive(&like, to_i32(from)?, stream)
    }

    /// Waits until all ranks have come here.
    ///
    /// # Errors
    /// When MLX fails. A rank that waits longer than the limit ends.
    pub fn barrier(&self) -> Result<()> {
        let came = self.sum(&Array::from_int(1))?;
        self.eval("all ranks to come to a barrier", from_ref(&came))
    }

    /// `x`, which every rank has and goes on to use in its own part of the model; ranks compute one loss.
    ///
    /// The identity, whose gradient is the sum over ranks. It begins a part that is split by columns. Source:
    /// Shoeybi et al., arXiv:1909.08053, section 3, `f`.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn copy_to_parallel(&self, x: &Array) -> Result<Array> {
        self.with_gradient(x, |_, x| Ok(x.clone()), Self::sum)
    }

    /// The sum over ranks of what their parts of the model have computed, with which all go on alike.
    ///
    /// [`Group::all_sum`], whose gradient is the identity, since each rank has that of the one loss already. It ends
    /// a part that is split by rows. Source: Shoeybi et al., arXiv:1909.08053, section 3, `g`.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn reduce_from_parallel(&self, x: &Array) -> Result<Array> {
        self.with_gradient(x, Self::sum, |_, gradient| Ok(gradient.clone()))
    }

    /// What the ranks' parts of the model have computed, one after the other along axis 0, with which all go on
    /// alike.
    ///
    /// [`Group::all_gather`], whose gradient is this rank's rows.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn gather_from_parallel(&self, x: &Array) -> Result<Array> {
        self.with_gradient(x, Self::gather, Self::own_rows)
    }

    /// This rank's rows of `x`, which every rank has, to go on with in its own part of the model.
    ///
    /// Its gradient is that of all ranks' rows, gathered.
    ///
    /// # Errors
    /// [`DistributedError::Uneven`] unless axis 0 is a multiple of the number of ranks; when MLX fails.
    pub fn scatter_to_parallel(&self, x: &Array) -> Result<Array> {
        self.rows_of_a_rank("scatter", x)?;
        self.with_gradient(x, Self::own_rows, Self::gather)
    }

    fn sum(&self, x: &Array) -> Result<Array> {
        self.collective(Collective::AllSum, x)
    }

    fn gather(&self, x: &Array) -> Result<Array> {
        self.collective(Collective::AllGather, x)
    }

    fn scatter_sum(&self, x: &Array) -> Result<Array> {
        match self.parts() {
            Some(Connected { backend, .. }) if !backend.has_reduce_scatter() => {
                self.own_rows(&self.sum(x)?)
            }
            _ => self.collective(Collective::SumScatter, x),
        }
    }

    /// This rank's part of axis 0.
    fn own_rows(&self, x: &Array) -> Result<Array> {
        if self.is_alone() {
            return Ok(x.clone());
        }
        let rows = self.rows_of_a_rank("scatter", x)?;
        let first = to_i32(self.rank())? * rows;
        Ok(x.try_index(first..first + rows)?)
    }

    fn rows_of_a_rank(&self, what: &'static str, x: &Array) -> Result<i32> {
        let world_size = self.world_size();
        let rows =
            x.shape().first().copied().filter(|rows| (*rows as usize).is_multiple_of(world_size));
        let uneven = || DistributedError::Uneven { what, shape: x.shape().to_vec(), world_size };
        match rows {
            Some(rows) => Ok(rows / to_i32(world_size)?),
            None if self.is_alone() => Ok(1),
            None => Err(uneven().into()),
        }
    }

    fn collective(&self, collective: Collective, x: &Array) -> Result<Array> {
        match self.parts() {
            None => Ok(x.clone()),
            Some(Connected { raw, backend, .. }) => {
                raw.collective(collective, x, &backend.stream())
            }
        }
    }

    /// `forward(x)`, whose gradient is `backward` of the gradient that comes to it.
    fn with_gradient(
        &self,
        x: &Array,
        forward: impl Fn(&Self, &Array) -> Result<Array> + Send + 'static,
        backward: impl Fn(&Self, &Array) -> Result<Array> + Send + 'static,
    ) -> Result<Array> {
        if self.is_alone() {
            return Ok(x.clone());
        }
        let (ours, theirs) = (self.clone(), self.clone());
        let outputs = ffi::custom_vjp(
            move |x| Ok(vec![forward(&ours, &x[0])?]),
            move |pass| Ok(vec![backward(&theirs, &pass.cotangents[0])?]),
            from_ref(x),
        )?;
        outputs.into_iter().next().ok_or_else(lost)
    }

    fn connected_to(&self, what: &'static str, peer: usize) -> Result<&Connected> {
        let (rank, world_size) = (self.rank(), self.world_size());
        let Some(connected) = self.parts().filter(|_| peer < world_size && peer != rank) else {
            return Err(self.no_peer(what, peer, ""));
        };
        if !connected.backend.has_send() {
            return Err(self.no_peer(what, peer, ": MLX has no such operation over NCCL"));
        }
        let is_neighbour = (rank + 1) % world_size == peer || (peer + 1) % world_size == rank;
        if connected.backend == super::Backend::Ring && !is_neighbour {
            return Err(self.no_peer(what, peer, ", as a ring connects neighbours alone; use mpi"));
        }
        Ok(connected)
    }

    fn no_peer(&self, what: &'static str, peer: usize, hint: &'static str) -> crate::Error {
        let (rank, world_size) = (self.rank(), self.world_size());
        DistributedError::Peer { what, rank, peer, world_size, hint }.into()
    }
}

fn lost() -> crate::Error {
    crate::Error::message("MLX lost a collective")
}
