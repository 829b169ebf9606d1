//! How well a model does on data that it does not train on.

use super::TrainError;
use crate::{
    Result,
    data::{self, Batch, Dataset},
    ffi, loss,
    model::{BaseModel, Loss},
};
use mlx_rs::Array;
use std::fmt;

/// Something that is measured besides the loss, such as [`accuracy`].
pub struct Metric<'a, M: ?Sized> {
    name: String,
    measure: Box<MeasureFn<'a, M>>,
}

type MeasureFn<'a, M> = dyn FnMut(&mut M, &Batch) -> Result<Loss> + 'a;

impl<'a, M: ?Sized> Metric<'a, M> {
    /// A metric that is the mean of what `measure` returns, by its weight.
    pub fn new(
        name: impl Into<String>,
        measure: impl FnMut(&mut M, &Batch) -> Result<Loss> + 'a,
    ) -> Self {
        Self { name: name.into(), measure: Box::new(measure) }
    }
}

impl<M: ?Sized> fmt::Debug for Metric<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The mean loss over all targets, in the units of the loss.
    pub loss: f64,
    /// How many targets were counted.
    pub num_targets: f64,
    /// Each metric by name, in the order in which they were given.
    pub metrics: Vec<(String, f64)>,
}

/// The share of rows whose largest output is at the target: a metric of classifiers.
///
/// Outputs `(..., C)`, targets `(...)` of an integer dtype; the value is a scalar `()` f32 in 0 to 1.
///
/// # Errors
/// What the model returns; when its outputs do not fit the targets.
pub fn accuracy<M: BaseModel + ?Sized>(model: &mut M, batch: &Batch) -> Result<Loss> {
    loss::accuracy(&model.forward(&batch.x)?, &batch.y, None)
}

/// Evaluates a model on every row of a dataset, each mean by its weight.
///
/// There is no [`crate::rng::scope`], and [`BaseModel::training_mode`] is off and stays off.
///
/// # Errors
/// [`TrainError::NothingEvaluated`] when no target counts; what the model, the data and the metrics
/// return.
pub fn evaluate<M, D>(
    model: &mut M,
    dataset: &D,
    batch_size: usize,
    metrics: &mut [Metric<'_, M>],
) -> Result<Evaluation>
where
    M: BaseModel + ?Sized,
    D: Dataset + ?Sized,
{
    model.training_mode(false);
    let mut loss = Mean::default();
    let mut means = vec![Mean::default(); metrics.len()];
    for batch in data::batches(dataset, batch_size) {
        let batch = batch?;
        loss.add(&model.batch_loss(&batch)?)?;
        for (mean, metric) in means.iter_mut().zip(&mut *metrics) {
            mean.add(&(metric.measure)(model, &batch)?)?;
        }
    }
    if loss.weight <= 0.0 {
        return Err(TrainError::NothingEvaluated.into());
    }
    let names = metrics.iter().map(|metric| metric.name.clone());
    let metrics = names.zip(means.iter().map(Mean::value)).collect();
    Ok(Evaluation { loss: loss.value(), num_targets: loss.weight, metrics })
}

/// A weighted mean in f64, over values that are read one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Mean {
    sum: f64,
    pub(super) weight: f64,
}

impl Mean {
    pub(super) fn add(&mut self, loss: &Loss) -> Result<()> {
        ffi::eval([&loss.value, &loss.weight])?;
        self.add_number(number(&loss.value)?, number(&loss.weight)?);
        Ok(())
    }

    pub(super) fn add_number(&mut self, value: f64, weight: f64) {
        // A batch whose targets are all masked has no mean.
        if weight > 0.0 {
            self.sum += value * weight;
            self.weight += weight;
        }
    }

    pub(super) fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

/// A scalar of any float dtype, read back.
pub(super) fn number(scalar: &Array) -> Result<f64> {
    Ok(f64::from(scalar.try_item_cast::<f32>()?))
}
