//! A whole run over ranks is the run of one process: its losses, its checkpoints, and where it goes on.

use super::{numbers, ranks::run};
use mlx_rs::{
    module::{Module, ModuleParameters},
    ops::tanh,
};
use mlx_train_core::{
    Array, Error, Result, Shard,
    config::ModelConfig,
    data::InMemory,
    distributed::{Group, Mesh, Parallelism, PipelineBlocks},
    loss,
    model::{BaseModel, Loss},
    nn::{Dropout, Linear, Stack},
    rng,
    store::{Check, Checkpoints, Location},
    train::{Event, Outcome, Resume, StopReason, StopSignal, TrainConfig, Trained, Trainer},
};
use std::{
    cell::Cell, collections::BTreeMap, env, fs, os::unix::process::parent_id, path::PathBuf,
    process, rc::Rc,
};

/// A residual block, whose inner layer ranks can divide.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters, Shard)]
struct Block {
    #[param]
    #[shard(columns)]
    up: Linear,
    #[param]
    #[shard(rows)]
    down: Linear,
    #[shard(divide)]
    inner: Dropout,
    outer: Dropout,
}

impl Block {
    fn new(dropout: f32) -> Result<Self> {
        let (up, down) = (Linear::new(8, 8)?, Linear::new(8, 8)?);
        Ok(Self { up, down, inner: Dropout::new(dropout)?, outer: Dropout::new(dropout)? })
    }

    fn forward(&mut self, x: &Array) -> Result<Array> {
        let inner = self.inner.forward(&tanh(self.up.forward(x)?)?)?;
        Ok(x.add(self.outer.forward(&self.down.forward(&inner)?)?)?)
    }
}

#[derive(Debug, mlx_train_core::ModuleParameters, Shard)]
struct Mlp {
    #[param]
    first: Linear,
    #[param]
    #[shard]
    blocks: Stack<Block>,
    #[param]
    last: Linear,
}

impl Mlp {
    fn new(seed: u64, dropout: f32) -> Result<Self> {
        rng::scope(&rng::key(seed)?, || {
            let (first, last) = (Linear::new(2, 8)?, Linear::new(8, 1)?);
            let blocks = (0..2).map(|_| Block::new(dropout)).collect::<Result<_>>()?;
            Ok(Self { first, blocks, last })
        })
    }

    fn weights(&self) -> Result<BTreeMap<String, Vec<f32>>> {
        let parameters = self.parameters().flatten().into_iter();
        parameters.map(|(name, value)| Ok((name.to_string(), numbers(value)?))).collect()
    }
}

impl BaseModel for Mlp {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = tanh(self.first.forward(x)?)?;
        let x = self.blocks.forward(x, |block, _, x| block.forward(&x))?;
        Ok(self.last.forward(&x)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

/// Points and the product of their coordinates.
fn points(rows: i32) -> Result<InMemory> {
    let x: Vec<f32> = (0..2 * rows).map(|i| (i as f32 * 0.7).sin()).collect();
    let y: Vec<f32> = x.chunks(2).map(|point| point[0] * point[1]).collect();
    InMemory::new(Array::from_slice(&x, &[rows, 2]), Array::from_slice(&y, &[rows, 1]))
}

/// Six steps, whose batches and epochs (37 rows) fall in with no number of ranks; averaged weights.
fn config(settings: &[&str]) -> TrainConfig {
    let base = TrainConfig {
        steps: 6,
        batch_size: 8,
        learning_rate: 0.02,
        log_every: 1,
        eval_every: 2,
        ema_decay: Some(0.9),
        // Times that are measured are not those of the next run.
        pipeline_blocks: PipelineBlocks::Even,
        ..TrainConfig::default()
    };
    base.with_overrides(settings).unwrap()
}

/// What a run leaves that does not depend on the clock.
#[derive(Debug, Clone, PartialEq)]
struct Left {
    losses: Vec<f64>,
    held_out: Vec<f64>,
    weights: BTreeMap<String, Vec<f32>>,
}

impl Left {
    fn of(model: &Mlp, trained: &Trained) -> Result<Self> {
        let losses = trained.history.training.iter().map(|point| point.loss).collect();
        let held_out = trained.history.held_out.iter().map(|it| it.evaluation.loss).collect();
        Ok(Self { losses, held_out, weights: model.weights()? })
    }

    fn assert_close(&self, other: &Self) {
        let close = |ours: &[f64], other: &[f64]| {
            assert_eq!(ours.len(), other.len());
            for (ours, other) in ours.iter().zip(other) {
                assert!((ours - other).abs() <= 1e-5 * other.abs().max(1e-2), "{ours} and {other}");
            }
        };
        close(&self.losses, &other.losses);
        close(&self.held_out, &other.held_out);
    }
}

/// Trains with held-out data of seven rows, the last batch of which has fewer rows than there are ranks.
fn train(
    mesh: &Mesh,
    config: TrainConfig,
    dropout: f32,
    set_up: impl FnOnce(Trainer<'_, Mlp>) -> Trainer<'_, Mlp>,
) -> Result<(Left, Trained)> {
    // Ranks begin with the weights of rank 0.
    let mut model = Mlp::new(mesh.all().rank() as u64, dropout)?;
    let held_out = points(9)?;
    let plain = Trainer::new(&mut model, config)?.mesh(mesh.clone()).evaluate_on(&held_out);
    let trained = set_up(plain).run(points(37)?)?;
    Ok((Left::of(&model, &trained)?, trained))
}

/// A folder that all ranks of a test know, and the test itself.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let is_rank = env::var_os("MLX_RANK").is_some();
        let test = if is_rank { parent_id() } else { process::id() };
        let path = env::temp_dir().join(format!("mlx-train-test-{name}-{test}"));
        if !is_rank {
            fs::create_dir(&path).unwrap();
        }
        Self(path)
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// Those of rank 0, which count.
    fn of_rank(&self, group: &Group) -> Option<Checkpoints> {
        let path = self.checkpoints();
        group
            .is_first()
            .then(|| Checkpoints::open(&path).or_else(|_| Checkpoints::create(&path)).unwrap())
    }

    pub fn latest(&self) -> PathBuf {
        Location::find(self.checkpoints()).unwrap().entry().unwrap().path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if env::var_os("MLX_RANK").is_none() {
            _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn saving(trainer: Trainer<'_, Mlp>, checkpoints: Option<Checkpoints>) -> Trainer<'_, Mlp> {
    match checkpoints {
        Some(checkpoints) => trainer.checkpoints(checkpoints),
        None => trainer,
    }
}

/// One step of a run, from its last checkpoint on if there is one, or all that are left.
fn go_on(
    folder: &Folder,
    mesh: &Mesh,
    dropout: f32,
    is_one_step: bool,
    is_new: bool,
) -> Result<(Left, Trained)> {
    let checkpoints = folder.of_rank(mesh.all());
    let max_minutes = is_one_step.then_some(0.0);
    let config = TrainConfig { max_minutes, ..config(&[]) };
    train(mesh, config, dropout, |trainer| {
        let trainer = saving(trainer, checkpoints);
        if is_new { trainer } else { trainer.resume(Resume::Latest) }
    })
}

#[test]
fn ranks_train_and_evaluate_as_one_process_and_rank_0_alone_tells() {
    let test = "run::ranks_train_and_evaluate_as_one_process_and_rank_0_alone_tells";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let mesh = Mesh::new(group, Parallelism::data(world_size))?;
            let told = Rc::new(Cell::new(0));
            let counted = Rc::clone(&told);
            let (ours, trained) = train(&mesh, config(&["parallel=none"]), 0.0, |trainer| {
                trainer.on_event(move |_| counted.set(counted.get() + 1))
            })?;
            assert_eq!(trained.outcome, Outcome::Completed);
            assert_eq!(told.get() > 0, group.is_first());
            let (one, _) = train(&Mesh::alone(), config(&[]), 0.0, |it| it)?;
            if group.is_first() {
                ours.assert_close(&one);
            }
            // The evaluations of all ranks are the same numbers.
            let held_out: Vec<u8> = ours.held_out.iter().flat_map(|it| it.to_le_bytes()).collect();
            let all = group.gather_bytes(&held_out)?;
            assert!(all.iter().all(|other| *other == held_out) && held_out.len() > 8);
            Ok(())
        });
    }
}

#[test]
fn a_run_goes_on_under_the_same_ranks_to_the_last_bit_with_dropout() {
    let test = "run::a_run_goes_on_under_the_same_ranks_to_the_last_bit_with_dropout";
    let layouts = ["dp=2", "fsdp=2", "tp=2", "pp=2"];
    let folders = layouts.map(|layout| Folder::new(&format!("same-{layout}")));
    run(test, 2, |group| {
        for (folder, layout) in folders.iter().zip(layouts) {
            let mesh = Mesh::new(group, layout.parse()?)?;
            let (whole, _) = train(&mesh, config(&[]), 0.3, |it| it)?;
            let mut left = None;
            for part in 0..3 {
                left = Some(go_on(folder, &mesh, 0.3, part < 2, part == 0)?);
            }
            let (parts, trained) = left.expect("there were parts");
            assert_eq!((trained.step, trained.outcome), (6, Outcome::Completed));
            assert_eq!(parts, whole, "{layout}");
        }
        group.barrier()
    });
}

#[test]
fn a_run_goes_on_over_another_number_of_ranks_with_the_losses_of_one_process() {
    let test = "run::a_run_goes_on_over_another_number_of_ranks_with_the_losses_of_one_process";
    let folder = Folder::new("other-ranks");
    if env::var_os("MLX_RANK").is_none() {
        go_on(&folder, &Mesh::alone(), 0.0, true, true).unwrap();
    }
    // Each size once: ranks of a test that is run again know their call by it.
    for (parallelism, files) in [(Parallelism::data(2), 7), (Parallelism::sharded(4), 11)] {
        let world_size = parallelism.num_ranks();
        run(test, world_size, |group| {
            let mesh = Mesh::new(group, parallelism)?;
            let (_, trained) = go_on(&folder, &mesh, 0.0, true, false)?;
            let Outcome::Stopped { reason, checkpoint } = trained.outcome else {
                panic!("it should have stopped");
            };
            assert_eq!(reason, StopReason::MaxMinutes);
            assert!(checkpoint.is_some());
            Ok(())
        });
        if env::var_os("MLX_RANK").is_none() {
            assert_eq!(fs::read_dir(folder.latest()).unwrap().count(), files);
        }
    }
    run(test, 3, |group| {
        // Parts of what three divides, and copies of the rest; batches of eight rows cannot be shared.
        let mesh = Mesh::new(group, Parallelism::sharded(3))?;
        let refused = go_on(&folder, &mesh, 0.0, true, false).map(drop).unwrap_err().to_string();
        assert!(refused.contains("multiple of 3"), "{refused}");
        Ok(())
    });
    if env::var_os("MLX_RANK").is_none() {
        let (parts, trained) = go_on(&folder, &Mesh::alone(), 0.0, false, false).unwrap();
        assert_eq!(trained.outcome, Outcome::Completed);
        let (whole, _) = train(&Mesh::alone(), config(&[]), 0.0, |it| it).unwrap();
        parts.assert_close(&whole);
        for entry in Checkpoints::open(folder.checkpoints()).unwrap().list().unwrap() {
            entry.verify(Check::Hashes).unwrap();
        }
    }
}

#[test]
fn a_stop_asked_of_one_rank_stops_all_after_the_same_step_with_one_checkpoint() {
    let test = "run::a_stop_asked_of_one_rank_stops_all_after_the_same_step_with_one_checkpoint";
    let folder = Folder::new("stop");
    run(test, 2, |group| {
        let mesh = Mesh::new(group, Parallelism::data(2))?;
        let stop = StopSignal::new();
        if !group.is_first() {
            stop.request();
        }
        let checkpoints = folder.of_rank(group);
        let (_, trained) =
            train(&mesh, config(&[]), 0.0, |trainer| saving(trainer, checkpoints).stop_on(stop))?;
        assert_eq!(trained.step, 1);
        assert!(matches!(trained.outcome, Outcome::Stopped { reason: StopReason::Signal, .. }));
        let list = Checkpoints::open(folder.checkpoints())?.list()?;
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].verify(Check::Hashes)?.ranks, 2);
        group.barrier()
    });
}

#[test]
fn ranks_run_ahead_with_the_same_numbers_to_the_last_bit() {
    run("run::ranks_run_ahead_with_the_same_numbers_to_the_last_bit", 2, |group| {
        for layout in ["dp=2", "fsdp=2", "tp=2", "pp=2"] {
            let mesh = Mesh::new(group, layout.parse()?)?;
            let left = |setting| {
                let settings = ["log_every=4", "eval_every=5", "steps=12", setting];
                Ok::<_, Error>(train(&mesh, config(&settings), 0.3, |it| it)?.0)
            };
            let waits = left("run_ahead=false")?;
            assert_eq!(waits.losses.len(), 3);
            assert_eq!(left("run_ahead=true")?, waits, "{layout}");
        }
        group.barrier()
    });
}

#[test]
fn ranks_that_run_ahead_stop_after_the_same_step() {
    let test = "run::ranks_that_run_ahead_stop_after_the_same_step";
    let folder = Folder::new("stop-ahead");
    run(test, 2, |group| {
        let mesh = Mesh::new(group, Parallelism::data(2))?;
        let stop = StopSignal::new();
        if !group.is_first() {
            stop.request();
        }
        let (checkpoints, config) =
            (folder.of_rank(group), config(&["log_every=100", "eval_every=0"]));
        let (_, trained) =
            train(&mesh, config, 0.0, |trainer| saving(trainer, checkpoints).stop_on(stop))?;
        // All have begun the second step when they hear of it.
        assert_eq!(trained.step, 2);
        let list = Checkpoints::open(folder.checkpoints())?.list()?;
        assert_eq!(list.iter().map(|entry| entry.step).collect::<Vec<_>>(), [2]);
        group.barrier()
    });
}

#[test]
fn a_run_of_ranks_goes_back_together() {
    let test = "run::a_run_of_ranks_goes_back_together";
    let folder = Folder::new("rollback");
    run(test, 2, |group| {
        let mesh = Mesh::new(group, Parallelism::data(2))?;
        let settings = ["non_finite=rollback", "checkpoint.every_steps=2", "eval_every=0"];
        let (checkpoints, config) = (folder.of_rank(group), config(&settings));
        let mut rolled_back = Vec::new();
        let mut model = Mlp::new(0, 0.0)?;
        // A row of which no number is finite, which one rank alone sees.
        let x: Vec<f32> =
            (0..80).map(|i| if i == 60 { f32::NAN } else { (i as f32).sin() }).collect();
        let data = InMemory::new(Array::from_slice(&x, &[40, 2]), Array::zeros::<f32>(&[40, 1])?)?;
        let plain = Trainer::new(&mut model, config)?.mesh(mesh.clone());
        let trained = saving(plain, checkpoints)
            .on_event(|event| {
                if let Event::RolledBack { from, to, .. } = event {
                    rolled_back.push((*from, *to));
                }
            })
            .run(data)?;
        assert_eq!(trained.step, 6);
        // The row comes in the first step, and in the next epoch; the checkpoint of step 4 is waited for.
        let expected: &[(u64, u64)] = if group.is_first() { &[(1, 0), (5, 4)] } else { &[] };
        assert_eq!(rolled_back, expected);
        assert!(numbers(&model.first.weight)?.iter().all(|weight| weight.is_finite()));
        group.barrier()
    });
}

#[test]
fn what_one_rank_is_refused_for_ends_all() {
    run("run::what_one_rank_is_refused_for_ends_all", 2, |group| {
        let mesh = Mesh::new(group, Parallelism::data(2))?;
        let odd = train(&mesh, config(&["batch_size=7"]), 0.0, |it| it).map(drop);
        let text = odd.unwrap_err().to_string();
        assert!(text.contains("7 rows") && text.contains("multiple of 2"), "{text}");
        let other = train(&mesh, config(&["parallel=tp=2"]), 0.0, |it| it).map(drop);
        let text = other.unwrap_err().to_string();
        assert!(text.contains("`tp=2`") && text.contains("`dp=2`"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("checkpoints");
        let checkpoints = group.is_first().then(|| Checkpoints::create(&private)).transpose()?;
        let gone = train(&mesh, config(&[]), 0.0, |trainer| {
            let trainer = saving(trainer, checkpoints);
            if group.is_first() {
                trainer.resume(Resume::Step(3))
            } else {
                trainer.resume(Resume::Best)
            }
        });
        let text = gone.map(drop).unwrap_err().to_string();
        assert!(text.contains("has no step 3"), "{text}");
        assert_eq!(text.contains("rank 0 failed"), !group.is_first(), "{text}");
        group.barrier()
    });
}
