//! Gradients of one call: value and gradient, vector-Jacobian and Jacobian-vector products.

use super::{
    call::call,
    closure::Closure,
    graph::{Nodes, depends, graph_text},
    vector::Vector,
};
use crate::{Array, Error, Result};
use mlx_rs::{Dtype, stop_gradient};
use mlx_sys::mlx_closure_value_and_grad;
use std::{cell::RefCell, slice::from_ref};

thread_local! {
    /// What the functions that run on this thread, one inside of another, are differentiated by.
    static DIFFERENTIATED: RefCell<Vec<Vec<Array>>> = const { RefCell::new(Vec::new()) };
}

/// Whether a function that [`value_and_grad`] or [`vjp`] differentiates runs on this thread now.
///
/// A function with a gradient of its own ([`custom_vjp`](super::custom_vjp())) asks it to decide whether
/// it computes that gradient along with its value. Transformations of other libraries are not seen.
pub fn is_differentiating() -> bool {
    DIFFERENTIATED.with_borrow(|functions| !functions.is_empty())
}

/// Whether an array is computed from anything that the functions which run now are differentiated by.
///
/// What is not needs no gradient: a frozen weight, say, however it is cast before it is used. The question
/// takes as long as the graph behind the array is large.
///
/// # Errors
/// When MLX fails.
pub fn needs_gradient(array: &Array) -> Result<bool> {
    // MLX's own names are capital letters.
    const NAME: &str = "differentiated";
    let by: Vec<Array> = DIFFERENTIATED.with_borrow(|functions| functions.concat());
    if by.is_empty() {
        return Ok(false);
    }
    if Nodes::of(&by)?.contains(array)? {
        return Ok(true);
    }
    Ok(graph_text(from_ref(array), by.iter().map(|input| (input, NAME)))?.contains(NAME))
}

/// Runs a function that is differentiated by these of its inputs.
fn differentiated<T>(by: impl Iterator<Item = Array>, f: impl FnOnce() -> T) -> T {
    /// Forgets them also where `f` panics.
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            drop(DIFFERENTIATED.with_borrow_mut(Vec::pop));
        }
    }
    let by = by.collect();
    DIFFERENTIATED.with_borrow_mut(|functions| functions.push(by));
    let _inside = Inside;
    f()
}

/// The outputs of `f` at `inputs`, and the gradient of its first output for each of `argnums`.
///
/// The first output is the loss and must be a scalar; the others are carried along and get no
/// gradient. Gradients come in the order of `argnums`, each with the shape and dtype of its input.
/// Only what is in `inputs` gets a gradient: an array that `f` captured is a constant.
///
/// `f` runs once, now, and what it computes is not evaluated.
///
/// ```
/// use mlx_train_core::{Array, ffi};
/// let x = Array::from_f32(3.0);
/// let (value, grads) = ffi::value_and_grad(|x| Ok(vec![x[0].square()?]), &[x], &[0])?;
/// assert_eq!(value[0].try_item_cast::<f32>().ok(), Some(9.0));
/// assert_eq!(grads[0].try_item_cast::<f32>().ok(), Some(6.0));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// What `f` returns; when `argnums` is empty, repeats itself, leaves `inputs` or names integers; when
/// the first output is not a scalar; or when MLX fails.
pub fn value_and_grad<F>(
    f: F,
    inputs: &[Array],
    argnums: &[usize],
) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: FnMut(&[Array]) -> Result<Vec<Array>>,
{
    let sorted = sorted_argnums(argnums, inputs)?;
    let f = once_at_a_time(f);
    let closure = Closure::new(|inputs| {
        let by = sorted.iter().map(|&argnum| inputs[argnum as usize].clone());
        let outputs = differentiated(by, || f(inputs))?;
        let Some(loss) = outputs.first() else {
            return Err(Error::message("value_and_grad: the function returned no loss"));
        };
        if loss.ndim() != 0 {
            return Err(Error::message(format!(
                "value_and_grad: the loss, the first output, has shape {:?}; \
                 reduce it to a scalar with `mean` or `sum`",
                loss.shape()
            )));
        }
        Ok(outputs)
    })?;
    let transformed = ValueAndGrad::new(&closure, &sorted)?;
    let inputs = Vector::from_arrays(inputs)?;
    let (mut outputs, mut grads) = (Vector::new(), Vector::new());
    // SAFETY: all handles are alive during the call, and MLX keeps none of them.
    call(|| unsafe {
        mlx_sys::mlx_closure_value_and_grad_apply(
            outputs.out(),
            grads.out(),
            transformed.0,
            inputs.raw(),
        )
    })?;
    // MLX returns them by ascending position.
    let grads = grads.to_arrays()?;
    let in_order = |&argnum: &usize| {
        sorted
            .binary_search(&(argnum as i32))
            .ok()
            .and_then(|at| grads.get(at))
            .cloned()
            .ok_or_else(|| Error::message(format!("MLX returned no gradient for input {argnum}")))
    };
    Ok((outputs.to_arrays()?, argnums.iter().map(in_order).collect::<Result<_>>()?))
}

/// The outputs of `f` at `inputs`, and `cotangents^T J`: one array for each input, of its shape;
/// zeros for integers.
///
/// `cotangents` has one array for each output, of its shape. `f` runs once, now.
///
/// # Errors
/// What `f` returns; when the cotangents do not fit its outputs; or when MLX fails.
pub fn vjp<F>(f: F, inputs: &[Array], cotangents: &[Array]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: FnMut(&[Array]) -> Result<Vec<Array>>,
{
    let f = once_at_a_time(f);
    let closure = Closure::new(|inputs| {
        let inputs = stop_integers(inputs)?;
        let outputs = differentiated(inputs.iter().cloned(), || f(&inputs))?;
        check_same_shapes("vjp: cotangent", cotangents, "output", &outputs)?;
        keep_cotangents_in_place(outputs)
    })?;
    let (inputs, cotangents) = (Vector::from_arrays(inputs)?, Vector::from_arrays(cotangents)?);
    let (mut outputs, mut products) = (Vector::new(), Vector::new());
    // SAFETY: all handles are alive during the call, and MLX keeps none of them.
    call(|| unsafe {
        mlx_sys::mlx_vjp(
            outputs.out(),
            products.out(),
            closure.raw(),
            inputs.raw(),
            cotangents.raw(),
        )
    })?;
    Ok((outputs.to_arrays()?, products.to_arrays()?))
}

/// The outputs of `f` at `inputs`, and `J tangents`: one array for each output, of its shape.
///
/// `tangents` has one array for each input, of its shape. `f` runs once, now.
///
/// # Errors
/// What `f` returns; when the tangents do not fit the inputs; or when MLX fails.
pub fn jvp<F>(f: F, inputs: &[Array], tangents: &[Array]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: FnMut(&[Array]) -> Result<Vec<Array>>,
{
    check_same_shapes("jvp: tangent", tangents, "input", inputs)?;
    let closure = Closure::new(once_at_a_time(f))?;
    let (inputs, tangents) = (Vector::from_arrays(inputs)?, Vector::from_arrays(tangents)?);
    let (mut outputs, mut products) = (Vector::new(), Vector::new());
    // SAFETY: all handles are alive during the call, and MLX keeps none of them.
    call(|| unsafe {
        mlx_sys::mlx_jvp(outputs.out(), products.out(), closure.raw(), inputs.raw(), tangents.raw())
    })?;
    Ok((outputs.to_arrays()?, products.to_arrays()?))
}

/// A closure that changes what it captured, behind a shared reference: MLX may call one again while
/// it runs, and this refuses.
pub(super) fn once_at_a_time<F>(f: F) -> impl Fn(&[Array]) -> Result<Vec<Array>>
where
    F: FnMut(&[Array]) -> Result<Vec<Array>>,
{
    let f = RefCell::new(f);
    move |inputs| match f.try_borrow_mut() {
        Ok(mut f) => f(inputs),
        Err(_) => Err(Error::message(
            "a transformed function was called again while it ran; a function that changes what it \
             captured cannot call itself",
        )),
    }
}

/// MLX's vjp gives no cotangent to an output that is the result of `stop_gradient`, and hands its
/// cotangent to the next one. Behind an identity each output keeps its own.
pub(super) fn keep_cotangents_in_place(outputs: Vec<Array>) -> Result<Vec<Array>> {
    // With one output there is no next one.
    if outputs.len() < 2 {
        return Ok(outputs);
    }
    depends(&outputs, &[])
}

/// The inputs of a function that MLX differentiates by all of them, as it does for checkpoints. It
/// has no gradient of what random keys and indices are used for, and fails instead of giving zeros.
pub(super) fn stop_integers(inputs: &[Array]) -> Result<Vec<Array>> {
    let stop = |input: &Array| {
        if has_gradient(input.dtype()) { Ok(input.clone()) } else { Ok(stop_gradient(input)?) }
    };
    inputs.iter().map(stop).collect()
}

pub(super) fn has_gradient(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64 | Dtype::Complex64
    )
}

pub(super) fn check_same_shapes(
    name: &str,
    arrays: &[Array],
    like_name: &str,
    like: &[Array],
) -> Result<()> {
    if arrays.len() != like.len() {
        return Err(Error::message(format!(
            "{name}s: {} given for {} {like_name}s; give one for each",
            arrays.len(),
            like.len()
        )));
    }
    for (index, (array, like)) in arrays.iter().zip(like).enumerate() {
        if array.shape() != like.shape() {
            return Err(Error::message(format!(
                "{name} {index} has shape {:?}, but {like_name} {index} has shape {:?}",
                array.shape(),
                like.shape()
            )));
        }
    }
    Ok(())
}

fn sorted_argnums(argnums: &[usize], inputs: &[Array]) -> Result<Vec<i32>> {
    let num_inputs = inputs.len();
    if argnums.is_empty() {
        return Err(Error::message("value_and_grad: `argnums` is empty; name an input"));
    }
    if let Some(argnum) = argnums.iter().find(|&&argnum| argnum >= num_inputs) {
        return Err(Error::message(format!(
            "value_and_grad: `argnums` names input {argnum}, but there are {num_inputs} inputs"
        )));
    }
    for &argnum in argnums {
        let dtype = inputs[argnum].dtype();
        if !has_gradient(dtype) {
            return Err(Error::message(format!(
                "value_and_grad: `argnums` names input {argnum}, which is {dtype:?} and has no gradient"
            )));
        }
    }
    let mut sorted: Vec<i32> = argnums.iter().map(|&argnum| argnum as i32).collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a == b) {
        return Err(Error::message(format!(
            "value_and_grad: `argnums` names input {} twice",
            twice.0
        )));
    }
    Ok(sorted)
}

/// An owned `mlx_closure_value_and_grad`; it lives as long as the closure that it came from.
struct ValueAndGrad(mlx_closure_value_and_grad);

impl ValueAndGrad {
    fn new(closure: &Closure<'_>, argnums: &[i32]) -> Result<Self> {
        // SAFETY: it takes nothing; an empty handle is valid wherever MLX writes a result.
        let mut transformed = Self(unsafe { mlx_sys::mlx_closure_value_and_grad_new() });
        // SAFETY: the handles are alive during the call, and MLX copies `argnums`.
        call(|| unsafe {
            mlx_sys::mlx_value_and_grad(
                &raw mut transformed.0,
                closure.raw(),
                argnums.as_ptr(),
                argnums.len(),
            )
        })?;
        Ok(transformed)
    }
}

impl Drop for ValueAndGrad {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_closure_value_and_grad_free(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::OnceCell, rc::Rc};

    #[test]
    fn a_function_that_calls_itself_is_refused_instead_of_aliased() {
        type Function = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;
        let function: Rc<OnceCell<Function>> = Rc::default();
        let itself = Rc::clone(&function);
        let recursive = once_at_a_time(move |x: &[Array]| match itself.get() {
            Some(function) => function(x),
            None => Ok(x.to_vec()),
        });
        assert!(function.set(Box::new(recursive)).is_ok());
        let error = function.get().expect("set")(&[]).expect_err("it calls itself");
        assert!(error.to_string().contains("called again while it ran"), "{error}");
    }
}
