//! The training step and the trainer: they learn, repeat, accumulate, and agree with Python MLX.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ahead;

use mlx_rs::{
    Array, Dtype,
    module::{Module, ModuleParameters, Param},
    ops::{stack, tanh},
    random::normal,
};
use mlx_train_core::{
    Error, Result,
    config::{Format, ModelConfig},
    data::{Batch, DataLoader, Dataset, InMemory, LoaderOptions, Order},
    loss::{self, CrossEntropy},
    model::{BaseModel, Loss},
    nn::{Dropout, Linear},
    optim::{
        AdamW, Clip, OptimizerConfig, Schedule, ScheduleConfig, Sgd, StateFormat, WeightDecay,
    },
    profile::{Memory, MemoryCheck, MemoryConfig},
    rng,
    store::{Check, CheckpointConfig, Checkpoints},
    train::{
        EarlyStoppingConfig, Evaluation, Event, History, Metric, NonFinite, Outcome, Precision,
        SpikeAction, SpikeConfig, StepOptions, StepOutput, StopReason, StopSignal, TrainConfig,
        TrainError, TrainStep, Trained, Trainer, accuracy, evaluate,
    },
};
use parity::{assert_close, run, take};
use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

/// The label of a target that does not count.
const IGNORED: i32 = -100;

/// For runs whose losses are counted: an estimate takes the loss of one batch more, without its values.
fn not_estimated() -> MemoryConfig {
    MemoryConfig { memory_check: MemoryCheck::Off, ..MemoryConfig::default() }
}

/// What a loss compares.
#[derive(Debug, Clone, Copy)]
enum Task {
    Regression,
    Classification,
}

/// Two linear layers with dropout between them, and an error on demand.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Mlp {
    #[param]
    first: Linear,
    #[param]
    second: Linear,
    dropout: Dropout,
    task: Task,
    fails: bool,
}

impl Mlp {
    fn new(inputs: i32, outputs: i32, task: Task) -> Result<Self> {
        rng::scope(&rng::key(3)?, || {
            Ok(Self {
                first: Linear::new(inputs, 32)?,
                second: Linear::new(32, outputs)?,
                dropout: Dropout::new(0.0)?,
                task,
                fails: false,
            })
        })
    }

    fn parameter(&self, name: &str) -> Array {
        self.parameters().flatten()[name].clone()
    }
}

impl BaseModel for Mlp {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden = self.dropout.forward(&tanh(self.first.forward(x)?)?)?;
        Ok(self.second.forward(&hidden)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let outputs = self.forward(x)?;
        if self.fails {
            return Err(Error::message("the model does not like this batch"));
        }
        match self.task {
            Task::Regression => loss::mse(&outputs, y),
            Task::Classification => {
                let options = CrossEntropy { ignore_index: Some(IGNORED), ..Default::default() };
                loss::cross_entropy(&outputs, y, &options)
            }
        }
    }
}

fn xor() -> Result<InMemory> {
    let features = Array::from_slice(&[0.0_f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], &[4, 2]);
    InMemory::with_labels(features, &[0, 1, 1, 0], 2, "xor")
}

fn waves(rows: i32) -> Result<InMemory> {
    let x = normal::<f32>(&[rows, 1], None, None, &rng::key(5)?)?;
    let y = x.multiply(Array::from_f32(3.0))?.sin()?;
    mlx_rs::transforms::eval([&x, &y])?;
    InMemory::new(x, y)
}

fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        batch_size: 8,
        learning_rate: 0.02,
        schedule: ScheduleConfig::Constant,
        log_every: 1,
        ..TrainConfig::default()
    }
}

fn losses(history: &History) -> Vec<f64> {
    history.training.iter().map(|point| point.loss).collect()
}

#[test]
fn a_boxed_model_learns_xor() -> Result<()> {
    let mut model: Box<dyn BaseModel> = Box::new(Mlp::new(2, 2, Task::Classification)?);
    let data = xor()?;
    let history = Trainer::new(&mut model, config(200))?
        .evaluate_on(&data)
        .metric("accuracy", accuracy)
        .run(data.clone())?
        .history;
    let Evaluation { loss, num_targets, metrics } = history.last_held_out().unwrap();
    assert!(*loss < 0.05, "loss {loss}");
    assert_eq!(*num_targets as usize, 4);
    assert_eq!(metrics[..], [("accuracy".to_owned(), 1.0)]);
    // Without a box, too: `dyn BaseModel` itself.
    Trainer::new(model.as_mut(), config(1))?.run(data.clone())?;
    Ok(())
}

#[test]
fn one_seed_gives_one_run_and_another_seed_another() -> Result<()> {
    let run = |seed| {
        let mut model = Mlp::new(1, 1, Task::Regression)?;
        model.dropout = Dropout::new(0.3)?;
        let config = TrainConfig { seed, accumulation: 2, ..config(15) };
        Ok::<_, Error>(losses(&Trainer::new(&mut model, config)?.run(waves(50)?)?.history))
    };
    let first = run(1)?;
    assert_eq!(first, run(1)?);
    assert_ne!(first, run(2)?);
    Ok(())
}

#[test]
fn the_seed_decides_the_order_of_rows_and_the_draws_of_dropout() -> Result<()> {
    let run = |dropout, rows, seed| {
        let mut model = Mlp::new(1, 1, Task::Regression)?;
        model.dropout = Dropout::new(dropout)?;
        let config = TrainConfig { seed, ..config(3) };
        Ok::<_, Error>(losses(&Trainer::new(&mut model, config)?.run(waves(rows)?)?.history))
    };
    assert_ne!(run(0.0, 50, 1)?, run(0.0, 50, 2)?, "the order of rows");
    // One row has one order.
    assert_eq!(run(0.0, 1, 1)?, run(0.0, 1, 2)?);
    assert_ne!(run(0.5, 1, 1)?, run(0.5, 1, 2)?, "the draws");
    Ok(())
}

/// Single steps with an optimizer of their own.
fn steps(model: &mut Mlp, clip: Clip) -> Result<TrainStep<'_, Mlp>> {
    let optimizer = AdamW::default().betas(0.9, 0.99)?.weight_decay(WeightDecay::everything(0.1)?);
    TrainStep::new(model, optimizer, 0, StepOptions { clip, ..StepOptions::default() })
}

/// One step over given batches.
fn step(steps: &mut TrainStep<'_, Mlp>, batches: Vec<Batch>) -> Result<StepOutput> {
    let schedule = ScheduleConfig::Cosine.build(0.02, 0.002, 4, 20)?;
    let rate = schedule.at(steps.state().step());
    steps.run(batches.into_iter().map(Ok), rate)
}

#[test]
fn twenty_steps_follow_python_mlx() -> Result<()> {
    let mut arrays = run("tests/parity/train.py", &[]);
    let mut model = Mlp::new(4, 2, Task::Regression)?;
    for (name, value) in model.parameters_mut().flatten() {
        *value = take(&mut arrays, &format!("start.{name}"));
    }
    let mut steps = steps(&mut model, Clip::default().global_norm(1.0)?)?;
    let (x, y) = (take(&mut arrays, "x"), take(&mut arrays, "y"));
    let (mut losses, mut norms) = (vec![], vec![]);
    for index in 0..20 {
        let index = Array::from_int(index);
        let batch = Batch::new(x.take_axis(&index, 0)?, y.take_axis(&index, 0)?);
        let output = step(&mut steps, vec![batch])?;
        losses.push(output.loss.value);
        norms.push(output.grad_norm);
    }
    assert_close("losses", &stack(&losses, 0)?, &take(&mut arrays, "losses"), 1e-4, 0.0);
    assert_close("norms", &stack(&norms, 0)?, &take(&mut arrays, "norms"), 1e-4, 0.0);
    drop(steps);
    for (name, value) in model.parameters().flatten() {
        let expected = take(&mut arrays, &format!("end.{name}"));
        assert_close(&name, value, &expected, 1e-4, 1e-5);
    }
    Ok(())
}

#[test]
fn unequal_micro_batches_give_the_update_of_one_large_batch() -> Result<()> {
    let data = waves(24)?;
    let batch = |rows: std::ops::Range<usize>| data.batch(&rows.collect::<Vec<_>>());
    let train = |parts: Vec<Vec<Batch>>| -> Result<(HashMap<String, Array>, f32)> {
        let mut model = Mlp::new(1, 1, Task::Regression)?;
        let mut steps = steps(&mut model, Clip::default().global_norm(0.5)?)?;
        let mut last = None;
        for batches in parts {
            last = Some(step(&mut steps, batches)?);
        }
        drop(steps);
        let parameters = model.parameters().flatten();
        let parameters =
            parameters.iter().map(|(name, &value)| (name.to_string(), value.clone())).collect();
        Ok((parameters, last.unwrap().loss.value.try_item_exact::<f32>()?))
    };
    let (large, large_loss) =
        train((0..5).map(|_| Ok(vec![batch(0..24)?])).collect::<Result<_>>()?)?;
    let unequal = || Ok(vec![batch(0..1)?, batch(1..12)?, batch(12..17)?, batch(17..24)?]);
    let (small, small_loss) = train((0..5).map(|_| unequal()).collect::<Result<_>>()?)?;
    for (name, value) in &large {
        assert_close(name, &small[name], value, 1e-5, 1e-6);
    }
    assert!((large_loss - small_loss).abs() < 1e-5 * large_loss);
    Ok(())
}

#[test]
fn masked_micro_batches_count_for_nothing() -> Result<()> {
    let data = xor()?;
    let all = data.batch(&[0, 1, 2, 3])?;
    let masked = Batch::new(all.x.clone(), Array::from_slice(&[IGNORED; 4], &[4]));
    let train = |batches| -> Result<Array> {
        let mut model = Mlp::new(2, 2, Task::Classification)?;
        let mut steps = steps(&mut model, Clip::default())?;
        for _ in 0..5 {
            step(&mut steps, Clone::clone(&batches))?;
        }
        drop(steps);
        Ok(model.parameter("first.weight"))
    };
    let expected = train(vec![all.clone()])?;
    assert_close("weight", &train(vec![all.clone(), masked.clone()])?, &expected, 1e-5, 1e-6);
    assert_close("weight", &train(vec![masked, all])?, &expected, 1e-5, 1e-6);
    Ok(())
}

#[test]
fn dropout_draws_anew_in_every_step_and_micro_batch() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    model.dropout = Dropout::new(0.5)?;
    let batch = waves(8)?.batch(&[0, 1, 2, 3, 4, 5, 6, 7])?;
    let mut steps = TrainStep::new(&mut model, Sgd::default(), 0, StepOptions::default())?;
    let mut seen = vec![];
    for _ in 0..4 {
        // Learning rate 0: only the masks can change the loss.
        let batches = [Ok(batch.clone())];
        let output = steps.run(batches, 0.0)?;
        seen.push(output.loss.value.try_item_exact::<f32>()?.to_bits());
    }
    let alone = f32::from_bits(seen[0]);
    drop(steps);
    let mut steps = TrainStep::new(&mut model, Sgd::default(), 0, StepOptions::default())?;
    let output = steps.run([Ok(batch.clone()), Ok(batch)], 0.0)?;
    assert_ne!(output.loss.value.try_item_exact::<f32>()?.to_bits(), alone.to_bits());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    Ok(())
}

#[test]
fn frozen_parameters_stay() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    model.first.freeze_parameters(true);
    let (frozen, trained) = (model.parameter("first.weight"), model.parameter("second.weight"));
    let mut counts = None;
    Trainer::new(&mut model, config(5))?
        .on_event(|event| {
            if let Event::Started(started) = event {
                counts = Some((started.num_parameters, started.num_trainable));
            }
        })
        .run(waves(20)?)?;
    assert_eq!(counts, Some((32 + 32 + 32 + 1, 32 + 1)));
    assert_close("first.weight", &model.parameter("first.weight"), &frozen, 0.0, 0.0);
    assert!(parity::compare(&model.parameter("second.weight"), &trained, 0.0, 1e-3).is_err());

    model.freeze_parameters(true);
    let refused = Trainer::new(&mut model, config(1))?.run(waves(2)?).unwrap_err();
    assert!(matches!(refused, Error::Train(TrainError::NothingToTrain)), "{refused}");
    Ok(())
}

#[test]
fn bf16_models_stay_bf16_through_training() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    for value in model.parameters_mut().flatten().into_values() {
        *value = value.as_dtype(Dtype::Bfloat16)?;
    }
    let data = waves(16)?;
    let (x, y) = (data.features()?.as_dtype(Dtype::Bfloat16)?, data.targets()?);
    let mut steps = steps(&mut model, Clip::default().global_norm(1.0)?)?;
    for _ in 0..10 {
        let batch = Batch::new(x.clone(), y.clone());
        let output = step(&mut steps, vec![batch.clone(), batch])?;
        assert_eq!(output.grad_norm.dtype(), Dtype::Float32);
    }
    for (name, array) in steps.state().optimizer().named_arrays() {
        assert_eq!(array.dtype(), Dtype::Float32, "{name}");
    }
    drop(steps);
    for (name, value) in model.parameters().flatten() {
        assert_eq!(value.dtype(), Dtype::Bfloat16, "{name}");
    }
    Ok(())
}

#[test]
fn a_failed_step_leaves_model_and_state_as_they_were() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let batch = waves(4)?.batch(&[0, 1])?;
    let before = model.parameter("first.weight");
    let mut steps = steps(&mut model, Clip::default())?;
    steps.model().fails = true;
    let failed = step(&mut steps, vec![batch.clone()]).unwrap_err();
    assert_eq!(failed.to_string(), "the model does not like this batch");
    steps.model().fails = false;
    let failed = step(&mut steps, vec![]).unwrap_err();
    assert!(matches!(failed, Error::Train(TrainError::NoBatch)), "{failed}");

    assert_close("first.weight", &steps.model().parameter("first.weight"), &before, 0.0, 0.0);
    assert_eq!(steps.state().step(), 0);
    // The model still works: nothing of the failed trace is left in it.
    step(&mut steps, vec![batch])?;
    Ok(())
}

#[test]
fn a_run_that_diverges_stops_and_says_where() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config =
        TrainConfig { learning_rate: 1e30, max_grad_norm: None, log_every: 5, ..config(50) };
    let schedule = Schedule::Constant(1e30);
    let error = Trainer::new(&mut model, config)?
        .optimizer(Sgd::default())
        .schedule(schedule)
        .run(waves(8)?)
        .unwrap_err();
    let message = error.to_string();
    let Error::Train(TrainError::NotFinite { step, learning_rate, .. }) = error else {
        panic!("{message}");
    };
    assert!((2..5).contains(&step) && learning_rate > 1e29, "{message}");
    assert!(message.contains("at learning rate 1e30 ("), "{message}");
    Ok(())
}

#[test]
fn a_target_that_is_no_class_stops_the_run_and_is_named_as_a_cause() -> Result<()> {
    let features = xor()?.features()?;
    for bad in [2, -3, 1 << 20] {
        // `with_labels` would refuse it.
        let data = InMemory::new(features.clone(), Array::from_slice(&[0, 1, bad, 0], &[4]))?;
        let mut model = Mlp::new(2, 2, Task::Classification)?;
        let error = Trainer::new(&mut model, TrainConfig { batch_size: 4, ..config(3) })?
            .run(data)
            .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("step 1 has loss NaN"), "{message}");
        assert!(message.contains("target out of the vocabulary"), "{message}");
    }
    Ok(())
}

#[test]
fn settings_that_make_no_sense_are_refused() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let mut refused =
        |config: TrainConfig| Trainer::new(&mut model, config).expect_err("a setting").to_string();
    let config = TrainConfig::default();
    assert!(refused(TrainConfig { steps: 0, ..config.clone() }).contains("`steps` is 0"));
    for batch_size in [0, 1 << 62] {
        let message = refused(TrainConfig { batch_size, ..config.clone() });
        assert!(message.contains(&format!("`batch_size` is {batch_size}")), "{message}");
    }
    let message = refused(TrainConfig { warmup_steps: 2000, ..config.clone() });
    assert!(message.contains("warmup_steps (2000) must not be above steps (1000)"), "{message}");
    let message = refused(TrainConfig { final_learning_rate: 1.0, ..config });
    assert!(message.contains("final_learning_rate (1) must not be above"), "{message}");
    Ok(())
}

#[test]
fn a_config_file_says_how_to_train() -> Result<()> {
    let text = "steps = 50\nschedule = \"linear\"\nwarmup_steps = 5\nmax_grad_norm = \"null\"";
    let config = TrainConfig::parse(text, Format::Toml)?;
    let expected = TrainConfig {
        steps: 50,
        schedule: ScheduleConfig::Linear,
        warmup_steps: 5,
        max_grad_norm: None,
        ..TrainConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!(config.learning_rates(50)?.at(5).to_bits(), config.learning_rate.to_bits());

    let refused = TrainConfig::parse(
        "schedule = \"cosin\"\noptimizer = { kind = \"adamw\", beta1 = 1.0 }",
        Format::Toml,
    )
    .unwrap_err();
    let message = refused.to_string();
    assert!(
        message.contains("`cosine`") && message.contains("`optimizer.beta1` is 1.0"),
        "{message}"
    );
    Ok(())
}

#[test]
fn events_come_in_order_with_their_numbers() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(20)?;
    let mut seen = vec![];
    let config = TrainConfig { log_every: 3, eval_every: 4, accumulation: 2, ..config(7) };
    let history = Trainer::new(&mut model, config)?
        .evaluate_on(&data)
        .on_event(|event| {
            seen.push(match event {
                Event::Started(started) => format!("started with {} rows", started.num_rows),
                Event::Step(report) => {
                    assert!(report.loss.is_finite() && report.tokens_per_second > 0.0);
                    assert!(report.memory.active_bytes > 0);
                    format!("step {} of {}, {:.1} epochs", report.step, report.steps, report.epochs)
                }
                Event::Evaluated { step, evaluation, .. } => {
                    format!("evaluated {} targets at {step}", evaluation.num_targets)
                }
                Event::Finished(finished) => {
                    format!("finished after {} targets", finished.num_targets)
                }
                _ => panic!("{event:?}"),
            });
        })
        .run(data.clone())?
        .history;
    assert_eq!(
        seen,
        [
            "started with 20 rows",
            "step 3 of 7, 2.4 epochs",
            "evaluated 20 targets at 4",
            "step 6 of 7, 4.8 epochs",
            "step 7 of 7, 5.6 epochs",
            "evaluated 20 targets at 7",
            "finished after 112 targets",
        ]
    );
    assert_eq!((history.training.len(), history.held_out.len()), (3, 2));
    Ok(())
}

#[test]
fn every_setting_of_the_config_reaches_the_optimizer_and_the_schedule() -> Result<()> {
    let config = TrainConfig {
        learning_rate: 0.03,
        final_learning_rate: 0.003,
        warmup_steps: 2,
        schedule: ScheduleConfig::Cosine,
        optimizer: OptimizerConfig::AdamW {
            beta1: 0.8,
            beta2: 0.95,
            epsilon: 1e-6,
            weight_decay: 0.2,
            state: StateFormat::F32,
        },
        ..config(6)
    };
    let adamw =
        AdamW::default().betas(0.8, 0.95)?.epsilon(1e-6)?.weight_decay(WeightDecay::matrices(0.2)?);
    let schedule = ScheduleConfig::Cosine.build(0.03, 0.003, 2, 6)?;
    let (data, max_grad_norm) = (waves(8)?, config.max_grad_norm);
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let history = Trainer::new(&mut model, config)?.run(data.clone())?.history;
    let rates: Vec<_> = history.training.iter().map(|point| point.learning_rate).collect();
    assert_eq!(rates, (0..6).map(|step| schedule.at(step)).collect::<Vec<_>>());

    // The same steps by hand, with the rows in another order.
    let mut by_hand = Mlp::new(1, 1, Task::Regression)?;
    let clip = Clip::default().global_norm(max_grad_norm.unwrap())?;
    let options = StepOptions { clip, ..StepOptions::default() };
    let mut steps = TrainStep::new(&mut by_hand, adamw, 0, options)?;
    for rate in rates {
        let batch = data.batch(&[0, 1, 2, 3, 4, 5, 6, 7]);
        steps.run([batch], rate)?;
    }
    drop(steps);
    let [trained, expected] = [model, by_hand].map(|model| model.parameter("second.weight"));
    assert_close("second.weight", &trained, &expected, 1e-4, 1e-5);
    Ok(())
}

/// A scale that notes for each loss whether it was told to train.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Noting {
    #[param]
    scale: Param<Array>,
    trains: bool,
    seen: Vec<bool>,
}

impl BaseModel for Noting {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.multiply(&*self.scale)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        self.seen.push(self.trains);
        loss::mse(&self.forward(x)?, y)
    }

    fn training_mode(&mut self, training: bool) {
        self.trains = training;
    }
}

#[test]
fn layers_are_told_to_train_in_steps_and_not_in_evaluations_nor_after() -> Result<()> {
    let scale = Param::new(Array::from_f32(1.0));
    let mut model = Noting { scale, trains: false, seen: vec![] };
    let data = waves(8)?;
    let config = TrainConfig { eval_every: 1, memory: not_estimated(), ..config(2) };
    Trainer::new(&mut model, config)?.evaluate_on(&data).run(data.clone())?;
    // The first is the look at the held-out data before anything is trained.
    assert_eq!(model.seen, [false, true, false, true, false]);
    assert!(!model.trains);

    model.training_mode(true);
    evaluate(&mut model, &data, 8, &mut [])?;
    assert_eq!(model.seen.last(), Some(&false));
    Ok(())
}

#[test]
fn a_mixed_run_evaluates_in_the_dtype_that_it_computes_in() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(8)?;
    let mut seen = Vec::new();
    let config = TrainConfig { precision: Precision::Mixed, sanity_batches: 0, ..config(1) };
    Trainer::new(&mut model, config)?
        .evaluate_on(&data)
        .metric("error", |outputs, batch| {
            seen.push(outputs.dtype());
            loss::mse(outputs, &batch.y)
        })
        .run(data.clone())?;
    assert_eq!(seen, [Dtype::Bfloat16]);
    Ok(())
}

#[test]
fn loss_and_metrics_come_from_one_forward_pass_where_the_model_can() -> Result<()> {
    /// A scale that counts its forward passes.
    #[derive(Debug, mlx_train_core::ModuleParameters)]
    struct Counting {
        #[param]
        scale: Param<Array>,
        passes: usize,
    }
    impl BaseModel for Counting {
        fn forward(&mut self, x: &Array) -> Result<Array> {
            self.passes += 1;
            Ok(x.multiply(&*self.scale)?)
        }
        fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
            loss::mse(&self.forward(x)?, y)
        }
        fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
            let outputs = self.forward(&batch.x)?;
            Ok((loss::mse(&outputs, &batch.y)?, outputs))
        }
    }
    let mut model = Counting { scale: Param::new(Array::from_f32(1.0)), passes: 0 };
    let mut metrics =
        [Metric::new("again", |outputs: &Array, batch: &Batch| loss::mse(outputs, &batch.y))];
    let evaluation = evaluate(&mut model, &waves(8)?, 8, &mut metrics)?;
    assert_eq!(model.passes, 1);
    assert_eq!(evaluation.metrics[0].1.to_bits(), evaluation.loss.to_bits());
    Ok(())
}

#[test]
fn epochs_train_on_every_row_equally_often_and_apply_the_last_window() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let mut targets = vec![];
    // 2 epochs of 11 rows: windows of 3 micro-batches of 2 rows, and at the end one of 2 and 2.
    let config = TrainConfig { epochs: Some(2), batch_size: 2, accumulation: 3, ..config(999) };
    let trained = Trainer::new(&mut model, config)?
        .on_event(|event| {
            if let Event::Step(report) = event {
                targets.push((report.step, report.steps, report.num_targets as u64));
            }
        })
        .run(waves(11)?)?;
    assert_eq!(targets, [(1, 4, 6), (2, 4, 6), (3, 4, 6), (4, 4, 4)]);
    assert_eq!((trained.step, trained.outcome), (4, Outcome::Completed));
    Ok(())
}

#[test]
fn a_warm_up_that_is_longer_than_the_epochs_is_refused() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config = TrainConfig { epochs: Some(1), warmup_steps: 3, ..config(1) };
    let message = Trainer::new(&mut model, config)?.run(waves(16)?).unwrap_err().to_string();
    assert!(message.contains("warmup_steps is 3 and the run has 2 steps"), "{message}");
    Ok(())
}

#[test]
fn a_run_that_is_asked_to_stop_finishes_its_step() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let stop = StopSignal::new();
    let trained = Trainer::new(&mut model, config(100))?
        .stop_on(stop.clone())
        .on_event(|event| {
            if matches!(event, Event::Step(report) if report.step == 3) {
                stop.request();
            }
        })
        .run(waves(8)?)?;
    // The signal came while step 3 was told, so step 4 is the one to finish.
    assert_eq!(trained.step, 4);
    let stopped = Outcome::Stopped { reason: StopReason::Signal, checkpoint: None };
    assert_eq!(trained.outcome, stopped);
    assert_eq!(trained.history.training.last().unwrap().step, 4);
    Ok(())
}

#[test]
fn a_run_stops_when_its_time_is_over() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config = TrainConfig { max_minutes: Some(0.0), ..config(100) };
    let trained = Trainer::new(&mut model, config)?.run(waves(8)?)?;
    let stopped = Outcome::Stopped { reason: StopReason::MaxMinutes, checkpoint: None };
    assert_eq!((trained.step, trained.outcome), (1, stopped));
    Ok(())
}

#[test]
fn a_run_stops_early_when_its_metric_gets_no_better() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(8)?;
    let early_stopping = EarlyStoppingConfig { patience: 2, ..Default::default() };
    // Learning rate 0: the first evaluation is the best.
    let config = TrainConfig {
        learning_rate: 0.0,
        eval_every: 3,
        early_stopping: Some(early_stopping),
        ..config(100)
    };
    let mut told = None;
    let trained = Trainer::new(&mut model, config.clone())?
        .evaluate_on(&data)
        .on_event(|event| {
            if let Event::StoppedEarly { step, best, .. } = event {
                told = Some((*step, best.step));
            }
        })
        .run(data.clone())?;
    assert_eq!(told, Some((9, 3)));
    let stopped = Outcome::Stopped { reason: StopReason::EarlyStopping, checkpoint: None };
    assert_eq!((trained.step, trained.outcome), (9, stopped));

    let refused = Trainer::new(&mut model, config)?.run(data.clone()).unwrap_err();
    assert!(
        refused.to_string().contains("`early_stopping` watches the held-out data"),
        "{refused}"
    );
    Ok(())
}

#[test]
fn held_out_data_that_cannot_be_evaluated_is_noticed_before_the_first_step() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let before = model.parameter("second.weight");
    let wrong = InMemory::new(Array::zeros::<f32>(&[4, 2])?, Array::zeros::<f32>(&[4, 1])?)?;
    let run = Trainer::new(&mut model, config(5))?.evaluate_on(&wrong).run(waves(8)?);
    assert!(run.is_err());
    assert_close("second.weight", &model.parameter("second.weight"), &before, 0.0, 0.0);
    Ok(())
}

#[test]
fn a_spike_of_the_loss_is_told_at_its_step() -> Result<()> {
    /// Rows of which one has a target that is far off.
    #[derive(Debug)]
    struct OneOutlier(InMemory);
    impl Dataset for OneOutlier {
        fn len(&self) -> usize {
            40
        }
        fn batch(&self, rows: &[usize]) -> Result<Batch> {
            let Batch { x, y, .. } = self.0.batch(rows)?;
            let far = if rows.contains(&17) { 1e3 } else { 0.0 };
            Ok(Batch::new(x, y.add(Array::from_f32(far))?))
        }
    }
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let (mut spikes, mut losses) = (vec![], vec![]);
    let config = TrainConfig { batch_size: 1, learning_rate: 1e-5, ..config(80) };
    let data = OneOutlier(waves(40)?);
    Trainer::new(&mut model, config)?
        .on_event(|event| match event {
            Event::Spike(spike) => spikes.push(*spike),
            Event::Step(report) => losses.push(report.loss),
            _ => {}
        })
        .run(data)?;
    // Each epoch has the row once; nothing is known of what is typical in the first few steps.
    assert!((1..=2).contains(&spikes.len()), "{spikes:?}");
    for spike in spikes {
        assert!(spike.loss > 1e5 && spike.median < 10.0, "{spike:?}");
        assert_eq!(spike.loss.to_bits(), losses[spike.step as usize - 1].to_bits());
    }
    Ok(())
}

#[test]
fn evaluation_does_not_depend_on_the_batch_size() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(23)?;
    let whole = evaluate(&mut model, &data, 23, &mut [])?.loss;
    let parts = evaluate(&mut model, &data, 4, &mut [])?.loss;
    assert!((whole - parts).abs() < 1e-6 * whole, "{whole} and {parts}");
    Ok(())
}

#[test]
fn memory_does_not_grow_with_steps_or_micro_batches() -> Result<()> {
    // Memory is counted for the whole process, so this runs in a process of its own.
    if std::env::var_os("MEMORY_ALONE").is_none() {
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_does_not_grow_with_steps_or_micro_batches"])
            .env("MEMORY_ALONE", "1")
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(64)?;
    let mut active = HashMap::new();
    Trainer::new(&mut model, config(200))?
        .on_event(|event| {
            if let Event::Step(report) = event {
                active.insert(report.step, report.memory.active_bytes);
            }
        })
        .run(data.clone())?;
    // 4 KiB are a tenth of what the model, its state and its gradients hold.
    assert!(active[&200] <= active[&20] + 4096, "{} then {}", active[&20], active[&200]);

    let mut peak = |accumulation| -> Result<u64> {
        Memory::reset_peak()?;
        let config = TrainConfig { accumulation, batch_size: 512, ..config(2) };
        Trainer::new(&mut model, config)?.run(data.clone())?;
        Ok(Memory::now()?.peak_bytes)
    };
    peak(2)?;
    let (two, sixteen) = (peak(2)?, peak(16)?);
    // Freed buffers come back when their task ends, so the peak varies a little; growth would be eightfold.
    assert!(sixteen <= two + two / 2, "peak {two} with 2 micro-batches, {sixteen} with 16");
    Ok(())
}

/// Waves of which some rows have a target that is no number, and a note of the rows that were asked for.
#[derive(Debug)]
struct Poisoned {
    data: InMemory,
    bad: std::ops::Range<usize>,
    asked: Arc<Mutex<Vec<Vec<usize>>>>,
}

impl Poisoned {
    fn new(bad: std::ops::Range<usize>) -> Result<Self> {
        Ok(Self { data: waves(40)?, bad, asked: Arc::default() })
    }
}

impl Dataset for Poisoned {
    fn len(&self) -> usize {
        self.data.len()
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        self.asked.lock().unwrap().push(rows.to_vec());
        let Batch { x, y, .. } = self.data.batch(rows)?;
        let is_bad = rows.iter().any(|row| self.bad.contains(row));
        let added = if is_bad { f32::NAN } else { 0.0 };
        Ok(Batch::new(x, y.add(Array::from_f32(added))?))
    }
}

/// One row a step, reported each.
fn row_by_row(steps: u64) -> TrainConfig {
    TrainConfig { batch_size: 1, num_workers: 0, ..config(steps) }
}

/// Whether all parameters are finite.
fn is_finite(model: &Mlp) -> Result<bool> {
    let mut parameters = model.parameters().flatten().into_values();
    parameters.try_fold(true, |finite, array| {
        let array = array.as_dtype(Dtype::Float32)?;
        Ok(finite && array.try_as_slice::<f32>()?.iter().all(|value| value.is_finite()))
    })
}

#[test]
fn a_step_that_is_not_finite_stops_the_run_at_once_and_names_a_parameter() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config = TrainConfig { log_every: 1000, ..row_by_row(40) };
    let error = Trainer::new(&mut model, config)?.run(Poisoned::new(17..18)?).unwrap_err();
    let message = error.to_string();
    assert!(
        message
            .contains("first gradient that is not finite is that of `first.bias`; 4 of 4 are not")
    );
    assert!(is_finite(&model)?, "the update was applied");
    Ok(())
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_counted() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let (mut skipped, mut last) = (vec![], 0);
    let config = TrainConfig { non_finite: NonFinite::Skip, epochs: Some(1), ..row_by_row(1) };
    let trained = Trainer::new(&mut model, config)?
        .on_event(|event| match event {
            Event::Skipped(step) => skipped.push((step.step, step.loss.is_nan())),
            Event::Step(report) => last = report.num_skipped,
            _ => {}
        })
        .run(Poisoned::new(10..13)?)?;
    assert_eq!((trained.step, trained.outcome), (40, Outcome::Completed));
    assert_eq!((skipped.len(), last), (3, 3));
    assert!(skipped.iter().all(|(_, is_nan)| *is_nan) && is_finite(&model)?);
    Ok(())
}

#[test]
fn too_many_skipped_steps_in_a_row_are_an_error() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config = TrainConfig { non_finite: NonFinite::Skip, ..row_by_row(40) };
    let error = Trainer::new(&mut model, config)?.run(Poisoned::new(0..40)?).unwrap_err();
    let Error::Train(TrainError::TooManySkipped { step, in_a_row, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!((step, in_a_row), (10, 10));
    Ok(())
}

/// From which step to which a run goes back, whose step is not finite once; it has to end as it should.
fn roll_back(checkpoints: Option<&Path>) -> Result<(u64, u64)> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let mut rollbacks = vec![];
    let checkpoint = CheckpointConfig { every_steps: 4, ..Default::default() };
    let config = TrainConfig { non_finite: NonFinite::Rollback, checkpoint, ..row_by_row(36) };
    let mut trainer = Trainer::new(&mut model, config)?;
    if let Some(folder) = checkpoints {
        trainer = trainer.checkpoints(Checkpoints::create(folder)?);
    }
    let Trained { step, outcome, history } = trainer
        .on_event(|event| {
            if let Event::RolledBack { from, to, .. } = event {
                rollbacks.push((*from, *to));
            }
        })
        .run(Poisoned::new(17..18)?)?;
    assert_eq!((step, outcome), (36, Outcome::Completed));
    let steps: Vec<u64> = history.training.iter().map(|point| point.step).collect();
    assert_eq!(steps, (1..=36).collect::<Vec<_>>(), "what was undone is told once");
    assert!(is_finite(&model)?);
    let [rollback] = rollbacks[..] else { panic!("{rollbacks:?}") };
    Ok(rollback)
}

#[test]
fn a_step_that_is_not_finite_goes_back_and_on_with_other_data() -> Result<()> {
    let (from, to) = roll_back(None)?;
    assert_eq!(to, (from - 1) / 4 * 4, "from step {from}");
    // With checkpoints it goes back to the newest that is on disk, which may be an older one.
    let folder = TempDir::new().unwrap();
    let (at, to) = roll_back(Some(&folder.path().join("checkpoints")))?;
    assert!(at == from && to.is_multiple_of(4) && to < from, "to step {to}");
    Ok(())
}

#[test]
fn a_run_that_goes_back_from_its_last_batch_still_ends_as_a_run_does() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let folder = TempDir::new().unwrap();
    let checkpoint = CheckpointConfig { every_steps: 4, keep_best: 0, ..Default::default() };
    let config = TrainConfig {
        non_finite: NonFinite::Rollback,
        epochs: Some(1),
        log_every: 100,
        checkpoint,
        ..row_by_row(1)
    };
    let options = LoaderOptions {
        batch_size: 1,
        order: Order::Sequential,
        num_workers: 0,
        ..Default::default()
    };
    let loader = DataLoader::new(Poisoned::new(39..40)?, options)?;
    let (mut seen, held_out) = (vec![], waves(8)?);
    let trained = Trainer::new(&mut model, config)?
        .checkpoints(Checkpoints::create(folder.path().join("checkpoints"))?)
        .evaluate_on(&held_out)
        .on_event(|event| match event {
            Event::RolledBack { from: 40, to, .. } => seen.push(("back to", *to)),
            Event::Evaluated { step, .. } => seen.push(("evaluated at", *step)),
            Event::CheckpointSaved { step, .. } => seen.push(("saved at", *step)),
            _ => {}
        })
        .run_loader(loader)?;
    assert_eq!(trained.outcome, Outcome::Completed);
    let step = trained.step;
    assert!(step < 40 && seen.contains(&("back to", step)), "{seen:?}");
    assert!(seen.contains(&("evaluated at", step)), "{seen:?}");
    // A save that was begun before may have ended in between.
    assert_eq!(seen.last(), Some(&("saved at", step)));
    Ok(())
}

#[test]
fn going_back_again_and_again_is_an_error() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let config = TrainConfig { non_finite: NonFinite::Rollback, ..row_by_row(40) };
    let error = Trainer::new(&mut model, config)?.run(Poisoned::new(0..40)?).unwrap_err();
    let message = error.to_string();
    let Error::Train(TrainError::TooManyRollbacks { step: 1, rollbacks: 3, .. }) = error else {
        panic!("{message}");
    };
    assert!(message.contains("its loss is NaN and its gradient norm NaN"), "{message}");
    Ok(())
}

#[test]
fn a_spike_goes_back_when_it_should() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let mut data = waves(40)?.batch(&(0..40).collect::<Vec<_>>())?;
    // One target that is far off: a loss of a million among those of about one.
    let far = Array::from_iter((0..40).map(|row| if row == 17 { 1e3_f32 } else { 0.0 }), &[40, 1]);
    data.y = data.y.add(far)?;
    let spike = SpikeConfig { action: SpikeAction::Rollback, ..Default::default() };
    let checkpoint = CheckpointConfig { every_steps: 10, ..Default::default() };
    let config = TrainConfig { spike, checkpoint, learning_rate: 1e-5, ..row_by_row(70) };
    let (mut spikes, mut rollbacks) = (0, 0);
    let trained = Trainer::new(&mut model, config)?
        .on_event(|event| match event {
            Event::Spike(_) => spikes += 1,
            Event::RolledBack { .. } => rollbacks += 1,
            _ => {}
        })
        .run(InMemory::new(data.x, data.y)?)?;
    assert!(spikes > 0 && spikes == rollbacks, "{spikes} spikes, {rollbacks} rollbacks");
    assert_eq!(trained.step, 70);
    Ok(())
}

/// The steps that were saved.
fn saves(config: TrainConfig, folder: &Path, held_out: Option<&InMemory>) -> Result<Vec<u64>> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let mut saved = vec![];
    let mut trainer = Trainer::new(&mut model, config)?.checkpoints(Checkpoints::create(folder)?);
    if let Some(held_out) = held_out {
        trainer = trainer.evaluate_on(held_out);
    }
    trainer
        .on_event(|event| {
            if let Event::CheckpointSaved { step, bytes, .. } = event {
                assert!(*bytes > 0);
                saved.push(*step);
            }
        })
        .run(waves(8)?)?;
    Ok(saved)
}

#[test]
fn checkpoints_are_saved_when_it_is_their_turn_and_at_the_end() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let save = |name: &str, checkpoint, held_out| {
        // Learning rate 0: the first evaluation is the best one.
        let config = TrainConfig {
            checkpoint,
            eval_every: 2,
            learning_rate: 0.0,
            log_every: 10,
            ..config(8)
        };
        saves(config, &folder.path().join(name), held_out)
    };
    let data = waves(8)?;
    let every_three = CheckpointConfig { every_steps: 3, ..Default::default() };
    assert_eq!(save("turns", every_three.clone(), None)?, [3, 6, 8]);
    assert_eq!(save("best", every_three.clone(), Some(&data))?, [2, 3, 6, 8]);
    let without_best = CheckpointConfig { keep_best: 0, ..every_three };
    assert_eq!(save("without best", without_best, Some(&data))?, [3, 6, 8]);
    let at_the_end = CheckpointConfig { every_steps: 0, ..Default::default() };
    assert_eq!(save("end", at_the_end, None)?, [8]);
    let always =
        CheckpointConfig { every_steps: 0, every_minutes: Some(0.0), ..Default::default() };
    assert_eq!(save("time", always, None)?, [1, 2, 3, 4, 5, 6, 7, 8]);
    Ok(())
}

#[test]
fn a_failed_save_is_told_and_the_run_goes_on() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (path, aside) = (folder.path().join("checkpoints"), folder.path().join("aside"));
    let checkpoint = CheckpointConfig { every_steps: 2, ..Default::default() };
    let config = TrainConfig { checkpoint, ..config(40) };
    let (mut saved, mut failed) = (vec![], vec![]);
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let trained = Trainer::new(&mut model, config)?
        .checkpoints(Checkpoints::create(&path)?)
        .on_event(|event| match event {
            Event::CheckpointSaved { step, .. } => {
                // A file takes the place of the folder, until a save fails.
                if saved.is_empty() {
                    fs::rename(&path, &aside).unwrap();
                    fs::write(&path, "taken").unwrap();
                }
                saved.push(*step);
            }
            Event::CheckpointFailed { step, error } => {
                if failed.is_empty() {
                    fs::remove_file(&path).unwrap();
                    fs::rename(&aside, &path).unwrap();
                }
                failed.push((*step, (*error).to_owned()));
            }
            _ => {}
        })
        .run(waves(8)?)?;
    assert_eq!(trained.outcome, Outcome::Completed);
    assert_eq!((saved.first(), saved.last()), (Some(&2), Some(&40)));
    assert!(!failed.is_empty() && failed.len() <= 2, "{failed:?}");
    assert!(failed.iter().all(|(_, error)| error.contains("checkpoints")), "{failed:?}");
    for entry in Checkpoints::open(&path)?.list()? {
        entry.verify(Check::Hashes)?;
    }
    Ok(())
}

#[test]
fn a_trial_run_does_everything_and_leaves_nothing() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let checkpoints = Checkpoints::create(folder.path().join("checkpoints"))?;
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let (data, mut seen) = (waves(20)?, vec![]);
    let schedule_of = TrainConfig { warmup_steps: 10, learning_rate: 0.5, ..config(100) };
    let config = TrainConfig { fast_dev_run: true, log_every: 50, ..schedule_of };
    let trained = Trainer::new(&mut model, config)?
        .evaluate_on(&data)
        .checkpoints(checkpoints)
        .on_event(|event| match event {
            Event::Step(report) => seen.push(format!("step at {}", report.learning_rate)),
            Event::Evaluated { evaluation, .. } => {
                seen.push(format!("evaluated {}", evaluation.num_targets));
            }
            Event::CheckpointSaved { path, .. } => {
                assert!(!path.starts_with(folder.path()));
                seen.push("saved".into());
            }
            _ => {}
        })
        .run(data.clone())?;
    // Learning rates and batches are those of the whole run.
    let expected = ["step at 0", "step at 0.05", "step at 0.1", "evaluated 8", "saved"];
    assert_eq!((seen, trained.step), (expected.map(String::from).to_vec(), 3));
    let left: Vec<_> = fs::read_dir(folder.path().join("checkpoints")).unwrap().collect();
    assert_eq!(left.len(), 1, "the file with the name of the run alone: {left:?}");
    Ok(())
}

#[test]
fn overfitting_sees_the_same_batches_again_and_again() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = Poisoned::new(0..0)?;
    let asked = Arc::clone(&data.asked);
    let config =
        TrainConfig { overfit_batches: 2, num_workers: 0, memory: not_estimated(), ..config(6) };
    Trainer::new(&mut model, config)?.run(data)?;
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 6);
    assert_ne!(asked[0], asked[1]);
    assert!(asked.chunks(2).all(|pair| pair == &asked[..2]), "{asked:?}");
    Ok(())
}

#[test]
fn averaged_weights_are_evaluated_and_left_in_the_model() -> Result<()> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = waves(16)?;
    let config = TrainConfig { ema_decay: Some(0.9), eval_every: 2, ..config(6) };
    let (mut trains, mut losses) = (vec![], vec![]);
    let trained = Trainer::new(&mut model, config)?
        .evaluate_on(&data)
        .on_event(|event| match event {
            Event::Step(report) => trains.push(report.loss),
            Event::Evaluated { evaluation, .. } => losses.push(evaluation.loss),
            _ => {}
        })
        .run(data.clone())?;
    let left = evaluate(&mut model, &data, 8, &mut [])?.loss;
    assert_eq!(left.to_bits(), trained.history.last_held_out().unwrap().loss.to_bits());
    // The steps after an evaluation go on with the weights that are trained, not with their average.
    let mut plain = Mlp::new(1, 1, Task::Regression)?;
    let without = TrainConfig { ema_decay: None, eval_every: 2, ..self::config(6) };
    let history = Trainer::new(&mut plain, without)?.evaluate_on(&data).run(data.clone())?.history;
    assert_eq!(self::losses(&history), trains);
    assert_ne!(history.last_held_out().unwrap().loss.to_bits(), losses[2].to_bits());
    Ok(())
}
