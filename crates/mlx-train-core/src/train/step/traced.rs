//! A function of a step, run as it is or traced by MLX's compiler, and how often that happens.

use crate::{
    Result,
    ffi::{self, Compiled},
    train::TrainError,
};
use mlx_rs::{Array, Dtype};
use std::rc::Rc;

/// A function from lists of arrays to lists of arrays.
pub(super) type Function<'a> = Rc<dyn Fn(&[Array]) -> Result<Vec<Array>> + 'a>;

/// A function that is traced once for each kind of batch, and replayed after that.
pub(super) struct Traced<'a> {
    function: Function<'a>,
    compiled: Option<Compiled<'a>>,
    limit: Limit,
    /// The kinds of batches that there is a trace for.
    kinds: Vec<Kind>,
    /// Why a batch ran without a trace, the first time that one did.
    refused: Option<TrainError>,
    is_warned: bool,
}

/// What happens to a batch of a new kind when there are as many traces as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// It is refused.
    Refuse(usize),
    /// It runs without a trace, with a warning.
    Warn(usize),
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
    /// Traces `function` within `limit`; runs it as it is if there is none.
    ///
    /// # Errors
    /// When MLX fails.
    pub(super) fn new(function: Function<'a>, limit: Option<Limit>) -> Result<Self> {
        let compile = |_| {
            let function = Rc::clone(&function);
            ffi::compile(move |inputs| function(inputs), false)
        };
        let compiled = limit.map(compile).transpose()?;
        let limit = limit.unwrap_or(Limit::Warn(0));
        Ok(Self { function, compiled, limit, kinds: Vec::new(), refused: None, is_warned: false })
    }

    /// The outputs for `inputs`, among which are those of a `batch`.
    ///
    /// # Errors
    /// What the function returns; [`TrainError::TooManyTraces`] where such a batch is refused.
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
        let (Limit::Refuse(max_traces) | Limit::Warn(max_traces)) = self.limit;
        if self.kinds.len() < max_traces {
            let outputs = compiled.call(inputs)?;
            self.kinds.push(kind);
            return Ok(outputs);
        }
        let refused = too_many(&self.kinds, &kind);
        if matches!(self.limit, Limit::Refuse(_)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, slice::from_ref};

    /// Doubles its input, and counts how often it runs.
    fn double(runs: &Rc<Cell<usize>>) -> Function<'static> {
        let runs = Rc::clone(runs);
        Rc::new(move |x| {
            runs.set(runs.get() + 1);
            Ok(vec![x[0].add(&x[0])?])
        })
    }

    #[test]
    fn past_the_limit_new_kinds_run_untraced_with_one_warning_and_known_ones_are_replayed()
    -> Result<()> {
        let runs = Rc::default();
        let mut traced = Traced::new(double(&runs), Some(Limit::Warn(2)))?;
        let mut call = |length: i32| -> Result<Option<String>> {
            let x = Array::ones::<f32>(&[length])?;
            let doubled = traced.call(from_ref(&x), &[("x", &x)])?;
            assert_eq!(doubled[0].shape(), [length]);
            Ok(traced.take_refusal().map(|refused| refused.to_string()))
        };
        for (length, expected_runs) in [(1, 1), (2, 2), (1, 2), (2, 2)] {
            assert_eq!((call(length)?, runs.get()), (None, expected_runs));
        }
        let warning = call(3)?.expect("it is the third kind");
        assert!(warning.contains("`x` was Float32 [1], Float32 [2], Float32 [3]"), "{warning}");
        // Without a trace it runs each time; the traces of before go on.
        assert_eq!((call(3)?, call(4)?, runs.get()), (None, None, 5));
        assert_eq!((call(1)?, runs.get()), (None, 5));
        Ok(())
    }

    #[test]
    fn a_trace_that_fails_does_not_count() -> Result<()> {
        let fails = Rc::new(Cell::new(true));
        let failing = Rc::clone(&fails);
        let function: Function<'_> = Rc::new(move |x| {
            if failing.get() { Err(crate::Error::message("no")) } else { Ok(vec![x[0].square()?]) }
        });
        let mut traced = Traced::new(function, Some(Limit::Refuse(1)))?;
        let x = Array::from_f32(3.0);
        assert!(traced.call(from_ref(&x), &[("x", &x)]).is_err());
        assert_eq!(traced.num_traces(), 0);
        fails.set(false);
        let outputs = traced.call(from_ref(&x), &[("x", &x)])?;
        assert_eq!(outputs[0].try_item_cast::<f32>()?.to_bits(), 9.0_f32.to_bits());
        assert_eq!(traced.num_traces(), 1);
        Ok(())
    }
}
