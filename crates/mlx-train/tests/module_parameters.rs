//! `#[derive(ModuleParameters)]` names, counts, freezes and updates the right arrays.

#![allow(clippy::unwrap_used)]

use mlx_train::{
    Array, ModuleParameters,
    mlx_rs::module::{Param, Parameter},
};
use std::rc::Rc;

#[derive(Debug, ModuleParameters)]
struct Linear {
    #[param]
    weight: Param<Array>,
    #[param]
    bias: Param<Option<Array>>,
    /// Not a parameter.
    scale: Array,
}

impl Linear {
    fn new(bias: bool) -> Self {
        let bias = bias.then(|| array(0));
        Self { weight: Param::new(array(1)), bias: Param::new(bias), scale: array(2) }
    }
}

#[derive(Debug, ModuleParameters)]
struct Attention {
    #[param]
    q_proj: Linear,
    #[param(rename = "kv.proj")]
    key_and_value: Linear,
}

#[derive(Debug, ModuleParameters)]
struct Block {
    #[param]
    attention: Attention,
    #[param]
    adapter: Option<Linear>,
    #[param]
    r#type: Linear,
}

impl Block {
    fn new(adapter: bool) -> Self {
        Self {
            attention: Attention { q_proj: Linear::new(false), key_and_value: Linear::new(true) },
            adapter: adapter.then(|| Linear::new(false)),
            r#type: Linear::new(false),
        }
    }
}

/// The bound is on `B`, which is in a parameter, and not on `T`, which is not.
#[derive(Debug, ModuleParameters)]
struct Model<B, T> {
    #[param]
    layers: Vec<B>,
    #[param(rename = "lm_head")]
    head: Box<dyn ModuleParametersDebug>,
    tokenizer: T,
}

trait ModuleParametersDebug: ModuleParameters + std::fmt::Debug {}
impl<T: ModuleParameters + std::fmt::Debug> ModuleParametersDebug for T {}

fn model() -> Model<Block, &'static str> {
    Model {
        layers: vec![Block::new(true), Block::new(false)],
        head: Box::new(Linear::new(false)),
        tokenizer: "bytes",
    }
}

fn array(value: i32) -> Array {
    Array::from_int(value)
}

fn keys<V>(parameters: impl IntoIterator<Item = (Rc<str>, V)>) -> Vec<String> {
    let mut keys: Vec<_> = parameters.into_iter().map(|(key, _)| key.to_string()).collect();
    keys.sort();
    keys
}

const KEYS: [&str; 10] = [
    "layers.0.adapter.weight",
    "layers.0.attention.kv.proj.bias",
    "layers.0.attention.kv.proj.weight",
    "layers.0.attention.q_proj.weight",
    "layers.0.type.weight",
    "layers.1.attention.kv.proj.bias",
    "layers.1.attention.kv.proj.weight",
    "layers.1.attention.q_proj.weight",
    "layers.1.type.weight",
    "lm_head.weight",
];

#[test]
fn keys_are_the_paths_of_the_fields() {
    let mut model = model();
    assert_eq!(keys(model.parameters().flatten()), KEYS);
    assert_eq!(keys(model.parameters_mut().flatten()), KEYS);
    assert_eq!(keys(model.trainable_parameters().flatten()), KEYS);
    assert_eq!(model.num_parameters(), KEYS.len());
    assert_eq!(model.tokenizer, "bytes");
}

#[test]
fn an_update_reaches_every_array_by_its_key() {
    let mut model = model();
    let values = KEYS.iter().zip(0..).map(|(key, n)| (Rc::from(*key), array(n)));
    model.update_flattened(values.collect());
    let parameters = model.parameters().flatten();
    for (key, n) in KEYS.iter().zip(0..) {
        let value: i32 = parameters[*key].try_item_exact().unwrap();
        assert_eq!(value, n, "{key}");
    }
    let unmarked: i32 = model.layers[0].adapter.as_ref().unwrap().scale.try_item_exact().unwrap();
    assert_eq!(unmarked, 2, "a field without `#[param]` is left alone");
}

#[test]
fn a_new_model_is_not_frozen() {
    assert_eq!((model().all_frozen(), model().any_frozen()), (Some(false), Some(false)));
}

#[test]
fn freezing_and_unfreezing_reach_every_depth() {
    let mut model = model();
    model.freeze_parameters(true);
    assert_eq!((model.all_frozen(), model.any_frozen()), (Some(true), Some(true)));
    assert_eq!(keys(model.trainable_parameters().flatten()), [""; 0]);
    assert_eq!(model.num_parameters(), KEYS.len(), "frozen parameters are parameters");
    model.unfreeze_parameters(true);
    assert_eq!((model.all_frozen(), model.any_frozen()), (Some(false), Some(false)));
    assert_eq!(keys(model.trainable_parameters().flatten()), KEYS);
}

#[test]
fn one_frozen_array_deep_inside_makes_a_model_partly_frozen() {
    let mut model = model();
    model.layers[1].attention.q_proj.freeze_parameters(true);
    assert_eq!((model.all_frozen(), model.any_frozen()), (Some(false), Some(true)));
    let trainable = keys(model.trainable_parameters().flatten());
    assert_eq!(trainable.len(), KEYS.len() - 1);
    assert!(!trainable.contains(&"layers.1.attention.q_proj.weight".to_owned()));
}

#[test]
fn one_trainable_array_deep_inside_keeps_a_model_from_being_frozen() {
    let mut model = model();
    model.freeze_parameters(true);
    model.layers[0].adapter.as_mut().unwrap().unfreeze_parameters(true);
    assert_eq!((model.all_frozen(), model.any_frozen()), (Some(false), Some(true)));
    assert_eq!(keys(model.trainable_parameters().flatten()), ["layers.0.adapter.weight"]);
}

#[test]
fn a_module_without_arrays_is_neither_frozen_nor_not() {
    #[derive(Debug, ModuleParameters)]
    struct Empty {
        #[param]
        blocks: Vec<Linear>,
        #[param]
        adapter: Option<Linear>,
    }
    #[derive(Debug, ModuleParameters)]
    struct Holder {
        #[param]
        empty: Empty,
        #[param]
        linear: Linear,
    }
    let empty = || Empty { blocks: Vec::new(), adapter: None };
    assert_eq!((empty().all_frozen(), empty().any_frozen()), (None, None));

    // Nor does it decide for the module around it.
    let mut holder = Holder { empty: empty(), linear: Linear::new(false) };
    assert_eq!((holder.all_frozen(), holder.any_frozen()), (Some(false), Some(false)));
    holder.freeze_parameters(true);
    assert_eq!((holder.all_frozen(), holder.any_frozen()), (Some(true), Some(true)));
}

#[test]
fn an_absent_bias_is_no_parameter() {
    let mut linear = Linear::new(false);
    assert_eq!((linear.num_parameters(), linear.all_frozen()), (1, Some(false)));
    // Freezing the weight alone freezes everything there is.
    Parameter::freeze(&mut linear.weight, true);
    assert_eq!(linear.all_frozen(), Some(true));
}

#[test]
fn tuple_and_unit_structs_are_modules_too() {
    #[derive(Debug, ModuleParameters)]
    struct Pair(#[param] Linear, &'static str, #[param(rename = "second")] Linear);
    #[derive(Debug, ModuleParameters)]
    struct Relu;
    let pair = Pair(Linear::new(false), "not a parameter", Linear::new(false));
    assert_eq!(keys(pair.parameters().flatten()), ["0.weight", "second.weight"]);
    assert_eq!(pair.1, "not a parameter");
    assert_eq!((Relu.num_parameters(), Relu.all_frozen()), (0, None));
}

mod generics {
    use super::*;

    trait Family {
        type Block: ModuleParameters + std::fmt::Debug;
    }

    #[derive(Debug)]
    struct Ours;
    impl Family for Ours {
        type Block = Linear;
    }

    /// No bound is written here: the derive adds those that it needs.
    #[derive(ModuleParameters)]
    struct Generic<'a, F: Family, V, M, const N: usize>
    where
        M: 'a,
    {
        #[param]
        block: F::Block,
        #[param]
        blocks: Vec<<F as Family>::Block>,
        #[param]
        value: Param<V>,
        #[param]
        borrowed: &'a mut M,
        unused: [u8; N],
    }

    #[test]
    fn bounds_are_those_of_the_fields() {
        let mut linear = Linear::new(true);
        let generic = Generic::<Ours, Array, Linear, 1> {
            block: Linear::new(false),
            blocks: vec![Linear::new(false)],
            value: Param::new(array(1)),
            borrowed: &mut linear,
            unused: [0],
        };
        assert_eq!(
            keys(generic.parameters().flatten()),
            ["block.weight", "blocks.0.weight", "borrowed.bias", "borrowed.weight", "value"]
        );
        assert_eq!(generic.unused.len(), 1);
    }

    #[derive(ModuleParameters)]
    struct Chain<M> {
        #[param]
        head: M,
        #[param]
        tail: Option<Box<Chain<M>>>,
    }

    #[test]
    fn a_type_may_contain_itself() {
        let tail = Some(Box::new(Chain { head: Linear::new(false), tail: None }));
        let chain = Chain { head: Linear::new(false), tail };
        assert_eq!(keys(chain.parameters().flatten()), ["head.weight", "tail.head.weight"]);
    }
}
