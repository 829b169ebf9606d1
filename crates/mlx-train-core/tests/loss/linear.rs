//! The loss of an output layer in chunks is that of its whole logits, in little memory.

use super::{PLAIN, array, number, numbers};
use mlx_rs::{Array, Dtype, ops::matmul, random};
use mlx_train_core::{
    Result, ffi,
    loss::{CrossEntropy, Loss, chunk_size, cross_entropy, linear_cross_entropy},
    nn::Embedding,
    profile::Memory,
    rng,
};
use parity::assert_close;
use proptest::prelude::*;
use std::{env, process::Command};

/// All that the loss can do at once.
const ALL: CrossEntropy =
    CrossEntropy { ignore_index: Some(-100), label_smoothing: 0.1, z_loss: 0.01 };

/// Hidden states `(N, C)`, an output layer `(V, C)`, and a target for each.
struct Case {
    hidden: Array,
    weight: Array,
    targets: Array,
}

impl Case {
    fn new([n, c, v]: [i32; 3], targets: &[i32]) -> Self {
        let normal = |shape: &[i32], seed| {
            random::normal::<f32>(shape, None, None, &rng::key(seed).expect("key")).expect("normal")
        };
        let targets = Array::from_slice(targets, &[n]);
        Self { hidden: normal(&[n, c], 1), weight: normal(&[v, c], 2), targets }
    }

    /// With targets that go round the classes.
    fn round(sizes: [i32; 3]) -> Self {
        let targets: Vec<i32> = (0..sizes[0]).map(|at| at * 7 % sizes[2]).collect();
        Self::new(sizes, &targets)
    }

    fn cast(self, dtype: Dtype) -> Result<Self> {
        let (hidden, weight) = (self.hidden.as_dtype(dtype)?, self.weight.as_dtype(dtype)?);
        Ok(Self { hidden, weight, ..self })
    }

    fn plain(&self, options: &CrossEntropy) -> Result<[Array; 3]> {
        self.grad(|hidden, weight| {
            cross_entropy(&matmul(hidden, weight.transpose()?)?, &self.targets, options)
        })
    }

    fn fused(&self, options: &CrossEntropy, chunk: usize) -> Result<[Array; 3]> {
        self.grad(|hidden, weight| {
            linear_cross_entropy(hidden, weight, &self.targets, options, Some(chunk))
        })
    }

    /// The value, and its gradients for both.
    fn grad(&self, loss: impl Fn(&Array, &Array) -> Result<Loss>) -> Result<[Array; 3]> {
        let inputs = [self.hidden.clone(), self.weight.clone()];
        let loss = |x: &[Array]| Ok(vec![loss(&x[0], &x[1])?.value]);
        let (mut values, mut grads) = ffi::value_and_grad(loss, &inputs, &[0, 1])?;
        let d_weight = grads.remove(1);
        Ok([values.remove(0), grads.remove(0), d_weight])
    }
}

fn assert_same(actual: &[Array; 3], expected: &[Array; 3], rtol: f64, atol: f64) {
    for ((name, actual), expected) in ["value", "hidden", "weight"].iter().zip(actual).zip(expected)
    {
        assert_close(name, actual, expected, rtol, atol);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn value_and_gradients_are_those_of_whole_logits(
        targets in prop::collection::vec(prop_oneof![5 => 0..9, 1 => Just(-100), 1 => -3..12], 1..14),
        width in 1..6_i32,
        chunk in 1..16_usize,
        label_smoothing in prop_oneof![Just(0.0), 0.0..0.9_f32],
        z_loss in prop_oneof![Just(0.0), 0.0..0.5_f32],
        ignore_index in prop_oneof![Just(None), Just(Some(-100)), Just(Some(3))],
    ) {
        let case = Case::new([targets.len() as i32, width, 9], &targets);
        let options = CrossEntropy { ignore_index, label_smoothing, z_loss };
        let (fused, plain) = (case.fused(&options, chunk).expect("fused"), case.plain(&options).expect("plain"));
        assert_same(&fused, &plain, 2e-5, 2e-6);
    }
}

#[test]
fn the_weight_and_the_axes_are_those_of_whole_logits() -> Result<()> {
    let Case { hidden, weight, targets } = Case::new([6, 4, 5], &[0, -100, 2, 4, -100, 1]);
    let (hidden, targets) = (hidden.reshape(&[2, 3, 4])?, targets.reshape(&[2, 3])?);
    let fused = linear_cross_entropy(&hidden, &weight, &targets, &ALL, Some(2))?;
    let plain = cross_entropy(&matmul(&hidden, weight.transpose()?)?, &targets, &ALL)?;
    assert_close("value", &fused.value, &plain.value, 1e-6, 0.0);
    assert_close("weight", &fused.weight, &plain.weight, 0.0, 0.0);
    Ok(())
}

#[test]
fn gradients_agree_with_finite_differences() -> Result<()> {
    let case = Case::new([5, 2, 3], &[0, 2, -100, 1, 1]);
    let [_, d_hidden, d_weight] = case.fused(&ALL, 2)?;
    let value = |hidden: &Array, weight: &Array| -> Result<f32> {
        Ok(number(&linear_cross_entropy(hidden, weight, &case.targets, &ALL, Some(2))?.value))
    };
    let step = 5e-3;
    for (which, (x, grad)) in
        [(&case.hidden, d_hidden), (&case.weight, d_weight)].iter().enumerate()
    {
        for (at, grad) in numbers(grad).into_iter().enumerate() {
            let moved = |by: f32| -> Result<f32> {
                let mut x_values = numbers(x);
                x_values[at] += by;
                let moved = array(&x_values, x.shape());
                if which == 0 { value(&moved, &case.weight) } else { value(&case.hidden, &moved) }
            };
            let slope = (moved(step)? - moved(-step)?) / (2.0 * step);
            assert!((slope - grad).abs() < 1e-3, "input {which} at {at}: {slope}, not {grad}");
        }
    }
    Ok(())
}

#[test]
fn a_traced_function_computes_the_same() -> Result<()> {
    let case = Case::new([7, 4, 5], &[0, 4, -100, 2, 2, 9, 1]);
    let mut traced = ffi::compile(
        |x| {
            let loss = |x: &[Array]| {
                Ok(vec![linear_cross_entropy(&x[0], &x[1], &case.targets, &ALL, Some(3))?.value])
            };
            let (values, grads) = ffi::value_and_grad(loss, x, &[0, 1])?;
            Ok([values, grads].concat())
        },
        false,
    )?;
    let outputs = traced.call(&[case.hidden.clone(), case.weight.clone()])?;
    let outputs = <[Array; 3]>::try_from(outputs).expect("three");
    assert_same(&outputs, &case.fused(&ALL, 3)?, 1e-5, 1e-6);
    Ok(())
}

/// mlx-rs's transformations tell nobody that they differentiate.
#[test]
fn gradients_are_right_wherever_they_are_taken() -> Result<()> {
    let case = Case::new([7, 4, 5], &[0, 4, -100, 2, 2, 3, 1]);
    let expected = case.fused(&ALL, 3)?;
    let targets = case.targets.clone();
    let loss = move |x: &[Array]| -> Result<Vec<Array>> {
        Ok(vec![linear_cross_entropy(&x[0], &x[1], &targets, &ALL, Some(3))?.value])
    };
    let inputs = [case.hidden.clone(), case.weight.clone()];

    let theirs =
        |x: &[Array]| loss(x).map_err(|error| mlx_rs::error::Exception::custom(error.to_string()));
    let mut theirs = mlx_rs::transforms::value_and_grad_with_argnums(theirs, &[0, 1][..]);
    let (values, grads) = theirs(&inputs)?;
    let found = [values[0].clone(), grads[0].clone(), grads[1].clone()];
    assert_same(&found, &expected, 1e-6, 1e-7);

    let again = |x: &[Array]| ffi::checkpoint(loss.clone(), x);
    let (values, grads) = ffi::value_and_grad(again, &inputs, &[0, 1])?;
    let found = [values[0].clone(), grads[0].clone(), grads[1].clone()];
    assert_same(&found, &expected, 1e-6, 1e-7);
    Ok(())
}

#[test]
fn what_is_not_differentiated_by_gets_no_gradient_and_changes_no_other() -> Result<()> {
    let case = Case::new([7, 4, 5], &[0, 4, -100, 2, 2, 3, 1]);
    let [expected, d_hidden, d_weight] = case.fused(&ALL, 3)?;
    let loss = |hidden: &Array, weight: &Array| -> Result<Vec<Array>> {
        Ok(vec![linear_cross_entropy(hidden, weight, &case.targets, &ALL, Some(3))?.value])
    };
    let (values, grads) = ffi::value_and_grad(
        |x| {
            assert!(ffi::needs_gradient(&x[0].square()?)? && !ffi::needs_gradient(&case.weight)?);
            loss(&x[0], &case.weight)
        },
        std::slice::from_ref(&case.hidden),
        &[0],
    )?;
    assert_close("value", &values[0], &expected, 0.0, 0.0);
    assert_close("hidden", &grads[0], &d_hidden, 0.0, 0.0);
    // Computed from what is differentiated by, it is not frozen, whatever is between.
    let two = Array::from_f32(2.0);
    let (_, grads) = ffi::value_and_grad(
        |x| loss(&case.hidden, &x[0].add(&x[0])?.divide(&two)?),
        std::slice::from_ref(&case.weight),
        &[0],
    )?;
    assert_close("weight", &grads[0], &d_weight, 1e-6, 1e-8);
    assert!(!ffi::is_differentiating() && !ffi::needs_gradient(&case.weight)?);
    Ok(())
}

#[test]
fn a_multiple_of_the_loss_has_the_multiple_of_its_gradients() -> Result<()> {
    let case = Case::round([5, 3, 4]);
    let [_, d_hidden, d_weight] = case.fused(&PLAIN, 2)?;
    let scaled = case.grad(|hidden, weight| {
        let loss = linear_cross_entropy(hidden, weight, &case.targets, &PLAIN, Some(2))?;
        Ok(Loss::new(loss.value.multiply(Array::from_f32(-8.0))?, loss.weight))
    })?;
    for (scaled, once) in [(&scaled[1], d_hidden), (&scaled[2], d_weight)] {
        assert_close("gradient", scaled, &once.multiply(Array::from_f32(-8.0))?, 1e-6, 0.0);
    }
    Ok(())
}

#[test]
fn a_tied_embedding_gets_the_gradients_of_both_of_its_uses() -> Result<()> {
    let case = Case::round([6, 4, 5]);
    let ids = Array::from_slice(&[4, 0, 0, 3, 2, 2], &[6]);
    let tied = |fused: bool| -> Result<Array> {
        let loss = |x: &[Array]| {
            let table = Embedding::of_weight(x[0].clone());
            let hidden = table.forward(&ids)?;
            let loss = if fused {
                linear_cross_entropy(&hidden, &table.weight, &case.targets, &ALL, Some(4))?
            } else {
                cross_entropy(&table.as_linear(&hidden)?, &case.targets, &ALL)?
            };
            Ok(vec![loss.value])
        };
        Ok(ffi::value_and_grad(loss, std::slice::from_ref(&case.weight), &[0])?.1.remove(0))
    };
    assert_close("table", &tied(true)?, &tied(false)?, 1e-5, 1e-7);
    Ok(())
}

#[test]
fn half_precision_is_as_good_as_of_whole_logits() -> Result<()> {
    for dtype in [Dtype::Bfloat16, Dtype::Float16] {
        let case = Case::round([40, 16, 32]).cast(dtype)?;
        let exact = {
            let Case { hidden, weight, targets } = &case;
            let hidden = hidden.as_dtype(Dtype::Float32)?;
            Case { hidden, weight: weight.as_dtype(Dtype::Float32)?, targets: targets.clone() }
        };
        let (fused, plain, exact) = (case.fused(&ALL, 8)?, case.plain(&ALL)?, exact.plain(&ALL)?);
        assert_eq!(fused.each_ref().map(Array::dtype), [Dtype::Float32, dtype, dtype]);
        for ((fused, plain), exact) in fused.iter().zip(&plain).zip(&exact) {
            let error = |x: &Array| -> Result<f32> {
                let difference = x.as_dtype(Dtype::Float32)?.subtract(exact)?;
                Ok(number(&difference.square()?.mean(None)?.sqrt()?))
            };
            let (fused, plain) = (error(fused)?, error(plain)?);
            assert!(fused < 1.5 * plain + 1e-4, "{dtype:?}: off by {fused}, plain {plain}");
        }
    }
    Ok(())
}

/// In bf16, where 256 + 1 is 256.
#[test]
fn many_chunks_add_up_in_f32() -> Result<()> {
    let num_tokens = 1024;
    let hidden = mlx_rs::ops::ones_dtype(&[num_tokens, 1], Dtype::Bfloat16)?;
    let weight = mlx_rs::ops::zeros_dtype(&[2, 1], Dtype::Bfloat16)?;
    let targets = mlx_rs::ops::zeros::<i32>(&[num_tokens])?;
    let [_, _, d_weight] = Case { hidden, weight, targets }.fused(&PLAIN, 1)?;
    assert_eq!(numbers(&d_weight.as_dtype(Dtype::Float32)?), [-0.5, 0.5]);
    Ok(())
}

/// The probability 0.9995 is 1 in bf16, and the gradient at the target would be 0.
#[test]
fn a_token_that_is_nearly_learnt_still_has_a_gradient_in_bf16() -> Result<()> {
    let case = Case {
        hidden: array(&[1.0], &[1, 1]).as_dtype(Dtype::Bfloat16)?,
        weight: array(&[7.625, 0.0], &[2, 1]).as_dtype(Dtype::Bfloat16)?,
        targets: Array::from_slice(&[0], &[1]),
    };
    let [_, _, d_weight] = case.fused(&PLAIN, 1)?;
    let expected = 1.0 / (1.0 + 7.625_f32.exp());
    for (grad, expected) in
        numbers(&d_weight.as_dtype(Dtype::Float32)?).iter().zip([-expected, expected])
    {
        assert!((grad / expected - 1.0).abs() < 0.01, "{grad}, not {expected}");
    }
    Ok(())
}

#[test]
fn where_nothing_counts_value_weight_and_gradients_are_zero() -> Result<()> {
    let case = Case::new([3, 2, 4], &[-100; 3]);
    let [value, d_hidden, d_weight] = case.fused(&ALL, 2)?;
    assert_eq!(number(&value), 0.0);
    assert!(numbers(&d_hidden).iter().chain(&numbers(&d_weight)).all(|&grad| grad == 0.0));

    let none = mlx_rs::ops::zeros::<i32>(&[0])?;
    let hidden = mlx_rs::ops::zeros::<f32>(&[0, 2])?;
    let loss = linear_cross_entropy(&hidden, &case.weight, &none, &ALL, None)?;
    assert_eq!((number(&loss.value), number(&loss.weight)), (0.0, 0.0));
    Ok(())
}

#[test]
fn a_target_that_is_no_class_makes_the_value_nan_and_writes_nowhere() -> Result<()> {
    let good = Case::new([4, 3, 3], &[0, 1, 2, 1]);
    let ignored = Case::new([4, 3, 3], &[0, -100, 2, 1]);
    // Those of the row are gone, and the mean is over four.
    let [_, d_hidden, d_weight] = ignored.fused(&ALL, 2)?;
    let three_quarters = Array::from_f32(0.75);
    let expected = [d_hidden.multiply(&three_quarters)?, d_weight.multiply(&three_quarters)?];
    for bad in [-1, 3, 1 << 20, i32::MIN, i32::MAX] {
        let targets = Array::from_slice(&[0, bad, 2, 1], &[4]);
        let case = Case { hidden: good.hidden.clone(), weight: good.weight.clone(), targets };
        for _ in 0..10 {
            let [value, d_hidden, d_weight] = case.fused(&ALL, 2)?;
            assert!(number(&value).is_nan(), "{bad}");
            assert_close("hidden", &d_hidden, &expected[0], 1e-5, 1e-7);
            assert_close("weight", &d_weight, &expected[1], 1e-5, 1e-7);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() {
    let case = Case::round([4, 3, 5]);
    let refused = |hidden: &Array, weight: &Array, targets: &Array, options, chunk| {
        let refused = linear_cross_entropy(hidden, weight, targets, options, chunk);
        refused.expect_err("refused").to_string()
    };
    let Case { hidden, weight, targets } = &case;
    let text = refused(hidden, hidden, &array(&[0.0; 4], &[4]), &PLAIN, None);
    assert!(text.contains("not Float32; cast them to int32"), "{text}");
    let text = refused(hidden, targets, targets, &PLAIN, None);
    assert!(
        text.contains("hidden states [4, 3] (..., C) do not fit the output layer [4]"),
        "{text}"
    );
    let text = refused(&weight.transpose().expect("mlx"), weight, targets, &PLAIN, None);
    assert!(text.contains("[3, 5] (..., C) do not fit the output layer [5, 3] (V, C)"), "{text}");
    let text = refused(weight, weight, targets, &PLAIN, None);
    assert_eq!(text, "linear_cross_entropy: logits [5, 5] (..., V) need targets [5], not [4]");
    let text = refused(hidden, weight, targets, &CrossEntropy { z_loss: -1.0, ..PLAIN }, None);
    assert!(text.starts_with("linear_cross_entropy: `z_loss` is -1"), "{text}");
    let text = refused(hidden, weight, targets, &PLAIN, Some(0));
    assert!(text.contains("a chunk of 0 tokens gets nowhere"), "{text}");
}

#[test]
fn logits_and_what_is_not_asked_for_never_take_memory() -> Result<()> {
    // Memory is counted for the whole process, so this runs in a process of its own.
    if env::var_os("MEMORY_ALONE").is_none() {
        let name = "linear::logits_and_what_is_not_asked_for_never_take_memory";
        let test = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", name])
            .envs([("MEMORY_ALONE", "1"), ("OPENBLAS_NUM_THREADS", "1")])
            .output()
            .expect("it starts");
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    // Logits of 32 MiB, gradients of 0.25 and 2 MiB.
    let case = Case::round([1024, 64, 8192]);
    ffi::eval([&case.hidden, &case.weight, &case.targets])?;
    let peak = |f: &dyn Fn() -> Result<Vec<Array>>| -> Result<u64> {
        let held = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        ffi::eval(&f()?)?;
        Ok(Memory::now()?.peak_bytes - held)
    };
    let plain = peak(&|| Ok(case.plain(&PLAIN)?.to_vec()))?;
    let fused = peak(&|| Ok(case.fused(&PLAIN, 16)?.to_vec()))?;
    let value = peak(&|| {
        let Case { hidden, weight, targets } = &case;
        Ok(vec![linear_cross_entropy(hidden, weight, targets, &PLAIN, Some(16))?.value])
    })?;
    // Measured 98, 11.3 and 4.0 MiB, and 5.8 with a frozen layer, on a CPU, where MLX schedules some chunks ahead of the computation.
    assert!(plain > 90 << 20 && fused * 4 < plain, "{fused} of {plain}");
    // The gradient of the layer alone is 2 MiB, and one that is frozen has none.
    let half = case.weight.as_dtype(Dtype::Bfloat16)?;
    ffi::eval([&half])?;
    let frozen = peak(&|| {
        let loss = |x: &[Array]| {
            let weight = half.as_dtype(Dtype::Float32)?;
            Ok(vec![linear_cross_entropy(&x[0], &weight, &case.targets, &PLAIN, Some(16))?.value])
        };
        Ok(ffi::value_and_grad(loss, std::slice::from_ref(&case.hidden), &[0])?.1)
    })?;
    assert!(
        frozen * 3 < fused * 2,
        "{frozen} with a frozen layer, {fused} with one that is trained"
    );
    assert!(value * 2 < fused, "{value} for the value alone, {fused} with gradients");
    Ok(())
}

#[test]
fn a_chunk_is_an_eighth_of_the_tokens_within_bounds() {
    assert_eq!([0, 100, 16_384, 1 << 20].map(chunk_size), [1024, 1024, 2048, 4096]);
}
