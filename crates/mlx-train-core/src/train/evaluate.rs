//! How well a model does on data that it does not train on.

use super::TrainError;
use crate::{
    Result,
    data::{self, Batch, Dataset, IGNORED_TARGET},
    distributed::{Group, Mesh},
    loss,
    model::{BaseModel, Loss},
};
use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use std::{fmt, mem};

/// Something that is measured besides the loss, such as [`accuracy`].
pub struct Metric<'a> {
    name: String,
    measure: Box<MeasureFn<'a>>,
}

type MeasureFn<'a> = dyn FnMut(&Array, &Batch) -> Result<Loss> + 'a;

impl<'a> Metric<'a> {
    /// A metric that is the mean of what `measure` returns, by its weight. It is given the outputs of
    /// the model for a batch, and the batch.
    pub fn new(
        name: impl Into<String>,
        measure: impl FnMut(&Array, &Batch) -> Result<Loss> + 'a,
    ) -> Self {
        Self { name: name.into(), measure: Box::new(measure) }
    }

    /// Its name in an [`Evaluation`].
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Metric<'_> {
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

impl Evaluation {
    /// The name of the loss among metrics.
    pub(super) const LOSS: &str = "loss";

    /// The loss by the name `loss`, or a metric by its name; errors say which `setting` asked for it.
    ///
    /// # Errors
    /// [`TrainError::UnknownMetric`] with the names that there are.
    pub fn named(&self, setting: &str, name: &str) -> Result<f64> {
        if name == Self::LOSS {
            return Ok(self.loss);
        }
        let metric = self.metrics.iter().find(|(metric, _)| metric == name);
        metric.map(|(_, value)| *value).ok_or_else(|| {
            let names = self.metrics.iter().map(|(name, _)| name.as_str());
            let known: Vec<&str> = [Self::LOSS].into_iter().chain(names).collect();
            TrainError::unknown_metric(setting, name, &known).into()
        })
    }
}

/// The share of rows whose largest output is at the target: a metric of classifiers.
///
/// Outputs `(..., C)`, targets `(...)` of an integer dtype; the value is a scalar `()` f32 in 0 to 1.
/// Targets of padding, [`IGNORED_TARGET`], count for nothing.
///
/// # Errors
/// When the outputs do not fit the targets.
pub fn accuracy(outputs: &Array, batch: &Batch) -> Result<Loss> {
    loss::accuracy(outputs, &batch.y, Some(IGNORED_TARGET))
}

/// Evaluates a model on every row of a dataset, each mean by its weight.
///
/// Loss and metrics come from one forward pass, where the model has [`BaseModel::loss_and_outputs`].
/// There is no [`crate::rng::scope`], and [`BaseModel::training_mode`] is off and stays off.
///
/// # Errors
/// [`TrainError::NothingEvaluated`] when no target counts; what the model, the data and the metrics
/// return.
pub fn evaluate<M, D>(
    model: &mut M,
    dataset: &D,
    batch_size: usize,
    metrics: &mut [Metric<'_>],
) -> Result<Evaluation>
where
    M: BaseModel + ?Sized,
    D: Dataset + ?Sized,
{
    let batches = data::batches(dataset, batch_size).map(|batch| Ok((batch?, true)));
    evaluate_batches(model, batches, metrics, &Mesh::alone())
}

/// Evaluates a model on these batches, each of which counts or does not; ranks with other rows count together, and
/// all get the same numbers.
pub(super) fn evaluate_batches<M: BaseModel + ?Sized>(
    model: &mut M,
    batches: impl Iterator<Item = Result<(Batch, bool)>>,
    metrics: &mut [Metric<'_>],
    mesh: &Mesh,
) -> Result<Evaluation> {
    model.training_mode(false);
    let mut means = Means::new(metrics.len());
    for batch in batches {
        let (batch, counts) = batch?;
        let values = measure(model, &batch, metrics)?;
        // One evaluation of all, or MLX would compute what they share again for each.
        let arrays = values.iter().flat_map(|Loss { value, weight }| [value, weight]);
        mesh.all().eval("the evaluation of all ranks", arrays)?;
        if counts {
            means.add(&values)?;
        }
    }
    means.sum_over_ranks(mesh.data())?;
    means.evaluation(metrics)
}

/// Records the loss of a batch, and each metric.
pub(super) fn measure<M: BaseModel + ?Sized>(
    model: &mut M,
    batch: &Batch,
    metrics: &mut [Metric<'_>],
) -> Result<Vec<Loss>> {
    if metrics.is_empty() {
        return Ok(vec![model.batch_loss(batch)?]);
    }
    let (loss, outputs) = model.loss_and_outputs(batch)?;
    let metrics = metrics.iter_mut().map(|metric| (metric.measure)(&outputs, batch));
    [Ok(loss)].into_iter().chain(metrics).collect()
}

/// The means of loss and metrics over batches.
pub(super) struct Means {
    loss: Mean,
    metrics: Vec<Mean>,
}

impl Means {
    pub(super) fn new(num_metrics: usize) -> Self {
        Self { loss: Mean::default(), metrics: vec![Mean::default(); num_metrics] }
    }

    /// Adds what [`measure`] has recorded and MLX has computed since.
    pub(super) fn add(&mut self, values: &[Loss]) -> Result<()> {
        let means = [&mut self.loss].into_iter().chain(&mut self.metrics);
        means.zip(values).try_for_each(|(mean, value)| mean.add(value))
    }

    /// The numbers that all of them are made of.
    pub(super) fn numbers_mut(&mut self) -> impl Iterator<Item = &mut f64> {
        let means = [&mut self.loss].into_iter().chain(&mut self.metrics);
        means.flat_map(|Mean { sum, weight }| [sum, weight])
    }

    /// Makes them means over the rows of all ranks of these, which are added up in the same order on each.
    pub(super) fn sum_over_ranks(&mut self, group: &Group) -> Result<()> {
        if group.is_alone() {
            return Ok(());
        }
        let own = self.numbers_mut().map(|number| mem::take(number).to_le_bytes());
        let own: Vec<u8> = own.flatten().collect();
        for bytes in group.gather_bytes(&own)? {
            let (numbers, _) = bytes.as_chunks();
            for (sum, &number) in self.numbers_mut().zip(numbers) {
                *sum += f64::from_le_bytes(number);
            }
        }
        Ok(())
    }

    /// The evaluation with these metrics.
    pub(super) fn evaluation(&self, metrics: &[Metric<'_>]) -> Result<Evaluation> {
        let Self { loss, metrics: means } = self;
        if loss.weight <= 0.0 {
            return Err(TrainError::NothingEvaluated.into());
        }
        let names = metrics.iter().map(|metric| metric.name.clone());
        let metrics = names.zip(means.iter().map(Mean::value)).collect();
        Ok(Evaluation { loss: loss.value(), num_targets: loss.weight, metrics })
    }
}

/// A weighted mean in f64, over values that are read one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mean {
    sum: f64,
    pub(super) weight: f64,
}

impl Mean {
    /// Adds a mean that is evaluated.
    pub(super) fn add(&mut self, loss: &Loss) -> Result<()> {
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
