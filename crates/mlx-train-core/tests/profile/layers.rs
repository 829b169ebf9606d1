//! What layers cost, one by one.

use super::models::{Marked, Stacked, Watched, data};
use mlx_rs::{Array, module::ModuleParameters};
use mlx_train_core::{
    Result,
    checkpoint::{CheckpointPolicy, with_policy},
    data::{Batch, Dataset},
    ffi,
    model::BaseModel,
    profile::{layer, profile_layers},
};
use std::collections::BTreeMap;

fn batch() -> Result<Batch> {
    data()?.batch(&(0..32).collect::<Vec<_>>())
}

fn values(model: &impl ModuleParameters) -> BTreeMap<String, Vec<u8>> {
    let parameters = model.parameters().flatten();
    let bytes = |array: &Array| {
        array.eval().unwrap();
        let values = array.try_as_slice::<f32>().unwrap();
        values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect()
    };
    parameters.iter().map(|(name, array)| (name.to_string(), bytes(array))).collect()
}

#[test]
fn every_marked_layer_is_measured_inside_of_the_one_around_it() -> Result<()> {
    let mut model = Marked::new()?;
    let profile = profile_layers(&mut model, &batch()?, 3)?;
    let found: Vec<_> =
        profile.layers().iter().map(|layer| (layer.name.as_str(), layer.depth)).collect();
    assert_eq!(found, [("model", 0), ("small", 1), ("large", 1), ("large/inside", 2)]);

    let [model, small, large, inside] = profile.layers() else { panic!("{profile:?}") };
    assert_eq!(small.inputs, ["[32, 8] Float32"]);
    assert_eq!((small.num_parameters, large.num_parameters), (72, 8 * 256 + 256));
    for layer in profile.layers() {
        assert!(layer.forward_seconds > 0.0 && layer.own_seconds <= layer.seconds(), "{layer:?}");
    }
    let sum: f64 = profile.layers().iter().map(|layer| layer.own_seconds).sum();
    assert!((profile.seconds() - sum).abs() < 1e-12);

    // Forward one product, backward two: with respect to inputs and to weights.
    let products = 3.0 * 2.0 * 32.0 * 8.0 * 256.0;
    let flops = inside.flops.expect("the graph is understood");
    assert!((products..1.2 * products).contains(&flops), "{flops} of {products}");
    assert!(large.own_flops < large.flops && model.flops > large.flops);
    Ok(())
}

#[test]
fn blocks_of_a_stack_and_their_parts_are_layers_under_every_policy() -> Result<()> {
    let batch = batch()?;
    let names =
        ["model", "Block 0", "Block 0/up", "Block 0/down", "Block 1", "Block 1/up", "Block 1/down"];
    let (layers, parts) =
        (CheckpointPolicy::Layers(vec![1]), CheckpointPolicy::Selective(vec!["up".into()]));
    let mut flops = Vec::new();
    for policy in [CheckpointPolicy::None, CheckpointPolicy::Full, layers, parts] {
        let mut model = Stacked::new(2)?;
        let before = values(&model);
        let profile = with_policy(&policy, || profile_layers(&mut model, &batch, 1))?;
        let found: Vec<_> = profile.layers().iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(found, names, "{policy}");
        assert_eq!(values(&model), before, "{policy}");
        let parameters: Vec<_> = profile.layers().iter().map(|it| it.num_parameters).collect();
        assert_eq!(parameters[..4], [2 * 1096, 1096, 8 * 64 + 64, 64 * 8 + 8], "{policy}");
        let of = |index: usize| profile.layers()[index].flops.expect("the graph is understood");
        flops.push([of(0), of(1), of(2), of(4)]);
    }
    // What is computed twice counts twice: the blocks, the second of them, the parts `up`.
    let [none, full, layers, parts] = flops.try_into().expect("four policies");
    assert!(none[1] < full[1] && none[2].to_bits() == full[2].to_bits());
    assert!(layers[1].to_bits() == none[1].to_bits() && layers[3].to_bits() == full[3].to_bits());
    assert!(none[2] < parts[2] && none[0] < layers[0] && layers[0] < full[0]);
    Ok(())
}

#[test]
fn the_most_expensive_layer_comes_first() -> Result<()> {
    let profile = profile_layers(&mut Marked::new()?, &batch()?, 1)?;
    let seconds: Vec<f64> = profile.by_cost().iter().map(|layer| layer.own_seconds).collect();
    assert!(seconds.is_sorted_by(|a, b| a >= b), "{seconds:?}");
    assert_eq!(seconds.len(), profile.layers().len());
    Ok(())
}

#[test]
fn a_pass_leaves_the_parameters_as_they_were_also_when_it_fails() -> Result<()> {
    let mut model = Marked::new()?;
    let before = values(&model);
    profile_layers(&mut model, &batch()?, 2)?;
    assert_eq!(values(&model), before);

    let narrow = Array::from_slice(&[1.0_f32, 2.0], &[1, 2]);
    assert!(profile_layers(&mut model, &Batch::new(narrow.clone(), narrow), 2).is_err());
    assert_eq!(values(&model), before);
    // The pass is over: nothing is measured, and each layer runs once.
    model.forward(&data()?.batch(&[0])?.x)?;
    assert_eq!(model.num_calls.value.try_item_cast::<f32>()?.to_bits(), 1.0_f32.to_bits());
    Ok(())
}

#[test]
fn what_comes_after_a_layer_finds_its_own_parameters_in_it() -> Result<()> {
    let mut model = Watched::new()?;
    let own = model.linear.weight.value.clone();
    profile_layers(&mut model, &batch()?, 1)?;
    // The last of its runs is that in which the layer itself was measured.
    let last = model.weights.last().expect("it ran");
    assert!(ffi::is_same_node(last, &own)?);
    Ok(())
}

#[test]
fn outside_of_a_pass_a_layer_is_its_function() -> Result<()> {
    let mut model = Marked::new()?;
    let mut num_calls = 0;
    let x = Array::from_f32(2.0);
    let output = layer("any", &mut model.small, &[x], |_, x| {
        num_calls += 1;
        Ok(x[0].square()?)
    })?;
    assert_eq!((num_calls, output.try_item_cast::<f32>()?.to_bits()), (1, 4.0_f32.to_bits()));
    Ok(())
}
