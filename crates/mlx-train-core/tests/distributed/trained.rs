//! What training leaves, on ranks in any layout and on one process.

use mlx_rs::Dtype;
use mlx_train_core::{
    Array, Result,
    batch::Batch,
    distributed::Mesh,
    model::BaseModel,
    optim::Optimizer,
    train::{StepOptions, TrainStep},
};
use std::collections::BTreeMap;

/// The numbers of an array, which may be a view.
pub fn numbers(array: &Array) -> Result<Vec<f32>> {
    let flat = array.as_dtype(Dtype::Float32)?.reshape(&[-1])?.contiguous()?;
    Ok(flat.try_as_slice::<f32>()?.to_vec())
}

/// What some steps leave.
#[derive(Debug, PartialEq)]
pub struct Trained {
    /// Loss, weight and norm of each step.
    pub reported: Vec<f32>,
    /// Whole parameters and averages by name.
    pub parameters: BTreeMap<String, Vec<f32>>,
}

/// Trains for `num_steps` of `batches`, which says what this rank has in a step.
pub fn train<M: BaseModel>(
    mesh: &Mesh,
    mut model: M,
    optimizer: impl Optimizer,
    options: StepOptions,
    num_steps: i32,
    batches: impl Fn(i32) -> Vec<Batch>,
) -> Result<Trained> {
    let mut step = TrainStep::parallel(mesh, &mut model, optimizer, 0, options)?;
    let mut reported = Vec::new();
    for index in 0..num_steps {
        let output = step.run(batches(index).into_iter().map(Ok), 0.01)?;
        for array in [&output.loss.value, &output.loss.weight, &output.grad_norm] {
            reported.extend(numbers(array)?);
        }
    }
    let mut parameters = BTreeMap::new();
    let model = step.model();
    let held = model.parameters().flatten().into_iter();
    let held: BTreeMap<String, Array> =
        held.map(|(name, value)| (name.to_string(), value.clone())).collect();
    drop(model);
    // All ranks gather in one order.
    for (name, part) in held {
        parameters.insert(name.clone(), numbers(&step.whole(&name, &part)?)?);
    }
    if let Some(averages) = step.state().averaged_weights() {
        for (name, part) in step.state().parameter_names().iter().zip(averages) {
            parameters.insert(format!("ema.{name}"), numbers(&step.whole(name, part)?)?);
        }
    }
    Ok(Trained { reported, parameters })
}

/// Asserts that what ranks have left is what one process has.
pub fn assert_same(what: &str, ours: &Trained, one: &Trained, losses: f32, weights: f32) {
    assert_close(&format!("{what}: losses"), &ours.reported, &one.reported, losses);
    assert_eq!(ours.parameters.len(), one.parameters.len());
    for (name, values) in &ours.parameters {
        assert_close(&format!("{what}: {name}"), values, &one.parameters[name], weights);
    }
}

fn assert_close(what: &str, ours: &[f32], one: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), one.len(), "{what}");
    for (ours, one) in ours.iter().zip(one) {
        let off = (ours - one).abs() / one.abs().max(1e-1);
        assert!(off <= tolerance, "{what}: {ours} of the ranks, {one} of one process");
    }
}
