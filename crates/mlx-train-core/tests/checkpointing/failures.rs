//! Errors and panics inside of what is checkpointed reach the caller; neither they nor a graph leave anything.

use super::models::{Deep, batch, gradients, policy};
use mlx_rs::{
    Array,
    module::{Module, Param},
};
use mlx_train_core::{
    Error, Result,
    checkpoint::{self, CheckpointPolicy, with_policy},
    ffi,
    model::BaseModel,
    nn::Linear,
};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
    sync::Arc,
};

thread_local! {
    /// How often the function has run, and in which run it fails.
    static RUNS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The gradient through a checkpointed layer that does `then` in one of its runs.
fn with_failure(fails_in: usize, then: fn() -> Result<Array>) -> Result<Vec<Array>> {
    RUNS.set((0, fails_in));
    let mut layer = Linear::new(2, 2)?;
    let before = layer.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let loss = |x: &[Array]| {
            let y: Array = checkpoint::module(&mut layer, x, move |layer, x| {
                let (run, fails_in) = RUNS.get();
                RUNS.set((run + 1, fails_in));
                if run == fails_in { then() } else { Ok(layer.forward(&x[0])?) }
            })?;
            Ok(vec![y.sum(None)?])
        };
        ffi::value_and_grad(loss, &[Array::ones::<f32>(&[1, 2])?], &[0])
    }));
    assert!(ffi::is_same_node(&layer.weight, &before.weight)?, "the layer has its own weights");
    Ok(result.unwrap_or_else(|panic| resume_unwind(panic))?.1)
}

#[test]
fn an_error_of_either_run_is_returned_as_it_is() {
    for run in [0, 1] {
        let result = with_failure(run, || Err(Error::message("in the block")));
        assert!(matches!(result, Err(Error::Message(text)) if text == "in the block"), "{run}");
    }
    assert!(with_failure(2, || panic!("there is no third run")).is_ok());
}

#[test]
fn a_panic_of_either_run_resumes_at_the_caller_and_the_thread_goes_on() -> Result<()> {
    let expected = gradients(&policy("full"))?;
    for run in [0, 1] {
        let caught = catch_unwind(AssertUnwindSafe(|| with_failure(run, || panic_any(7_u8))));
        assert_eq!(caught.err().and_then(|payload| payload.downcast::<u8>().ok()), Some(7.into()));
        assert!(gradients(&policy("full"))? == expected);
    }
    Ok(())
}

#[test]
fn the_outer_policy_is_back_after_a_panic_in_an_inner_one() -> Result<()> {
    // If it were not, `full` would have met no stack, and be refused.
    with_policy(&policy("full"), || {
        let inner = catch_unwind(AssertUnwindSafe(|| {
            with_policy(&CheckpointPolicy::None, || -> Result<()> { panic!("in the model") })
        }));
        assert!(inner.is_err());
        Deep::new(1)?.forward(&batch(1, 0)?.x).map(|_| ())
    })
}

/// A factor whose copies can be counted.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
struct Counted {
    #[param]
    factor: Param<Array>,
    copies: Arc<()>,
}

#[test]
fn a_graph_that_is_never_computed_is_freed() -> Result<()> {
    let mut module = Counted { factor: Param::new(Array::from_f32(2.0)), copies: Arc::new(()) };
    let loss = |x: &[Array]| {
        let y: Array = checkpoint::module(&mut module, x, |module, x| {
            Ok(x[0].multiply(&*module.factor)?.square()?)
        })?;
        Ok(vec![y.square()?])
    };
    let graph = ffi::value_and_grad(loss, &[Array::from_f32(3.0)], &[0])?;
    assert!(Arc::strong_count(&module.copies) > 1, "the graph holds a copy");
    drop(graph);
    assert_eq!(Arc::strong_count(&module.copies), 1, "it is in a cycle of references");
    Ok(())
}
