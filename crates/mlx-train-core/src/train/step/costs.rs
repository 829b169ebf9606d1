//! What the parts of a model cost on this machine, one after the other.

use super::{
    StepOptions,
    stage::{Hollow, Part, hollowed, survey, used},
};
use crate::{
    Array, Result,
    batch::Batch,
    checkpoint::with_policy_and_constants,
    distributed::{
        BlockCosts,
        pipeline::{self, Ended, Survey},
    },
    ffi,
    model::{BaseModel, Loss},
    train::parameters,
};
use mlx_rs::{
    Dtype,
    ops::{ones_dtype, zeros_dtype},
};
use std::time::Instant;

/// How often each part is measured, after a first time that compiles kernels; the fastest counts.
const REPEATS: usize = 3;

impl BlockCosts {
    /// Measures the parts of a model, forward and backward on `batch`, as a step with these options computes them.
    ///
    /// Each part runs by itself on zeros in the place of its parameters, so that no more memory is needed than for one
    /// block, or for an embedding or a head. No rank waits for another. Parameters are as they were when this returns.
    ///
    /// ```no_run
    /// use mlx_train_core::{batch::Batch, distributed::{BlockCosts, Mesh}, model::BaseModel, train::StepOptions};
    /// # fn example(mesh: &Mesh, model: &mut dyn BaseModel, batch: &Batch) -> mlx_train_core::Result<()> {
    /// let costs = BlockCosts::measure(model, batch, &StepOptions::default())?;
    /// let blocks = costs.balance(mesh)?; // for `PipelineOptions::blocks`
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PipelineError`](crate::distributed::PipelineError) unless the model runs one stack; what it returns.
    pub fn measure<M>(model: &mut M, batch: &Batch, options: &StepOptions) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        let measuring = Measuring::new(model, batch, options)?;
        let count = measuring.survey.num_blocks();
        if count == 0 {
            // What is wrong with that, a cut says.
            return Ok(Self { before: 0.0, blocks: Vec::new(), after: 0.0 });
        }
        let middle = (0..count).map(|at| Part::new(at..at + 1, false, false));
        let ends = [Part::new(0..1, true, false), Part::new(count - 1..count, false, true)];
        let parts = middle.chain(ends).map(|part| {
            let used = used(model, &measuring.hollow, &measuring.batch, &part, &measuring.survey)?;
            Ok((part, used))
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let mut fastest = vec![f64::INFINITY; parts.len()];
        for round in 0..=REPEATS {
            for ((part, used), fastest) in parts.iter().zip(&mut fastest) {
                let seconds = measuring.seconds(model, part, used)?;
                if round > 0 {
                    *fastest = fastest.min(seconds);
                }
            }
        }
        let [first, last] = [fastest[count], fastest[count + 1]];
        fastest.truncate(count);
        let (before, after) = (first - fastest[0], last - fastest[count - 1]);
        Ok(Self { before: before.max(0.0), blocks: fastest, after: after.max(0.0) })
    }
}

/// What all parts are measured with.
struct Measuring<'o> {
    batch: Batch,
    hollow: Vec<Hollow>,
    survey: Survey,
    /// Of each parameter, whether its gradient is taken.
    is_trained: Vec<bool>,
    options: &'o StepOptions,
}

impl<'o> Measuring<'o> {
    fn new<M>(model: &mut M, batch: &Batch, options: &'o StepOptions) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        let batch = options.precision.batch_to_compute(batch.clone())?;
        let names = parameters::names(model);
        let trained = parameters::trainable_names(model);
        let is_trained = names.iter().map(|name| trained.contains(name)).collect();
        let values = parameters::get(model, &names)?;
        let shapes = names.into_iter().zip(&values);
        let shapes = shapes.map(|(name, value)| (name, value.shape().to_vec())).collect();
        let hollow = Hollow::all(model, shapes, options.precision)?;
        let survey = survey(model, &hollow, &batch)?;
        Ok(Self { batch, hollow, survey, is_trained, options })
    }

    /// How long a part takes that uses these of the parameters.
    fn seconds<M>(&self, model: &mut M, part: &Part, used: &[bool]) -> Result<f64>
    where
        M: BaseModel + ?Sized,
    {
        let Part { blocks, is_first, is_last } = part;
        let boundary = |at: usize| &self.survey.boundaries[at];
        let (shape, dtype) = boundary(blocks.start);
        let received = (!is_first).then(|| zeros_dtype(shape, *dtype)).transpose()?;
        let cotangent = if *is_last {
            Array::from_f32(1.0)
        } else {
            let (shape, dtype) = boundary(blocks.end);
            ones_dtype(shape, *dtype)?
        };
        hollowed(model, &self.hollow, |model, values| {
            let here = |at: &usize| used[*at];
            let trained: Vec<usize> =
                (0..values.len()).filter(here).filter(|at| self.is_trained[*at]).collect();
            let present = values.iter().zip(used).filter_map(|(value, used)| used.then_some(value));
            ffi::eval(present.chain(&received).chain([&cotangent]))?;
            let constants: Vec<Array> = (0..values.len())
                .filter(|at| used[*at] && !self.is_trained[*at])
                .map(|at| values[at].clone())
                .collect();
            let run = |arrays: &[Array]| -> Result<Vec<Array>> {
                let (parameters, input) = arrays.split_at(trained.len());
                let mut all = values.to_vec();
                for (at, parameter) in trained.iter().zip(parameters) {
                    all[*at] = parameter.clone();
                }
                model.set(&all)?;
                let policy = &self.options.gradient_checkpointing;
                let input = input.first().cloned();
                let ended = pipeline::stage(blocks.clone(), input, *is_last, || {
                    with_policy_and_constants(policy, &constants, || model.batch_loss(&self.batch))
                })?;
                Ok(vec![match ended {
                    Ended::Output(output) => output,
                    Ended::Whole(Loss { value, .. }) => value.as_dtype(Dtype::Float32)?,
                }])
            };
            let inputs = trained.iter().map(|&at| values[at].clone()).chain(received.clone());
            let inputs: Vec<Array> = inputs.collect();
            let began = Instant::now();
            let (outputs, gradients) = ffi::vjp(run, &inputs, &[cotangent])?;
            ffi::eval(outputs.iter().chain(&gradients))?;
            Ok(began.elapsed().as_secs_f64())
        })
    }
}

/// How many blocks the stack of a model has.
///
/// # Errors
/// [`PipelineError`](crate::distributed::PipelineError) unless the model runs one stack; what it returns.
pub(in crate::train) fn count_blocks<M>(
    model: &mut M,
    batch: &Batch,
    options: &StepOptions,
) -> Result<usize>
where
    M: BaseModel + ?Sized,
{
    Ok(Measuring::new(model, batch, options)?.survey.num_blocks())
}
