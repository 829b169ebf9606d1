//! Everything in a step can be traced: nothing asks the device for a number.

use super::{
    named,
    updates::{NAMES, gradients, optimizers, parameters},
};
use mlx_train_core::{
    Array, Result, ffi,
    optim::{Clip, Group, OptimizerState, ParameterGroups, apply, round_stochastically},
    rng,
};

/// Traces a function and replays it with other inputs; the outputs are not computed, which on a CPU
/// would start a C++ compiler.
fn assert_traced_once(
    what: &str,
    inputs: &[Array],
    f: impl Fn(&[Array]) -> Result<Vec<Array>>,
) -> Result<()> {
    let mut runs = 0;
    let mut traced = ffi::compile(
        |inputs| {
            runs += 1;
            f(inputs)
        },
        false,
    )?;
    let outputs = traced.call(inputs)?;
    let doubled: Vec<_> = inputs.iter().map(|x| x.add(x)).collect::<Result<_, _>>()?;
    assert_eq!(traced.call(&doubled)?.len(), outputs.len());
    drop(traced);
    assert_eq!(runs, 1, "{what}");
    Ok(())
}

#[test]
fn every_update_is_traced_once() -> Result<()> {
    let mut all = optimizers()?;
    let clipped = Group::new(["layer.*"])?.max_grad_norm(0.5)?.learning_rate_scale(0.1)?;
    all.push(Box::new(ParameterGroups::new(optimizers()?.remove(0)).group(clipped)));
    for optimizer in all {
        let state = OptimizerState::new(&*optimizer, named(&NAMES, &parameters()))?;
        let numbers = [Array::from_f32(0.1), Array::from_f32(1.0)];
        let inputs = [
            &parameters()[..],
            &gradients()?,
            &numbers,
            &state.arrays().cloned().collect::<Vec<_>>(),
        ]
        .concat();
        assert_traced_once(&format!("{optimizer:?}"), &inputs, |inputs| {
            let (values, rest) = inputs.split_at(NAMES.len());
            let (gradients, rest) = rest.split_at(NAMES.len());
            let [rate, step, arrays @ ..] = rest else { panic!("inputs are lost") };
            let state = state.with_arrays(arrays.iter().cloned())?;
            let (values, state) = apply(&*optimizer, values, gradients, &state, rate, step)?;
            Ok([values, state.arrays().cloned().collect()].concat())
        })?;
    }
    Ok(())
}

#[test]
fn clipping_and_rounding_are_traced_once() -> Result<()> {
    let clip = Clip::default().value(1.0)?.global_norm(0.5)?;
    assert_traced_once("clipping", &gradients()?, |gradients| {
        let clipped = clip.apply(gradients)?;
        Ok([clipped.gradients, vec![clipped.norms.total], clipped.norms.squares].concat())
    })?;
    let inputs = [gradients()?.remove(0), rng::key(1)?];
    assert_traced_once("rounding", &inputs, |x| Ok(vec![round_stochastically(&x[0], &x[1])?]))
}
