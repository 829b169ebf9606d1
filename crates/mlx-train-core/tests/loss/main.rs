//! Losses: agreement with Python MLX, their gradients, and the laws of weights and masks.
#![allow(clippy::expect_used, clippy::float_cmp)]

use mlx_rs::{Array, Dtype};
use mlx_train_core::{
    Error, Result, ffi,
    loss::{
        CrossEntropy, Loss, LossError, accuracy, binary_cross_entropy, cross_entropy, huber, l1,
        mse, smooth_l1, sum_f32, validate_targets,
    },
};
use parity::assert_close;
use proptest::prelude::*;

mod linear;

const PLAIN: CrossEntropy = CrossEntropy { ignore_index: None, label_smoothing: 0.0, z_loss: 0.0 };

fn array(values: &[f32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape)
}

fn number(array: &Array) -> f32 {
    array.try_item_exact::<f32>().expect("an f32 scalar")
}

fn numbers(array: &Array) -> Vec<f32> {
    array.contiguous().expect("mlx").try_as_slice::<f32>().expect("f32").to_vec()
}

fn parts(loss: &Loss) -> (f32, f32) {
    (number(&loss.value), number(&loss.weight))
}

/// The loss and its gradient for the first input.
fn value_and_grad(loss: impl Fn(&Array) -> Result<Loss>, x: &Array) -> Result<(Array, Array)> {
    let (mut values, mut grads) =
        ffi::value_and_grad(|x| Ok(vec![loss(&x[0])?.value]), std::slice::from_ref(x), &[0])?;
    Ok((values.remove(0), grads.remove(0)))
}

mod parity_with_python {
    use super::*;

    /// A loss of predictions, against targets of its own.
    type LossOf<'a> = Box<dyn Fn(&Array) -> Result<Loss> + 'a>;

    #[test]
    fn every_loss_and_its_gradient_is_the_same() -> Result<()> {
        let mut script = parity::run("tests/parity/losses.py", &[]);
        let mut take = |name: &str| parity::take(&mut script, name);
        let (logits, targets, keep) = (take("logits"), take("targets"), take("keep"));
        let masked = mlx_rs::ops::select(&keep, &targets, Array::from_int(-1))?;
        let (half_logits, x, y, labels) =
            (take("logits_bf16"), take("x"), take("y"), take("labels"));

        let smooth = CrossEntropy { label_smoothing: 0.1, ..PLAIN };
        let ignoring = CrossEntropy { ignore_index: Some(-1), ..PLAIN };
        let all = CrossEntropy { ignore_index: Some(-1), label_smoothing: 0.2, z_loss: 1e-2 };
        let cases: [(&str, &Array, LossOf<'_>); 10] = [
            ("plain", &logits, Box::new(|x| cross_entropy(x, &targets, &PLAIN))),
            ("smooth", &logits, Box::new(|x| cross_entropy(x, &targets, &smooth))),
            ("masked", &logits, Box::new(|x| cross_entropy(x, &masked, &ignoring))),
            ("all_options", &logits, Box::new(|x| cross_entropy(x, &masked, &all))),
            ("bf16", &half_logits, Box::new(|x| cross_entropy(x, &targets, &PLAIN))),
            ("mse", &x, Box::new(|x| mse(x, &y))),
            ("l1", &x, Box::new(|x| l1(x, &y))),
            ("huber", &x, Box::new(|x| huber(x, &y, 0.7))),
            ("smooth_l1", &x, Box::new(|x| smooth_l1(x, &y, 0.7))),
            ("binary", &x, Box::new(|x| binary_cross_entropy(x, &labels))),
        ];
        for (name, x, loss) in cases {
            let (value, grad) = value_and_grad(loss, x)?;
            // Equal but for the order of sums; bf16 gradients are rounded once on both sides.
            assert_close(
                &format!("{name}.value"),
                &value,
                &take(&format!("{name}.value")),
                1e-6,
                0.0,
            );
            assert_close(
                &format!("{name}.grad"),
                &grad,
                &take(&format!("{name}.grad")),
                1e-5,
                1e-7,
            );
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let logits = [0.3_f32, -1.2, 2.0, 0.1, 0.7, -0.4, 1.5, 0.2, -2.0];
        let targets = Array::from_slice(&[2, -1, 0], &[3]);
        let options = CrossEntropy { ignore_index: Some(-1), label_smoothing: 0.1, z_loss: 0.1 };
        let y = array(&[0.0, 1.0, 0.3, 0.0, 1.0, 0.5, 1.0, 0.0, 1.0], &[3, 3]);
        let losses: [LossOf<'_>; 6] = [
            Box::new(|x| cross_entropy(x, &targets, &options)),
            Box::new(|x| binary_cross_entropy(x, &y)),
            Box::new(|x| mse(x, &y)),
            Box::new(|x| l1(x, &y)),
            Box::new(|x| huber(x, &y, 1.0)),
            Box::new(|x| smooth_l1(x, &y, 0.5)),
        ];
        for (index, loss) in losses.iter().enumerate() {
            let (_, grad) = value_and_grad(loss, &array(&logits, &[3, 3]))?;
            for (at, grad) in numbers(&grad).into_iter().enumerate() {
                let moved = |by: f32| -> Result<f32> {
                    let mut logits = logits;
                    logits[at] += by;
                    Ok(number(&loss(&array(&logits, &[3, 3]))?.value))
                };
                let step = 5e-3;
                let slope = (moved(step)? - moved(-step)?) / (2.0 * step);
                assert!((slope - grad).abs() < 1e-3, "loss {index} at {at}: {slope}, not {grad}");
            }
        }
        Ok(())
    }
}

mod masks_and_weights {
    use super::*;

    #[test]
    fn the_weight_counts_the_targets_that_are_kept() -> Result<()> {
        let logits = array(&[0.0; 12], &[2, 2, 3]);
        let targets = Array::from_slice(&[0, -100, 2, 1], &[2, 2]);
        let ignoring = CrossEntropy { ignore_index: Some(-100), ..PLAIN };
        let (value, weight) = parts(&cross_entropy(&logits, &targets, &ignoring)?);
        assert!((value - 3_f32.ln()).abs() < 1e-6);
        assert_eq!(weight, 3.0);
        assert_eq!(parts(&mse(&logits, &logits)?), (0.0, 12.0));
        Ok(())
    }

    #[test]
    fn without_targets_value_weight_and_gradient_are_zero() -> Result<()> {
        let all = CrossEntropy { ignore_index: Some(-100), label_smoothing: 0.1, z_loss: 1e-4 };
        let targets = Array::from_slice(&[-100, -100], &[2]);
        let logits = array(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
        let loss = |x: &Array| cross_entropy(x, &targets, &all);
        assert_eq!(parts(&loss(&logits)?), (0.0, 0.0));
        assert_eq!(numbers(&value_and_grad(loss, &logits)?.1), [0.0; 4]);
        assert_eq!(parts(&accuracy(&logits, &targets, Some(-100))?), (0.0, 0.0));

        let none = mlx_rs::ops::zeros::<f32>(&[0, 2])?;
        let no_targets = mlx_rs::ops::zeros::<i32>(&[0])?;
        assert_eq!(parts(&cross_entropy(&none, &no_targets, &PLAIN)?), (0.0, 0.0));
        assert_eq!(parts(&accuracy(&none, &no_targets, None)?), (0.0, 0.0));
        assert_eq!(parts(&mse(&none, &none)?), (0.0, 0.0));
        Ok(())
    }

    #[test]
    fn huge_logits_stay_finite() -> Result<()> {
        let logits = array(&[1e4, -1e4, 0.0, 1e4], &[2, 2]);
        let targets = Array::from_slice(&[0, 1], &[2]);
        let (value, grad) = value_and_grad(|x| cross_entropy(x, &targets, &PLAIN), &logits)?;
        assert_eq!(number(&value), 0.0);
        assert!(numbers(&grad).iter().all(|grad| grad.is_finite()));
        let labels = array(&[1.0, 1.0, 0.0, 0.0], &[2, 2]);
        let (value, grad) = value_and_grad(|x| binary_cross_entropy(x, &labels), &logits)?;
        assert!((number(&value) - (0.0 + 1e4 + 2_f32.ln() + 1e4) / 4.0).abs() < 1.0);
        assert!(numbers(&grad).iter().all(|grad| grad.is_finite()));
        Ok(())
    }

    #[test]
    fn what_is_masked_has_no_influence_even_if_it_is_infinite() -> Result<()> {
        let targets = Array::from_slice(&[1, -100], &[2]);
        let ignoring = CrossEntropy { ignore_index: Some(-100), ..PLAIN };
        let logits = array(&[1.0, 2.0, f32::INFINITY, f32::NAN], &[2, 2]);
        let (value, _) = parts(&cross_entropy(&logits, &targets, &ignoring)?);
        assert!((value - (1.0 + (-1_f32).exp()).ln()).abs() < 1e-6, "{value}");
        Ok(())
    }

    #[test]
    fn half_precision_logits_give_a_loss_in_f32() -> Result<()> {
        let logits = array(&[1.0, 2.0, 3.0], &[1, 3]);
        let target = Array::from_slice(&[0], &[1]);
        for dtype in [Dtype::Float16, Dtype::Bfloat16] {
            let loss = cross_entropy(&logits.as_dtype(dtype)?, &target, &PLAIN)?;
            // These logits are exact in every dtype, so the loss is too.
            assert_eq!(parts(&loss), parts(&cross_entropy(&logits, &target, &PLAIN)?));
        }
        Ok(())
    }

    proptest! {
        // The law that accumulation and data parallelism rest on.
        #[test]
        fn the_weighted_mean_over_parts_is_the_mean_over_the_whole(
            rows in prop::collection::vec((prop::array::uniform3(-5.0..5.0_f32), -1..3_i32), 2..40),
            cut in 0.0..1.0_f32,
        ) {
            let loss = |rows: &[([f32; 3], i32)]| {
                let logits: Vec<f32> = rows.iter().flat_map(|(logits, _)| *logits).collect();
                let targets: Vec<i32> = rows.iter().map(|(_, target)| *target).collect();
                let num = rows.len() as i32;
                let options = CrossEntropy { ignore_index: Some(-1), label_smoothing: 0.1, z_loss: 0.01 };
                let logits = Array::from_slice(&logits, &[num, 3]);
                let targets = Array::from_slice(&targets, &[num]);
                parts(&cross_entropy(&logits, &targets, &options).expect("loss"))
            };
            let cut = ((rows.len() as f32 * cut) as usize).clamp(1, rows.len() - 1);
            let (left, right) = (loss(&rows[..cut]), loss(&rows[cut..]));
            let (value, weight) = loss(&rows);
            prop_assert_eq!(left.1 + right.1, weight);
            let together = (left.0 * left.1 + right.0 * right.1) / weight.max(1.0);
            prop_assert!((together - value).abs() < 1e-5 * value.max(1.0), "{} {}", together, value);
            // Ignored rows are as if they were not there.
            let kept: Vec<_> = rows.iter().copied().filter(|(_, target)| *target != -1).collect();
            if !kept.is_empty() {
                let (without, _) = loss(&kept);
                prop_assert!((without - value).abs() < 1e-5 * value.max(1.0));
            }
        }
    }
}

mod sums {
    use super::*;

    #[test]
    fn a_million_elements_are_summed_as_well_as_in_f64() -> Result<()> {
        for num in [1 << 20, (1 << 20) + 77] {
            let values: Vec<f32> = (0..num).map(|i| 1.0 + (i as f32 * 0.37).sin()).collect();
            let exact: f64 = values.iter().copied().map(f64::from).sum();
            let x = Array::from_slice(&values, &[num]);
            let relative = (f64::from(number(&sum_f32(&x)?)) / exact - 1.0).abs();
            assert!(relative < 1e-6, "{relative:e}");
            let mean = number(&mse(&x, &mlx_rs::ops::zeros::<f32>(&[num])?)?.value);
            let exact: f64 =
                values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / f64::from(num);
            assert!((f64::from(mean) / exact - 1.0).abs() < 1e-6, "{mean} {exact}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_element_counts_once_at_any_size(size in 0..3000_i32) {
            let x = mlx_rs::ops::ones::<f32>(&[size]).expect("ones");
            prop_assert_eq!(number(&sum_f32(&x).expect("sum")), size as f32);
        }
    }

    #[test]
    fn its_gradient_is_one_everywhere() -> Result<()> {
        let x = mlx_rs::ops::zeros::<f32>(&[3, 171])?;
        let (_, grads) = ffi::value_and_grad(|x| Ok(vec![sum_f32(&x[0])?]), &[x], &[0])?;
        assert_eq!(numbers(&grads[0]), [1.0; 513]);
        Ok(())
    }
}

mod refusals {
    use super::*;

    fn text<T>(result: Result<T>) -> String {
        result.err().expect("refused").to_string()
    }

    #[test]
    fn targets_that_do_not_fit_are_named() {
        let logits = array(&[0.0; 12], &[2, 2, 3]);
        let check = |targets: &Array| text(cross_entropy(&logits, targets, &PLAIN));
        assert_eq!(
            check(&Array::from_slice(&[0, 1], &[2])),
            "cross_entropy: logits [2, 2, 3] (..., V) need targets [2, 2], not [2]"
        );
        assert!(check(&array(&[0.0; 4], &[2, 2])).contains("not Float32; cast them to int32"));
        let scalar = Array::from_f32(0.0);
        let error = text(cross_entropy(&scalar, &Array::from_int(0), &PLAIN));
        assert!(error.contains("with one axis fewer"), "{error}");
        assert!(text(accuracy(&logits, &scalar, None)).contains("accuracy: logits"));
        assert!(text(mse(&logits, &scalar)).contains("different shapes"));
    }

    #[test]
    fn options_outside_of_their_range_are_named() {
        let (logits, targets) = (array(&[0.0; 2], &[1, 2]), Array::from_slice(&[0], &[1]));
        let check = |options| text(cross_entropy(&logits, &targets, &options));
        let expected = "cross_entropy: `label_smoothing` is 1; it must be in 0.0..1.0";
        assert_eq!(check(CrossEntropy { label_smoothing: 1.0, ..PLAIN }), expected);
        assert!(check(CrossEntropy { z_loss: -1.0, ..PLAIN }).contains("`z_loss` is -1"));
        assert!(check(CrossEntropy { z_loss: f32::NAN, ..PLAIN }).contains("`z_loss` is NaN"));
        assert!(text(huber(&logits, &logits, 0.0)).contains("`delta` is 0"));
        assert!(text(smooth_l1(&logits, &logits, f32::INFINITY)).contains("`beta` is inf"));
    }

    #[test]
    fn the_first_target_that_is_no_class_is_found() -> Result<()> {
        let targets = Array::from_slice(&[0, 1, -100, 2, 3, 9], &[2, 3]);
        let error = validate_targets(&targets, 3, Some(-100)).expect_err("3 is no class");
        let expected = LossError::TargetRange { target: 3, position: vec![1, 1], num_classes: 3 };
        assert!(matches!(&error, Error::Loss(found) if *found == expected), "{error}");
        let error = validate_targets(&targets, 10, None).expect_err("-100 is no class");
        assert!(error.to_string().contains("target -100 at [0, 2]"), "{error}");
        validate_targets(&targets, 10, Some(-100))?;
        validate_targets(&mlx_rs::ops::zeros::<u8>(&[0])?, 1, None)?;
        let wide = Array::from_slice(&[u32::MAX], &[1]);
        assert!(validate_targets(&wide, 10, Some(-1)).is_err(), "not -1 by overflow");
        assert!(validate_targets(&Array::from_f32(0.0), 10, None).is_err());
        Ok(())
    }
}

/// Without bounds these read, and in the gradient overwrite, memory of something else.
mod targets_that_are_no_class {
    use super::*;

    /// Four targets of each integer dtype for three classes, of which the second is no class.
    fn bad_targets() -> Vec<Array> {
        let mut all = Vec::new();
        for bad in [-100, -1, 3, 1 << 20, i32::MIN, i32::MAX] {
            all.push(Array::from_slice(&[0, bad, 2, 1], &[4]));
        }
        for bad in [-1, 3, 1 << 32, (1 << 32) + 1, i64::MIN, i64::MAX] {
            all.push(Array::from_slice(&[0, bad, 2, 1], &[4]));
        }
        all.push(Array::from_slice(&[0_u32, u32::MAX, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_u64, u64::MAX, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_u64, 1 << 32, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_i16, -3, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_i8, -128, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_u16, 3, 2, 1], &[4]));
        all.push(Array::from_slice(&[0_u8, 255, 2, 1], &[4]));
        all
    }

    #[test]
    fn they_make_the_loss_nan_and_leave_the_gradient_of_other_rows_as_it_is() -> Result<()> {
        let logits =
            array(&[0.3, -1.2, 2.0, 0.1, 0.7, -0.4, 1.5, 0.2, -2.0, 0.0, 1.0, 0.5], &[4, 3]);
        let options = CrossEntropy { label_smoothing: 0.1, z_loss: 0.1, ..PLAIN };
        for options in [PLAIN, options, CrossEntropy { ignore_index: Some(-7), ..options }] {
            let good = Array::from_slice(&[0, 1, 2, 1], &[4]);
            let (_, expected) = value_and_grad(|x| cross_entropy(x, &good, &options), &logits)?;
            let mut expected = numbers(&expected);
            expected[3..6].fill(0.0);
            // Often, as memory that is overwritten need not be missed at once.
            for targets in std::iter::repeat_n(bad_targets(), 20).flatten() {
                let (value, grad) =
                    value_and_grad(|x| cross_entropy(x, &targets, &options), &logits)?;
                assert!(number(&value).is_nan(), "{targets}: {value}");
                assert_eq!(numbers(&grad), expected, "{targets}");
            }
        }
        Ok(())
    }

    #[test]
    fn they_make_the_accuracy_nan() -> Result<()> {
        let logits = mlx_rs::ops::zeros::<f32>(&[4, 3])?;
        for targets in bad_targets() {
            for ignored in [None, Some(-7)] {
                assert!(number(&accuracy(&logits, &targets, ignored)?.value).is_nan(), "{targets}");
            }
        }
        Ok(())
    }

    #[test]
    fn they_count_for_nothing_where_they_are_ignored() -> Result<()> {
        let logits = array(&[1.0, 0.0, 0.0, 1.0], &[2, 2]);
        for ignored in [-100, 2, i32::MIN, i32::MAX] {
            let targets = Array::from_slice(&[0, ignored], &[2]);
            let options = CrossEntropy { ignore_index: Some(ignored), ..PLAIN };
            let (value, weight) = parts(&cross_entropy(&logits, &targets, &options)?);
            assert!((value - (1.0 + (-1_f32).exp()).ln()).abs() < 1e-6 && weight == 1.0, "{value}");
            let (_, grad) = value_and_grad(|x| cross_entropy(x, &targets, &options), &logits)?;
            assert!(numbers(&grad)[..2].iter().all(|grad| grad.is_finite() && *grad != 0.0));
            assert_eq!(numbers(&grad)[2..], [0.0; 2]);
            assert_eq!(parts(&accuracy(&logits, &targets, Some(ignored))?), (1.0, 1.0));
        }
        Ok(())
    }

    #[test]
    fn the_largest_targets_of_a_dtype_are_classes_where_there_are_as_many() -> Result<()> {
        let mut row = [0.0; 256];
        row[255] = 5.0;
        let (logits, last) = (array(&row, &[1, 256]), Array::from_slice(&[255_u8], &[1]));
        assert_eq!(parts(&accuracy(&logits, &last, None)?), (1.0, 1.0));
        assert!(number(&cross_entropy(&logits, &last, &PLAIN)?.value).is_finite());
        Ok(())
    }
}

mod accuracies {
    use super::*;

    #[test]
    fn it_is_the_share_of_right_answers_among_those_that_count() -> Result<()> {
        let logits = array(&[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 2.0], &[4, 2]);
        let targets = Array::from_slice(&[0, 0, -1, 0], &[4]);
        let (share, weight) = parts(&accuracy(&logits, &targets, Some(-1))?);
        assert_eq!((share, weight), (2.0 / 3.0, 3.0));
        Ok(())
    }
}
