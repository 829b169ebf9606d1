//! A run that stops goes on from its checkpoint and ends where it would have ended, to the last bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_rs::{
    Array,
    module::{Module, ModuleParameters},
    ops::tanh,
    random::normal,
};
use mlx_train_core::{
    Error, Result,
    config::ModelConfig,
    data::{DataLoader, InMemory, LoaderOptions, Order},
    loss,
    model::{BaseModel, Loss},
    nn::{Dropout, Linear},
    rng,
    store::Checkpoints,
    train::{
        Event, Outcome, Resume, RunDescription, StopReason, StopSignal, TrainConfig, TrainError,
        Trained, Trainer,
    },
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// Two linear layers with dropout between them.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Mlp {
    #[param]
    first: Linear,
    #[param]
    second: Linear,
    dropout: Dropout,
}

impl Mlp {
    fn new(seed: u64) -> Result<Self> {
        rng::scope(&rng::key(seed)?, || {
            Ok(Self {
                first: Linear::new(2, 8)?,
                second: Linear::new(8, 1)?,
                dropout: Dropout::new(0.3)?,
            })
        })
    }

    /// The bits of every parameter by name.
    fn bits(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let parameters = self.parameters().flatten().into_iter();
        let bits = |array: &Array| -> Result<Vec<u32>> {
            let array = array.as_dtype(mlx_rs::Dtype::Float32)?;
            Ok(array.try_as_slice::<f32>()?.iter().map(|value| value.to_bits()).collect())
        };
        parameters.map(|(name, array)| Ok((name.to_string(), bits(array)?))).collect()
    }
}

impl BaseModel for Mlp {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let hidden = self.dropout.forward(&tanh(self.first.forward(x)?)?)?;
        Ok(self.second.forward(&hidden)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// Points and the product of their coordinates.
fn points(rows: i32) -> Result<InMemory> {
    let x = normal::<f32>(&[rows, 2], None, None, &rng::key(5)?)?;
    let y = mlx_rs::ops::prod_axis(&x, 1, true)?;
    mlx_rs::transforms::eval([&x, &y])?;
    InMemory::new(x, y)
}

/// Six steps of batches of four, with these settings besides, as `--set` has them.
fn config(settings: &[&str]) -> TrainConfig {
    let base = TrainConfig {
        steps: 6,
        batch_size: 4,
        learning_rate: 0.02,
        log_every: 4,
        eval_every: 3,
        ..TrainConfig::default()
    };
    base.with_overrides(settings).unwrap()
}

/// What a run leaves that has to be the same.
#[derive(Debug, PartialEq)]
struct End {
    weights: BTreeMap<String, Vec<u32>>,
    /// Step, loss and gradient norm of each report, the loss of each evaluation.
    numbers: Vec<(u64, Vec<u64>)>,
    step: u64,
}

impl End {
    fn of(model: &Mlp, trained: &Trained) -> Result<Self> {
        let training = trained.history.training.iter().map(|point| {
            let numbers = [point.loss, point.grad_norm, point.learning_rate];
            (point.step, numbers.map(f64::to_bits).to_vec())
        });
        let held_out = trained
            .history
            .held_out
            .iter()
            .map(|point| (point.step, vec![point.evaluation.loss.to_bits()]));
        let numbers = training.chain(held_out).collect();
        Ok(Self { weights: model.bits()?, numbers, step: trained.step })
    }
}

/// How a test feeds its runs.
type Load<'a> = &'a dyn Fn() -> Result<DataLoader>;

fn train(trainer: Trainer<'_, Mlp>, load: Option<Load<'_>>) -> Result<Trained> {
    match load {
        Some(load) => trainer.run_loader(load()?),
        None => trainer.run(points(37)?),
    }
}

/// The run at one go.
fn whole(config: &TrainConfig, load: Option<Load<'_>>) -> Result<End> {
    let mut model = Mlp::new(1)?;
    let held_out = points(6)?;
    let trained = train(Trainer::new(&mut model, config.clone())?.evaluate_on(&held_out), load)?;
    assert_eq!(trained.outcome, Outcome::Completed);
    End::of(&model, &trained)
}

/// The same run in parts, each by a trainer that knows nothing of those before but their folder: the first
/// `num_short` parts are one step each, the last is the rest.
fn in_parts(
    config: &TrainConfig,
    load: Option<Load<'_>>,
    num_short: u64,
    folder: &Path,
) -> Result<End> {
    let held_out = points(6)?;
    for part in 1.. {
        // A time that is over after the first step.
        let max_minutes = (part <= num_short).then_some(0.0);
        let config = TrainConfig { max_minutes, ..config.clone() };
        // With other weights, so that those of the checkpoint are needed.
        let mut model = Mlp::new(part)?;
        let trainer = Trainer::new(&mut model, config)?.evaluate_on(&held_out);
        let trainer = match part {
            1 => trainer.checkpoints(Checkpoints::create(folder)?),
            _ => trainer.checkpoints(Checkpoints::open(folder)?).resume(Resume::Latest),
        };
        let end = train(trainer, load)?;
        if end.outcome == Outcome::Completed {
            return End::of(&model, &end);
        }
        assert_eq!(end.step, part);
    }
    unreachable!("a run has an end");
}

/// Fails unless both ways end in the same bits.
fn assert_exact(settings: &[&str], load: Option<Load<'_>>) -> Result<()> {
    let config = config(settings);
    let folder = TempDir::new().unwrap();
    let expected = whole(&config, load)?;
    let found = in_parts(&config, load, 2, &folder.path().join("checkpoints"))?;
    assert_eq!(found, expected, "{settings:?}");
    Ok(())
}

#[test]
fn resume_is_exact_for_every_optimizer() -> Result<()> {
    for optimizer in [
        "{ kind = \"adamw\", weight_decay = 0.1 }",
        "{ kind = \"sgd\", momentum = 0.9, nesterov = true }",
        "{ kind = \"lion\" }",
        "{ kind = \"adafactor\", momentum = 0.9, relative_step = true }",
        "{ kind = \"muon\" }",
    ] {
        assert_exact(&[&format!("optimizer={optimizer}")], None)?;
    }
    Ok(())
}

#[test]
fn resume_is_exact_inside_of_accumulation_epochs_and_schedules() -> Result<()> {
    for settings in [
        &["accumulation=3", "warmup_steps=3"][..],
        // 37 rows in batches of 4: the last batch of an epoch is smaller, and the last window shorter.
        &["epochs=2", "accumulation=3"],
        &["schedule={ kind = \"wsd\", decay_steps = 3 }", "ema_decay=0.9"],
        &["groups=[{ parameters = [\"first.*\"], learning_rate_scale = 0.5 }]"],
        &["overfit_batches=3"],
    ] {
        assert_exact(settings, None)?;
    }
    Ok(())
}

#[test]
fn resume_is_exact_in_every_precision() -> Result<()> {
    for precision in [
        "precision=mixed",
        "precision={ kind = \"bf16\", stochastic_rounding = true }",
        "precision={ kind = \"bf16\", stochastic_rounding = false }",
    ] {
        assert_exact(&[precision, "ema_decay=0.9"], None)?;
    }
    Ok(())
}

#[test]
fn resume_is_exact_for_every_order_and_number_of_threads() -> Result<()> {
    for num_workers in [0, 2] {
        let weights = (0..37).map(|row| f64::from(row % 5)).collect();
        for order in [Order::Sequential, Order::Shuffled, Order::Weighted(weights)] {
            let load = || {
                let order = order.clone();
                let options =
                    LoaderOptions { batch_size: 4, order, num_workers, ..Default::default() };
                DataLoader::new(points(37)?, options)
            };
            assert_exact(&["accumulation=2"], Some(&load))?;
        }
    }
    Ok(())
}

#[test]
fn threads_may_change_between_the_parts_of_a_run() -> Result<()> {
    let (none, two) = (config(&["num_workers=0"]), config(&["num_workers=2", "prefetch=3"]));
    let folder = TempDir::new().unwrap();
    let found = in_parts(&two, None, 1, &folder.path().join("checkpoints"))?;
    assert_eq!(found, whole(&none, None)?);
    Ok(())
}

#[test]
fn a_run_may_stop_after_every_one_of_its_steps() -> Result<()> {
    // Across the end of an epoch, too.
    let config = config(&["batch_size=8"]);
    let folder = TempDir::new().unwrap();
    let found = in_parts(&config, None, config.steps, &folder.path().join("checkpoints"))?;
    assert_eq!(found, whole(&config, None)?);
    Ok(())
}

/// A folder with the checkpoints of the first three steps of a run.
fn stopped_run(config: &TrainConfig, description: RunDescription) -> Result<(TempDir, Trained)> {
    let folder = TempDir::new().unwrap();
    let stop = StopSignal::new();
    let mut model = Mlp::new(1)?;
    let asked = stop.clone();
    let trained = Trainer::new(&mut model, TrainConfig { log_every: 2, ..config.clone() })?
        .checkpoints(Checkpoints::create(folder.path().join("checkpoints"))?)
        .describe(description)
        .stop_on(stop)
        .on_event(move |event| {
            if matches!(event, Event::Step(_)) {
                asked.request();
            }
        })
        .run(points(37)?)?;
    Ok((folder, trained))
}

fn checkpoints(folder: &TempDir) -> Checkpoints {
    Checkpoints::open(folder.path().join("checkpoints")).unwrap()
}

#[test]
fn a_stopped_run_names_the_checkpoint_that_it_goes_on_from() -> Result<()> {
    let (folder, trained) = stopped_run(&config(&[]), RunDescription::default())?;
    let path = folder.path().join("checkpoints/step-00000003");
    let checkpoint = Some(path.clone());
    assert_eq!(trained.outcome, Outcome::Stopped { reason: StopReason::Signal, checkpoint });

    let mut model = Mlp::new(2)?;
    let mut resumed = vec![];
    Trainer::new(&mut model, config(&[]))?
        .resume(Resume::Path(path.clone()))
        .on_event(|event| {
            if let Event::Resumed { step, checkpoint } = event {
                resumed.push((*step, checkpoint.to_path_buf()));
            }
        })
        .run(points(37)?)?;
    assert_eq!(resumed, [(3, path)]);
    Ok(())
}

#[test]
fn a_run_that_is_over_trains_no_further_when_it_is_resumed() -> Result<()> {
    let (folder, _) = stopped_run(&config(&["steps=3"]), RunDescription::default())?;
    let mut model = Mlp::new(2)?;
    let trained = Trainer::new(&mut model, config(&["steps=3"]))?
        .checkpoints(checkpoints(&folder))
        .resume(Resume::Latest)
        .run(points(37)?)?;
    assert_eq!((trained.step, trained.outcome), (3, Outcome::Completed));
    Ok(())
}

#[test]
fn resume_starts_at_the_step_that_is_asked_for() -> Result<()> {
    let settings = ["steps=8", "checkpoint.every_steps=2", "eval_every=2"];
    let folder = TempDir::new().unwrap();
    let mut model = Mlp::new(1)?;
    let held_out = points(6)?;
    let trained = Trainer::new(&mut model, config(&settings))?
        .checkpoints(Checkpoints::create(folder.path().join("checkpoints"))?)
        .evaluate_on(&held_out)
        .run(points(37)?)?;
    let losses = trained.history.held_out.iter().map(|it| (it.step, it.evaluation.loss));
    let best = losses.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    for (resume, expected) in [(Resume::Latest, 8), (Resume::Step(6), 6), (Resume::Best, best)] {
        let mut step = None;
        let mut model = Mlp::new(2)?;
        Trainer::new(&mut model, config(&settings))?
            .checkpoints(checkpoints(&folder))
            .resume(resume)
            .evaluate_on(&held_out)
            .on_event(|event| {
                if let Event::Resumed { step: at, .. } = event {
                    step = Some(*at);
                }
            })
            .run(points(37)?)?;
        assert_eq!(step, Some(expected));
    }
    Ok(())
}

/// Why a run is not resumed.
fn refusal(folder: &TempDir, config: TrainConfig, allowed: &[&str]) -> Result<String> {
    let mut model = Mlp::new(1)?;
    let refused = Trainer::new(&mut model, config)?
        .checkpoints(checkpoints(folder))
        .resume(Resume::Latest)
        .describe(RunDescription::new("mlp", json!({ "data": { "path": "b.txt" } })))
        .allow(allowed.iter().copied())
        .run(points(37)?)
        .unwrap_err();
    let text = refused.to_string();
    Ok(text.replace(&folder.path().display().to_string(), "runs/first"))
}

#[test]
fn another_config_is_refused_down_to_the_field_unless_it_is_allowed() -> Result<()> {
    let description = RunDescription::new("mlp", json!({ "data": { "path": "a.txt" } }));
    let (folder, _) = stopped_run(&config(&[]), description)?;
    let settings = ["steps=20", "learning_rate=0.5", "optimizer=sgd", "max_grad_norm=null"];
    let other = config(&settings);
    insta::assert_snapshot!(refusal(&folder, other.clone(), &["data.*"])?);

    let mut warnings = vec![];
    let mut model = Mlp::new(1)?;
    Trainer::new(&mut model, config(&["steps=9", "learning_rate=0.5"]))?
        .checkpoints(checkpoints(&folder))
        .resume(Resume::Latest)
        .describe(RunDescription::new("mlp", json!({ "data": { "path": "b.txt" } })))
        .allow(["train.learning_rate", "data.*"])
        .on_event(|event| {
            if let Event::Warning(text) = event {
                warnings.push((*text).to_owned());
            }
        })
        .run(points(37)?)?;
    insta::assert_snapshot!(warnings.join("\n"));
    Ok(())
}

#[test]
fn another_length_of_the_data_is_refused() -> Result<()> {
    let (folder, _) = stopped_run(&config(&[]), RunDescription::default())?;
    let mut model = Mlp::new(1)?;
    let refused = Trainer::new(&mut model, config(&[]))?
        .checkpoints(checkpoints(&folder))
        .resume(Resume::Latest)
        .allow(["*"])
        .run(points(38)?)
        .unwrap_err();
    assert!(refused.to_string().contains("rows: 37 when it was saved, 38 now"), "{refused}");
    Ok(())
}

#[test]
fn nothing_to_resume_from_is_said() -> Result<()> {
    let mut model = Mlp::new(1)?;
    let mut refused = |checkpoints: Option<Checkpoints>, resume| -> Result<Error> {
        let mut trainer = Trainer::new(&mut model, config(&[]))?.resume(resume);
        if let Some(checkpoints) = checkpoints {
            trainer = trainer.checkpoints(checkpoints);
        }
        Ok(trainer.run(points(37)?).unwrap_err())
    };
    let without = refused(None, Resume::Latest)?;
    assert!(matches!(without, Error::Train(TrainError::NoCheckpoints)), "{without}");

    let folder = TempDir::new().unwrap();
    let empty = Checkpoints::create(folder.path().join("checkpoints"))?;
    let message = refused(Some(empty.clone()), Resume::Latest)?.to_string();
    assert!(message.contains("holds no checkpoint yet"), "{message}");
    let message = refused(Some(empty), Resume::Best)?.to_string();
    assert!(message.contains("holds no checkpoint with a metric"), "{message}");
    Ok(())
}

#[test]
fn a_refused_resume_leaves_the_model_as_it_was() -> Result<()> {
    let (folder, _) = stopped_run(&config(&[]), RunDescription::default())?;
    let mut model = Mlp::new(2)?;
    let before = model.bits()?;
    let refused = Trainer::new(&mut model, config(&["optimizer=lion"]))?
        .checkpoints(checkpoints(&folder))
        .resume(Resume::Latest)
        .allow(["*"])
        .run(points(37)?)
        .unwrap_err();
    // Lion has no second moment, so the state does not fit.
    assert!(refused.to_string().contains("second"), "{refused}");
    assert_eq!(model.bits()?, before);
    Ok(())
}

#[test]
fn early_stopping_counts_on_after_a_resume() -> Result<()> {
    // Learning rate 0: no evaluation beats the first, at step 1; patience 3 is over at step 4.
    let settings =
        ["learning_rate=0", "eval_every=1", "early_stopping.patience=3", "max_minutes=0"];
    let held_out = points(6)?;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("checkpoints");
    let mut outcomes = vec![];
    for part in 0..4 {
        let mut model = Mlp::new(1)?;
        let trainer = Trainer::new(&mut model, config(&settings))?.evaluate_on(&held_out);
        let trainer = match part {
            0 => trainer.checkpoints(Checkpoints::create(&path)?),
            _ => trainer.checkpoints(Checkpoints::open(&path)?).resume(Resume::Latest),
        };
        let mut stopped = false;
        trainer
            .on_event(|event| stopped |= matches!(event, Event::StoppedEarly { .. }))
            .run(points(37)?)?;
        outcomes.push(stopped);
    }
    assert_eq!(outcomes, [false, false, false, true]);
    assert!(fs::exists(path.join("step-00000004")).unwrap());
    Ok(())
}
