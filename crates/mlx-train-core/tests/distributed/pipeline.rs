//! Stages of a pipeline train as one process that runs the whole model.

use super::{
    numbers,
    ranks::{run, run_over},
};
use mlx_rs::{
    Dtype,
    module::{Module, Param, Parameter},
    ops::{matmul, tanh},
};
use mlx_train_core::{
    Array, Error, Result,
    batch::{Batch, IGNORED_TARGET},
    checkpoint::CheckpointPolicy,
    data::InMemory,
    distributed::{
        Backend, BlockCosts, Group, Mesh, Parallelism, PipelineBlocks, PipelineError,
        PipelineOptions, Placement, ScheduleKind,
    },
    estimate::Rows,
    loss::{CrossEntropy, cross_entropy, mse},
    model::{BaseModel, Loss},
    nn::{Dropout, Embedding, Linear, Stack},
    optim::{AdamW, Clip},
    profile::Memory,
    rng,
    store::Checkpoints,
    train::{
        CompileMode, Event, Metric, Precision, Resume, StepOptions, StepOutput, TrainConfig,
        TrainStep, Trainer, accuracy,
    },
};
use std::{
    collections::BTreeMap, env, fs, os::unix::process::parent_id, path::Path, process,
    thread::sleep, time::Duration,
};

const VOCABULARY: i32 = 12;
const WIDTH: i32 = 16;
const TOKENS: i32 = 5;

/// A residual block with statistics of what it has seen.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
struct Block {
    #[param]
    up: Linear,
    #[param]
    mean: Param<Array>,
    dropout: Dropout,
}

impl Block {
    fn forward(&mut self, x: &Array, scale: &Array) -> Result<Array> {
        let seen = x.mean_axes(&[0, 1], None)?.subtract(&*self.mean)?;
        self.mean.value = self.mean.add(seen.multiply(Array::from_f32(0.1))?)?;
        let y = tanh(self.up.forward(x)?)?.multiply(scale)?;
        Ok(x.add(self.dropout.forward(&y)?)?)
    }
}

/// Predicts tokens from tokens; its output layer may be its embedding.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Model {
    #[param]
    embedding: Embedding,
    /// What every block reads.
    #[param]
    scale: Param<Array>,
    #[param]
    layers: Stack<Block>,
    #[param]
    head: Option<Linear>,
    /// Neither frozen nor read.
    #[param]
    unused: Param<Array>,
}

impl Model {
    fn new(seed: u64, num_blocks: usize, is_tied: bool, dropout: f32) -> Result<Self> {
        let block = |_| {
            let mut mean = Param::new(Array::zeros::<f32>(&[WIDTH])?);
            mean.freeze(true);
            Ok(Block { up: Linear::new(WIDTH, WIDTH)?, mean, dropout: Dropout::new(dropout)? })
        };
        rng::scope(&rng::key(seed)?, || {
            Ok(Self {
                embedding: Embedding::new(VOCABULARY, WIDTH)?,
                scale: Param::new(Array::ones::<f32>(&[WIDTH])?),
                layers: (0..num_blocks).map(block).collect::<Result<_>>()?,
                head: (!is_tied).then(|| Linear::new(WIDTH, VOCABULARY)).transpose()?,
                unused: Param::new(Array::ones::<f32>(&[3])?),
            })
        })
    }
}

impl BaseModel for Model {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.embedding.forward(x)?;
        let scale = self.scale.value.clone();
        let run =
            |block: &mut Block, _: usize, x: Array, shared: &[Array]| block.forward(&x, &shared[0]);
        let x = self.layers.forward_with(x, &[scale], run)?;
        match &mut self.head {
            Some(head) => Ok(head.forward(&x)?),
            None => Ok(matmul(&x, self.embedding.weight.transpose()?)?),
        }
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let options = CrossEntropy { ignore_index: Some(IGNORED_TARGET), ..Default::default() };
        cross_entropy(&self.forward(x)?, y, &options)
    }
}

/// A batch of so many rows, every fifth target of which is masked.
fn batch(seed: i32, num_rows: i32) -> Batch {
    let count = num_rows * TOKENS;
    let token = |i: i32| (i * 7 + seed * 5 + i * i % 11) % VOCABULARY;
    let x: Vec<i32> = (0..count).map(token).collect();
    let target = |i: i32| if (i + seed) % 5 == 3 { IGNORED_TARGET } else { token(i + 1) };
    let y: Vec<i32> = (0..count).map(target).collect();
    let shape = [num_rows, TOKENS];
    Batch::new(Array::from_slice(&x, &shape), Array::from_slice(&y, &shape))
}

/// Micro-batches of 1 to 3 rows.
fn batches(step: i32, count: i32) -> Vec<Batch> {
    (0..count).map(|index| batch(step * 10 + index, 1 + (index + step) % 3)).collect()
}

fn options() -> Result<StepOptions> {
    let pipeline =
        PipelineOptions { rows: Some(Rows::tokens(TOKENS)), ..PipelineOptions::default() };
    Ok(StepOptions {
        clip: Clip::default().global_norm(0.5)?,
        compile: CompileMode::Off,
        ema_decay: Some(0.9),
        pipeline,
        ..StepOptions::default()
    })
}

/// The numbers of each array that is held, by name, and which part of it that is.
type Named = BTreeMap<String, (Placement, Vec<f32>)>;

/// What two steps leave: what each reports, and every array of the state that is here.
fn train(
    mesh: &Mesh,
    model: &mut Model,
    options: StepOptions,
    batches: impl Fn(i32) -> Vec<Batch>,
) -> Result<(Vec<f32>, Named)> {
    let mut step = TrainStep::parallel(mesh, model, AdamW::default(), 3, options)?;
    let mut reported = Vec::new();
    for index in 0..2 {
        let output = step.run(batches(index).into_iter().map(Ok), 0.01)?;
        let StepOutput { loss, grad_norm, squared_grad_norms, .. } = &output;
        assert!(output.is_finite()?);
        for array in [&loss.value, &loss.weight, grad_norm].into_iter().chain(squared_grad_norms) {
            reported.extend(numbers(array)?);
        }
    }
    let (arrays, placements) = (step.snapshot()?, step.placements()?);
    let arrays = arrays.weights.into_iter().chain(arrays.training);
    let placements = placements.weights.into_iter().chain(placements.training);
    let named = arrays.zip(placements);
    let named = named.map(|((name, array), placement)| Ok((name, (placement, numbers(&array)?))));
    Ok((reported, named.collect::<Result<_>>()?))
}

fn assert_close(what: &str, ours: &[f32], one: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), one.len(), "{what}");
    for (ours, one) in ours.iter().zip(one) {
        let off = (ours - one).abs() / one.abs().max(1e-2);
        assert!(off < tolerance, "{what}: {ours} in place of {one}");
    }
}

/// Asserts that what is held are parts of the whole, for the names that count.
fn assert_parts(held: &Named, whole: &Named, counts: impl Fn(&str) -> bool) -> Result<()> {
    for (name, (placement, values)) in held.iter().filter(|(name, _)| counts(name)) {
        let expected = Array::from_slice(&whole[name].1, placement.shape());
        assert_close(name, values, &numbers(&placement.slice(&expected)?)?, 1e-4);
    }
    Ok(())
}

fn pipeline(group: &Group) -> Result<Mesh> {
    Mesh::new(group, Parallelism::pipeline(group.world_size()))
}

/// One way to train.
struct Case {
    count: i32,
    is_tied: bool,
    dropout: f32,
    schedule: ScheduleKind,
    policy: CheckpointPolicy,
    precision: Precision,
    blocks: Option<Vec<usize>>,
}

impl Case {
    fn new(count: i32) -> Self {
        Self {
            count,
            is_tied: false,
            dropout: 0.0,
            schedule: ScheduleKind::default(),
            policy: CheckpointPolicy::None,
            precision: Precision::F32,
            blocks: None,
        }
    }

    /// Trains it on the ranks of a pipeline and in one process.
    fn check(&self, group: &Group) -> Result<()> {
        let mut options = options()?;
        options.gradient_checkpointing = self.policy.clone();
        options.precision = self.precision;
        options.pipeline.schedule = self.schedule;
        options.pipeline.blocks.clone_from(&self.blocks);
        let model = |seed| Model::new(seed, 5, self.is_tied, self.dropout);
        let batches = |step| batches(step, self.count);
        let (expected, whole) = train(&Mesh::alone(), &mut model(0)?, options.clone(), batches)?;
        // Ranks have other numbers than rank 0 before they begin.
        let mut own = model(group.rank() as u64)?;
        let (reported, held) = train(&pipeline(group)?, &mut own, options, batches)?;
        if self.precision != Precision::F32 {
            // The first loss and its weight; what follows from them is rounded in another order.
            assert_close("losses", &reported[..2], &expected[..2], 1e-2);
            return Ok(());
        }
        assert_close("reports", &reported, &expected, 1e-4);
        assert_close("losses", &reported[..1], &expected[..1], 1e-5);
        assert_parts(&held, &whole, |_| true)?;
        // Each array is somewhere.
        for name in whole.keys() {
            let here = Array::from_int(i32::from(held.contains_key(name)));
            let holders = group.all_sum(&here)?.try_item_cast::<i32>().unwrap();
            let ranks = group.world_size() as i32;
            let expected = match name.as_str() {
                "rng.key" | "optimizer.updates" => ranks,
                name if name.contains("scale") => ranks,
                name if name.contains("embedding") && self.is_tied => 2,
                _ => 1,
            };
            assert_eq!(holders, expected, "{name}");
        }
        Ok(())
    }
}

#[test]
fn stages_train_as_one_process_with_any_number_of_micro_batches() {
    let test = "pipeline::stages_train_as_one_process_with_any_number_of_micro_batches";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            for count in if group.world_size() == 2 { [1, 2, 5] } else { [1, 3, 8] } {
                Case::new(count).check(group)?;
            }
            group.barrier()
        });
    }
}

#[test]
fn stages_train_as_one_process_tied_with_dropout_checkpoints_and_any_cut() {
    let test = "pipeline::stages_train_as_one_process_tied_with_dropout_checkpoints_and_any_cut";
    for world_size in [2, 3] {
        run(test, world_size, |group| {
            let is_two = group.world_size() == 2;
            let cut = if is_two { vec![4, 1] } else { vec![1, 1, 3] };
            for case in [
                Case { is_tied: true, ..Case::new(3) },
                Case { dropout: 0.5, ..Case::new(3) },
                Case {
                    is_tied: true,
                    dropout: 0.5,
                    policy: CheckpointPolicy::Full,
                    ..Case::new(4)
                },
                Case { policy: CheckpointPolicy::Every(2), blocks: Some(cut), ..Case::new(2) },
                Case { is_tied: true, precision: Precision::Mixed, ..Case::new(3) },
                Case { precision: Precision::Bf16 { stochastic_rounding: true }, ..Case::new(3) },
                Case { schedule: ScheduleKind::Gpipe, is_tied: true, ..Case::new(5) },
            ] {
                case.check(group)?;
            }
            group.barrier()
        });
    }
}

#[test]
fn pipelines_that_share_a_batch_train_as_one_process() {
    let test = "pipeline::pipelines_that_share_a_batch_train_as_one_process";
    run_over(Backend::Mpi, test, 4, |group| {
        for layout in ["dp=2,pp=2", "fsdp=2,pp=2"] {
            let mesh = Mesh::new(group, layout.parse()?)?;
            let all = |step| batches(step, 6);
            // Every second micro-batch.
            let own = |step| all(step).into_iter().skip(mesh.data().rank()).step_by(2).collect();
            for (is_tied, policy) in
                [(false, CheckpointPolicy::None), (true, CheckpointPolicy::Full)]
            {
                let model = || Model::new(0, 4, is_tied, 0.0);
                let options = StepOptions { gradient_checkpointing: policy, ..options()? };
                let (expected, whole) = train(&Mesh::alone(), &mut model()?, options.clone(), all)?;
                let (reported, held) = train(&mesh, &mut model()?, options, own)?;
                assert_close(layout, &reported, &expected, 1e-4);
                // Statistics are means of those of the pipelines, and a key moves on with each micro-batch.
                let counts = |name: &str| !name.ends_with("mean") && name != "rng.key";
                assert_parts(&held, &whole, counts)?;
                let is_whole = held.iter().any(|(name, (placement, _))| {
                    name.ends_with("up.weight") && placement.is_whole()
                });
                assert_eq!(is_whole, !mesh.parallelism().is_sharded);
            }
        }
        group.barrier()
    });
}

#[test]
fn a_faster_machine_gets_more_blocks_and_all_ranks_agree() {
    run("pipeline::a_faster_machine_gets_more_blocks_and_all_ranks_agree", 3, |group| {
        // The second takes a third of the time of the others for everything.
        let factor = if group.rank() == 1 { 1.0 } else { 3.0 };
        let costs = BlockCosts { before: 0.0, blocks: vec![factor; 10], after: 0.0 };
        assert_eq!(costs.balance(&pipeline(group)?)?, [2, 6, 2]);
        group.barrier()
    });
}

#[test]
fn numbers_that_are_not_finite_change_nothing_on_any_stage() {
    run("pipeline::numbers_that_are_not_finite_change_nothing_on_any_stage", 2, |group| {
        let mut model = Wide::new(4, 4)?;
        let rows = Rows::new((&[4], Dtype::Float32), (&[4], Dtype::Float32));
        let pipeline = PipelineOptions { rows: Some(rows), ..PipelineOptions::default() };
        let options = StepOptions { pipeline, ..StepOptions::default() };
        let mesh = self::pipeline(group)?;
        let mut step = TrainStep::parallel(&mesh, &mut model, AdamW::default(), 0, options)?;
        let values = |step: &TrainStep<'_, Wide>| {
            let weights = step.snapshot()?.weights.into_iter();
            weights.map(|(_, value)| numbers(&value)).collect::<Result<Vec<_>>>()
        };
        let before = values(&step)?;
        let ones = Array::ones::<f32>(&[2, 4])?;
        let batch = |x: f32| Ok(Batch::new(ones.multiply(Array::from_f32(x))?, ones.clone()));
        let output = step.run([batch(1.0), batch(f32::NAN)], 0.1)?;
        assert!(!output.is_finite()?);
        // Every stage knows of all parameters.
        let affected = output.not_finite_gradients()?;
        assert_eq!((affected.num_affected, affected.num_parameters), (8, 8));
        assert_eq!(values(&step)?, before);
        assert!(step.run([batch(1.0)], 0.1)?.is_finite()?);
        assert_ne!(values(&step)?, before);
        group.barrier()
    });
}

/// Of the steps, and of what is held out.
type Losses = (Vec<f64>, Vec<f64>);

/// A run of six steps on numbers, or one step of it, which goes on from the last checkpoint in a folder unless it is
/// new: losses, and those of what is held out.
fn train_a_run(
    mesh: &Mesh,
    is_one_step: bool,
    checkpoints: Option<&Path>,
    is_new: bool,
) -> Result<Losses> {
    train_at(Duration::ZERO, PipelineBlocks::Even, mesh, is_one_step, checkpoints, is_new)
        .map(|(losses, _)| losses)
}

/// As [`train_a_run`], where this rank takes some time for each block; and the cut that it tells.
fn train_at(
    seconds_of_block: Duration,
    pipeline_blocks: PipelineBlocks,
    mesh: &Mesh,
    is_one_step: bool,
    checkpoints: Option<&Path>,
    is_new: bool,
) -> Result<(Losses, Option<Vec<usize>>)> {
    let mut model = rng::scope(&rng::key(0)?, || Wide::new(4, 5))?;
    model.takes = seconds_of_block;
    let config = TrainConfig {
        steps: 6,
        max_minutes: is_one_step.then_some(0.0),
        batch_size: 4,
        accumulation: 3,
        learning_rate: 0.02,
        log_every: 1,
        eval_every: 2,
        pipeline_blocks,
        ..TrainConfig::default()
    };
    let rows = |count: i32| {
        let x: Vec<f32> = (0..4 * count).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Array::from_slice(&x, &[count, 4]);
        InMemory::new(x.clone(), x.multiply(Array::from_f32(0.5))?)
    };
    let held_out = rows(7)?;
    let mut cut = None;
    let mut trainer = Trainer::new(&mut model, config)?.mesh(mesh.clone()).evaluate_on(&held_out);
    trainer = trainer.on_event(|event| {
        if let Event::PipelineCut { blocks, seconds } = event {
            // It is measured where nothing is said of it.
            assert_eq!(seconds.is_some(), is_new);
            cut = Some(blocks.to_vec());
        }
    });
    if let Some(path) = checkpoints.filter(|_| mesh.all().is_first()) {
        let open = || Checkpoints::open(path).or_else(|_| Checkpoints::create(path));
        trainer = trainer.checkpoints(open()?);
    }
    if !is_new {
        trainer = trainer.resume(Resume::Latest);
    }
    let history = trainer.run(rows(30)?)?.history;
    let held_out = history.held_out.iter().map(|it| it.evaluation.loss);
    Ok(((history.training.iter().map(|it| it.loss).collect(), held_out.collect()), cut))
}

#[test]
fn a_slow_rank_gets_fewer_blocks_with_the_same_numbers_and_keeps_them_when_it_goes_on() {
    let test = "pipeline::a_slow_rank_gets_fewer_blocks_with_the_same_numbers_and_keeps_them_when_it_goes_on";
    let is_rank = env::var_os("MLX_RANK").is_some();
    let name = if is_rank { parent_id() } else { process::id() };
    let folder = env::temp_dir().join(format!("mlx-train-test-slow-{name}"));
    if !is_rank {
        fs::create_dir(&folder).unwrap();
    }
    run(test, 2, |group| {
        let mesh = pipeline(group)?;
        // The second takes many times as long for a block.
        let takes = Duration::from_millis(if group.rank() == 1 { 30 } else { 1 });
        let measured = || PipelineBlocks::Measured;
        let ((losses, _), cut) = train_at(takes, measured(), &mesh, true, Some(&folder), true)?;
        let told = group.is_first().then(|| vec![4, 1]);
        assert_eq!(cut, told);
        // Equally fast ranks would be cut in another way, and the checkpoint says this one.
        let ((rest, _), cut) =
            train_at(Duration::ZERO, measured(), &mesh, false, Some(&folder), false)?;
        assert_eq!(cut, told);
        let (expected, _) = train_a_run(&Mesh::alone(), false, None, true)?;
        if group.is_first() {
            assert_eq!((losses.len(), rest.len()), (1, 6));
            for (loss, expected) in losses.iter().chain(&rest[1..]).zip(&expected) {
                assert!((loss - expected).abs() < 1e-5, "{loss} in place of {expected}");
            }
        }
        // Who wants no measuring has none.
        let (_, cut) = train_at(takes, PipelineBlocks::Even, &mesh, true, None, true)?;
        assert_eq!(cut, None);
        group.barrier()
    });
    if !is_rank {
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_run_over_stages_is_that_of_one_process_and_goes_on_there_and_back() {
    let test = "pipeline::a_run_over_stages_is_that_of_one_process_and_goes_on_there_and_back";
    let is_rank = env::var_os("MLX_RANK").is_some();
    let name = if is_rank { parent_id() } else { process::id() };
    let folder = env::temp_dir().join(format!("mlx-train-test-stages-{name}"));
    let whole = |mesh: &Mesh| train_a_run(mesh, false, None, true);
    if !is_rank {
        fs::create_dir(&folder).unwrap();
        train_a_run(&Mesh::alone(), true, Some(&folder), true).unwrap();
    }
    run(test, 2, |group| {
        let mesh = pipeline(group)?;
        let (losses, held_out) = whole(&mesh)?;
        let (expected, of_one) = whole(&Mesh::alone())?;
        let narrow = |numbers: &[f64]| numbers.iter().map(|&it| it as f32).collect::<Vec<_>>();
        assert_close("held-out losses", &narrow(&held_out), &narrow(&of_one), 1e-5);
        if group.is_first() {
            assert_close("losses", &narrow(&losses), &narrow(&expected), 1e-5);
        }
        train_a_run(&mesh, true, Some(&folder), false)?;
        group.barrier()
    });
    if !is_rank {
        let (losses, _) = train_a_run(&Mesh::alone(), false, Some(&folder), false).unwrap();
        let (expected, _) = whole(&Mesh::alone()).unwrap();
        for (loss, expected) in losses.iter().zip(&expected) {
            assert!((loss - expected).abs() < 1e-5, "{loss} in place of {expected}");
        }
        assert_eq!(losses.len(), expected.len());
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn an_evaluation_is_that_of_one_process_on_all_stages() {
    run("pipeline::an_evaluation_is_that_of_one_process_on_all_stages", 3, |group| {
        let evaluate = |mesh: &Mesh| {
            let mut model = Model::new(0, 4, true, 0.5)?;
            let mut step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 0, options()?)?;
            step.run(batches(0, 2).into_iter().map(Ok), 0.1)?;
            let before = step.evaluate(batches(1, 5).into_iter().map(Ok), &mut [])?;
            let mut metrics = [Metric::new("accuracy", accuracy)];
            let measured = step.evaluate(batches(1, 5).into_iter().map(Ok), &mut metrics)?;
            assert_eq!(before.loss.to_bits(), measured.loss.to_bits());
            // Training goes on as if nothing had been evaluated.
            let loss = step.run(batches(2, 2).into_iter().map(Ok), 0.1)?.loss;
            Ok::<_, Error>((measured, numbers(&loss.value)?))
        };
        let (expected, expected_loss) = evaluate(&Mesh::alone())?;
        let (evaluation, loss) = evaluate(&pipeline(group)?)?;
        assert!((evaluation.loss - expected.loss).abs() < 1e-5, "{evaluation:?}, {expected:?}");
        assert_eq!(evaluation.num_targets.to_bits(), expected.num_targets.to_bits());
        assert_eq!(evaluation.metrics, expected.metrics);
        assert_close("losses", &loss, &expected_loss, 1e-5);
        group.barrier()
    });
}

/// What the first of two stages holds at its most in a step, besides what it holds before.
fn peak(group: &Group, schedule: ScheduleKind, count: i32) -> Result<u64> {
    let mut model = Model::new(0, 6, false, 0.0)?;
    let mut options = options()?;
    options.pipeline.schedule = schedule;
    let mut step =
        TrainStep::parallel(&pipeline(group)?, &mut model, AdamW::default(), 0, options)?;
    let batches: Vec<Batch> = (0..count).map(|index| batch(index, 400)).collect();
    let mut peak = 0;
    for _ in 0..2 {
        let held = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        step.run(batches.iter().cloned().map(Ok), 0.01)?;
        peak = Memory::now()?.peak_bytes - held;
    }
    Ok(peak)
}

#[test]
fn memory_does_not_grow_with_the_number_of_micro_batches() {
    run("pipeline::memory_does_not_grow_with_the_number_of_micro_batches", 2, |group| {
        let one_each = ScheduleKind::OneForwardOneBackward;
        let (few, many) = (peak(group, one_each, 2)?, peak(group, one_each, 8)?);
        let all = peak(group, ScheduleKind::Gpipe, 8)?;
        // Two are in flight on the first stage, one on the last; in the other schedule all eight.
        assert!(many * 10 < few * 11, "{few} bytes with 2 micro-batches, {many} with 8");
        assert!(all > 2 * many, "{many} bytes, and {all} with all of them in flight");
        group.barrier()
    });
}

#[test]
fn a_stage_holds_its_own_parameters_alone() {
    run("pipeline::a_stage_holds_its_own_parameters_alone", 2, |group| {
        let held_by = |mesh: &Mesh| -> Result<u64> {
            let before = Memory::now()?.active_bytes;
            // Four blocks of 4 MiB, and next to nothing besides.
            let mut model = Wide::new(1024, 4)?;
            let options = StepOptions {
                pipeline: PipelineOptions {
                    rows: Some(Rows::new((&[1024], Dtype::Float32), (&[1024], Dtype::Float32))),
                    ..PipelineOptions::default()
                },
                ..StepOptions::default()
            };
            let step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 0, options)?;
            let held = Memory::now()?.active_bytes - before;
            drop(step);
            Ok(held)
        };
        let (whole, stage) = (held_by(&Mesh::alone())?, held_by(&pipeline(group)?)?);
        assert!(stage * 100 < whole * 51, "{stage} bytes of {whole}");
        group.barrier()
    });
}

/// Blocks alone, of which there may be none, or two stacks.
#[derive(Debug, mlx_train_core::ModuleParameters)]
struct Wide {
    #[param]
    layers: Stack<Linear>,
    num_runs: usize,
    /// How long a block takes at least.
    takes: Duration,
}

impl Wide {
    fn new(width: i32, num_blocks: usize) -> Result<Self> {
        let layers = (0..num_blocks).map(|_| Ok(Linear::new(width, width)?));
        Ok(Self { layers: layers.collect::<Result<_>>()?, num_runs: 1, takes: Duration::ZERO })
    }
}

impl BaseModel for Wide {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let takes = self.takes;
        self.layers.forward(x.clone(), move |layer, _, x| {
            sleep(takes);
            Ok(layer.forward(&x)?)
        })
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let mut x = x.clone();
        for _ in 0..self.num_runs {
            x = self.forward(&x)?;
        }
        mse(&x, y)
    }
}

#[test]
fn models_that_are_no_pipeline_are_refused_on_all_ranks() {
    run("pipeline::models_that_are_no_pipeline_are_refused_on_all_ranks", 2, |group| {
        let refused = |num_blocks, num_runs: usize, change: fn(&mut StepOptions)| {
            let mut model = Wide::new(4, num_blocks)?;
            model.num_runs = num_runs;
            let rows = Rows::new((&[4], Dtype::Float32), (&[4], Dtype::Float32));
            let pipeline = PipelineOptions { rows: Some(rows), ..PipelineOptions::default() };
            let mut options = StepOptions { pipeline, ..StepOptions::default() };
            change(&mut options);
            let mesh = self::pipeline(group)?;
            match TrainStep::parallel(&mesh, &mut model, AdamW::default(), 0, options) {
                Err(Error::Pipeline(error)) => Ok::<_, Error>(error),
                other => panic!("it is refused as a pipeline, and not {other:?}"),
            }
        };
        assert_eq!(refused(3, 0, |_| ())?, PipelineError::NoStack);
        assert_eq!(refused(3, 2, |_| ())?, PipelineError::SeveralStacks { num_stacks: 2 });
        let too_few = PipelineError::TooFewBlocks { num_blocks: 1, num_stages: 2 };
        assert_eq!(refused(1, 1, |_| ())?, too_few);
        let no_cut = refused(3, 1, |options| options.pipeline.blocks = Some(vec![3, 1]))?;
        let expected = PipelineError::Blocks { blocks: vec![3, 1], num_blocks: 3, num_stages: 2 };
        assert_eq!(no_cut, expected);
        assert_eq!(refused(3, 1, |options| options.pipeline.rows = None)?, PipelineError::NoRows);
        let compiled = refused(3, 1, |options| options.compile = CompileMode::On)?;
        assert_eq!(compiled, PipelineError::Compiled);
        group.barrier()
    });
}
