//! What the ranks of a run tell each other between steps.

use super::StopReason;
use crate::{
    Error, Result,
    distributed::{Group, Mesh},
    ffi,
};
use mlx_rs::Array;
use std::slice::from_ref;

/// All ranks of a run, as far as they decide things together; every call is one of all ranks, in the same order.
#[derive(Debug, Clone)]
pub(super) struct Ranks {
    group: Group,
}

/// What any rank knows that ends a run or makes it save: the same on all ranks after [`Ranks::agree_on`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// The run was asked to stop, or its time is over; of both, the one who asks counts.
    pub(super) stop: Option<StopReason>,
    /// `checkpoint.every_minutes` are over since the last one.
    pub(super) is_late: bool,
    /// Something of a checkpoint is being written.
    pub(super) is_saving: bool,
}

/// Signs on their way to all ranks.
#[derive(Debug)]
pub(super) struct Question {
    group: Group,
    own: Signs,
    /// Of each as a number, the largest that any rank has; of a process alone there is none.
    any: Option<Array>,
}

impl Question {
    /// The signs that any rank has.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn answer(self) -> Result<Signs> {
        let Some(any) = self.any else { return Ok(self.own) };
        self.group.eval("the other ranks after a step", from_ref(&any))?;
        let &[stop, is_late, is_saving] = any.try_as_slice::<i32>()? else {
            return Err(Error::message("MLX lost what ranks agree on"));
        };
        let stop = REASONS.get(stop as usize).copied().flatten();
        Ok(Signs { stop, is_late: is_late > 0, is_saving: is_saving > 0 })
    }
}

/// As numbers they are their places.
const REASONS: [Option<StopReason>; 3] =
    [None, Some(StopReason::MaxMinutes), Some(StopReason::Signal)];

impl Ranks {
    pub(super) fn of(mesh: &Mesh) -> Self {
        Self { group: mesh.all().clone() }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.group.is_alone()
    }

    /// Whether this one prints and writes for all.
    pub(super) fn is_first(&self) -> bool {
        self.group.is_first()
    }

    pub(super) fn rank(&self) -> usize {
        self.group.rank()
    }

    pub(super) fn world_size(&self) -> usize {
        self.group.world_size()
    }

    /// The signs that any rank has; three numbers travel, and none of a process alone.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn agree_on(&self, own: Signs) -> Result<Signs> {
        self.ask(own)?.answer()
    }

    /// As [`Ranks::agree_on`], but does not wait for the others.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn ask(&self, own: Signs) -> Result<Question> {
        let mut any = None;
        if !self.is_alone() {
            let Signs { stop, is_late, is_saving } = own;
            let stop = REASONS.iter().position(|reason| *reason == stop).unwrap_or_default() as i32;
            let own = [stop, i32::from(is_late), i32::from(is_saving)];
            let largest = self.group.all_max(&Array::from_slice(&own, &[3]))?;
            ffi::async_eval([&largest])?;
            any = Some(largest);
        }
        Ok(Question { group: self.group.clone(), own, any })
    }

    /// The texts of all ranks, in their order.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn texts(&self, own: &str) -> Result<Vec<String>> {
        let texts = self.group.gather_bytes(own.as_bytes())?.into_iter();
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
    }

    /// The text of rank 0.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn text_of_first(&self, own: impl FnOnce() -> String) -> Result<String> {
        let own = if self.is_first() { own() } else { String::new() };
        Ok(self.texts(&own)?.swap_remove(0))
    }

    /// As [`Group::agree`].
    ///
    /// # Errors
    /// As [`Group::agree`].
    pub(super) fn agree<T>(&self, result: Result<T>) -> Result<T> {
        self.group.agree(result)
    }
}
