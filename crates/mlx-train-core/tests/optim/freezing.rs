//! Parameters that are frozen by name.

use mlx_rs::module::Module;
use mlx_train_core::{
    Array, ModuleParameters, Result,
    data::{Batch, InMemory},
    loss,
    model::{BaseModel, Loss},
    nn::Linear,
    optim::{Frozen, GroupConfig},
    train::{TrainConfig, Trainer},
};
use std::collections::BTreeMap;

#[derive(Debug, ModuleParameters)]
struct Two {
    #[param]
    layers: Vec<Linear>,
    num_passes: usize,
}

impl BaseModel for Two {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        self.num_passes += 1;
        let mut x = x.clone();
        for layer in &mut self.layers {
            x = layer.forward(&x)?;
        }
        Ok(x)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }

    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        let outputs = self.forward(&batch.x)?;
        Ok((loss::mse(&outputs, &batch.y)?, outputs))
    }
}

fn model() -> Result<Frozen<Two>> {
    Ok(Frozen::new(Two { layers: vec![Linear::new(3, 2)?, Linear::new(2, 1)?], num_passes: 0 }))
}

fn trainable(model: &impl ModuleParameters) -> Vec<String> {
    let mut names: Vec<_> =
        model.trainable_parameters().flatten().keys().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn single_arrays_of_a_layer_are_frozen_and_unfrozen_by_name() -> Result<()> {
    let mut model = model()?;
    assert_eq!((trainable(&model).len(), model.any_frozen()), (4, Some(false)));
    model.freeze(["*.bias", "layers.0.*"])?;
    assert_eq!(trainable(&model), ["layers.1.weight"]);
    assert_eq!(model.parameters().flatten().len(), 4);
    assert_eq!((model.any_frozen(), model.all_frozen()), (Some(true), Some(false)));
    model.unfreeze(["layers.0.bias"])?;
    assert_eq!(trainable(&model), ["layers.0.bias", "layers.1.weight"]);
    model.freeze(["*"])?;
    assert_eq!(model.all_frozen(), Some(true));
    model.unfreeze_parameters(true);
    assert_eq!(trainable(&model).len(), 4);
    Ok(())
}

#[test]
fn loss_and_outputs_come_from_one_pass_of_the_model() -> Result<()> {
    let mut model = model()?;
    let batch = Batch::new(Array::ones::<f32>(&[2, 3])?, Array::zeros::<f32>(&[2, 1])?);
    let (_, outputs) = model.loss_and_outputs(&batch)?;
    assert_eq!((outputs.shape(), model.into_inner().num_passes), (&[2, 1][..], 1));
    Ok(())
}

#[test]
fn what_the_model_froze_by_itself_stays_frozen() -> Result<()> {
    let mut two = model()?.into_inner();
    two.layers[0].freeze_parameters(true);
    let mut model = Frozen::new(two);
    model.freeze(["layers.1.bias"])?;
    model.unfreeze(["*"])?;
    assert_eq!(trainable(&model), ["layers.1.bias", "layers.1.weight"]);
    Ok(())
}

#[test]
fn a_pattern_without_a_match_changes_nothing_and_is_named() -> Result<()> {
    let mut model = model()?;
    let refused = model.freeze(["layers.0.*", "layers.2.*"]).expect_err("no layer 2").to_string();
    assert!(refused.starts_with("the pattern `layers.2.*` matches no parameter"), "{refused}");
    assert!(refused.contains("`layers.0.bias`"), "{refused}");
    assert_eq!(trainable(&model).len(), 4);
    Ok(())
}

#[test]
fn the_frozen_model_is_still_the_model() -> Result<()> {
    let mut model = model()?;
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[1, 3]);
    let before = super::floats(&model.forward(&x)?);
    model.freeze(["*"])?;
    assert_eq!(super::floats(&model.forward(&x)?), before);
    Ok(())
}

/// Which parameters a short run changes.
fn trained(model: &mut Frozen<Two>, groups: Vec<GroupConfig>) -> Result<Vec<String>> {
    let values = |model: &Frozen<Two>| -> BTreeMap<String, Vec<f32>> {
        let parameters = model.parameters().flatten();
        parameters.iter().map(|(name, value)| (name.to_string(), super::floats(value))).collect()
    };
    let before = values(model);
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, -1.0, 0.5, 2.0], &[2, 3]);
    let y = Array::from_slice(&[1.0_f32, -1.0], &[2, 1]);
    let config = TrainConfig { steps: 3, batch_size: 2, groups, ..TrainConfig::default() };
    Trainer::new(model, config)?.run(InMemory::new(x, y)?)?;
    let after = values(model);
    Ok(before.into_iter().filter(|(name, old)| after[name] != *old).map(|(name, _)| name).collect())
}

#[test]
fn a_run_changes_neither_what_a_group_nor_what_the_model_freezes() -> Result<()> {
    let mut model = model()?;
    assert_eq!(trained(&mut model, vec![])?.len(), 4);
    let group = GroupConfig {
        parameters: vec!["layers.0.*".to_owned()],
        frozen: true,
        ..GroupConfig::default()
    };
    assert_eq!(trained(&mut model, vec![group])?, ["layers.1.bias", "layers.1.weight"]);
    model.freeze(["*.weight"])?;
    assert_eq!(trained(&mut model, vec![])?, ["layers.0.bias", "layers.1.bias"]);
    Ok(())
}
