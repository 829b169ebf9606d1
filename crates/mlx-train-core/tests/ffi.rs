//! The closures that MLX calls: what goes in, what comes out, and what is left behind.
// Comparisons are exact on purpose: the values are small integers, or the claim is about bits.
#![allow(clippy::expect_used, clippy::float_cmp, clippy::panic)]

use mlx_rs::{
    Array, Dtype,
    ops::{erf, matmul},
};
use mlx_train_core::{Error, Result, ffi, nn::Dropout, rng};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

fn scalar(value: f32) -> Array {
    Array::from_f32(value)
}

fn value(array: &Array) -> f32 {
    array.try_item_exact::<f32>().expect("a scalar")
}

fn values(array: &Array) -> Vec<f32> {
    array
        .contiguous()
        .map(|array| array.try_as_slice::<f32>().map(<[f32]>::to_vec))
        .expect("mlx")
        .expect("f32")
}

/// A layer of the input `x[0]` and the weights `x[1]` and `x[2]`, with dropout, all of whose
/// randomness is in the key `x[3]`.
fn layer(x: &[Array]) -> Result<Vec<Array>> {
    rng::scope(&x[3], || {
        let hidden = erf(matmul(&x[0], &x[1])?)?;
        let dropped = Dropout::new(0.5)?.forward(&hidden)?;
        Ok(vec![matmul(&dropped, &x[2])?])
    })
}

fn layer_inputs() -> Result<[Array; 4]> {
    let draw = |shape: &[i32], seed| -> Result<Array> {
        Ok(mlx_rs::random::normal::<f32>(shape, 0.0, 0.5, &rng::key(seed)?)?)
    };
    Ok([draw(&[5, 4], 1)?, draw(&[4, 4], 2)?, draw(&[4, 4], 3)?, rng::key(4)?])
}

mod failures {
    use super::*;

    #[test]
    fn an_error_comes_back_as_the_value_that_the_closure_returned() {
        let message = String::from("the very same text");
        let address = message.as_ptr();
        let mut error = Some(Error::Message(message));
        let result = ffi::value_and_grad(
            |_| Err(error.take().unwrap_or(Error::message("called twice"))),
            &[scalar(1.0)],
            &[0],
        );
        match result {
            Err(Error::Message(message)) => assert_eq!(message.as_ptr(), address),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_passes_through_nested_transformations_unchanged() {
        let result = ffi::value_and_grad(
            |x| {
                ffi::checkpoint(
                    |x| {
                        let inner = ffi::vjp(|_| Err(Error::message("innermost")), x, &[]);
                        inner.map(|(outputs, _)| outputs)
                    },
                    x,
                )
            },
            &[scalar(1.0)],
            &[0],
        );
        assert!(matches!(result, Err(Error::Message(text)) if text == "innermost"));
    }

    #[test]
    fn a_panic_resumes_at_the_caller_with_its_payload() {
        struct Payload(u32);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            ffi::value_and_grad(|_| panic_any(Payload(7)), &[scalar(1.0)], &[0])
        }));
        let payload = caught.expect_err("it panics");
        assert_eq!(payload.downcast_ref::<Payload>().map(|payload| payload.0), Some(7));
        // The thread is not poisoned.
        let (_, grads) = square_at_three().expect("the next call works");
        assert_eq!(value(&grads[0]), 6.0);
    }

    fn square_at_three() -> Result<(Vec<Array>, Vec<Array>)> {
        ffi::value_and_grad(|x| Ok(vec![x[0].square()?]), &[scalar(3.0)], &[0])
    }

    #[test]
    fn an_error_that_the_closure_handles_is_no_failure() -> Result<()> {
        let (outputs, _) = ffi::value_and_grad(
            |x| {
                let inner = ffi::checkpoint(|_| Err(Error::message("handled")), x);
                assert!(inner.is_err());
                // So is one that mlx-rs reports.
                assert!(x[0].reshape(&[7]).is_err());
                Ok(vec![x[0].square()?])
            },
            &[scalar(3.0)],
            &[0],
        )?;
        assert_eq!(value(&outputs[0]), 9.0);
        Ok(())
    }

    #[test]
    fn an_error_in_the_recomputation_reaches_whoever_takes_the_gradient() {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let block = move |x: &[Array]| match count.fetch_add(1, Relaxed) {
            0 => Ok(vec![x[0].square()?]),
            _ => Err(Error::message("the second time")),
        };
        let block = Arc::new(block);
        let result = ffi::value_and_grad(
            |x| {
                let block = Arc::clone(&block);
                ffi::checkpoint(move |x| block(x), x)
            },
            &[scalar(3.0)],
            &[0],
        );
        assert!(matches!(result, Err(Error::Message(text)) if text == "the second time"));
        assert_eq!(runs.load(Relaxed), 2);
    }

    #[test]
    fn messages_of_mlx_reach_the_error() -> Result<()> {
        let eye = mlx_rs::ops::eye::<f32>(3, None, None)?;
        let result = ffi::value_and_grad(
            |x| Ok(vec![mlx_rs::linalg::qr(&x[0])?.0.sum(None)?]),
            &[eye],
            &[0],
        );
        let error = result.expect_err("MLX has no gradient of it");
        assert_eq!(error.to_string(), "MLX: [Primitive::vjp] Not implemented for QRF.");
        Ok(())
    }

    #[test]
    fn arguments_that_do_not_fit_are_named() {
        let identity = |x: &[Array]| Ok(x.to_vec());
        let (one, two) = (scalar(1.0), Array::from_slice(&[1.0_f32, 2.0], &[2]));
        let grad = |inputs: &[Array], argnums: &[usize]| {
            ffi::value_and_grad(identity, inputs, argnums).expect_err("it does not fit").to_string()
        };
        assert!(grad(std::slice::from_ref(&one), &[]).contains("`argnums` is empty"));
        assert!(grad(std::slice::from_ref(&one), &[1]).contains("input 1, but there are 1 inputs"));
        assert!(grad(std::slice::from_ref(&one), &[0, 0]).contains("input 0 twice"));
        let integer = grad(&[Array::from_int(1)], &[0]);
        assert!(integer.contains("input 0, which is Int32"), "{integer}");
        assert!(grad(std::slice::from_ref(&two), &[0]).contains("has shape [2]; reduce it"));
        let none = ffi::value_and_grad(|_| Ok(Vec::new()), std::slice::from_ref(&one), &[0]);
        assert!(none.expect_err("no loss").to_string().contains("returned no loss"));
        let error = ffi::vjp(identity, std::slice::from_ref(&one), &[]).expect_err("none given");
        assert!(error.to_string().contains("0 given for 1 outputs"), "{error}");
        let error = ffi::jvp(identity, &[one], &[two]).expect_err("another shape");
        assert!(error.to_string().contains("tangent 0 has shape [2], but input 0"), "{error}");
        assert!(ffi::checkpoint(|_| Ok(Vec::new()), &[]).is_err());
    }

    #[test]
    fn inside_of_mlx_rs_a_failure_keeps_its_text() {
        let failing = |x: &Array| -> std::result::Result<Array, mlx_rs::error::Exception> {
            let runs = AtomicUsize::new(0);
            let block = move |x: &[Array]| match runs.fetch_add(1, Relaxed) {
                0 => Ok(vec![x[0].square()?]),
                _ => Err(Error::message("ours, in the recomputation")),
            };
            Ok(ffi::checkpoint(block, std::slice::from_ref(x))?.remove(0))
        };
        let error = mlx_rs::transforms::grad(failing)(&scalar(3.0)).expect_err("it fails");
        assert_eq!(error.what(), "ours, in the recomputation");
        // And what mlx-rs reports after that is its own again.
        let error = scalar(1.0).reshape(&[3]).expect_err("one element is not three");
        assert!(error.what().contains("[reshape]"), "{error}");
    }
}

mod gradients {
    use super::*;

    #[test]
    fn gradients_come_in_the_order_in_which_they_were_asked_for() -> Result<()> {
        let f = |x: &[Array]| Ok(vec![x[0].multiply(&x[1])?, x[2].clone()]);
        let inputs = [scalar(2.0), scalar(3.0), scalar(4.0)];
        let (outputs, grads) = ffi::value_and_grad(f, &inputs, &[2, 0, 1])?;
        assert_eq!([value(&outputs[0]), value(&outputs[1])], [6.0, 4.0]);
        assert_eq!(grads.iter().map(value).collect::<Vec<_>>(), [0.0, 3.0, 2.0]);
        Ok(())
    }

    #[test]
    fn a_closure_may_change_what_it_captured() -> Result<()> {
        let mut runs = 0;
        let f = |x: &[Array]| {
            runs += 1;
            Ok(vec![x[0].square()?])
        };
        ffi::value_and_grad(f, &[scalar(2.0)], &[0])?;
        assert_eq!(runs, 1);
        Ok(())
    }

    #[test]
    fn second_derivatives_nest() -> Result<()> {
        let slope = |x: &[Array]| {
            let (_, grads) = ffi::value_and_grad(|x| Ok(vec![x[0].power(scalar(3.0))?]), x, &[0])?;
            Ok(grads)
        };
        let (slope, curvature) = ffi::value_and_grad(slope, &[scalar(2.0)], &[0])?;
        assert!((value(&slope[0]) - 12.0).abs() < 1e-4);
        assert!((value(&curvature[0]) - 12.0).abs() < 1e-4);
        Ok(())
    }

    #[test]
    fn the_two_products_are_adjoint() -> Result<()> {
        let inputs = layer_inputs()?;
        let key = inputs[3].clone();
        let f = |x: &[Array]| layer(&[x, std::slice::from_ref(&key)].concat());
        let draw = |like: &Array, seed| -> Result<Array> {
            Ok(mlx_rs::random::normal::<f32>(like.shape(), 0.0, 1.0, &rng::key(seed)?)?)
        };
        let tangents = [draw(&inputs[0], 5)?, draw(&inputs[1], 6)?, draw(&inputs[2], 7)?];
        let cotangents = [draw(&inputs[0], 8)?];
        let (_, pushed) = ffi::jvp(f, &inputs[..3], &tangents)?;
        let (_, pulled) = ffi::vjp(f, &inputs[..3], &cotangents)?;
        let dot = |a: &[Array], b: &[Array]| -> f32 {
            let terms = a.iter().zip(b).flat_map(|(a, b)| values(a).into_iter().zip(values(b)));
            terms.map(|(a, b)| a * b).sum()
        };
        let (left, right) = (dot(&cotangents, &pushed), dot(&pulled, &tangents));
        assert!((left - right).abs() < 1e-4 * left.abs().max(1.0), "{left} {right}");
        Ok(())
    }

    #[test]
    fn a_stopped_output_does_not_take_the_cotangent_of_the_next() -> Result<()> {
        let f = |x: &[Array]| Ok(vec![mlx_rs::stop_gradient(&x[0])?, x[0].square()?]);
        let (_, products) = ffi::vjp(f, &[scalar(3.0)], &[scalar(100.0), scalar(1.0)])?;
        assert_eq!(value(&products[0]), 6.0);
        let weighted = |x: &[Array]| {
            let outputs = ffi::checkpoint(f, x)?;
            Ok(vec![outputs[0].multiply(scalar(100.0))?.add(&outputs[1])?])
        };
        let (_, grads) = ffi::value_and_grad(weighted, &[scalar(3.0)], &[0])?;
        assert_eq!(value(&grads[0]), 6.0);
        Ok(())
    }
}

mod checkpoints {
    use super::*;

    type Layer = fn(&[Array]) -> Result<Vec<Array>>;

    /// The loss of three layers that share weights, and its gradients for input and weights.
    fn grads(layer: Layer) -> Result<Vec<Vec<f32>>> {
        let inputs = layer_inputs()?;
        let loss = |x: &[Array]| {
            let mut hidden = x[0].clone();
            let mut key = x[3].clone();
            for _ in 0..3 {
                let (now, next) = rng::split(&key)?;
                key = next;
                hidden = layer(&[hidden, x[1].clone(), x[2].clone(), now])?.remove(0);
            }
            Ok(vec![hidden.square()?.sum(None)?])
        };
        let (outputs, grads) = ffi::value_and_grad(loss, &inputs, &[0, 1, 2])?;
        Ok(outputs.iter().chain(&grads).map(values).collect())
    }

    #[test]
    fn gradients_with_dropout_are_equal_to_the_last_bit() -> Result<()> {
        let plain = grads(layer)?;
        assert!(plain[1].iter().any(|&grad| grad != 0.0));
        assert_eq!(plain, grads(|x| ffi::checkpoint(layer, x))?);
        assert_eq!(plain, grads(|x| ffi::checkpoint(|x| ffi::checkpoint(layer, x), x))?, "nested");
        Ok(())
    }

    #[test]
    fn gradients_are_equal_to_the_last_bit_when_compiled() -> Result<()> {
        let step = |layer: Layer| -> Result<Vec<Vec<f32>>> {
            let mut step = ffi::compile(
                |x| {
                    let loss = |x: &[Array]| Ok(vec![layer(x)?[0].square()?.sum(None)?]);
                    let (outputs, grads) = ffi::value_and_grad(loss, x, &[0, 1, 2])?;
                    Ok([outputs, grads].concat())
                },
                false,
            )?;
            Ok(step.call(&layer_inputs()?)?.iter().map(values).collect())
        };
        assert_eq!(step(layer)?, step(|x| ffi::checkpoint(layer, x))?);
        Ok(())
    }

    #[test]
    fn a_gradient_runs_the_function_twice_and_no_gradient_once() -> Result<()> {
        let runs = Arc::new(AtomicUsize::new(0));
        let block = |x: &[Array]| {
            let runs = Arc::clone(&runs);
            let block = move |x: &[Array]| {
                runs.fetch_add(1, Relaxed);
                Ok(vec![x[0].square()?])
            };
            ffi::checkpoint(block, x)
        };
        ffi::eval(&block(&[scalar(3.0)])?)?;
        assert_eq!(runs.swap(0, Relaxed), 1);
        ffi::eval(&ffi::value_and_grad(block, &[scalar(3.0)], &[0])?.1)?;
        assert_eq!(runs.load(Relaxed), 2);
        Ok(())
    }

    #[test]
    fn integers_among_the_inputs_need_no_gradient() -> Result<()> {
        let pick = |x: &[Array]| Ok(vec![x[0].take_axis(&x[1], 0)?.sum(None)?]);
        let inputs = [Array::from_slice(&[1.0_f32, 2.0], &[2]), Array::from_slice(&[1, 1], &[2])];
        let (_, grads) = ffi::value_and_grad(|x| ffi::checkpoint(pick, x), &inputs, &[0])?;
        assert_eq!(values(&grads[0]), [0.0, 2.0]);
        Ok(())
    }
}

mod custom_gradients {
    use super::*;

    /// The sum of squares, with a gradient by hand that is scaled by `factor`.
    fn sum_of_squares(factor: f32) -> impl Fn(&[Array]) -> Result<Vec<Array>> {
        move |x| {
            ffi::custom_vjp(
                |x| Ok(vec![x[0].square()?.sum(None)?, x[0].multiply(scalar(2.0))?]),
                // What the forward pass has computed already is its second output.
                move |pass| {
                    let slope = pass.outputs[1].multiply(&pass.cotangents[0])?;
                    Ok(vec![slope.multiply(scalar(factor))?])
                },
                x,
            )
        }
    }

    #[test]
    fn the_gradient_is_the_one_by_hand() -> Result<()> {
        let x = [Array::from_slice(&[1.0_f32, -2.0, 0.5], &[3])];
        let loss = |factor| move |x: &[Array]| Ok(vec![sum_of_squares(factor)(x)?.remove(0)]);
        let (_, right) = ffi::value_and_grad(loss(1.0), &x, &[0])?;
        assert_eq!(values(&right[0]), [2.0, -4.0, 1.0]);
        let (_, wrong) = ffi::value_and_grad(loss(10.0), &x, &[0])?;
        assert_eq!(values(&wrong[0]), [20.0, -40.0, 10.0], "MLX does not derive its own");
        Ok(())
    }

    #[test]
    fn the_gradient_by_hand_agrees_with_finite_differences() -> Result<()> {
        let loss = |x: &[Array]| Ok(vec![sum_of_squares(1.0)(x)?.remove(0)]);
        let at = [0.3_f32, -1.2, 2.0];
        let (_, grads) = ffi::value_and_grad(loss, &[Array::from_slice(&at, &[3])], &[0])?;
        for (index, grad) in values(&grads[0]).into_iter().enumerate() {
            let step = 1e-2;
            let moved = |by: f32| -> Result<f32> {
                let mut at = at;
                at[index] += by;
                Ok(value(&loss(&[Array::from_slice(&at, &[3])])?[0]))
            };
            let slope = (moved(step)? - moved(-step)?) / (2.0 * step);
            assert!((slope - grad).abs() < 1e-3, "{index}: {slope} {grad}");
        }
        Ok(())
    }

    #[test]
    fn gradients_that_do_not_fit_the_inputs_are_refused() {
        let refused = |gradients: fn() -> Vec<Array>| {
            let f = |x: &[Array]| {
                ffi::custom_vjp(|x| Ok(vec![x[0].add(&x[1])?]), move |_| Ok(gradients()), x)
            };
            let result = ffi::value_and_grad(f, &[scalar(1.0), scalar(2.0)], &[0]);
            result.expect_err("they do not fit").to_string()
        };
        assert!(refused(|| vec![scalar(1.0)]).contains("1 given for 2 inputs"));
        let matrix = || vec![scalar(1.0), Array::from_slice(&[1.0_f32], &[1])];
        assert!(refused(matrix).contains("gradient 1 has shape [1], but input 1 has shape []"));
        let integer = || vec![scalar(1.0), Array::from_int(1)];
        assert!(refused(integer).contains("gradient 1 is Int32, but input 1 is Float32"));
    }

    #[test]
    fn both_passes_may_be_checkpointed() -> Result<()> {
        let f = |x: &[Array]| {
            let outputs = ffi::checkpoint(|x| sum_of_squares(1.0)(x), x)?;
            Ok(vec![outputs[0].clone()])
        };
        let x = [Array::from_slice(&[1.0_f32, -2.0], &[2])];
        let (_, grads) = ffi::value_and_grad(f, &x, &[0])?;
        assert_eq!(values(&grads[0]), [2.0, -4.0]);
        Ok(())
    }
}

mod compiled {
    use super::*;

    fn counted(runs: &AtomicUsize) -> impl FnMut(&[Array]) -> Result<Vec<Array>> {
        |x| {
            runs.fetch_add(1, Relaxed);
            Ok(vec![x[0].add(&x[0])?])
        }
    }

    #[test]
    fn one_trace_serves_inputs_of_one_shape_and_dtype() -> Result<()> {
        let runs = AtomicUsize::new(0);
        let mut double = ffi::compile(counted(&runs), false)?;
        for x in [1.0, 2.0, 3.0] {
            assert_eq!(value(&double.call(&[scalar(x)])?[0]), 2.0 * x);
        }
        assert_eq!(runs.load(Relaxed), 1);
        double.call(&[Array::from_slice(&[1.0_f32, 2.0], &[2])])?;
        double.call(&[Array::from_int(1)])?;
        double.call(&[scalar(1.0)])?;
        assert_eq!(runs.load(Relaxed), 3, "a new shape and a new dtype");
        Ok(())
    }

    #[test]
    fn a_shapeless_trace_serves_all_sizes() -> Result<()> {
        let runs = AtomicUsize::new(0);
        let mut double = ffi::compile(counted(&runs), true)?;
        for size in 1..4 {
            let x = Array::from_iter((0..size).map(|x| x as f32), &[size]);
            assert_eq!(double.call(&[x])?[0].shape(), [size]);
        }
        assert_eq!(runs.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn two_functions_never_share_a_trace() -> Result<()> {
        for factor in 1..20 {
            let factor = factor as f32;
            let mut scale = ffi::compile(move |x| Ok(vec![x[0].multiply(scalar(factor))?]), false)?;
            assert_eq!(value(&scale.call(&[scalar(1.0)])?[0]), factor);
        }
        Ok(())
    }

    #[test]
    fn after_an_error_the_next_call_traces_anew() -> Result<()> {
        let mut runs = 0;
        let mut flaky = ffi::compile(
            |x| {
                runs += 1;
                if runs == 1 { Err(Error::message("once")) } else { Ok(x.to_vec()) }
            },
            false,
        )?;
        let first = flaky.call(&[scalar(1.0)]);
        assert!(matches!(first, Err(Error::Message(text)) if text == "once"));
        assert_eq!(value(&flaky.call(&[scalar(1.0)])?[0]), 1.0);
        Ok(())
    }

    #[test]
    fn a_gradient_flows_through_it() -> Result<()> {
        let mut square = ffi::compile(|x| Ok(vec![x[0].square()?]), false)?;
        let (_, grads) = ffi::value_and_grad(|x| square.call(x), &[scalar(3.0)], &[0])?;
        assert_eq!(value(&grads[0]), 6.0);
        Ok(())
    }

    #[test]
    fn what_mlx_cannot_trace_is_explained() -> Result<()> {
        let one = scalar(1.0);
        let mut f = ffi::compile(|x| Ok(vec![x[0].add(&one)?, scalar(1.0)]), false)?;
        let error = f.call(&[scalar(2.0)]).expect_err("MLX merges the constants");
        assert!(error.to_string().contains("returned a constant"), "{error}");
        Ok(())
    }
}

mod lifetimes {
    use super::*;

    /// Runs `f` with an `Arc` that its closures may capture, and asserts that all copies are gone.
    fn leaves_nothing_behind(f: impl FnOnce(Arc<()>)) {
        let payload = Arc::new(());
        f(Arc::clone(&payload));
        assert_eq!(Arc::strong_count(&payload), 1);
    }

    fn square(payload: &Arc<()>) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static {
        let payload = Arc::clone(payload);
        move |x| {
            assert!(Arc::strong_count(&payload) > 1);
            Ok(vec![x[0].square()?])
        }
    }

    #[test]
    fn transformations_of_one_call_drop_the_closure() {
        leaves_nothing_behind(|payload| {
            let x = [scalar(3.0)];
            let (outputs, grads) =
                ffi::value_and_grad(square(&payload), &x, &[0]).expect("value_and_grad");
            ffi::vjp(square(&payload), &x, &x).expect("vjp");
            ffi::jvp(square(&payload), &x, &x).expect("jvp");
            // `payload` itself and the caller's: the outputs, still unevaluated, keep nothing.
            assert_eq!(Arc::strong_count(&payload), 2);
            drop((outputs, grads));
        });
    }

    #[test]
    fn a_checkpoint_lives_as_long_as_its_graph() {
        leaves_nothing_behind(|payload| {
            let outputs = ffi::checkpoint(square(&payload), &[scalar(3.0)]).expect("checkpoint");
            assert_eq!(Arc::strong_count(&payload), 3, "the graph keeps it");
            ffi::eval(&outputs).expect("eval");
            assert_eq!(Arc::strong_count(&payload), 2, "a computed array has no graph");
        });
    }

    #[test]
    fn a_graph_that_is_never_computed_drops_it_too() {
        leaves_nothing_behind(|payload| {
            let checkpointed = |x: &[Array]| ffi::checkpoint(square(&payload), x);
            ffi::value_and_grad(checkpointed, &[scalar(3.0)], &[0]).expect("value_and_grad");
        });
    }

    #[test]
    fn a_custom_gradient_drops_both_closures() {
        leaves_nothing_behind(|payload| {
            let f = |x: &[Array]| {
                let held = Arc::clone(&payload);
                let backward = move |pass: ffi::Backward<'_>| {
                    assert!(Arc::strong_count(&held) > 1);
                    Ok(pass.cotangents.to_vec())
                };
                ffi::custom_vjp(square(&payload), backward, x)
            };
            ffi::value_and_grad(f, &[scalar(3.0)], &[0]).expect("value_and_grad");
        });
    }

    #[test]
    fn closures_that_fail_are_dropped() {
        leaves_nothing_behind(|payload| {
            let failing = |panics: bool| {
                let payload = Arc::clone(&payload);
                move |_: &[Array]| -> Result<Vec<Array>> {
                    assert!(!panics, "{}", Arc::strong_count(&payload));
                    Err(Error::message("refused"))
                }
            };
            let x = [scalar(3.0)];
            assert!(ffi::checkpoint(failing(false), &x).is_err());
            assert!(ffi::value_and_grad(failing(false), &x, &[0]).is_err());
            let panics = || ffi::checkpoint(failing(true), &x);
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        });
    }

    #[test]
    fn a_compiled_function_lives_as_long_as_its_handle() {
        leaves_nothing_behind(|payload| {
            let mut compiled = ffi::compile(square(&payload), false).expect("compile");
            compiled.call(&[scalar(3.0)]).expect("call");
            assert_eq!(Arc::strong_count(&payload), 3);
            drop(compiled);
            assert_eq!(Arc::strong_count(&payload), 2);
        });
    }

    #[test]
    fn a_graph_may_be_dropped_on_another_thread() {
        leaves_nothing_behind(|payload| {
            let outputs = ffi::checkpoint(square(&payload), &[scalar(3.0)]).expect("checkpoint");
            thread::spawn(move || drop(outputs)).join().expect("no panic");
        });
    }

    #[test]
    fn threads_do_not_see_the_failures_of_each_other() {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                thread::spawn(move || {
                    for round in 0..50 {
                        let text = format!("{worker} {round}");
                        let expected = text.clone();
                        let f = move |_: &[Array]| Err(Error::message(text.clone()));
                        match ffi::value_and_grad(f, &[scalar(1.0)], &[0]) {
                            Err(Error::Message(text)) => assert_eq!(text, expected),
                            other => panic!("{other:?}"),
                        }
                        let error = scalar(1.0).reshape(&[worker + 2]).expect_err("it is smaller");
                        let shape = format!("({})", worker + 2);
                        assert!(error.what().contains(&shape), "{error}");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no panic");
        }
    }

    #[test]
    fn async_eval_starts_what_reading_waits_for() -> Result<()> {
        let y = scalar(3.0).square()?;
        ffi::async_eval([&y])?;
        assert_eq!((value(&y), y.dtype()), (9.0, Dtype::Float32));
        Ok(())
    }
}
