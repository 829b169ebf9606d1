//! What must hold for the transformer, whatever its weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{
    build, cast, descend, distance, loss, loss_and_grads, num_draws, number, parameters,
    set_parameters, value_and_grads, values,
};
use mlx_rs::{
    Array, Dtype,
    module::ModuleParameters,
    ops::{concatenate, indexing::TryIndexOp},
};
use mlx_train_core::{
    config::{Format, ModelConfig},
    data::{Batch, Dataset, Packing, Padding, Sequences},
    generate::{GenerateOptions, LanguageModel, Sampler, generate},
    model::{BaseModel, FromConfig},
    optim::AdamW,
    rng,
    store::{LoadOptions, load_weights, save_weights},
    train::{CompileMode, Metric, Precision, StepOptions, TrainStep, accuracy, evaluate},
};
use mlx_train_models::transformer::{Block, Transformer, TransformerConfig};
use proptest::prelude::*;
use std::ops::ControlFlow::Continue;

fn config() -> TransformerConfig {
    TransformerConfig {
        vocab_size: 17,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: Some(2),
        intermediate_size: Some(24),
        max_seq_len: 16,
        ..Default::default()
    }
}

/// Ten times the fresh weights, so that what attention sees shows in the logits.
fn model(seed: u64) -> Transformer {
    let mut model = build::<Transformer>(&config(), seed);
    let ten = Array::from_f32(10.0);
    let wide = |w: &Array| if w.ndim() == 2 { w.multiply(&ten).unwrap() } else { w.clone() };
    let wide: Vec<_> = parameters(&model).values().map(wide).collect();
    set_parameters(&mut model, &wide);
    model
}

fn row(tokens: &[i32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}

/// Up to `max_seq_len` tokens of the vocabulary.
fn texts() -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec(0..17_i32, 2..=16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn later_tokens_never_change_earlier_outputs(text in texts(), seed in 0..4_u64, at in any::<prop::sample::Index>()) {
        let (mut model, at) = (model(seed), 1 + at.index(text.len() - 1));
        let whole = model.forward(&row(&text)).unwrap();
        let mut other = text;
        for token in &mut other[at..] {
            *token = (*token + 1) % 17;
        }
        let changed = model.forward(&row(&other)).unwrap();
        let until = |logits: &Array| values(&logits.try_index((.., ..at as i32)).unwrap());
        prop_assert_eq!(until(&whole), until(&changed));
        // The change is seen from where it is.
        prop_assert_ne!(values(&whole), values(&changed));
    }

    #[test]
    fn logits_in_parts_through_the_cache_equal_those_of_the_whole(
        text in texts(),
        seed in 0..4_u64,
        cuts in prop::collection::vec(1..5_usize, 16),
    ) {
        let mut model = model(seed);
        let whole = model.forward(&row(&text)).unwrap();
        let mut cache = model.new_cache();
        let (mut rest, mut parts) = (text.as_slice(), Vec::new());
        for cut in cuts {
            let (part, after) = rest.split_at(cut.min(rest.len()));
            if !part.is_empty() {
                parts.push(model.logits(&row(part), &mut cache).unwrap());
            }
            rest = after;
        }
        prop_assert_eq!(cache.offset() as usize, text.len());
        let parts = concatenate(&parts, 1).unwrap();
        prop_assert!(distance(&parts, &whole) < 1e-5);
    }

    #[test]
    fn cached_generation_equals_recomputing_without_a_cache(
        text in prop::collection::vec(0..17_i32, 1..6),
        seed in 0..4_u64,
        temperature in prop_oneof![Just(0.0_f32), Just(1.0)],
    ) {
        let mut model = model(seed);
        let prompt: Vec<u32> = text.iter().map(|&token| token as u32).collect();
        let sampler = Sampler { top_k: Some(5), ..Sampler::with_temperature(temperature) };
        let options =
            GenerateOptions { max_tokens: 8, sampler: sampler.clone(), seed, ..Default::default() };
        let generated = generate(&mut model, &prompt, &options, |_| Continue(())).unwrap();

        let (mut all, mut key) = (text.clone(), rng::key(seed).unwrap());
        for _ in 0..8 {
            let logits = model.forward(&row(&all)).unwrap().try_index((0, -1)).unwrap();
            let (next, draw) = rng::split(&key).unwrap();
            key = next;
            all.push(sampler.sample(&logits, &draw).unwrap().try_item_exact::<u32>().unwrap() as i32);
        }
        let recomputed: Vec<u32> = all[text.len()..].iter().map(|&token| token as u32).collect();
        prop_assert_eq!(generated, recomputed);
    }
}

#[test]
fn rows_of_a_batch_do_not_see_each_other() {
    let mut model = model(0);
    let (a, b) = ([3, 1, 4, 1], [5, 9, 2, 6]);
    let both = model.forward(&Array::from_slice(&[a, b].concat(), &[2, 4])).unwrap();
    for (i, text) in [a, b].iter().enumerate() {
        let alone = model.forward(&row(text)).unwrap();
        assert!(distance(&both.try_index(i as i32).unwrap(), &alone.try_index(0).unwrap()) < 1e-5);
    }
}

#[test]
fn one_seed_gives_one_model_and_another_seed_another() {
    let weights = |seed| {
        let model = build::<Transformer>(&config(), seed);
        parameters(&model).values().map(values).collect::<Vec<_>>()
    };
    assert_eq!(weights(1), weights(1));
    assert_ne!(weights(1), weights(2));
}

#[test]
fn weights_start_with_the_standard_deviations_of_gpt2() {
    let config = TransformerConfig { hidden_size: 128, num_layers: 8, ..config() };
    let model = build::<Transformer>(&config, 0);
    for (name, weight) in parameters(&model) {
        let values = values(&weight);
        let deviation = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
        // 0.02, through 1/sqrt(2 * 8) where a block adds to its input; norms are ones.
        let expected = match name.as_str() {
            name if name.contains("norm") => 1.0,
            name if name.contains("o_proj") || name.contains("down_proj") => 0.005,
            _ => 0.02,
        };
        assert!((deviation / expected - 1.0).abs() < 0.1, "{name}: {deviation}");
    }
}

#[test]
fn the_loss_of_a_fresh_model_is_that_of_a_guess() {
    let mut model = build::<Transformer>(&config(), 0);
    let loss = loss(&mut model, &row(&[1, 2, 3]), &row(&[2, 3, 4]), None).unwrap();
    // log(V), as all logits are near zero.
    assert!((number(&loss) - 17_f32.ln()).abs() < 0.05, "{loss}");
}

#[test]
fn a_loss_without_whole_logits_is_the_same_also_in_packed_rows_and_tied() {
    let batch = Batch::new(
        Array::from_slice(&[3, 1, 4, 1, 5, 9], &[2, 3]),
        Array::from_slice(&[1, 4, -100, 5, 9, 2], &[2, 3]),
    );
    let packed = batch.clone().with_segments(Array::from_slice(&[0, 1, 1, 0, 0, 1], &[2, 3]));
    for (batch, tie_word_embeddings) in [(&batch, false), (&batch, true), (&packed, true)] {
        let run = |fused_loss| {
            let config = TransformerConfig {
                tie_word_embeddings,
                fused_loss,
                label_smoothing: 0.1,
                ..config()
            };
            let mut model = build::<Transformer>(&config, 0);
            value_and_grads(&mut model, |model| Ok(model.batch_loss(batch)?.value))
        };
        let ((whole, whole_grads), (fused, grads)) = (run(Some(false)), run(Some(true)));
        assert!((number(&fused) / number(&whole) - 1.0).abs() < 1e-6);
        for (name, grad) in &grads {
            assert!(distance(grad, &whole_grads[name]) < 1e-5, "{name}");
        }
        // So small a batch has whole logits, unless it is told otherwise.
        assert_eq!(number(&run(None).0).to_bits(), number(&whole).to_bits());
    }
}

#[test]
fn outputs_of_an_evaluation_are_the_logits_of_its_loss_whatever_computes_the_loss() {
    let config = TransformerConfig { fused_loss: Some(true), ..config() };
    let mut model = build::<Transformer>(&config, 0);
    let batch = Batch::new(row(&[3, 1, 4]), row(&[1, 4, 1]));
    let (loss, outputs) = model.loss_and_outputs(&batch).unwrap();
    assert_eq!(values(&outputs), values(&model.forward(&batch.x).unwrap()));
    let fused = model.batch_loss(&batch).unwrap();
    assert!((number(&loss.value) / number(&fused.value) - 1.0).abs() < 1e-6);
    // Dropout draws for one forward pass.
    let draws = |f: &mut dyn FnMut() -> mlx_train_core::Result<Array>| num_draws(f);
    let once = draws(&mut || Ok(model.batch_loss(&batch)?.value));
    assert_eq!(draws(&mut || Ok(model.loss_and_outputs(&batch)?.1)), once);
}

#[test]
fn dropout_is_off_outside_of_a_scope_and_follows_its_key_inside() {
    let mut model = model(0);
    let text = row(&[1, 2, 3, 4]);
    let mut in_scope =
        |seed| values(&rng::scope(&rng::key(seed).unwrap(), || model.forward(&text)).unwrap());
    let (first, again, other) = (in_scope(1), in_scope(1), in_scope(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let evaluated = values(&model.forward(&text).unwrap());
    assert_ne!(evaluated, first);
    assert_eq!(evaluated, values(&model.forward(&text).unwrap()));
}

#[test]
fn dropout_follows_the_embedding_and_both_parts_of_each_block() {
    for num_layers in [1, 3] {
        let config = TransformerConfig { num_layers, dropout: 0.1, ..config() };
        let mut model = build::<Transformer>(&config, 0);
        assert_eq!(num_draws(|| model.forward(&row(&[1, 2]))), 1 + 2 * num_layers);
    }
}

#[test]
fn saved_and_loaded_the_model_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (mut saved, mut loaded) = (model(1), model(2));
    save_weights(&saved, &path).unwrap();
    load_weights(&mut loaded, &path, &LoadOptions::default()).unwrap();
    let text = row(&[1, 2, 3]);
    assert_eq!(values(&saved.forward(&text).unwrap()), values(&loaded.forward(&text).unwrap()));
}

#[test]
fn names_are_those_of_hugging_faces_llama() {
    let one_layer = TransformerConfig { num_layers: 1, ..config() };
    let names = |tie_word_embeddings| {
        let config = TransformerConfig { tie_word_embeddings, ..one_layer.clone() };
        parameters(&build::<Transformer>(&config, 0)).into_keys().collect::<Vec<_>>()
    };
    let tied = [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.norm.weight",
    ];
    assert_eq!(names(true), tied);
    assert_eq!(names(false), [&["lm_head.weight"][..], &tied[..]].concat());
}

#[test]
fn bf16_weights_stay_bf16_through_the_cache_and_the_loss_is_f32() {
    let mut model = model(0);
    cast(&mut model, Dtype::Bfloat16);
    let mut cache = model.new_cache();
    let logits = model.logits(&row(&[1, 2, 3]), &mut cache).unwrap();
    assert_eq!(logits.dtype(), Dtype::Bfloat16);
    let key = rng::key(0).unwrap();
    let (loss, grads) = loss_and_grads(&mut model, &row(&[1, 2]), &row(&[2, 3]), Some(&key));
    assert_eq!(loss.dtype(), Dtype::Float32);
    assert!(grads.values().all(|grad| grad.dtype() == Dtype::Bfloat16));
}

#[test]
fn training_keeps_every_dtype_in_each_precision() {
    use Dtype::{Bfloat16, Float32};
    let bf16 = Precision::Bf16 { stochastic_rounding: true };
    for (precision, kept, state, compute) in [
        (Precision::F32, Float32, Float32, Float32),
        (Precision::Mixed, Float32, Float32, Bfloat16),
        (bf16, Bfloat16, Bfloat16, Bfloat16),
    ] {
        for tie_word_embeddings in [true, false] {
            let config = TransformerConfig { tie_word_embeddings, dropout: 0.1, ..config() };
            let mut model = build::<Transformer>(&config, 0);
            let options =
                StepOptions { precision, compile: CompileMode::Off, ..StepOptions::default() };
            let mut step = TrainStep::new(&mut model, AdamW::default(), 0, options).unwrap();
            let (x, y) = (row(&[1, 2, 3, 4, 5, 6]), row(&[2, 3, 4, 5, 6, -100]));
            for _ in 0..10 {
                let batch = Batch::new(x.clone(), y.clone());
                let output = step.run([Ok(batch)], 1e-3).unwrap();
                assert_eq!(output.loss.value.dtype(), Float32);
            }
            for (name, array) in step.snapshot().unwrap().weights {
                assert_eq!(array.dtype(), kept, "{name} in {precision:?}");
            }
            for (name, array) in step.state().optimizer().named_arrays() {
                assert_eq!(array.dtype(), state, "{name} in {precision:?}");
            }
            // With dropout, as in training, and without.
            let mut logits = |key: Option<&Array>| {
                step.with_evaluation_weights(|model| match key {
                    Some(key) => rng::scope(key, || model.forward(&x)),
                    None => model.forward(&x),
                })
            };
            assert_eq!(logits(Some(&rng::key(1).unwrap())).unwrap().dtype(), compute);
            assert_eq!(logits(None).unwrap().dtype(), compute);
        }
    }
}

#[test]
fn ignored_targets_count_for_nothing() {
    let mut model = model(0);
    let x = row(&[1, 2, 3, 4]);
    let some = model.loss_fn(&x, &row(&[2, -100, -100, 5])).unwrap();
    assert_eq!(values(&some.weight), [2.0]);
    let mut of_each = |target: [i32; 4]| number(&model.loss_fn(&x, &row(&target)).unwrap().value);
    let (first, last) = (of_each([2, -100, -100, -100]), of_each([-100, -100, -100, 5]));
    assert!((number(&some.value) - f32::midpoint(first, last)).abs() < 1e-5);
}

/// Loss times weight, and its gradient: what adds up over documents.
fn total_loss_and_grads(model: &mut Transformer, batch: &Batch) -> (f32, Vec<Array>) {
    let (total, grads) = value_and_grads(model, |model| {
        let loss = model.batch_loss(batch)?;
        Ok(loss.value.multiply(&loss.weight)?)
    });
    (number(&total), grads.into_values().collect())
}

#[test]
fn packed_documents_have_the_losses_and_gradients_of_each_alone() {
    let documents =
        [vec![1, 2, 3, 4, 5], vec![6, 7], vec![1, 8, 3, 9, 5, 10, 11], vec![12, 2, 3], vec![4; 9]];
    // Every third token is not learned.
    let mask: Vec<bool> = (0..26).map(|token| token % 3 != 1).collect();
    let sequences = Sequences::from_vecs(&documents, 17, "a test").unwrap().with_loss_mask(mask);
    let sequences = sequences.unwrap();
    let mut model = model(0);

    let alone = sequences.padded(Padding::Multiple(4)).unwrap();
    let (mut expected, mut expected_grads) = (0.0, None::<Vec<Array>>);
    for document in 0..documents.len() {
        let (loss, grads) = total_loss_and_grads(&mut model, &alone.batch(&[document]).unwrap());
        expected += loss;
        expected_grads = Some(match expected_grads {
            None => grads,
            Some(sum) => sum.iter().zip(&grads).map(|(a, b)| a.add(b).unwrap()).collect(),
        });
    }
    let expected_grads = expected_grads.unwrap();

    // 21 predictions: in 16 and 12 positions of two rows there is padding. In order would split.
    for (seq_len, num_rows) in [(16, 2), (12, 2), (9, 3)] {
        let packed = sequences.packed(seq_len, Packing::BestFit).unwrap();
        assert_eq!(packed.len(), num_rows);
        let rows: Vec<usize> = (0..num_rows).collect();
        let batch = packed.batch(&rows).unwrap();
        let (loss, grads) = total_loss_and_grads(&mut model, &batch);
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} instead of {expected}");
        for (grad, expected) in grads.iter().zip(&expected_grads) {
            let distance = distance(grad, expected);
            assert!(distance < 1e-5, "{distance} at {seq_len}");
        }

        // It is the segments that keep them apart.
        let mixed = Batch::new(batch.x, batch.y);
        let (loss, _) = total_loss_and_grads(&mut model, &mixed);
        assert!((loss - expected).abs() > 1e-3 * expected, "{loss} is {expected}");
    }
}

#[test]
fn an_evaluation_does_not_depend_on_padding_or_packing() {
    let documents: Vec<Vec<u32>> =
        (3..9).map(|length| (0..length).map(|at| (at * at + length) % 17).collect()).collect();
    let sequences = Sequences::from_vecs(&documents, 17, "a test").unwrap();
    let mut model = model(0);
    let mut evaluated = |dataset: &dyn Dataset, batch_size| {
        let mut metrics = [Metric::new("accuracy", accuracy)];
        evaluate(&mut model, dataset, batch_size, &mut metrics).unwrap()
    };
    let alone = evaluated(&sequences.padded(Padding::Longest).unwrap(), 1);
    for other in [
        evaluated(&sequences.padded(Padding::Multiple(8)).unwrap(), 6),
        evaluated(&sequences.packed(16, Packing::BestFit).unwrap(), 2),
    ] {
        assert!((alone.loss - other.loss).abs() < 1e-5 * alone.loss, "{alone:?} {other:?}");
        assert!((alone.num_targets - other.num_targets).abs() < 0.5, "{alone:?} {other:?}");
        assert!((alone.metrics[0].1 - other.metrics[0].1).abs() < 1e-5, "{alone:?} {other:?}");
    }
}

#[test]
fn checkpointed_steps_end_in_the_same_bits_with_dropout_in_packed_rows() {
    let run = |policy: &str, precision: Precision| {
        let config = TransformerConfig { dropout: 0.2, tie_word_embeddings: true, ..config() };
        let mut model = build::<Transformer>(&config, 1);
        let options = StepOptions {
            compile: CompileMode::Off,
            precision,
            gradient_checkpointing: policy.parse().unwrap(),
            ..StepOptions::default()
        };
        let x = Array::from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[2, 5]);
        let y = Array::from_slice(&[2, 3, -100, 5, 6, 7, 8, -100, 10, 11], &[2, 5]);
        let segments = Array::from_slice(&[0, 0, 0, 1, 1, 0, 0, 0, 1, 1], &[2, 5]);
        let mut step = TrainStep::new(&mut model, AdamW::default(), 7, options).unwrap();
        for batch in [Batch::new(x.clone(), y.clone()), Batch::new(x, y).with_segments(segments)] {
            step.run([Ok(batch)], 0.01).unwrap();
        }
        drop(step);
        parameters(&model).values().map(values).collect::<Vec<_>>()
    };
    for precision in [Precision::F32, Precision::Mixed] {
        let expected = run("none", precision);
        for policy in ["full", "every=2", "selective=[attention]", "selective=[mlp,attention]"] {
            assert!(run(policy, precision) == expected, "{policy} {precision:?}");
        }
    }
}

#[test]
fn segments_that_do_not_fit_are_refused() {
    let x = row(&[1, 2, 3, 4]);
    let batch = Batch::new(x.clone(), x).with_segments(row(&[0, 0, 1]));
    let message = model(0).batch_loss(&batch).unwrap_err().to_string();
    assert!(message.contains("segments"), "{message}");
}

#[test]
fn a_few_steps_down_the_gradient_reduce_the_loss() {
    let mut model = build::<Transformer>(&config(), 0);
    let (x, y) = (row(&[1, 2, 3, 1, 2, 3, 1]), row(&[2, 3, 1, 2, 3, 1, 2]));
    let before = number(&loss(&mut model, &x, &y, None).unwrap());
    for _ in 0..20 {
        descend(&mut model, &x, &y, 0.5);
    }
    let after = number(&loss(&mut model, &x, &y, None).unwrap());
    assert!(after < 0.5 * before, "{before} to {after}");
}

#[test]
fn presets_are_read_from_files_and_build_what_they_say() {
    let config = TransformerConfig::parse("preset = 'tiny'\nnum_layers = 1", Format::Toml).unwrap();
    let model = build::<Transformer>(&config, 0);
    let count: usize = model.parameters().flatten().values().map(|w| w.size()).sum();
    // What `presets.rs` counts for two layers, less one of them.
    assert_eq!(count, 557_696 - (49_152 + 3 * 128 * 512 + 256));
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_the_fix() {
    let mut model = model(0);
    let refusal = |result: mlx_train_core::Result<Array>| result.unwrap_err().to_string();
    let flat = refusal(model.forward(&Array::from_slice(&[1, 2], &[2])));
    assert!(flat.contains("`tokens` has shape [2]"), "{flat}");
    let long = refusal(model.forward(&row(&[1; 17])));
    assert!(long.contains("17 tokens after 0 exceed max_seq_len = 16"), "{long}");
    let floats = refusal(model.forward(&Array::from_slice(&[0.5_f32], &[1, 1])));
    assert!(floats.contains("integers"), "{floats}");
    let loss = model.loss_fn(&row(&[1, 2]), &row(&[1])).unwrap_err().to_string();
    assert!(loss.contains("`y` has shape [1, 1]"), "{loss}");
    let narrow = Array::from_slice(&[0.5_f32; 8], &[1, 1, 8]);
    let block = refusal(Block::new(&config()).unwrap().forward(&narrow, None, None));
    assert!(block.contains("`x` has shape [1, 1, 8]"), "{block}");

    let mut cache = model.new_cache();
    model.logits(&row(&[1; 10]), &mut cache).unwrap();
    let full = refusal(model.logits(&row(&[1; 7]), &mut cache));
    assert!(full.contains("7 tokens after 10 exceed"), "{full}");
}

#[test]
fn configs_that_make_no_model_are_refused() {
    for (config, part) in [
        (TransformerConfig { num_heads: 3, ..config() }, "num_heads = 3"),
        (TransformerConfig { num_kv_heads: Some(3), ..config() }, "num_kv_heads = 3"),
        (TransformerConfig { vocab_size: 0, ..config() }, "vocab_size"),
        (TransformerConfig { dropout: 1.0, ..config() }, "dropout"),
        (TransformerConfig { rms_norm_eps: f32::NAN, ..config() }, "rms_norm_eps"),
    ] {
        let error = Transformer::from_config(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
