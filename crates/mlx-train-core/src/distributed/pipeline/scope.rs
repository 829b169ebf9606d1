//! The part of a model's stack that runs on a thread for a while.
//!
//! A stage is the model's own loss: [`Stack`](crate::nn::Stack) runs the blocks of the stage alone, on what the stage
//! before has computed, and unless it is the last one ends the loss there. MLX computes nothing that is not asked for,
//! so whatever leads to the stack costs a later stage next to nothing.

use super::PipelineError;
use crate::{Array, Error, Result, checkpoint, rng};
use mlx_rs::Dtype;
use std::{
    cell::RefCell,
    mem::replace,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// What the stacks that run on this thread do.
struct Scope {
    role: Role,
    /// Whether a stack runs now: those in its blocks are whole.
    is_inside: bool,
    num_runs: usize,
}

enum Role {
    /// They run as they are, and are looked at.
    Survey(Survey),
    /// They run some of their blocks.
    Stage { blocks: Range<usize>, input: Option<Array>, is_last: bool, output: Option<Array> },
}

/// What is between the blocks of a stack.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Survey {
    /// The input of each block, and at the end the output of the last: shape and dtype.
    pub(crate) boundaries: Vec<(Vec<i32>, Dtype)>,
}

impl Survey {
    /// How many blocks there are.
    pub(crate) fn num_blocks(&self) -> usize {
        self.boundaries.len().saturating_sub(1)
    }
}

/// What a stage has computed.
pub(crate) enum Ended<T> {
    /// The output of its last block, for the next stage.
    Output(Array),
    /// What the model returns; this is the last stage.
    Whole(T),
}

/// Runs the loss `f` of a model whole, and tells what is between the blocks of its one stack.
///
/// # Errors
/// What `f` returns; [`PipelineError`] unless it runs one stack.
pub(crate) fn survey<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Survey)> {
    let (value, scope) = within(Role::Survey(Survey::default()), f);
    let value = value?;
    match (scope.num_runs, scope.role) {
        (1, Role::Survey(survey)) => Ok((value, survey)),
        (0, _) => Err(PipelineError::NoStack.into()),
        (num_stacks, _) => Err(PipelineError::SeveralStacks { num_stacks }.into()),
    }
}

/// Runs the part of the loss `f` that belongs to a stage: these blocks of the stack, from `input` on unless the stage
/// is the first.
///
/// # Errors
/// What `f` returns before the stage ends; [`PipelineError::NotRun`] when it runs no stack.
pub(crate) fn stage<T>(
    blocks: Range<usize>,
    input: Option<Array>,
    is_last: bool,
    f: impl FnOnce() -> Result<T>,
) -> Result<Ended<T>> {
    let (value, scope) = within(Role::Stage { blocks, input, is_last, output: None }, f);
    match scope.role {
        // Whatever the model has made of the error that ended it.
        Role::Stage { output: Some(output), .. } => Ok(Ended::Output(output)),
        _ if scope.num_runs == 0 => {
            value?;
            Err(PipelineError::NotRun.into())
        }
        _ => Ok(Ended::Whole(value?)),
    }
}

/// What of a stack is to run.
pub(crate) struct Cut {
    pub(crate) blocks: Range<usize>,
    /// What the first of them gets in the place of the stack's input.
    input: Option<Array>,
    is_surveyed: bool,
}

impl Cut {
    /// Notes what goes into the next block.
    pub(crate) fn note(&self, x: &Array) {
        if !self.is_surveyed {
            return;
        }
        SCOPE.with_borrow_mut(|scope| {
            if let Some(Scope { role: Role::Survey(survey), .. }) = scope {
                survey.boundaries.push((x.shape().to_vec(), x.dtype()));
            }
        });
    }
}

/// Runs the blocks of a stack that are to run here: `run` maps the input of the first of them to the output of the last.
///
/// # Errors
/// What `run` returns; where a stage ends, an error that the model has to pass on.
pub(crate) fn run_blocks(
    x: Array,
    num_blocks: usize,
    run: impl FnOnce(Array, &Cut) -> Result<Array>,
) -> Result<Array> {
    let Some(mut cut) = begin(num_blocks)? else {
        return run(x, &Cut { blocks: 0..num_blocks, input: None, is_surveyed: false });
    };
    // Every block has a fork of its own, so those that run elsewhere are counted.
    (0..cut.blocks.start).try_for_each(|_| rng::fork(|| Ok(())))?;
    let input = cut.input.take().unwrap_or(x);
    let output = run(input, &cut);
    if let Ok(output) = &output {
        cut.note(output);
    }
    SCOPE.with_borrow_mut(|scope| {
        let Some(scope) = scope else { return output };
        scope.is_inside = false;
        match &mut scope.role {
            Role::Stage { is_last: false, output: place, .. } => {
                *place = Some(output?);
                Err(Error::message(
                    "the stage of a pipeline ends here; a model passes this error on as it is",
                ))
            }
            _ => output,
        }
    })
}

/// Begins to run a stack; `None` for one that is not cut.
fn begin(num_blocks: usize) -> Result<Option<Cut>> {
    SCOPE.with_borrow_mut(|scope| {
        let Some(scope) = scope else { return Ok(None) };
        if replace(&mut scope.is_inside, true) {
            return Ok(None);
        }
        scope.num_runs += 1;
        if checkpoint::is_inside() {
            return Err(PipelineError::Checkpointed.into());
        }
        Ok(Some(match &scope.role {
            Role::Survey(_) => Cut { blocks: 0..num_blocks, input: None, is_surveyed: true },
            Role::Stage { blocks, input, .. } => {
                Cut { blocks: blocks.clone(), input: input.clone(), is_surveyed: false }
            }
        }))
    })
}

/// Runs `f` in a scope of its own, and returns that with what `f` returns.
fn within<T>(role: Role, f: impl FnOnce() -> Result<T>) -> (Result<T>, Scope) {
    let scope = Scope { role, is_inside: false, num_runs: 0 };
    let outer = SCOPE.replace(Some(scope));
    let result = catch_unwind(AssertUnwindSafe(f));
    let scope = SCOPE.replace(outer);
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    // Nothing inside of `f` takes the scope away.
    let lost = || Scope { role: Role::Survey(Survey::default()), is_inside: false, num_runs: 0 };
    (result, scope.unwrap_or_else(lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Stack};
    use mlx_rs::module::Module;

    /// A model of four blocks that double, between an addition of 1 and one of 1000.
    fn model(doubling: &mut Stack<Linear>, x: &Array) -> Result<Array> {
        let x = x.add(Array::from_f32(1.0))?;
        let y = doubling.forward(x, |layer, _, x| Ok(layer.forward(&x)?))?;
        Ok(y.add(Array::from_f32(1000.0))?)
    }

    fn doubling(num_blocks: usize) -> Result<Stack<Linear>> {
        (0..num_blocks)
            .map(|_| {
                let mut layer = Linear::new(1, 1)?;
                layer.weight.value = Array::from_slice(&[2.0_f32], &[1, 1]);
                layer.bias.value = None;
                Ok(layer)
            })
            .collect()
    }

    fn number(array: &Array) -> Result<f32> {
        Ok(array.reshape(&[])?.try_item_exact::<f32>()?)
    }

    #[test]
    fn stages_one_after_the_other_are_the_whole_model() -> Result<()> {
        let mut blocks = doubling(4)?;
        let x = Array::from_slice(&[3.0_f32], &[1, 1]);
        let whole = number(&model(&mut blocks, &x)?)?;
        let mut received = None;
        for range in [0..1, 1..3] {
            let Ended::Output(output) = stage(range, received, false, || model(&mut blocks, &x))?
            else {
                panic!("it is not the last stage");
            };
            received = Some(output);
        }
        let last = stage(3..4, received, true, || model(&mut blocks, &x))?;
        let Ended::Whole(output) = last else { panic!("it is the last stage") };
        assert_eq!((number(&output)?, whole), (1064.0, 1064.0));
        Ok(())
    }

    #[test]
    fn a_survey_tells_what_is_between_blocks_and_refuses_none_or_several_stacks() -> Result<()> {
        let mut blocks = doubling(3)?;
        let x = Array::zeros::<f32>(&[2, 1])?;
        let (_, found) = survey(|| model(&mut blocks, &x))?;
        assert_eq!(found.num_blocks(), 3);
        assert!(found.boundaries.iter().all(|it| *it == (vec![2, 1], Dtype::Float32)));

        let none = survey(|| Ok(x.clone())).unwrap_err();
        assert!(matches!(none, Error::Pipeline(PipelineError::NoStack)), "{none}");
        let twice = survey(|| {
            let x = model(&mut blocks, &x)?;
            model(&mut blocks, &x)
        });
        let twice = twice.unwrap_err();
        let expected = PipelineError::SeveralStacks { num_stacks: 2 };
        assert!(matches!(&twice, Error::Pipeline(error) if *error == expected), "{twice}");
        Ok(())
    }

    #[test]
    fn an_error_of_the_model_is_its_own_and_the_end_of_a_stage_is_none() -> Result<()> {
        let mut blocks = doubling(2)?;
        let x = Array::zeros::<f32>(&[1, 1])?;
        let refused = stage(0..1, None, false, || {
            blocks.forward(x.clone(), |_, _, _| Err(Error::message("a block refuses")))
        });
        assert_eq!(refused.err().map(|it| it.to_string()).as_deref(), Some("a block refuses"));
        // A model may write the error down in words of its own.
        let ended = stage(0..1, None, false, || {
            model(&mut blocks, &x).map_err(|error| Error::message(format!("my model: {error}")))
        })?;
        assert!(matches!(ended, Ended::Output(_)));
        let not_run = stage(0..1, None, false, || Ok(())).err();
        assert!(matches!(not_run, Some(Error::Pipeline(PipelineError::NotRun))));
        // Nothing is left behind.
        assert_eq!(number(&model(&mut blocks, &x)?)?.to_bits(), 1004.0_f32.to_bits());
        Ok(())
    }

    #[test]
    fn stacks_in_blocks_are_whole_and_blocks_draw_as_in_the_whole_model() -> Result<()> {
        #[derive(Debug, Clone, crate::ModuleParameters)]
        struct Outer {
            #[param]
            inner: Stack<Linear>,
        }
        let mut outer: Stack<Outer> =
            (0..3).map(|_| Ok(Outer { inner: doubling(2)? })).collect::<Result<_>>()?;
        let mut run = |x: Array| {
            outer.forward(x, |block, _, x| {
                let y = block.inner.forward(x, |layer, _, x| Ok(layer.forward(&x)?))?;
                let key = rng::next_key()?.map(|key| key.as_dtype(Dtype::Float32)?.sum(false));
                Ok(key.transpose()?.map_or(Ok(y.clone()), |key| y.add(key))?)
            })
        };
        let x = Array::from_slice(&[1.0_f32], &[1, 1]);
        let key = rng::key(3)?;
        let whole = rng::scope(&key, || run(x.clone()))?;
        let first = rng::scope(&key, || stage(0..2, None, false, || run(x.clone())))?;
        let Ended::Output(output) = first else { panic!("it is not the last stage") };
        let last = rng::scope(&key, || stage(2..3, Some(output), true, || run(x.clone())))?;
        let Ended::Whole(output) = last else { panic!("it is the last stage") };
        assert_eq!(number(&output)?.to_bits(), number(&whole)?.to_bits());
        Ok(())
    }
}
