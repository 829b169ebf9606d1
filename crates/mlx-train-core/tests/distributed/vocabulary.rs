//! Cross-entropy over classes that ranks divide is that over all of them.

use super::{numbers, ranks::run};
use mlx_rs::{Dtype, ops::matmul, random};
use mlx_train_core::{
    Array, Result,
    distributed::{Group, Placement, Split},
    ffi,
    loss::{
        CrossEntropy, Loss, cross_entropy, linear_cross_entropy, split_cross_entropy,
        split_linear_cross_entropy,
    },
    rng,
};
use parity::assert_close;
use std::slice::from_ref;

/// All that the loss can do at once.
const ALL: CrossEntropy =
    CrossEntropy { ignore_index: Some(-100), label_smoothing: 0.1, z_loss: 0.01 };

const NUM_CLASSES: i32 = 12;
const WIDTH: i32 = 5;

/// The options one by one, and all of them.
fn every_option() -> Vec<CrossEntropy> {
    let plain = CrossEntropy { ignore_index: None, label_smoothing: 0.0, z_loss: 0.0 };
    vec![
        plain,
        CrossEntropy { ignore_index: Some(-100), ..plain },
        CrossEntropy { ignore_index: Some(3), ..plain },
        CrossEntropy { label_smoothing: 0.3, ..plain },
        CrossEntropy { z_loss: 0.2, ..plain },
        ALL,
    ]
}

/// Targets of every rank, some masked.
fn targets() -> Array {
    Array::from_slice(&[0, 11, 5, -100, 6, 3, 2, 9, -100, 8], &[2, 5])
}

fn normal(shape: &[i32], seed: u64) -> Result<Array> {
    Ok(random::normal::<f32>(shape, None, None, &rng::key(seed)?)?)
}

/// This rank's part of `whole` by an axis.
fn part(whole: &Array, axis: usize, group: &Group) -> Result<Array> {
    let (parts, part) = (group.world_size(), group.rank());
    Placement::whole(whole.shape()).split(Split { axis, parts, part })?.slice(whole)
}

/// The value, the weight, and the gradients for all inputs.
fn grad(inputs: &[Array], loss: impl Fn(&[Array]) -> Result<Loss>) -> Result<Vec<Array>> {
    let loss = |inputs: &[Array]| loss(inputs).map(|Loss { value, weight }| vec![value, weight]);
    let arguments: Vec<usize> = (0..inputs.len()).collect();
    let (mut values, gradients) = ffi::value_and_grad(loss, inputs, &arguments)?;
    values.extend(gradients);
    Ok(values)
}

#[test]
fn the_loss_of_logits_in_parts_is_that_of_whole_ones() {
    let test = "vocabulary::the_loss_of_logits_in_parts_is_that_of_whole_ones";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            // Large ones, whose exponentials are beyond f32.
            let logits = normal(&[2, 5, NUM_CLASSES], 1)?.multiply(Array::from_f32(60.0))?;
            for options in every_option() {
                // Without a mask, what is masked is no class.
                let targets = match options.ignore_index {
                    Some(-100) => targets(),
                    _ => targets().abs()?.remainder(Array::from_int(NUM_CLASSES))?,
                };
                let whole = grad(from_ref(&logits), |x| cross_entropy(&x[0], &targets, &options))?;
                let own = part(&logits, 2, group)?;
                let ours = grad(&[own], |x| split_cross_entropy(&x[0], &targets, &options, group))?;
                group.eval("losses", &ours)?;
                assert_close("value", &ours[0], &whole[0], 1e-5, 1e-5);
                assert_close("weight", &ours[1], &whole[1], 0.0, 0.0);
                assert_close("logits", &ours[2], &part(&whole[2], 2, group)?, 1e-5, 1e-6);
                // The same to the last bit, or ranks would go apart.
                let lowest = group.all_min(&ours[0])?;
                group.eval("values", [&lowest])?;
                assert_eq!(numbers(&lowest)?, numbers(&ours[0])?);
            }
            group.barrier()
        });
    }
}

#[test]
fn the_loss_in_chunks_of_a_head_in_parts_is_that_of_the_whole_one() {
    let test = "vocabulary::the_loss_in_chunks_of_a_head_in_parts_is_that_of_the_whole_one";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let (hidden, weight) = (normal(&[2, 5, WIDTH], 1)?, normal(&[NUM_CLASSES, WIDTH], 2)?);
            let cases = [(Dtype::Float32, 2e-5, 2e-6), (Dtype::Bfloat16, 2e-2, 1e-2)];
            for (options, (dtype, rtol, atol)) in
                every_option().into_iter().flat_map(|options| cases.map(|case| (options, case)))
            {
                let targets = match options.ignore_index {
                    Some(-100) => targets(),
                    _ => targets().abs()?.remainder(Array::from_int(NUM_CLASSES))?,
                };
                let (hidden, weight) = (hidden.as_dtype(dtype)?, weight.as_dtype(dtype)?);
                let whole = grad(&[hidden.clone(), weight.clone()], |x| {
                    linear_cross_entropy(&x[0], &x[1], &targets, &options, Some(4))
                })?;
                let own = part(&weight, 0, group)?;
                let ours = grad(&[hidden.clone(), own.clone()], |x| {
                    split_linear_cross_entropy(&x[0], &x[1], &targets, &options, Some(4), group)
                })?;
                group.eval("losses", &ours)?;
                assert_close("value", &ours[0], &whole[0], rtol, atol);
                assert_close("weight", &ours[1], &whole[1], 0.0, 0.0);
                assert_close("hidden", &ours[2], &whole[2], rtol, atol);
                assert_close("layer", &ours[3], &part(&whole[3], 0, group)?, rtol, atol);

                // A frozen layer, and the value alone.
                let frozen = grad(from_ref(&hidden), |x| {
                    split_linear_cross_entropy(&x[0], &own, &targets, &options, Some(3), group)
                })?;
                let alone =
                    split_linear_cross_entropy(&hidden, &own, &targets, &options, None, group)?;
                group.eval("losses", frozen.iter().chain([&alone.value]))?;
                assert_close("hidden, frozen layer", &frozen[2], &whole[2], rtol, atol);
                assert_close("value alone", &alone.value, &whole[0], rtol, atol);
            }
            group.barrier()
        });
    }
}

#[test]
fn a_target_of_no_rank_makes_the_loss_of_all_nan() {
    run("vocabulary::a_target_of_no_rank_makes_the_loss_of_all_nan", 2, |group| {
        let options = CrossEntropy { ignore_index: Some(-100), ..CrossEntropy::default() };
        let (hidden, weight) = (normal(&[3, WIDTH], 1)?, normal(&[NUM_CLASSES, WIDTH], 2)?);
        let own = part(&weight, 0, group)?;
        let logits = matmul(&hidden, own.transpose()?)?;
        for (wrong, is_right) in [(NUM_CLASSES, false), (-1, false), (-100, true), (7, true)] {
            let targets = Array::from_slice(&[1, wrong, 10], &[3]);
            let plain = split_cross_entropy(&logits, &targets, &options, group)?;
            let fused =
                split_linear_cross_entropy(&hidden, &own, &targets, &options, Some(2), group)?;
            group.eval("losses", [&plain.value, &fused.value])?;
            for value in [plain.value, fused.value] {
                assert_eq!(numbers(&value)?[0].is_finite(), is_right, "{wrong}");
            }
        }
        // No targets, no loss, and no collective.
        let nothing = split_cross_entropy(
            &Array::zeros::<f32>(&[0, 6])?,
            &Array::zeros::<i32>(&[0])?,
            &options,
            group,
        )?;
        assert_eq!((numbers(&nothing.value)?, numbers(&nothing.weight)?), (vec![0.0], vec![0.0]));
        group.barrier()
    });
}

#[test]
fn gradients_of_a_head_in_parts_agree_with_finite_differences() {
    let test = "vocabulary::gradients_of_a_head_in_parts_agree_with_finite_differences";
    run(test, 2, |group| {
        let (hidden, weight) = (normal(&[4, 2], 1)?, normal(&[4, 2], 2)?);
        let targets = Array::from_slice(&[0, 3, -100, 2], &[4]);
        let own = part(&weight, 0, group)?;
        let loss = |hidden: &Array, own: &Array| -> Result<[Loss; 2]> {
            let logits = matmul(group.copy_to_parallel(hidden)?, own.transpose()?)?;
            let plain = split_cross_entropy(&logits, &targets, &ALL, group)?;
            let fused = split_linear_cross_entropy(hidden, own, &targets, &ALL, Some(2), group)?;
            Ok([plain, fused])
        };
        for which in 0..2 {
            let inputs = [hidden.clone(), own.clone()];
            let gradients = grad(&inputs, |x| Ok(loss(&x[0], &x[1])?[which].clone()))?;
            group.eval("gradients", &gradients)?;
            let value = |hidden: &Array, own: &Array| -> Result<f32> {
                let value = &loss(hidden, own)?[which].value;
                group.eval("a value", [value])?;
                Ok(numbers(value)?[0])
            };
            let step = 5e-3;
            let slope = |at: usize, x: &Array, f: &dyn Fn(&Array) -> Result<f32>| -> Result<f32> {
                let moved = |by: f32| -> Result<f32> {
                    let mut values = numbers(x)?;
                    if let Some(value) = values.get_mut(at) {
                        *value += by;
                    }
                    f(&Array::from_slice(&values, x.shape()))
                };
                Ok((moved(step)? - moved(-step)?) / (2.0 * step))
            };
            for (at, gradient) in numbers(&gradients[2])?.into_iter().enumerate() {
                let slope = slope(at, &hidden, &|hidden| value(hidden, &own))?;
                assert!((slope - gradient).abs() < 2e-3, "hidden {at}: {slope} and {gradient}");
            }
            // One weight of one rank moves at a time, and all compute the loss.
            let gradients = numbers(&gradients[3])?;
            for (rank, at) in (0..2).flat_map(|rank| (0..4).map(move |at| (rank, at))) {
                let own_at = if rank == group.rank() { at } else { usize::MAX };
                let slope = slope(own_at, &own, &|own| value(&hidden, own))?;
                if rank == group.rank() {
                    let gradient = gradients[at];
                    assert!((slope - gradient).abs() < 2e-3, "layer {at}: {slope} and {gradient}");
                }
            }
        }
        group.barrier()
    });
}
