//! Layers: agreement with Python MLX, and the laws of dropout, stacks, caches and initialisers.
#![allow(clippy::expect_used, clippy::float_cmp)]

use mlx_rs::{
    Array, Dtype,
    builder::Builder,
    module::{Module, ModuleParameters, Param},
    ops::{concatenate, indexing::TryIndexOp, ones_dtype},
};
use mlx_train_core::{
    Error, Result, ffi,
    nn::{self, Dropout, Embedding, KvCache, NnError, Stack, init},
    rng,
};
use parity::assert_close;
use proptest::prelude::*;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

fn values(array: &Array) -> Vec<f32> {
    let array = array.as_dtype(Dtype::Float32).and_then(|array| array.contiguous()).expect("mlx");
    array.try_as_slice::<f32>().expect("f32").to_vec()
}

mod parity_with_python {
    use super::*;

    // Both run the same kernels; what differs is the order of a few sums.
    const RTOL: f64 = 1e-5;
    const ATOL: f64 = 1e-6;
    // A bf16 has eight bits; constants are rounded alike, results may differ in the last bit.
    const BF16: f64 = 1.0 / 128.0;

    type Activation = fn(&Array) -> Result<Array>;

    /// A layer of `parameters` and an input; the parameters come in the order of their names.
    type Forward<'a> = &'a dyn Fn(&[Array], &Array) -> Result<Array>;

    struct Script(HashMap<String, Array>);

    impl Script {
        fn run() -> Self {
            Self(parity::run("tests/parity/nn.py", &[]))
        }

        fn take(&mut self, name: &str) -> Array {
            parity::take(&mut self.0, name)
        }

        /// Compares output and gradients, all within `rtol`.
        fn check(
            &mut self,
            name: &str,
            parameters: &[&str],
            rtol: f64,
            forward: Forward<'_>,
        ) -> Result<()> {
            let x = self.take(&format!("{name}.x"));
            let cotangent = self.take(&format!("{name}.cotangent"));
            let mut inputs: Vec<Array> = Vec::new();
            for parameter in parameters {
                inputs.push(self.take(&format!("{name}.{parameter}")));
            }
            let y = forward(&inputs, &x)?;
            assert_close(&format!("{name}.y"), &y, &self.take(&format!("{name}.y")), rtol, ATOL);

            let mut names: Vec<&str> = parameters.to_vec();
            if x.dtype() != Dtype::Int32 {
                names.push("x");
            }
            inputs.push(x);
            let loss = |inputs: &[Array]| {
                let (x, parameters) = inputs.split_last().expect("an input");
                let y = forward(parameters, x)?.as_dtype(Dtype::Float32)?;
                Ok(vec![y.multiply(&cotangent)?.sum(None)?])
            };
            let argnums: Vec<usize> = (0..names.len()).collect();
            let (_, grads) = ffi::value_and_grad(loss, &inputs, &argnums)?;
            for (parameter, grad) in names.iter().zip(&grads) {
                let name = format!("{name}.grad.{parameter}");
                let expected = self.take(&name);
                // Gradients are sums of terms of about 1, and so is their error.
                assert_close(&name, grad, &expected, rtol, rtol);
            }
            Ok(())
        }
    }

    #[test]
    fn the_layers_of_mlx_rs_are_right() -> Result<()> {
        let mut script = Script::run();
        script.check("linear", &["weight", "bias"], RTOL, &|parameters, x| {
            let mut layer = nn::LinearBuilder::new(8, 6).build()?;
            layer.weight = Param::new(parameters[0].clone());
            layer.bias = Param::new(Some(parameters[1].clone()));
            Ok(layer.forward(x)?)
        })?;
        script.check("linear_no_bias", &["weight"], RTOL, &|parameters, x| {
            let mut layer = nn::LinearBuilder::new(8, 6).bias(false).build()?;
            layer.weight = Param::new(parameters[0].clone());
            Ok(layer.forward(x)?)
        })?;
        script.check("rms_norm", &["weight"], RTOL, &|parameters, x| {
            let mut layer = nn::RmsNorm::new(8)?;
            layer.weight = Param::new(parameters[0].clone());
            Ok(layer.forward(x)?)
        })?;
        script.check("layer_norm", &["weight", "bias"], RTOL, &|parameters, x| {
            let mut layer = nn::LayerNorm::new(8)?;
            layer.weight = Param::new(Some(parameters[0].clone()));
            layer.bias = Param::new(Some(parameters[1].clone()));
            Ok(layer.forward(x)?)
        })?;
        script.check("rope", &[], RTOL, &|_, x| Ok(nn::Rope::new(8).forward(x)?))?;
        script.check("rope_traditional", &[], RTOL, &|_, x| {
            let built = nn::RopeBuilder::new(8).traditional(true).base(500.0).build();
            let mut layer = built.unwrap_or_else(|never| match never {});
            Ok(layer.forward(x)?)
        })?;
        script.check("rope_offset", &[], RTOL, &|_, x| Ok(nn::Rope::new(8).forward((x, 17))?))
    }

    #[test]
    fn our_layers_are_right() -> Result<()> {
        let mut script = Script::run();
        let embedding = |weight: &Array| {
            let mut layer = Embedding::new(11, 8)?;
            layer.weight = Param::new(weight.clone());
            Ok::<_, Error>(layer)
        };
        script.check("embedding", &["weight"], RTOL, &|parameters, ids| {
            embedding(&parameters[0])?.forward(ids)
        })?;
        let weight = script.take("as_linear.weight");
        script.check("as_linear", &[], RTOL, &|_, x| embedding(&weight)?.as_linear(x))
    }

    #[test]
    fn activations_are_right_and_keep_their_dtype() -> Result<()> {
        let mut script = Script::run();
        let activations: [(&str, Activation); 4] = [
            ("relu", nn::relu),
            ("silu", nn::silu),
            ("gelu", nn::gelu),
            ("gelu_approximate", nn::gelu_approximate),
        ];
        for (name, activation) in activations {
            script.check(name, &[], RTOL, &|_, x| activation(x))?;
            script.check(&format!("{name}_bf16"), &[], BF16, &|_, x| activation(x))?;
        }
        Ok(())
    }
}

mod fused {
    use super::*;

    fn normal(shape: &[i32], seed: u64) -> Result<Array> {
        Ok(mlx_rs::random::normal::<f32>(shape, None, None, &mlx_rs::random::key(seed)?)?)
    }

    /// Value and gradients are the same numbers.
    fn are_equal<const N: usize>(
        ours: impl Fn(&[Array]) -> Result<Array>,
        plain: impl Fn(&[Array]) -> Result<Array>,
        inputs: &[Array; N],
    ) -> Result<()> {
        let cotangent = normal(ours(inputs)?.shape(), 9)?;
        let all = |f: &dyn Fn(&[Array]) -> Result<Array>| -> Result<Vec<Array>> {
            let (values, gradients) =
                ffi::vjp(|x| Ok(vec![f(x)?]), inputs, std::slice::from_ref(&cotangent))?;
            Ok([values, gradients].concat())
        };
        for (index, (ours, plain)) in all(&ours)?.iter().zip(&all(&plain)?).enumerate() {
            assert_eq!(ours.shape(), plain.shape());
            assert_close(&format!("{index}"), ours, plain, 1e-5, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn rotary_positions_are_those_of_mlxs_rope_behind_a_transposition() -> Result<()> {
        for offset in [0, 5] {
            let rope = |x: &[Array]| {
                let heads = x[0].transpose_axes(&[0, 2, 1, 3])?;
                Ok(mlx_rs::fast::rope(heads, 6, false, 500.0, 1.0, offset, None)?)
            };
            are_equal(|x| nn::rotary(&x[0], 500.0, offset), rope, &[normal(&[2, 7, 3, 6], 1)?])?;
        }
        Ok(())
    }

    #[test]
    fn swiglu_is_the_product_with_silu() -> Result<()> {
        let inputs = [normal(&[2, 3, 5], 1)?, normal(&[2, 3, 5], 2)?];
        are_equal(|x| nn::swiglu(&x[0], &x[1]), |x| Ok(nn::silu(&x[0])?.multiply(&x[1])?), &inputs)
    }

    #[test]
    fn a_linear_layer_adds_its_product_to_bias_and_stream() -> Result<()> {
        for shape in [&[2, 3, 4][..], &[6, 4], &[4]] {
            let others = [&shape[..shape.len() - 1], &[5]].concat();
            let inputs =
                [normal(shape, 1)?, normal(&[5, 4], 2)?, normal(&[5], 3)?, normal(&others, 4)?];
            let product = |x: &[Array]| -> Result<Array> { Ok(x[0].matmul(x[1].transpose()?)?) };
            let layer = |x: &[Array], bias: Option<&Array>| {
                nn::Linear::of_weight(x[1].clone(), bias.cloned())
            };
            are_equal(|x| Ok(layer(x, None).forward(&x[0])?), product, &inputs)?;
            are_equal(
                |x| Ok(layer(x, Some(&x[2])).forward(&x[0])?),
                |x| Ok(product(x)?.add(&x[2])?),
                &inputs,
            )?;
            are_equal(
                |x| layer(x, None).forward_onto(&x[0], Some(&x[3])),
                |x| Ok(product(x)?.add(&x[3])?),
                &inputs,
            )?;
            are_equal(
                |x| layer(x, Some(&x[2])).forward_onto(&x[0], Some(&x[3])),
                |x| Ok(product(x)?.add(&x[2])?.add(&x[3])?),
                &inputs,
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_of_a_linear_layer_have_gradients() -> Result<()> {
        let inputs = [normal(&[3, 4], 1)?, normal(&[5, 4], 2)?];
        // The squared length of the gradient of a sum of cubes.
        let curvature = |product: fn(&[Array]) -> Result<Array>| {
            move |x: &[Array]| {
                let sum = |x: &[Array]| {
                    let y = product(x)?;
                    Ok(vec![y.square()?.multiply(&y)?.sum(None)?])
                };
                let (_, gradients) = ffi::value_and_grad(sum, x, &[0, 1])?;
                Ok(gradients[0].square()?.sum(None)?.add(gradients[1].square()?.sum(None)?)?)
            }
        };
        are_equal(
            curvature(|x| Ok(nn::Linear::of_weight(x[1].clone(), None).forward(&x[0])?)),
            curvature(|x| Ok(x[0].matmul(x[1].transpose()?)?)),
            &inputs,
        )
    }

    #[test]
    fn a_layer_with_an_adapter_adds_both_to_the_stream() -> Result<()> {
        let mut layer = nn::LoraLinear::from(nn::Linear::of_weight(normal(&[5, 4], 2)?, None));
        layer.adapt(&nn::LoraConfig { rank: 2, ..Default::default() })?;
        layer.lora_b.value = Some(normal(&[5, 2], 3)?);
        let inputs = [normal(&[2, 3, 4], 1)?, normal(&[2, 3, 5], 4)?];
        are_equal(
            |x| layer.forward_onto(&x[0], Some(&x[1])),
            |x| Ok(layer.forward(&x[0])?.add(&x[1])?),
            &inputs,
        )
    }

    #[test]
    fn a_stream_of_a_wider_dtype_stays_what_it_is() -> Result<()> {
        let x = normal(&[3, 4], 1)?.as_dtype(Dtype::Bfloat16)?;
        let layer = nn::Linear::of_weight(normal(&[4, 4], 2)?.as_dtype(Dtype::Bfloat16)?, None);
        let stream = normal(&[3, 4], 3)?;
        let sum = layer.forward_onto(&x, Some(&stream))?;
        assert_eq!(sum.dtype(), Dtype::Float32);
        // The product is rounded to bf16, as without the stream.
        let apart = stream.add(layer.clone().forward(&x)?)?;
        assert_close("sum", &sum, &apart, 0.0, 0.0);
        Ok(())
    }

    #[test]
    fn a_branch_is_its_input_and_the_norm_of_it() -> Result<()> {
        let inputs = [normal(&[2, 3, 8], 1)?, normal(&[8], 2)?];
        let norm = |weight: &Array| -> Result<nn::RmsNorm> {
            let mut norm = nn::RmsNorm::new(8)?;
            norm.weight.value = weight.clone();
            Ok(norm)
        };
        are_equal(
            |x| {
                let (stream, normed) = norm(&x[1])?.branch(&x[0])?;
                Ok(stream.add(normed.square()?)?)
            },
            |x| Ok(x[0].add(nn::rms_norm(&x[0], &x[1], 1e-5)?.square()?)?),
            &inputs,
        )
    }

    #[test]
    fn norms_take_parameters_of_another_dtype_and_keep_the_wider() -> Result<()> {
        let x = normal(&[4, 8], 1)?.as_dtype(Dtype::Bfloat16)?;
        let (weight, bias) = (normal(&[8], 2)?, normal(&[8], 3)?);
        assert_eq!(nn::rms_norm(&x, &weight, 1e-5)?.dtype(), Dtype::Float32);
        let half = weight.as_dtype(Dtype::Bfloat16)?;
        assert_eq!(nn::rms_norm(&x, &half, 1e-5)?.dtype(), Dtype::Bfloat16);
        assert_eq!(nn::layer_norm(&x, &half, &bias, 1e-5)?.dtype(), Dtype::Float32);
        Ok(())
    }
}

mod dropout {
    use super::*;

    fn ones(shape: &[i32], dtype: Dtype) -> Array {
        ones_dtype(shape, dtype).expect("ones")
    }

    #[test]
    fn a_probability_outside_of_its_range_is_named() {
        for p in [-0.1, 1.0, 1.5, f32::NAN] {
            let error = Dropout::new(p).expect_err("outside");
            assert!(error.to_string().contains(&format!("probability of {p} ")), "{error}");
        }
    }

    #[test]
    fn it_is_the_identity_outside_of_a_scope() -> Result<()> {
        let x = ones(&[4, 4], Dtype::Float32);
        assert_eq!(values(&Dropout::new(0.9)?.forward(&x)?), [1.0; 16]);
        Ok(())
    }

    #[test]
    fn without_a_probability_it_draws_nothing() -> Result<()> {
        let x = ones(&[4], Dtype::Float32);
        let next = |p: f32| {
            rng::scope(&rng::key(1)?, || {
                Dropout::new(p)?.forward(&x)?;
                rng::next_key()
            })
        };
        let untouched = rng::scope(&rng::key(1)?, rng::next_key)?.expect("a key");
        let words = |key: &Array| key.try_as_slice::<u32>().map(<[u32]>::to_vec);
        assert_eq!(words(&next(0.0)?.expect("a key"))?, words(&untouched)?);
        assert_ne!(words(&next(0.1)?.expect("a key"))?, words(&untouched)?);
        Ok(())
    }

    #[test]
    fn it_drops_the_asked_share_and_keeps_the_mean() -> Result<()> {
        let num = 100_000;
        for p in [0.1_f32, 0.5, 0.9] {
            let dropped = rng::scope(&rng::key(3)?, || {
                Dropout::new(p)?.forward(&ones(&[num], Dtype::Float32))
            })?;
            let values = values(&dropped);
            let num_dropped = values.iter().filter(|&&value| value == 0.0).count();
            let share = num_dropped as f32 / num as f32;
            // Four standard deviations of a binomial share.
            let tolerance = 4.0 * (p * (1.0 - p) / num as f32).sqrt();
            assert!((share - p).abs() < tolerance, "{share} {p}");
            assert!(values.iter().all(|&value| value == 0.0 || value == (1.0 - p).recip()));
        }
        Ok(())
    }

    #[test]
    fn each_call_in_a_scope_draws_another_mask() -> Result<()> {
        let (x, dropout) = (ones(&[64], Dtype::Float32), Dropout::new(0.5)?);
        rng::scope(&rng::key(3)?, || {
            assert_ne!(values(&dropout.forward(&x)?), values(&dropout.forward(&x)?));
            Ok(())
        })
    }

    #[test]
    fn dtypes_stay_and_the_scale_is_rounded_once() -> Result<()> {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let x = ones(&[64], dtype);
            let y = rng::scope(&rng::key(3)?, || Dropout::new(0.1)?.forward(&x))?;
            assert_eq!(y.dtype(), dtype);
            let scaled = Array::from_f32(3.0 / 0.9).as_dtype(dtype)?;
            let x = Array::from_f32(3.0).as_dtype(dtype)?.multiply(&x)?;
            let y = rng::scope(&rng::key(3)?, || Dropout::new(0.1)?.forward(&x))?;
            let expected = values(&scaled)[0];
            assert!(values(&y).iter().all(|&value| value == 0.0 || value == expected), "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn dropped_elements_get_no_gradient_even_if_they_are_infinite() -> Result<()> {
        let x = Array::from_slice(&[f32::INFINITY; 64], &[64]);
        let f = |x: &[Array]| {
            rng::scope(&rng::key(3)?, || Ok(vec![Dropout::new(0.5)?.forward(&x[0])?.sum(None)?]))
        };
        let y = rng::scope(&rng::key(3)?, || Dropout::new(0.5)?.forward(&x))?;
        let (_, grads) = ffi::value_and_grad(f, &[x], &[0])?;
        for (y, grad) in values(&y).into_iter().zip(values(&grads[0])) {
            assert_eq!(grad, if y == 0.0 { 0.0 } else { 2.0 });
        }
        Ok(())
    }
}

mod embedding {
    use super::*;

    #[test]
    fn ids_that_are_no_integers_are_refused_instead_of_panicking() -> Result<()> {
        let error = Embedding::new(3, 2)?.forward(&Array::from_f32(1.0)).expect_err("a float");
        assert!(matches!(error, Error::Nn(NnError::EmbeddingDtype(Dtype::Float32))));
        Ok(())
    }

    // MLX itself reads, and in the gradient overwrites, memory of something else.
    #[test]
    fn ids_out_of_range_read_and_train_the_nearest_vector() -> Result<()> {
        let layer = |weight: &Array| {
            let mut layer = Embedding::new(3, 2)?;
            *layer.weight = weight.clone();
            Ok::<_, Error>(layer)
        };
        let weight = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]);
        let cases = [
            (Array::from_slice(&[-1, -100, i32::MIN], &[3]), 0),
            (Array::from_slice(&[3, 1 << 20, i32::MAX], &[3]), 2),
            (Array::from_slice(&[-1, -(1_i64 << 32), i64::MIN], &[3]), 0),
            (Array::from_slice(&[3, 1_i64 << 32, i64::MAX], &[3]), 2),
            (Array::from_slice(&[3, 1 << 31, u32::MAX], &[3]), 2),
            (Array::from_slice(&[3, 1 << 32, u64::MAX], &[3]), 2),
            (Array::from_slice(&[3_u8, 128, 255], &[3]), 2),
            (Array::from_slice(&[-1_i8, -2, -128], &[3]), 0),
        ];
        // Often, as memory that is overwritten need not be missed at once.
        for (ids, row) in std::iter::repeat_n(&cases, 50).flatten() {
            let sum = |x: &[Array]| Ok(vec![layer(&x[0])?.forward(ids)?.sum(None)?]);
            let (sum, grads) = ffi::value_and_grad(sum, std::slice::from_ref(&weight), &[0])?;
            let expected = 3.0 * values(&weight)[2 * row..2 * row + 2].iter().sum::<f32>();
            assert_eq!(values(&sum[0]), [expected], "{ids}");
            let mut expected = [0.0; 6];
            expected[2 * row..2 * row + 2].fill(3.0);
            assert_eq!(values(&grads[0]), expected, "{ids}");
        }
        Ok(())
    }
}

mod stack {
    use super::*;

    fn stack(num: usize) -> Result<Stack<nn::Linear>> {
        let build = |_| Ok(nn::LinearBuilder::new(3, 3).build()?);
        (0..num).map(build).collect()
    }

    /// Multiplies by a number.
    #[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
    struct Scale {
        #[param]
        factor: Param<Array>,
    }

    fn scales(factors: &[f32]) -> Stack<Scale> {
        factors.iter().map(|&x| Scale { factor: Param::new(Array::from_f32(x)) }).collect()
    }

    #[test]
    fn blocks_run_in_order_on_the_output_of_the_one_before() -> Result<()> {
        let mut stack = scales(&[2.0, 3.0, 5.0]);
        // The positions are digits of what is added.
        let y = stack.forward(Array::from_f32(1.0), |block, index, x| {
            Ok(x.multiply(&*block.factor)?.add(Array::from_f32(1.0 + index as f32))?)
        })?;
        assert_eq!(values(&y), [((1.0 * 2.0 + 1.0) * 3.0 + 2.0) * 5.0 + 3.0]);
        Ok(())
    }

    #[test]
    fn the_first_error_ends_the_pass() {
        static NUM_RUNS: AtomicUsize = AtomicUsize::new(0);
        let result = scales(&[1.0; 3]).forward(Array::from_f32(1.0), |_, index, x| {
            NUM_RUNS.fetch_add(1, Relaxed);
            if index == 1 { Err(Error::message("here")) } else { Ok(x) }
        });
        assert!(result.is_err());
        assert_eq!(NUM_RUNS.load(Relaxed), 2);
    }

    #[test]
    fn every_block_gets_what_all_share() -> Result<()> {
        let shared = [Array::from_f32(10.0), Array::from_f32(100.0)];
        let y = scales(&[2.0, 3.0]).forward_with(
            Array::from_f32(1.0),
            &shared,
            |block, _, x, shared| {
                Ok(x.multiply(&*block.factor)?.add(&shared[0])?.add(&shared[1])?)
            },
        )?;
        assert_eq!(values(&y), [(2.0 + 110.0) * 3.0 + 110.0]);
        Ok(())
    }

    #[test]
    fn parameters_are_named_by_position_and_can_be_frozen() -> Result<()> {
        let mut stack = stack(12)?;
        let flat = stack.parameters().flatten();
        assert_eq!((flat.len(), stack.num_parameters()), (24, 24));
        assert!(flat.contains_key("11.bias") && flat.contains_key("0.weight"));
        stack.get_mut(0).expect("a block").freeze_parameters(true);
        assert_eq!(stack.trainable_parameters().flatten().len(), 22);
        assert_eq!((stack.all_frozen(), stack.any_frozen()), (Some(false), Some(true)));
        stack.freeze_parameters(true);
        assert_eq!(stack.all_frozen(), Some(true));
        stack.unfreeze_parameters(true);
        assert_eq!(stack.any_frozen(), Some(false));
        Ok(())
    }

    #[test]
    fn a_change_through_parameters_mut_changes_the_block() -> Result<()> {
        let mut stack = stack(2)?;
        let mut parameters = stack.parameters_mut().flatten();
        **parameters.get_mut("1.bias").expect("a bias") = Array::from_slice(&[7.0_f32; 3], &[3]);
        let block = stack.get(1).expect("a block");
        assert_eq!(values(block.bias.as_ref().as_ref().expect("a bias")), [7.0; 3]);
        Ok(())
    }

    #[test]
    fn an_empty_stack_is_the_identity() -> Result<()> {
        let mut stack = scales(&[]);
        assert!(stack.is_empty());
        let y = stack.forward(Array::from_f32(3.0), |_, _, _| Err(Error::message("no block")))?;
        assert_eq!(values(&y), [3.0]);
        Ok(())
    }
}

mod kv_cache {
    use super::*;

    /// Tokens `(1, H, T, D)` that are all different, the `first` of which has that number.
    fn tokens(first: i32, num: i32, heads: i32, head_dim: i32) -> Array {
        let at = |head, token, channel| (head * 10_000 + (first + token) * 10 + channel) as f32;
        let all = (0..heads).flat_map(|head| {
            (0..num).flat_map(move |token| (0..head_dim).map(move |c| at(head, token, c)))
        });
        Array::from_iter(all, &[1, heads, num, head_dim])
    }

    proptest! {
        // Keys are of another width than values, and there are fewer heads than queries would have.
        #[test]
        fn it_returns_what_concatenation_would(
            passes in prop::collection::vec(1..300_i32, 1..5),
        ) {
            let mut cache = KvCache::new(2);
            let mut seen = 0;
            for num in passes {
                let (keys, values_) = (tokens(seen, num, 2, 3), tokens(seen, num, 2, 2));
                for layer in 0..2 {
                    let mut cache = cache.layer(layer).expect("a layer");
                    prop_assert_eq!(cache.offset(), seen);
                    let (all_keys, all_values) = cache.update(&keys, &values_).expect("update");
                    prop_assert_eq!(values(&all_keys), values(&tokens(0, seen + num, 2, 3)));
                    prop_assert_eq!(values(&all_values), values(&tokens(0, seen + num, 2, 2)));
                }
                seen += num;
                prop_assert_eq!(cache.offset(), seen);
            }
        }
    }

    fn push(cache: &mut KvCache, first: i32, num: i32) -> Result<Array> {
        let keys = tokens(first, num, 1, 2);
        Ok(cache.layer(0)?.update(&keys, &keys)?.0)
    }

    #[test]
    fn a_pass_counts_when_its_last_layer_is_done() -> Result<()> {
        let mut cache = KvCache::new(2);
        let half_pass = |cache: &mut KvCache| push(cache, 0, 4);
        half_pass(&mut cache)?;
        assert_eq!(cache.offset(), 0, "the second layer has seen nothing");
        assert_eq!(half_pass(&mut cache)?.shape(), [1, 1, 4, 2], "it can run again");
        let keys = tokens(0, 4, 1, 2);
        cache.layer(1)?.update(&keys, &keys)?;
        assert_eq!(cache.offset(), 4);
        Ok(())
    }

    #[test]
    fn trimmed_tokens_are_overwritten() -> Result<()> {
        let mut cache = KvCache::new(1);
        push(&mut cache, 0, 5)?;
        cache.trim(2)?;
        assert_eq!(cache.offset(), 3);
        let all = push(&mut cache, 100, 1)?;
        let expected = concatenate(&[tokens(0, 3, 1, 2), tokens(100, 1, 1, 2)], 2)?;
        assert_eq!(values(&all), values(&expected));
        let error = cache.trim(5).expect_err("four are held");
        assert_eq!(error.to_string(), "the cache holds 4 tokens, so it cannot forget 5");
        assert!(cache.trim(-1).is_err());
        Ok(())
    }

    #[test]
    fn a_reset_cache_takes_another_batch() -> Result<()> {
        let mut cache = KvCache::new(1);
        push(&mut cache, 0, 5)?;
        let other = ones_dtype(&[3, 1, 1, 2], Dtype::Float32)?;
        let error = cache.layer(0)?.update(&other, &other).expect_err("another batch");
        let text = error.to_string();
        assert!(text.contains("keys [3, 1, 1, 2]") && text.contains("[1, 1, 256, 2]"), "{text}");
        assert_eq!(push(&mut cache, 5, 1)?.shape(), [1, 1, 6, 2], "a refusal changes nothing");
        cache.reset();
        assert_eq!(cache.offset(), 0);
        assert!(cache.layer(0)?.update(&other, &other).is_ok());
        Ok(())
    }

    #[test]
    fn entries_that_do_not_fit_are_named() -> Result<()> {
        let mut cache = KvCache::new(1);
        let zeros = |shape: &[i32]| ones_dtype(shape, Dtype::Float32);
        let mut refused = |keys: &[i32], values: &[i32]| -> Result<bool> {
            let result = cache.layer(0)?.update(&zeros(keys)?, &zeros(values)?);
            Ok(matches!(result, Err(Error::Nn(NnError::CacheEntry { .. }))))
        };
        assert!(refused(&[1, 2, 3], &[1, 2, 3])?);
        assert!(refused(&[1, 2, 3, 4], &[1, 2, 3])?);
        assert!(refused(&[1, 2, 3, 4], &[1, 2, 4, 4])?);
        let half = zeros(&[1, 2, 3, 4])?.as_dtype(Dtype::Float16)?;
        let full = zeros(&[1, 2, 3, 4])?;
        cache.layer(0)?.update(&full, &full)?;
        assert!(cache.layer(0)?.update(&full, &half).is_err());
        assert!(matches!(cache.layer(1), Err(Error::Nn(NnError::CacheLayer { .. }))));
        Ok(())
    }

    #[test]
    fn a_clone_goes_its_own_way() -> Result<()> {
        let mut cache = KvCache::new(1);
        push(&mut cache, 0, 3)?;
        let mut branch = cache.clone();
        push(&mut branch, 50, 1)?;
        let all = push(&mut cache, 3, 1)?;
        assert_eq!(values(&all), values(&tokens(0, 4, 1, 2)));
        let last = push(&mut branch, 51, 1)?.try_index((.., .., 3..5, ..))?;
        assert_eq!(values(&last), values(&tokens(50, 2, 1, 2)));
        Ok(())
    }
}

mod initialisers {
    use super::*;

    fn mean_and_std(array: &Array) -> (f64, f64) {
        let values: Vec<f64> = values(array).into_iter().map(f64::from).collect();
        let num = values.len() as f64;
        let mean = values.iter().sum::<f64>() / num;
        (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / num).sqrt())
    }

    type Draw = fn() -> Result<Array>;

    #[test]
    fn moments_are_those_of_the_papers() -> Result<()> {
        // fan_in 200, fan_out 300.
        const SHAPE: [i32; 2] = [300, 200];
        let cases: [(&str, Draw, f64, f64); 7] = [
            ("normal", || init::normal(&SHAPE, 0.02), 0.02, f64::INFINITY),
            ("truncated_normal", || init::truncated_normal(&SHAPE, 0.02), 0.02 * 0.879_626, 0.04),
            ("uniform", || init::uniform(&SHAPE, 0.3), 0.3 / 3_f64.sqrt(), 0.3),
            ("xavier_normal", || init::xavier_normal(&SHAPE, 1.0), 0.004_f64.sqrt(), 1.0),
            (
                "xavier_uniform",
                || init::xavier_uniform(&SHAPE, 1.0),
                0.004_f64.sqrt(),
                0.012_f64.sqrt(),
            ),
            ("kaiming_normal", || init::kaiming_normal(&SHAPE, 2_f32.sqrt()), 0.1, 1.0),
            (
                "kaiming_uniform",
                || init::kaiming_uniform(&SHAPE, 2_f32.sqrt()),
                0.1,
                0.03_f64.sqrt(),
            ),
        ];
        for (name, draw, std, bound) in cases {
            let drawn = rng::scope(&rng::key(5)?, draw)?;
            assert_eq!((drawn.shape(), drawn.dtype()), (&SHAPE[..], Dtype::Float32));
            let (mean, actual) = mean_and_std(&drawn);
            assert!(mean.abs() < 0.02 * std, "{name}: mean {mean}");
            assert!((actual / std - 1.0).abs() < 0.01, "{name}: {actual}, expected {std}");
            let largest =
                values(&drawn).into_iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
            assert!(largest <= bound * (1.0 + 1e-6), "{name}: {largest} beyond {bound}");
        }
        Ok(())
    }

    #[test]
    fn the_kernel_of_a_convolution_counts_in_both_fans() -> Result<()> {
        let draw = || init::kaiming_normal(&[64, 3, 3, 32], 1.0);
        let (_, std) = mean_and_std(&rng::scope(&rng::key(5)?, draw)?);
        assert!((std * (3.0 * 3.0 * 32.0_f64).sqrt() - 1.0).abs() < 0.02, "{std}");
        Ok(())
    }

    #[test]
    fn one_seed_gives_one_model() -> Result<()> {
        let draw = |seed| rng::scope(&rng::key(seed)?, || init::normal(&[8], 1.0));
        assert_eq!(values(&draw(1)?), values(&draw(1)?));
        assert_ne!(values(&draw(1)?), values(&draw(2)?));
        Ok(())
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let text = |result: Result<Array>| result.expect_err("refused").to_string();
        assert!(text(init::normal(&[2, 2], f32::NAN)).contains("`std` is NaN"));
        assert!(text(init::uniform(&[2, 0], 1.0)).contains("size of 0"));
        assert!(text(init::xavier_uniform(&[2], 1.0)).contains("it needs two axes"));
        assert!(text(init::kaiming_normal(&[2, 2], -1.0)).contains("not negative"));
    }
}
