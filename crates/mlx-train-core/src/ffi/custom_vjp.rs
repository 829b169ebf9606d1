//! Functions with a gradient of their own.

use super::{
    call::enter,
    closure::{Closure, Payload, drop_payload, write_outputs},
    grad::check_same_shapes,
    vector::arrays_of,
};
use crate::{Array, Error, Result};
use mlx_sys::{mlx_closure_custom, mlx_vector_array};
use std::ffi::{c_int, c_void};

/// What a custom backward pass may use.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a> {
    /// The inputs of the forward pass.
    pub inputs: &'a [Array],
    /// What the forward pass returned.
    pub outputs: &'a [Array],
    /// The gradient of the loss for each output, of its shape and dtype.
    pub cotangents: &'a [Array],
}

/// `forward(inputs)`, whose gradient is what `backward` says instead of what MLX would derive.
///
/// `backward` returns one gradient for each input, of its shape and dtype, zeros for one that has
/// none. Gradients that the forward pass has computed already travel as further outputs.
///
/// The graph keeps both closures until the outputs and all that was computed from them are gone,
/// therefore `'static`, and may be dropped on another thread, therefore `Send`; both run on this
/// thread only.
///
/// ```
/// use mlx_train_core::{Array, ffi};
/// // The identity, with the gradient turned around.
/// let reversed = |x: &[Array]| {
///     ffi::custom_vjp(|x| Ok(x.to_vec()), |pass| Ok(vec![pass.cotangents[0].negative()?]), x)
/// };
/// let (_, grads) = ffi::value_and_grad(reversed, &[Array::from_f32(3.0)], &[0])?;
/// assert_eq!(grads[0].try_item_cast::<f32>().ok(), Some(-1.0));
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// What `forward` returns, or when MLX fails. If `backward` fails or returns gradients that do not
/// fit the inputs, the transformation that takes the gradient returns the error.
pub fn custom_vjp<F, B>(forward: F, backward: B, inputs: &[Array]) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
    B: Fn(Backward<'_>) -> Result<Vec<Array>> + Send + 'static,
{
    let forward = Closure::new(move |inputs| {
        let outputs = forward(inputs)?;
        refuse_no_outputs("custom_vjp", &outputs)?;
        Ok(outputs)
    })?;
    let backward = CustomClosure::new(backward)?;
    // SAFETY: all handles are alive during the call. The graph keeps the closures, which are
    // `'static` and `Send`.
    let transformed = Closure::transformed(|result| unsafe {
        mlx_sys::mlx_custom_vjp(result, forward.raw(), backward.0)
    })?;
    transformed.apply(inputs)
}

/// MLX looks at the first output without asking whether there is one.
pub(super) fn refuse_no_outputs(name: &str, outputs: &[Array]) -> Result<()> {
    if outputs.is_empty() {
        return Err(Error::message(format!("{name}: the function returned no arrays")));
    }
    Ok(())
}

/// MLX takes the gradients by position without asking how many there are, and adds them up whatever
/// their shapes.
fn check_gradients(gradients: &[Array], inputs: &[Array]) -> Result<()> {
    check_same_shapes("custom_vjp: gradient", gradients, "input", inputs)?;
    for (index, (gradient, input)) in gradients.iter().zip(inputs).enumerate() {
        if gradient.dtype() != input.dtype() {
            return Err(Error::message(format!(
                "custom_vjp: gradient {index} is {:?}, but input {index} is {:?}; cast it",
                gradient.dtype(),
                input.dtype()
            )));
        }
    }
    Ok(())
}

/// An owned `mlx_closure_custom`.
struct CustomClosure(mlx_closure_custom);

impl CustomClosure {
    fn new<B>(backward: B) -> Result<Self>
    where
        B: Fn(Backward<'_>) -> Result<Vec<Array>> + Send + 'static,
    {
        let payload = Payload::into_raw(backward);
        // SAFETY: `trampoline` and `drop_payload` are those of this payload's type. MLX owns it from
        // here on, also when the call fails, and drops it once.
        let raw = unsafe {
            mlx_sys::mlx_closure_custom_new_func_payload(
                Some(trampoline::<B>),
                payload,
                Some(drop_payload::<B>),
            )
        };
        if raw.ctx.is_null() {
            return Err(Error::message("MLX is out of memory: it could not make a closure"));
        }
        Ok(Self(raw))
    }
}

impl Drop for CustomClosure {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone and nothing uses it after this.
        unsafe { mlx_sys::mlx_closure_custom_free(self.0) };
    }
}

/// Calls a backward pass for MLX; the status.
extern "C" fn trampoline<B>(
    gradients: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    cotangents: mlx_vector_array,
    outputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    B: Fn(Backward<'_>) -> Result<Vec<Array>>,
{
    enter(|| {
        // SAFETY: `payload` came from `Payload::<B>::into_raw` and lives while MLX calls it. Only
        // shared references to it exist, so that the closure may be entered again.
        let payload = unsafe { &*payload.cast::<Payload<B>>() };
        let backward = payload.function()?;
        // SAFETY: MLX keeps all three alive during the call.
        let (inputs, cotangents, outputs) =
            unsafe { (arrays_of(inputs)?, arrays_of(cotangents)?, arrays_of(outputs)?) };
        let pass = Backward { inputs: &inputs, outputs: &outputs, cotangents: &cotangents };
        let arrays = backward(pass)?;
        check_gradients(&arrays, &inputs)?;
        // SAFETY: MLX passes a valid place for the gradients, with an empty handle in it.
        unsafe { write_outputs(gradients, &arrays) }
    })
}
