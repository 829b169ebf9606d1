//! Layers that ranks divide compute what they compute on one.

use super::{
    ranks::run,
    split_model::{assert_same, divided, parameters},
};
use mlx_rs::{
    module::{Module, Param},
    ops::{add, tanh},
    random,
};
use mlx_train_core::{
    Array, Result, Shard,
    distributed::Group,
    graph::Graph,
    model::{BaseModel, Loss, shard, splits},
    nn::{Dropout, Embedding, Linear, LoraConfig, LoraLinear, Stack},
    rng,
};

/// A layer of every kind.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters, Shard)]
struct Layers {
    #[param]
    #[shard(vocabulary)]
    embedding: Embedding,
    #[param]
    #[shard(columns)]
    up: Linear,
    #[param]
    #[shard(rows)]
    down: Linear,
    #[param]
    #[shard(columns)]
    adapted: Vec<LoraLinear>,
    #[param]
    #[shard(rows)]
    back: Option<LoraLinear>,
    #[param(rename = "head.of.classes")]
    #[shard(vocabulary)]
    head: Linear,
    #[param]
    #[shard(alternating)]
    chain: Stack<Linear>,
    #[shard(divide)]
    num_heads: i32,
    #[shard(divide)]
    dropout: Dropout,
    same: Dropout,
}

impl Layers {
    fn new() -> Result<Self> {
        rng::scope(&rng::key(5)?, || {
            let adapted = |inputs, outputs| {
                let mut layer = LoraLinear::from(Linear::new(inputs, outputs)?);
                layer.adapt(&LoraConfig { rank: 3, ..LoraConfig::default() })?;
                // One that has learnt something.
                layer.lora_b =
                    Param::new(Some(random::normal::<f32>(&[outputs, 3], 0.0, 0.3, None)?));
                Ok::<_, mlx_train_core::Error>(layer)
            };
            let chain =
                [8, 4, 12, 8, 7].windows(2).map(|width| Ok(Linear::new(width[0], width[1])?));
            Ok(Self {
                embedding: Embedding::new(16, 8)?,
                up: Linear::new(8, 12)?,
                down: Linear::new(12, 8)?,
                adapted: vec![adapted(8, 12)?, adapted(8, 12)?],
                back: Some(adapted(12, 8)?),
                head: Linear::new(8, 16)?,
                chain: chain.collect::<Result<_>>()?,
                num_heads: 4,
                dropout: Dropout::new(0.5)?,
                same: Dropout::new(0.5)?,
            })
        })
    }
}

impl BaseModel for Layers {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.clone())
    }

    fn loss_fn(&mut self, x: &Array, _: &Array) -> Result<Loss> {
        Ok(Loss::mean_over(x.clone(), 1))
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

/// A number that every element of `x` has a part in, none as another has.
fn loss(x: &Array) -> Result<Array> {
    let weights = random::normal::<f32>(x.shape(), None, None, &rng::key(17)?)?;
    Ok(tanh(x)?.multiply(weights)?.sum(None)?)
}

#[test]
fn layers_compute_on_ranks_what_they_compute_on_one() {
    let test = "tensor::layers_compute_on_ranks_what_they_compute_on_one";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let (layers, key) = (Layers::new()?, rng::key(3)?);
            let x = random::normal::<f32>(&[2, 3, 8], None, None, &key)?;
            // Some that are there twice, and some of no vector.
            let ids = Array::from_slice(&[0, 15, 7, 7, 4, 8, -3, 99], &[2, 4]);

            assert_same("columns and rows", &layers, group, &x, |it, x| {
                loss(&it.down.forward(&tanh(it.up.forward(x)?)?)?)
            })?;
            assert_same("adapters", &layers, group, &x, |it, x| {
                let [a, b] =
                    LoraLinear::forward_all([&it.adapted[0], &it.adapted[1]], x)?.apart()?;
                let mixed = add(tanh(a)?, it.adapted[1].forward(x)?.multiply(b)?)?;
                loss(&it.back.as_ref().expect("it is there").forward(&mixed)?)
            })?;
            assert_same("look-up", &layers, group, &ids, |it, ids| {
                loss(&it.embedding.forward(ids)?)
            })?;
            assert_same("tied", &layers, group, &ids, |it, ids| {
                loss(&it.embedding.as_linear(&it.embedding.forward(ids)?)?)
            })?;
            assert_same("head", &layers, group, &x, |it, x| loss(&it.head.forward(x)?))?;
            assert_same("in turn", &layers, group, &x, |it, x| {
                loss(&it.chain.forward(x.clone(), |layer, _, x| Ok(layer.forward(&x)?))?)
            })?;
            group.barrier()
        });
    }
}

#[test]
fn ranks_hold_parts_and_know_what_they_are_parts_of() {
    run("tensor::ranks_hold_parts_and_know_what_they_are_parts_of", 2, |group| {
        let whole = Layers::new()?;
        let (mut model, made) = divided(&whole, group)?;
        assert_eq!(made, splits(&mut whole.clone(), 2)?);
        let shapes = parameters(&model);
        let shape = |name: &str| shapes[name].shape().to_vec();
        assert_eq!(shape("embedding.weight"), [8, 8]);
        assert_eq!((shape("up.weight"), shape("up.bias")), (vec![6, 8], vec![6]));
        assert_eq!((shape("down.weight"), shape("down.bias")), (vec![8, 6], vec![8]));
        assert_eq!(
            (shape("adapted.1.lora_a"), shape("adapted.1.lora_b")),
            (vec![3, 8], vec![6, 3])
        );
        assert_eq!((shape("back.lora_a"), shape("back.lora_b")), (vec![3, 6], vec![8, 3]));
        assert_eq!(shape("head.of.classes.weight"), [8, 8]);
        assert_eq!((shape("chain.0.weight"), shape("chain.1.weight")), (vec![2, 8], vec![12, 2]));
        assert_eq!((shape("chain.2.weight"), shape("chain.3.weight")), (vec![4, 12], vec![7, 4]));
        assert_eq!(model.num_heads, 2);
        // Parts are not cut again.
        let refused = shard(&mut model, group).unwrap_err().to_string();
        assert!(refused.contains("split over 2 ranks already"), "{refused}");
        group.barrier()
    });
}

#[test]
fn layers_of_one_input_add_up_its_gradient_once() {
    run("tensor::layers_of_one_input_add_up_its_gradient_once", 2, |group| {
        let (mut model, _) = divided(&Layers::new()?, group)?;
        let x = random::normal::<f32>(&[2, 3, 8], None, None, &rng::key(3)?)?;
        let sums = |model: &mut Layers, f: fn(&mut Layers, &Array) -> Result<Array>| {
            let (_, of_x, _) = super::split_model::gradients(model, &x, f)?;
            let graph = Graph::of(&[of_x.expect("x is of numbers")])?;
            let is_sum = |name: &str| name.contains("AllReduce");
            Ok::<_, mlx_train_core::Error>(
                graph.operations().iter().filter(|it| is_sum(&it.name)).count(),
            )
        };
        let together = sums(&mut model, |it, x| {
            let [a, b] = Linear::forward_all([&it.up, &it.up], x)?.apart()?;
            loss(&add(a, b)?)
        })?;
        let apart = sums(&mut model, |it, x| loss(&add(it.up.forward(x)?, it.up.forward(x)?)?))?;
        assert_eq!((together, apart), (1, 2));
        group.barrier()
    });
}

#[test]
fn masks_differ_from_rank_to_rank_where_features_are_in_parts_and_nowhere_else() {
    let test =
        "tensor::masks_differ_from_rank_to_rank_where_features_are_in_parts_and_nowhere_else";
    run(test, 2, |group| {
        let (model, _) = divided(&Layers::new()?, group)?;
        let ones = Array::ones::<f32>(&[64])?;
        let masks = |dropout: Dropout| -> Result<bool> {
            let mask = rng::scope(&rng::key(1)?, || dropout.forward(&ones))?;
            let all = group.all_gather(&mask)?.reshape(&[2, 64])?;
            group.eval("masks", [&all])?;
            let parts = all.split_equal(2, 0)?;
            Ok(parts[0].all_close(&parts[1], None, None, None)?)
        };
        assert!(masks(model.same)?);
        assert!(!masks(model.dropout)?);
        group.barrier()
    });
}

#[test]
fn one_process_needs_no_annotation_and_is_not_changed_by_one() -> Result<()> {
    /// Says nothing of how it is split.
    #[derive(Debug, mlx_train_core::ModuleParameters)]
    struct Plain(#[param] Linear);

    impl BaseModel for Plain {
        fn forward(&mut self, x: &Array) -> Result<Array> {
            Ok(self.0.forward(x)?)
        }

        fn loss_fn(&mut self, x: &Array, _: &Array) -> Result<Loss> {
            Ok(Loss::mean_over(self.forward(x)?, 1))
        }
    }

    let mut plain = Plain(Linear::new(4, 4)?);
    assert!(shard(&mut plain, &Group::alone())?.is_empty());
    let refused = splits(&mut plain, 2).unwrap_err().to_string();
    assert!(refused.contains("#[derive(Shard)]") && refused.contains("as_shard"), "{refused}");

    let mut layers = Layers::new()?;
    let before = parameters(&layers);
    assert!(shard(&mut layers, &Group::alone())?.is_empty());
    assert_eq!(splits(&mut layers, 2)?.axis("down.weight"), Some(1));
    assert_eq!(splits(&mut layers, 2)?.axis("down.bias"), None);
    assert_eq!(layers.num_heads, 4);
    for (name, value) in parameters(&layers) {
        assert_eq!(value.shape(), before[&name].shape());
    }
    // Everything that does not divide, not the first of it.
    let refused = splits(&mut layers, 5).unwrap_err().to_string();
    for size in [
        "`embedding.weight` is 16",
        "axis 0 of `up.weight` is 12",
        "axis 1 of `down.weight` is 12",
        "axis 0 of `adapted.*.weight` is 12 (2 times)",
        "axis 0 of `head.of.classes.bias` is 16",
        "`num_heads` is 4",
        "split it over 4",
    ] {
        assert!(refused.contains(size), "{size}: {refused}");
    }
    Ok(())
}
