//! What passes between neighbouring stages.

use super::PipelineError;
use crate::{
    Array, Result,
    distributed::{Backend, Group},
    ffi,
};
use mlx_rs::{Device, Dtype, Stream};

/// Whether ranks of a group can be stages.
///
/// # Errors
/// [`PipelineError::NoSend`] when its backend passes nothing from one rank to another.
pub(crate) fn check_sends(group: &Group) -> Result<(), PipelineError> {
    match group.backend().filter(|backend| !backend.has_send()) {
        Some(backend) => Err(PipelineError::NoSend { backend }),
        None => Ok(()),
    }
}

/// A stage next to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    Previous,
    Next,
}

/// The connection of a stage to its neighbours, for one step.
pub(crate) struct Link {
    group: Group,
    streams: Streams,
    last_sent: Option<Array>,
}

/// Where messages wait: away from what is computed, where the backend allows it.
#[derive(Clone)]
struct Streams {
    sends: Stream,
    receives: Stream,
}

impl Streams {
    fn of(backend: Option<Backend>) -> Self {
        thread_local! {
            // A stream is a thread that MLX never ends, and belongs to the thread that made it.
            static OWN: Streams = Streams {
                sends: Stream::new_with_device(&Device::cpu()),
                receives: Stream::new_with_device(&Device::cpu()),
            };
        }
        match backend {
            Some(Backend::Ring) => OWN.with(Clone::clone),
            // MLX starts MPI without threads, so that all of its calls have to come from one.
            _ => Self { sends: Stream::cpu(), receives: Stream::cpu() },
        }
    }
}

impl Link {
    pub(crate) fn new(group: &Group) -> Self {
        let streams = Streams::of(group.backend());
        Self { group: group.clone(), streams, last_sent: None }
    }

    /// Records that an array comes from a neighbour; it does when it is computed. Arrays come in the order in which
    /// they are computed.
    pub(crate) fn receive(&self, shape: &[i32], dtype: Dtype, from: Neighbour) -> Result<Array> {
        self.group.receive_on(&self.streams.receives, shape, dtype, self.rank(from))
    }

    /// Begins to send an array that has been computed.
    pub(crate) fn send(&mut self, array: &Array, to: Neighbour) -> Result<()> {
        let sent = self.group.send_on(&self.streams.sends, array, self.rank(to))?;
        ffi::async_eval([&sent])?;
        // A stream works in order, so that all have gone when the last has.
        self.last_sent = Some(sent);
        Ok(())
    }

    /// Waits until all that was sent has gone.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.group.eval("a stage to take what was sent to it", self.last_sent.take().as_slice())
    }

    fn rank(&self, neighbour: Neighbour) -> usize {
        match neighbour {
            Neighbour::Previous => self.group.rank().wrapping_sub(1),
            Neighbour::Next => self.group.rank() + 1,
        }
    }
}
