//! A function of a step, run as it is or traced by MLX's compiler, and how often that happens.

use super::CompileMode;
use crate::{
    Result,
    ffi::{self, Compiled},
    train::TrainError,
};
use mlx_rs::{Array, Device, DeviceType, Dtype};
use std::rc::Rc;

/// A function from lists of arrays to lists of arrays.
pub(super) type Function<'a> = Rc<dyn Fn(&[Array]) -> Result<Vec<Array>> + 'a>;

/// A function that is traced once for each kind of batch, and replayed after that.
pub(super) struct Traced<'a> {
    function: Function<'a>,
    compiled: Option<Compiled<'a>>,
    mode: CompileMode,
    max_traces: usize,
    /// The kinds of batches that there is a trace for.
    kinds: Vec<Kind>,
    /// Why a batch ran without a trace, the first time that one did.
    refused: Option<TrainError>,
    is_warned: bool,
}

/// What a trace fits: the name, shape and dtype of each input that may change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind(Vec<Input>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    name: &'static str,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl<'a> Traced<'a> {
    /// # Errors
    /// When MLX fails.
    pub(super) fn new(
        function: Function<'a>,
        mode: CompileMode,
        max_traces: usize,
    ) -> Result<Self> {
        let is_compiled = match mode {
            CompileMode::On => true,
            CompileMode::Off => false,
            CompileMode::Auto => matches!(Device::try_default()?.get_type()?, DeviceType::Gpu),
        };
        let compile = || {
            let function = Rc::clone(&function);
            ffi::compile(move |inputs| function(inputs), false)
        };
        let compiled = is_compiled.then(compile).transpose()?;
        Ok(Self {
            function,
            compiled,
            mode,
            max_traces,
            kinds: Vec::new(),
            refused: None,
            is_warned: false,
        })
    }

    /// The outputs for `inputs`, among which are those of a `batch`.
    ///
    /// # Errors
    /// What the function returns; [`TrainError::TooManyTraces`] where every step has to be compiled.
    pub(super) fn call(
        &mut self,
        inputs: &[Array],
        batch: &[(&'static str, &Array)],
    ) -> Result<Vec<Array>> {
        let Some(compiled) = &mut self.compiled else { return (self.function)(inputs) };
        let input = |&(name, array): &(_, &Array)| {
            let (shape, dtype) = (array.shape().to_vec(), array.dtype());
            Input { name, shape, dtype }
        };
        let kind = Kind(batch.iter().map(input).collect());
        if self.kinds.contains(&kind) {
            return compiled.call(inputs);
        }
        if self.kinds.len() < self.max_traces {
            let outputs = compiled.call(inputs)?;
            self.kinds.push(kind);
            return Ok(outputs);
        }
        let refused = too_many(&self.kinds, &kind);
        if self.mode == CompileMode::On {
            return Err(refused.into());
        }
        if !self.is_warned {
            (self.refused, self.is_warned) = (Some(refused), true);
        }
        (self.function)(inputs)
    }

    /// Whether there are traces, or will be.
    pub(super) fn is_compiled(&self) -> bool {
        self.compiled.is_some()
    }

    /// How many traces there are.
    pub(super) fn num_traces(&self) -> usize {
        self.kinds.len()
    }

    /// Why a batch ran without a trace: told once.
    pub(super) fn take_refusal(&mut self) -> Option<TrainError> {
        self.refused.take()
    }
}

/// Says which input came in too many kinds: the one that has changed most often.
fn too_many(seen: &[Kind], new: &Kind) -> TrainError {
    let kinds = || seen.iter().chain([new]);
    let forms = |name: &str| {
        let mut forms: Vec<String> = Vec::new();
        for Input { shape, dtype, .. } in
            kinds().flat_map(|kind| &kind.0).filter(|input| input.name == name)
        {
            let form = format!("{dtype:?} {shape:?}");
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    };
    let by_name = new.0.iter().map(|input| (input.name, forms(input.name)));
    // The first of those that changed equally often: targets change because inputs do.
    let most = by_name.rev().max_by_key(|(_, forms)| forms.len());
    let (input, shapes) = most.unwrap_or_default();
    TrainError::TooManyTraces { limit: seen.len(), input: input.to_owned(), shapes }
}
