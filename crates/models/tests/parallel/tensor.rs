//! Models whose layers ranks divide train as on one.

use super::{
    ranks::run,
    split_model::{assert_same, divided, gradients, parameters, parts, set},
    transformer,
};
use mlx_rs::{Array, ops::concatenate, random};
use mlx_train_core::{
    Result,
    batch::{Batch, IGNORED_TARGET},
    checkpoint::{CheckpointPolicy, with_policy},
    distributed::{Group, Mesh, Parallelism},
    generate::LanguageModel,
    graph::Graph,
    model::{BaseModel, FromConfig, splits},
    nn::LoraConfig,
    optim::AdamW,
    rng,
    train::{StepOptions, TrainStep},
};
use mlx_train_models::{
    mlp::{Mlp, MlpConfig, Norm},
    transformer::{Transformer, TransformerConfig},
};
use parity::assert_close;

const LEARNING_RATE: f32 = 0.1;

/// A model that computes its loss from logits.
fn config() -> TransformerConfig {
    TransformerConfig { fused_loss: Some(false), ..transformer() }
}

/// The model with weights that are large enough for every layer to show in the loss.
fn model<M: FromConfig>(config: &M::Config) -> Result<M> {
    rng::scope(&rng::key(11)?, || {
        let mut model = M::from_config(config)?;
        let mut values = parameters(&model);
        for (index, value) in values.values_mut().enumerate() {
            let noise = random::normal::<f32>(value.shape(), 0.0, 0.3, &rng::key(index as u64)?)?;
            *value = value.add(noise)?;
        }
        set(&mut model, &values);
        Ok(model)
    })
}

/// Tokens, and those after them, some of which are masked.
fn tokens(step: i32) -> (Array, Array) {
    let token = |at: i32| (at * 7 + step * 3) % 32;
    let x: Vec<i32> = (0..12).map(token).collect();
    let masked = |at: i32| if at % 5 == 2 { IGNORED_TARGET } else { token(at + 1) };
    let y: Vec<i32> = (0..12).map(masked).collect();
    (Array::from_slice(&x, &[2, 6]), Array::from_slice(&y, &[2, 6]))
}

/// The losses of a few steps of plain gradient descent.
fn descend<M: BaseModel>(
    model: &mut M,
    group: &Group,
    batch: impl Fn(i32) -> (Array, Array),
) -> Result<Vec<Array>> {
    let rate = Array::from_f32(LEARNING_RATE);
    let steps = (0..3).map(|step| {
        let (x, y) = batch(step);
        let (loss, _, gradients) = gradients(model, &x, |it, x| Ok(it.loss_fn(x, &y)?.value))?;
        let mut values = parameters(model);
        for (name, value) in &mut values {
            *value = value.subtract(gradients[name].multiply(&rate)?)?;
        }
        group.eval("a step", values.values().chain([&loss]))?;
        set(model, &values);
        Ok(loss)
    });
    steps.collect()
}

/// Asserts that `model` learns on the ranks of `group` what it learns on one.
fn assert_learns_the_same<M: BaseModel + Clone>(
    what: &str,
    whole: &M,
    group: &Group,
    batch: impl Fn(i32) -> (Array, Array) + Copy,
) -> Result<()> {
    let (mut ours, splits) = divided(whole, group)?;
    let mut one = whole.clone();
    let expected = descend(&mut one, &Group::alone(), batch)?;
    let losses = descend(&mut ours, group, batch)?;
    for (step, (loss, expected)) in losses.iter().zip(&expected).enumerate() {
        assert_close(&format!("{what}, loss {step}"), loss, expected, 1e-4, 1e-5);
    }
    let (first, last) = (losses.first().unwrap(), losses.last().unwrap());
    assert!(last.lt(first)?.try_item_exact::<bool>()?, "{what} learnt nothing");
    let ours = parameters(&ours);
    for (name, expected) in parts(&parameters(&one), &splits, group)? {
        assert_close(&format!("{what}, {name}"), &ours[&name], &expected, 1e-4, 1e-4);
    }
    Ok(())
}

#[test]
fn a_divided_transformer_learns_what_a_whole_one_does() {
    let test = "tensor::a_divided_transformer_learns_what_a_whole_one_does";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let grouped = Some(if world_size == 2 { 2 } else { 4 });
            let tied = TransformerConfig { tie_word_embeddings: true, ..config() };
            let variants = [
                ("plain", TransformerConfig { label_smoothing: 0.1, ..config() }),
                ("tied", TransformerConfig { num_kv_heads: grouped, ..tied.clone() }),
                ("fused", TransformerConfig { fused_loss: Some(true), ..config() }),
                ("tied, fused", TransformerConfig { fused_loss: Some(true), ..tied }),
            ];
            for (what, config) in variants {
                assert_learns_the_same(what, &model::<Transformer>(&config)?, group, tokens)?;
            }
            group.barrier()
        });
    }
}

#[test]
fn ranks_of_a_divided_model_keep_the_same_what_all_of_them_have() {
    let test = "tensor::ranks_of_a_divided_model_keep_the_same_what_all_of_them_have";
    run(test, 2, |group| {
        // Masks that differed from rank to rank would show in every parameter.
        let config = TransformerConfig { dropout: 0.3, ..config() };
        let mut model = model::<Transformer>(&config)?;
        let splits = splits(&mut model, 2)?;
        let mesh = Mesh::new(group, Parallelism::tensor(2))?;
        let mut step =
            TrainStep::parallel(&mesh, &mut model, AdamW::default(), 3, StepOptions::default())?;
        for index in 0..3 {
            let (x, y) = tokens(index);
            step.run([Ok(Batch::new(x, y))], 0.01)?;
        }
        drop(step);
        for (name, value) in parameters(&model) {
            if splits.axis(&name).is_none() {
                let lowest = group.all_min(&value)?;
                group.eval("a parameter", [&lowest])?;
                assert_close(&name, &value, &lowest, 0.0, 0.0);
            }
        }
        group.barrier()
    });
}

#[test]
fn adapters_of_a_divided_transformer_have_the_gradients_of_a_whole_one() {
    let test = "tensor::adapters_of_a_divided_transformer_have_the_gradients_of_a_whole_one";
    run(test, 2, |group| {
        let targets = ["q_proj", "o_proj", "up_proj", "down_proj"].map(str::to_owned).to_vec();
        let lora = Some(LoraConfig { rank: 2, targets, ..LoraConfig::default() });
        let whole = model::<Transformer>(&TransformerConfig { lora, ..config() })?;
        let (x, y) = tokens(0);
        assert_same("adapters", &whole, group, &x, |it, x| Ok(it.loss_fn(x, &y)?.value))?;

        // Merged, they compute the same.
        let (mut divided, _) = divided(&whole, group)?;
        let before = divided.forward(&x)?;
        divided.merge_adapters()?;
        let after = divided.forward(&x)?;
        group.eval("logits", [&before, &after])?;
        assert_close("merged", &after, &before, 1e-4, 1e-4);
        group.barrier()
    });
}

#[test]
fn checkpointed_blocks_have_the_same_gradients_divided() {
    run("tensor::checkpointed_blocks_have_the_same_gradients_divided", 2, |group| {
        let whole = model::<Transformer>(&config())?;
        let (x, y) = tokens(1);
        for policy in ["full", "selective=[mlp]"] {
            let policy: CheckpointPolicy = policy.parse()?;
            with_policy(&policy, || {
                assert_same("checkpointed", &whole, group, &x, |it, x| Ok(it.loss_fn(x, &y)?.value))
            })?;
        }
        group.barrier()
    });
}

#[test]
fn a_divided_transformer_predicts_what_a_whole_one_does() {
    run("tensor::a_divided_transformer_predicts_what_a_whole_one_does", 2, |group| {
        let mut whole = model::<Transformer>(&config())?;
        let (mut divided, _) = divided(&whole, group)?;
        let (x, y) = tokens(2);
        let expected = whole.forward(&x)?;
        let logits = divided.forward(&x)?;
        let batch = Batch::new(x.clone(), y);
        let (_, outputs) = divided.loss_and_outputs(&batch)?;
        group.eval("logits", [&logits, &outputs])?;
        assert_close("logits", &logits, &expected, 1e-4, 1e-4);
        assert_close("outputs", &outputs, &expected, 1e-4, 1e-4);

        // Token by token, with its own heads in the cache.
        let mut cache = divided.new_cache();
        let parts = x.split_equal(3, 1)?;
        let parts = parts.iter().map(|part| divided.logits(part, &mut cache));
        let logits = concatenate(&parts.collect::<Result<Vec<_>>>()?, 1)?;
        group.eval("logits", [&logits])?;
        assert_close("cached", &logits, &expected, 1e-4, 1e-4);
        group.barrier()
    });
}

#[test]
fn a_block_adds_up_twice_on_the_way_there_and_twice_on_the_way_back() {
    run("tensor::a_block_adds_up_twice_on_the_way_there_and_twice_on_the_way_back", 2, |group| {
        let sums = |num_layers| -> Result<usize> {
            let config = TransformerConfig { num_layers, ..config() };
            let (mut model, _) = divided(&model::<Transformer>(&config)?, group)?;
            let (x, y) = tokens(0);
            let (_, _, gradients) =
                gradients(&mut model, &x, |it, x| Ok(it.loss_fn(x, &y)?.value))?;
            let gradients: Vec<Array> = gradients.into_values().collect();
            let graph = Graph::of(&gradients)?;
            Ok(graph.operations().iter().filter(|it| it.name.contains("AllReduce")).count())
        };
        assert_eq!(sums(3)? - sums(2)?, 4);
        group.barrier()
    });
}

#[test]
fn a_divided_mlp_learns_what_a_whole_one_does() {
    let test = "tensor::a_divided_mlp_learns_what_a_whole_one_does";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let batch = |_| {
                let x: Vec<f32> = (0..48).map(|at| (at as f32 * 3.5).sin()).collect();
                let y: Vec<i32> = (0..8).map(|at| at % 3).collect();
                (Array::from_slice(&x, &[8, 6]), Array::from_slice(&y, &[8]))
            };
            let sizes = MlpConfig { input_size: 6, output_size: 3, ..MlpConfig::default() };
            // An even and an odd number of hidden layers, and a width that nothing divides.
            for hidden_sizes in [vec![16, 12], vec![16, 12, 8], vec![7, 8, 5], vec![8]] {
                let what = format!("{hidden_sizes:?}");
                let config = MlpConfig { hidden_sizes, ..sizes.clone() };
                assert_learns_the_same(&what, &model::<Mlp>(&config)?, group, batch)?;
            }
            group.barrier()
        });
    }
}

#[test]
fn sizes_that_do_not_divide_are_all_named() -> Result<()> {
    let config = TransformerConfig { num_kv_heads: Some(2), vocab_size: 31, ..config() };
    let refused = splits(&mut model::<Transformer>(&config)?, 4).unwrap_err().to_string();
    for size in [
        "over 4 ranks",
        "`model.embed_tokens.weight` is 31",
        "`model.layers.*.self_attn.num_kv_heads` is 2 (2 times)",
        "`lm_head.weight` is 31",
        "split it over 1",
    ] {
        assert!(refused.contains(size), "{size}: {refused}");
    }
    assert!(!refused.contains("num_heads` is 4"), "{refused}");

    // Norms need all features of a layer.
    let config = MlpConfig { norm: Norm::RmsNorm, hidden_sizes: vec![8], ..MlpConfig::default() };
    let refused = splits(&mut model::<Mlp>(&config)?, 2).unwrap_err().to_string();
    assert!(refused.contains("nothing of the model would be split over 2 ranks"), "{refused}");
    Ok(())
}

#[test]
fn a_planner_learns_what_is_split_without_any_ranks() -> Result<()> {
    let mut transformer = model::<Transformer>(&config())?;
    let splits = splits(&mut transformer, 4)?;
    let axis = |name: &str| splits.axis(name);
    assert_eq!(axis("model.layers.1.self_attn.q_proj.weight"), Some(0));
    assert_eq!(axis("model.layers.1.self_attn.o_proj.weight"), Some(1));
    assert_eq!(axis("model.layers.0.mlp.down_proj.weight"), Some(1));
    assert_eq!(axis("model.embed_tokens.weight"), Some(0));
    assert_eq!(axis("lm_head.weight"), Some(0));
    assert_eq!(axis("model.layers.0.input_layernorm.weight"), None);
    assert_eq!((splits.num_ranks(), splits.iter().count()), (4, 2 * 7 + 2));
    // It is the model that it was.
    let (x, _) = tokens(0);
    assert_eq!(transformer.forward(&x)?.shape(), [2, 6, 32]);
    Ok(())
}
