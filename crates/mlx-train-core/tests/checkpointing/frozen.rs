//! What is not trained costs nothing, and what moves by itself moves.

use super::models::{Block, Deep, batch, bits, policy};
use mlx_rs::{Array, module::ModuleParameters};
use mlx_train_core::{
    Result,
    checkpoint::with_policy,
    ffi,
    graph::Graph,
    model::BaseModel,
    optim::{AdamW, Group, ParameterGroups},
    train::{CompileMode, StepOptions, TrainStep},
};

/// How many products of matrices the gradient of the input takes under `full`, where `freeze` has frozen some
/// of four blocks.
fn num_products(freeze: impl Fn(&mut Block)) -> Result<usize> {
    let mut model = Deep::new(4)?;
    model.blocks.iter_mut().for_each(freeze);
    let data = batch(3, 0)?;
    let loss = |x: &[Array]| {
        let loss = with_policy(&policy("full"), || model.loss_fn(&x[0], &data.y))?;
        Ok(vec![loss.value])
    };
    let (_, gradients) = ffi::value_and_grad(loss, &[data.x], &[0])?;
    let graph = Graph::of(&gradients)?;
    let is_product = |name: &str| ["Matmul", "AddMM"].contains(&name);
    Ok(graph.operations().iter().filter(|operation| is_product(&operation.name)).count())
}

#[test]
fn gradients_of_frozen_parameters_are_not_computed() -> Result<()> {
    // A block has three layers forwards, two of them again, and three gradients of inputs and of weights each.
    assert_eq!(num_products(|_| {})?, 4 * (3 + 2 + 3 + 3));
    assert_eq!(num_products(|block| block.up.freeze_parameters(true))?, 4 * (3 + 2 + 3 + 2));
    assert_eq!(num_products(|block| block.freeze_parameters(true))?, 4 * (3 + 2 + 3));
    Ok(())
}

#[test]
fn parameters_that_a_group_freezes_stay_and_the_others_move_as_without() -> Result<()> {
    let run = |text: &str| -> Result<Vec<(String, Vec<u8>)>> {
        let mut model = Deep::new(3)?;
        let groups = ParameterGroups::new(AdamW::default()).group(Group::new(["*.up.*"])?.frozen());
        let options = StepOptions {
            compile: CompileMode::Off,
            gradient_checkpointing: policy(text),
            ..StepOptions::default()
        };
        let mut step = TrainStep::new(&mut model, groups, 0, options)?;
        step.run([batch(4, 1)], 0.01)?;
        let weights = step.snapshot()?.weights;
        weights.into_iter().map(|(name, array)| Ok((name, bits(&array)?))).collect()
    };
    let expected = run("none")?;
    assert_eq!(run("full")?, expected);
    let fresh = Deep::new(3)?;
    let fresh = fresh.parameters().flatten();
    for (name, value) in expected {
        let is_still = bits(fresh[name.as_str()])? == value;
        assert_eq!(is_still, name.contains(".up."), "{name}");
    }
    Ok(())
}
