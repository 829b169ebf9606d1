//! Blocks and parts as layers that a profile measures.

use super::{
    Modules, Outputs,
    module::{Lent, checkpointed},
    modules::{parameters, set_parameters},
};
use crate::{
    Array, Result,
    profile::{self, Layer},
    rng,
};
use std::marker::PhantomData;

/// `f(modules, inputs)` as a layer of a pass that measures.
///
/// Its costs are those of training, so it is checkpointed for them where `is_checkpointed`. Its outputs are
/// computed without, so that the layers in it can be measured in their turn.
pub(crate) fn measured<S, O, F>(
    name: &str,
    modules: S,
    inputs: &[Array],
    is_checkpointed: bool,
    f: F,
) -> Result<O>
where
    S: Modules,
    O: Outputs,
    F: Fn(Lent<'_, S>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    let mut measured = Measured { modules, is_checkpointed, f, outputs: PhantomData };
    O::from_arrays(profile::measure(name, &mut measured, inputs)?)
}

struct Measured<S, O, F> {
    modules: S,
    is_checkpointed: bool,
    f: F,
    outputs: PhantomData<O>,
}

impl<S, O, F> Layer for Measured<S, O, F>
where
    S: Modules,
    O: Outputs,
    F: Fn(Lent<'_, S>, &[Array]) -> Result<O> + Copy + Send + 'static,
{
    fn trained(&mut self) -> Vec<Array> {
        let all = parameters::<S::Copies>(self.modules.lend()).into_iter();
        all.filter(|(_, is_trained)| *is_trained).map(|(value, _)| value).collect()
    }

    fn set_trained(&mut self, values: &[Array]) {
        let all = parameters::<S::Copies>(self.modules.lend());
        let mut values = values.iter();
        let new = all.iter().map(|(_, is_trained)| is_trained.then(|| values.next()).flatten());
        let new: Vec<Option<&Array>> = new.collect();
        set_parameters::<S::Copies>(self.modules.lend(), |index| new.get(index)?.cloned());
    }

    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        if !self.is_checkpointed {
            return self.run_plainly(inputs);
        }
        checkpointed(&mut self.modules, inputs, self.f).map(O::into_arrays)
    }

    fn run_plainly(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        rng::fork(|| (self.f)(self.modules.lend(), inputs)).map(O::into_arrays)
    }
}
