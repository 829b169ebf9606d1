//! Ranks that share a batch train as one process that has all of it.

use super::{deep::rows, numbers, ranks::run};
use mlx_rs::{
    module::{Module, ModuleParameters, Param, Parameter},
    ops::tanh,
};
use mlx_train_core::{
    Array, Result,
    batch::{Batch, IGNORED_TARGET},
    distributed::Group,
    loss::{CrossEntropy, cross_entropy},
    model::{BaseModel, Loss},
    nn::{Dropout, Linear},
    optim::{AdamW, Clip},
    rng,
    train::{CompileMode, Precision, StepOptions, TrainStep},
};
use std::collections::BTreeMap;

/// A classifier that counts the rows that it has seen, as running statistics are kept.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Classifier {
    #[param]
    first: Linear,
    #[param]
    second: Linear,
    #[param]
    mean: Param<Array>,
    dropout: Dropout,
}

impl Classifier {
    fn new(seed: u64, dropout: f32) -> Result<Self> {
        rng::scope(&rng::key(seed)?, || {
            let mut mean = Param::new(Array::zeros::<f32>(&[4])?);
            mean.freeze(true);
            let (first, second) = (Linear::new(4, 16)?, Linear::new(16, 3)?);
            Ok(Self { first, second, mean, dropout: Dropout::new(dropout)? })
        })
    }
}

impl BaseModel for Classifier {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.dropout.forward(&tanh(self.first.forward(x)?)?)?;
        Ok(self.second.forward(&x)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let tenth = Array::from_f32(0.1);
        let change = x.mean_axis(0, None)?.subtract(&*self.mean)?.multiply(tenth)?;
        self.mean.value = self.mean.add(change)?;
        let options = CrossEntropy { ignore_index: Some(IGNORED_TARGET), ..Default::default() };
        cross_entropy(&self.forward(x)?, y, &options)
    }
}

fn options(precision: Precision, compile: CompileMode) -> Result<StepOptions> {
    let clip = Clip::default().global_norm(0.5)?;
    Ok(StepOptions { clip, precision, compile, ema_decay: Some(0.9), ..StepOptions::default() })
}

/// The numbers of each parameter.
type Parameters = BTreeMap<String, Vec<f32>>;

/// What five steps leave: losses, norms, and all parameters.
fn train(
    group: &Group,
    seed: u64,
    options: StepOptions,
    batches: impl Fn(i32) -> Vec<Batch>,
) -> Result<(Vec<f32>, Parameters)> {
    let mut model = Classifier::new(seed, 0.0)?;
    let mut step = TrainStep::data_parallel(group, &mut model, AdamW::default(), 0, options)?;
    let mut reported = Vec::new();
    for index in 0..5 {
        let output = step.run(batches(index).into_iter().map(Ok), 0.01)?;
        for array in [&output.loss.value, &output.loss.weight, &output.grad_norm] {
            reported.extend(numbers(array)?);
        }
    }
    let names = step.state().parameter_names().iter().map(|name| format!("ema.{name}"));
    let averages = step.state().averaged_weights().expect("weights are averaged");
    let averages = names.zip(averages).map(|(name, value)| Ok((name, numbers(value)?)));
    let averages = averages.collect::<Result<Parameters>>()?;
    drop(step);
    let parameters = model.parameters().flatten().into_iter();
    let parameters = parameters.map(|(name, value)| Ok((name.to_string(), numbers(value)?)));
    Ok((reported, parameters.chain(averages.into_iter().map(Ok)).collect::<Result<_>>()?))
}

fn assert_close(what: &str, ours: &[f32], one: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), one.len());
    for (ours, one) in ours.iter().zip(one) {
        let off = (ours - one).abs() / one.abs().max(1e-2);
        assert!(off < tolerance, "{what}: {ours} of the ranks, {one} of one process");
    }
}

#[test]
fn ranks_with_parts_of_a_batch_train_as_one_process_with_all_of_it() {
    let test = "data_parallel::ranks_with_parts_of_a_batch_train_as_one_process_with_all_of_it";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            // Unequal parts, with unequal numbers of targets that count.
            let last = 24;
            let cut = |rank: usize| if rank == group.world_size() { last } else { rank as i32 * 5 };
            let own = cut(group.rank())..cut(group.rank() + 1);
            let plain = || options(Precision::F32, CompileMode::Off);
            // Another seed on each rank: all begin with the weights of rank 0.
            let seed = group.rank() as u64;
            let (reported, parameters) =
                train(group, seed, plain()?, |step| vec![rows(step, own.clone())])?;
            let (expected, whole) =
                train(&Group::alone(), 0, plain()?, |step| vec![rows(step, 0..last)])?;
            assert_close("losses", &reported, &expected, 1e-5);
            for (name, values) in &parameters {
                // The statistics are means of the ranks' means, whose parts are unequal.
                if name != "mean" {
                    assert_close(name, values, &whole[name], 1e-4);
                }
            }
            // All ranks have the same bits.
            for (name, values) in &parameters {
                let values = Array::from_slice(values, &[values.len() as i32]);
                let (low, high) = (group.all_min(&values)?, group.all_max(&values)?);
                assert_eq!(numbers(&low)?, numbers(&high)?, "{name}");
            }

            // The same rows in two micro-batches of each rank.
            let middle = i32::midpoint(own.start, own.end);
            let (accumulated, _) = train(group, seed, plain()?, |step| {
                vec![rows(step, own.start..middle), rows(step, middle..own.end)]
            })?;
            assert_close("losses of micro-batches", &accumulated, &expected, 1e-5);
            group.barrier()
        });
    }
}

#[test]
fn compiled_and_mixed_steps_of_ranks_are_those_of_one_process() {
    let test = "data_parallel::compiled_and_mixed_steps_of_ranks_are_those_of_one_process";
    run(test, 2, |group| {
        let own = group.rank() as i32 * 8..group.rank() as i32 * 8 + 8;
        for (precision, compile, tolerance) in [
            (Precision::F32, CompileMode::On, 1e-5),
            (Precision::Mixed, CompileMode::Off, 2e-2),
            (Precision::Bf16 { stochastic_rounding: true }, CompileMode::Off, 5e-2),
        ] {
            let options = || options(precision, compile);
            let (reported, _) = train(group, 0, options()?, |step| vec![rows(step, own.clone())])?;
            let (expected, _) =
                train(&Group::alone(), 0, options()?, |step| vec![rows(step, 0..16)])?;
            assert_close("losses", &reported, &expected, tolerance);
        }
        group.barrier()
    });
}

#[test]
fn ranks_drop_other_elements_than_each_other() {
    run("data_parallel::ranks_drop_other_elements_than_each_other", 2, |group| {
        let mut model = Classifier::new(0, 0.5)?;
        let plain = options(Precision::F32, CompileMode::Off)?;
        // The same rows on both, so that their mean loss is that of each, but for dropout.
        let mut own = TrainStep::new(&mut model, AdamW::default(), 0, plain.clone())?;
        let alone = numbers(&own.run([Ok(rows(0, 0..8))], 0.0)?.loss.value)?;
        drop(own);
        let mut step = TrainStep::data_parallel(group, &mut model, AdamW::default(), 0, plain)?;
        let together = numbers(&step.run([Ok(rows(0, 0..8))], 0.0)?.loss.value)?;
        assert_ne!(alone, together);
        group.barrier()
    });
}
