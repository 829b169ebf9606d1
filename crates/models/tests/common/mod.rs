//! What the tests of the models share: building from a seed, and losses with gradients.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use mlx_rs::{Array, Dtype, transforms::eval};
use mlx_train_core::{
    Result, ffi,
    graph::{Graph, Operation},
    model::{BaseModel, FromConfig},
    rng,
};
use std::collections::BTreeMap;

/// A model whose weights are drawn from `seed`.
pub fn build<M: FromConfig>(config: &M::Config, seed: u64) -> M {
    let model = rng::scope(&rng::key(seed).unwrap(), || M::from_config(config)).unwrap();
    // So that graphs of what the model computes hold nothing of that.
    ffi::eval(model.parameters().flatten().into_values()).unwrap();
    model
}

/// Parameters by name, in order.
pub fn parameters(model: &dyn BaseModel) -> BTreeMap<String, Array> {
    let parameters = model.parameters().flatten();
    parameters.into_iter().map(|(name, array)| (name.to_string(), array.clone())).collect()
}

/// Puts arrays in the place of all parameters, which are in order of their names.
pub fn set_parameters<'a>(model: &mut dyn BaseModel, arrays: impl IntoIterator<Item = &'a Array>) {
    let parameters: BTreeMap<_, _> = model.parameters_mut().flatten().into_iter().collect();
    for (parameter, array) in parameters.into_values().zip(arrays) {
        *parameter = array.clone();
    }
}

/// Converts all parameters.
pub fn cast(model: &mut dyn BaseModel, dtype: Dtype) {
    for parameter in model.parameters_mut().flatten().into_values() {
        *parameter = parameter.as_dtype(dtype).unwrap();
    }
}

/// The loss, in evaluation or under a key of dropout.
pub fn loss(model: &mut dyn BaseModel, x: &Array, y: &Array, key: Option<&Array>) -> Result<Array> {
    let loss = match key {
        Some(key) => rng::scope(key, || model.loss_fn(x, y))?,
        None => model.loss_fn(x, y)?,
    };
    Ok(loss.value)
}

/// The loss and its gradient for every parameter, evaluated; the model is as before.
pub fn loss_and_grads(
    model: &mut dyn BaseModel,
    x: &Array,
    y: &Array,
    key: Option<&Array>,
) -> (Array, BTreeMap<String, Array>) {
    value_and_grads(model, |model| loss(model, x, y, key))
}

/// A value of the model and its gradient for every parameter, evaluated; the model is as before.
pub fn value_and_grads(
    model: &mut dyn BaseModel,
    mut value: impl FnMut(&mut dyn BaseModel) -> Result<Array>,
) -> (Array, BTreeMap<String, Array>) {
    let (names, before): (Vec<_>, Vec<_>) = parameters(model).into_iter().unzip();
    let every: Vec<_> = (0..before.len()).collect();
    let traced = |inputs: &[Array]| {
        set_parameters(model, inputs);
        Ok(vec![value(model)?])
    };
    let (values, grads) = ffi::value_and_grad(traced, &before, &every).unwrap();
    set_parameters(model, &before);
    eval(values.iter().chain(&grads)).unwrap();
    (values[0].clone(), names.into_iter().zip(grads).collect())
}

/// One step down the gradient, without dropout.
pub fn descend(model: &mut dyn BaseModel, x: &Array, y: &Array, rate: f32) {
    let (_, grads) = loss_and_grads(model, x, y, None);
    let rate = Array::from_f32(rate);
    let down = |(w, grad): (&Array, &Array)| w.subtract(grad.multiply(&rate).unwrap()).unwrap();
    let moved: Vec<_> = parameters(model).values().zip(grads.values()).map(down).collect();
    set_parameters(model, &moved);
}

/// A scalar `()` of any float dtype as a number.
pub fn number(scalar: &Array) -> f32 {
    scalar.as_type::<f32>().unwrap().try_item_exact().unwrap()
}

/// How many masks `f` draws: random bits behind its result, but for the pairs of keys that a key is split into.
pub fn num_draws(f: impl FnOnce() -> Result<Array>) -> usize {
    let graph = Graph::of(&[rng::scope(&rng::key(0).unwrap(), f).unwrap()]).unwrap();
    let is_mask = |operation: &&Operation| {
        operation.name == "RandomBits" && graph.array(operation.outputs[0]).shape != [2, 2]
    };
    graph.operations().iter().filter(is_mask).count()
}

/// All values of an array of any float dtype, row by row.
pub fn values(array: &Array) -> Vec<f32> {
    array.as_type::<f32>().unwrap().contiguous().unwrap().try_as_slice().unwrap().to_vec()
}

/// `max |a - b| / max |b|`: how far an array is from another, relative to that one's size.
pub fn distance(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (values(a), values(b));
    // `f32::max` would pass over a NaN.
    let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    let far = far.fold(0.0, |far, next| if next > far || next.is_nan() { next } else { far });
    let size = b.iter().map(|b| b.abs()).fold(0.0, f32::max);
    far / size.max(f32::MIN_POSITIVE)
}
