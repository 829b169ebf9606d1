//! A model that ranks divide, beside the same model on one of them.

use mlx_train_core::{
    Array, ModuleParameters, Result,
    distributed::{Group, Placement, Split, Splits},
    ffi,
    model::{BaseModel, shard},
};
use parity::assert_close;
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// Arrays by the name of their parameter.
pub type Named = BTreeMap<Rc<str>, Array>;

/// The parameters of a model.
pub fn parameters(model: &impl ModuleParameters) -> Named {
    model.parameters().flatten().into_iter().map(|(name, value)| (name, value.clone())).collect()
}

/// Puts values in their place.
pub fn set(model: &mut impl ModuleParameters, values: &Named) {
    for (name, parameter) in model.parameters_mut().flatten() {
        *parameter = values[&name].clone();
    }
}

/// This rank's part of whole arrays.
pub fn parts(whole: &Named, splits: &Splits, group: &Group) -> Result<Named> {
    let (parts, part) = (group.world_size(), group.rank());
    let part_of = |name: &str, whole: &Array| match splits.axis(name) {
        None => Ok(whole.clone()),
        Some(axis) => {
            Placement::whole(whole.shape()).split(Split { axis, parts, part })?.slice(whole)
        }
    };
    whole.iter().map(|(name, whole)| Ok((name.clone(), part_of(name, whole)?))).collect()
}

/// The same model, divided among the ranks.
pub fn divided<M: BaseModel + Clone>(whole: &M, group: &Group) -> Result<(M, Splits)> {
    let mut model = whole.clone();
    let splits = shard(&mut model, group)?;
    let parts = parts(&parameters(whole), &splits, group)?;
    set(&mut model, &parts);
    Ok((model, splits))
}

/// The value of `loss`, a scalar, and its gradients for `x`, unless that is of integers, and for every parameter.
pub fn gradients<M: ModuleParameters>(
    model: &mut M,
    x: &Array,
    loss: impl Fn(&mut M, &Array) -> Result<Array>,
) -> Result<(Array, Option<Array>, Named)> {
    let own = parameters(model);
    let names: Vec<Rc<str>> = own.keys().cloned().collect();
    let inputs: Vec<Array> = own.values().chain([x]).cloned().collect();
    let is_number = x.dtype().is_inexact();
    let num_arguments = names.len() + usize::from(is_number);
    let arguments: Vec<usize> = (0..num_arguments).collect();
    let model = RefCell::new(model);
    let f = |inputs: &[Array]| {
        let values = names.iter().cloned().zip(inputs.iter().cloned()).collect();
        let mut model = model.borrow_mut();
        set(&mut **model, &values);
        Ok(vec![loss(&mut model, &inputs[names.len()])?])
    };
    let (mut value, mut gradients) = ffi::value_and_grad(f, &inputs, &arguments)?;
    set(&mut **model.borrow_mut(), &own);
    let of_x = is_number.then(|| gradients.pop()).flatten();
    Ok((value.remove(0), of_x, names.iter().cloned().zip(gradients).collect()))
}

/// Asserts that ranks that divide `whole` compute the value and the gradients of `loss` that one of them does.
pub fn assert_same<M: BaseModel + Clone>(
    what: &str,
    whole: &M,
    group: &Group,
    x: &Array,
    loss: impl Fn(&mut M, &Array) -> Result<Array> + Copy,
) -> Result<()> {
    let (value, of_x, of_parameters) = gradients(&mut whole.clone(), x, loss)?;
    let (mut model, splits) = divided(whole, group)?;
    let (our_value, our_of_x, ours) = gradients(&mut model, x, loss)?;
    group.eval(
        "losses and gradients",
        [&our_value].into_iter().chain(&our_of_x).chain(ours.values()),
    )?;
    // Sums over ranks are added up in another order.
    assert_close(what, &our_value, &value, 1e-5, 1e-6);
    if let (Some(ours), Some(whole)) = (our_of_x, of_x) {
        assert_close(&format!("{what}, x"), &ours, &whole, 1e-4, 1e-5);
    }
    for (name, whole) in parts(&of_parameters, &splits, group)? {
        assert_close(&format!("{what}, {name}"), &ours[&name], &whole, 1e-4, 1e-5);
    }
    Ok(())
}
