//! Ranks that hold parts of every parameter train as one process that has all.

use super::{
    deep::{Deep, Trained, assert_same, own_rows, rows, train},
    numbers,
    ranks::run,
};
use mlx_train_core::{
    Array, Result,
    batch::Batch,
    checkpoint::CheckpointPolicy,
    distributed::{Group, Mesh, Parallelism},
    model::BaseModel,
    optim::{self, Adafactor, AdamW, Clip, Muon, Optimizer, ParameterGroups, Sgd, StateFormat},
    profile::Memory,
    train::{Communication, CompileMode, Precision, StepOptions, TrainStep},
};

/// Rows of a step of all ranks.
const ROWS: i32 = 24;

fn mesh(group: &Group) -> Result<Mesh> {
    Mesh::new(group, Parallelism::sharded(group.world_size()))
}

fn options() -> Result<StepOptions> {
    Ok(StepOptions {
        clip: Clip::default().global_norm(0.5)?,
        compile: CompileMode::Off,
        gradient_checkpointing: CheckpointPolicy::Full,
        ema_decay: Some(0.9),
        ..StepOptions::default()
    })
}

/// Another seed on each rank: all begin with the weights of rank 0.
fn model(rank: usize) -> Result<Deep> {
    Deep::new(rank as u64, 16, 3, 0.0)
}

/// Some steps of all ranks, whose rows `batches` cuts up, and of one process with all of them.
fn both(
    mesh: &Mesh,
    optimizer: impl Fn() -> Box<dyn Optimizer>,
    options: &StepOptions,
    batches: impl Fn(i32, std::ops::Range<i32>) -> Vec<Batch>,
) -> Result<[Trained; 2]> {
    let own = own_rows(mesh, ROWS);
    let rank = mesh.all().rank();
    let ranks = train(mesh, model(rank)?, optimizer(), options.clone(), 3, |step| {
        batches(step, own.clone())
    })?;
    let one = train(&Mesh::alone(), model(0)?, optimizer(), options.clone(), 3, |step| {
        vec![rows(step, 0..ROWS)]
    })?;
    Ok([ranks, one])
}

fn adamw() -> Box<dyn Optimizer> {
    Box::new(AdamW::default())
}

#[test]
fn parts_are_trained_as_one_process_trains_the_whole() {
    let test = "fsdp::parts_are_trained_as_one_process_trains_the_whole";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let mesh = mesh(group)?;
            let [ranks, one] = both(&mesh, adamw, &options()?, |step, own| vec![rows(step, own)])?;
            assert_same("full", &ranks, &one, 1e-5, 1e-4);
            // The same rows in two micro-batches of each rank.
            let [ranks, one] = both(&mesh, adamw, &options()?, |step, own| {
                let middle = i32::midpoint(own.start, own.end);
                vec![rows(step, own.start..middle), rows(step, middle..own.end)]
            })?;
            assert_same("micro-batches", &ranks, &one, 1e-5, 1e-4);
            group.barrier()
        });
    }
}

#[test]
fn every_policy_optimizer_and_limit_trains_parts_as_it_trains_the_whole() {
    let test = "fsdp::every_policy_optimizer_and_limit_trains_parts_as_it_trains_the_whole";
    run(test, 2, |group| {
        let mesh = mesh(group)?;
        let one_batch = |step, own| vec![rows(step, own)];
        let selective = CheckpointPolicy::Selective(vec!["mlp".into()]);
        for policy in [CheckpointPolicy::None, CheckpointPolicy::Every(2), selective] {
            let options = StepOptions { gradient_checkpointing: policy.clone(), ..options()? };
            let [ranks, one] = both(&mesh, adamw, &options, one_batch)?;
            assert_same(&policy.to_string(), &ranks, &one, 1e-5, 1e-4);
        }
        // Limits that bite, so that norms of parts alone would show.
        let groups = || -> Box<dyn Optimizer> {
            let blocks = optim::Group::new(["blocks.*"]).unwrap().max_grad_norm(0.05).unwrap();
            let sgd = Sgd::default().momentum(0.9).unwrap();
            Box::new(ParameterGroups::new(sgd).group(blocks))
        };
        let clip = Clip::default().value(0.02)?.global_norm(0.1)?;
        let [ranks, one] = both(&mesh, groups, &StepOptions { clip, ..options()? }, one_batch)?;
        assert_same("limits", &ranks, &one, 1e-5, 1e-4);
        group.barrier()
    });
}

#[test]
fn compiled_and_low_precision_steps_of_parts_are_those_of_the_whole() {
    let test = "fsdp::compiled_and_low_precision_steps_of_parts_are_those_of_the_whole";
    run(test, 2, |group| {
        let mesh = mesh(group)?;
        let stochastic = Precision::Bf16 { stochastic_rounding: true };
        let (off, f32, bf16) = (CompileMode::Off, Communication::F32, Communication::Bf16);
        for (precision, compile, communication, tolerance) in [
            (Precision::F32, CompileMode::On, f32, 1e-5),
            (Precision::F32, off, bf16, 1e-2),
            (Precision::Mixed, off, f32, 3e-2),
            (stochastic, off, f32, 5e-2),
        ] {
            let options = StepOptions { precision, compile, communication, ..options()? };
            let [ranks, one] = both(&mesh, adamw, &options, |step, own| vec![rows(step, own)])?;
            let name = format!("{precision:?} {compile:?} {communication:?}");
            assert_same(&name, &ranks, &one, tolerance, 10.0 * tolerance);
        }
        group.barrier()
    });
}

#[test]
fn a_step_that_is_not_finite_on_one_rank_is_skipped_on_all() {
    run("fsdp::a_step_that_is_not_finite_on_one_rank_is_skipped_on_all", 2, |group| {
        let mut model = model(0)?;
        let mut step =
            TrainStep::parallel(&mesh(group)?, &mut model, AdamW::default(), 0, options()?)?;
        let parts = |step: &TrainStep<'_, Deep>| -> Result<Vec<Vec<f32>>> {
            step.snapshot()?.weights.iter().map(|(_, part)| numbers(part)).collect()
        };
        let before = parts(&step)?;
        let mut batch = rows(0, 0..8);
        if group.rank() == 1 {
            batch.x = batch.x.multiply(Array::from_f32(f32::NAN))?;
        }
        assert!(!step.run([Ok(batch)], 0.01)?.is_finite()?);
        assert_eq!(parts(&step)?, before);
        assert!(step.run([Ok(rows(0, 0..8))], 0.01)?.is_finite()?);
        assert_ne!(parts(&step)?, before);
        group.barrier()
    });
}

#[test]
fn a_model_of_parts_is_evaluated_with_whole_averaged_weights() {
    run("fsdp::a_model_of_parts_is_evaluated_with_whole_averaged_weights", 2, |group| {
        let outputs = |mesh: &Mesh| -> Result<Vec<Vec<f32>>> {
            let mut model = model(0)?;
            let mut step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 0, options()?)?;
            drop(step.run([Ok(rows(0, 0..8))], 0.1)?);
            step.with_evaluation_weights(|model| {
                let outputs = (0..2).map(|step| numbers(&model.forward(&rows(step, 0..8).x)?));
                outputs.collect()
            })
        };
        for (ranks, one) in
            outputs(&mesh(group)?)?.concat().iter().zip(outputs(&Mesh::alone())?.concat())
        {
            assert!((ranks - one).abs() < 1e-5, "{ranks} of the ranks, {one} of one process");
        }
        group.barrier()
    });
}

#[test]
fn optimizers_that_need_whole_parameters_are_refused_by_name() {
    run("fsdp::optimizers_that_need_whole_parameters_are_refused_by_name", 2, |group| {
        let refused = |optimizer: Box<dyn Optimizer>, hidden_size| -> Result<String> {
            let mut model = Deep::new(0, hidden_size, 1, 0.0)?;
            let step = TrainStep::parallel(&mesh(group)?, &mut model, optimizer, 0, options()?);
            Ok(step.err().map(|error| error.to_string()).unwrap_or_default())
        };
        let int8 = AdamW::default().state(StateFormat::Int8);
        for (name, optimizer, hidden_size) in [
            ("Muon", Box::new(Muon::default()) as Box<dyn Optimizer>, 16),
            ("Adafactor", Box::new(Adafactor::default()), 16),
            ("Int8", Box::new(int8.clone()), 64),
        ] {
            let refused = refused(optimizer, hidden_size)?;
            assert!(refused.contains(name) && refused.contains("`blocks.0."), "{refused}");
        }
        // Small parameters have no blocks of bytes.
        assert_eq!(refused(Box::new(int8), 16)?, "");
        group.barrier()
    });
}

/// What MLX holds between steps, and at most in one, in bytes.
fn memory(mesh: &Mesh, num_blocks: usize) -> Result<[f64; 2]> {
    let before = Memory::now()?.active_bytes as f64;
    let mut model = Deep::new(0, 128, num_blocks, 0.0)?;
    let plain = StepOptions { clip: Clip::default(), ..options()? };
    let mut step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 0, plain)?;
    let mut run = |index| step.run([Ok(rows(index, 0..8))], 0.01);
    drop(run(0)?);
    Memory::reset_peak()?;
    drop(run(1)?);
    let now = Memory::now()?;
    Ok([now.active_bytes as f64 - before, now.peak_bytes as f64 - before])
}

#[test]
fn state_and_peak_of_a_deep_stack_fall_with_the_number_of_ranks() {
    let test = "fsdp::state_and_peak_of_a_deep_stack_fall_with_the_number_of_ranks";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let mesh = mesh(group)?;
            let ([held, peak], shallow) = (memory(&mesh, 20)?, memory(&mesh, 10)?[1]);
            if group.is_first() {
                let ranks = group.world_size() as f64;
                let alone = Mesh::alone();
                let ([all_held, all_peak], all_shallow) =
                    (memory(&alone, 20)?, memory(&alone, 10)?[1]);
                let share = held / all_held * ranks;
                assert!(share < 1.02, "{share} of a rank's part is held between steps");
                // Ten blocks more cost their part, and no more of them are whole than before.
                let share = (peak - shallow) / (all_peak - all_shallow) * ranks;
                assert!(share < 1.2, "ten blocks take {share} of a rank's part");
                // Besides parameters, moments, averages and gradients there is what one process needs, too, and two
                // blocks: in messages and as weights, and the gradients of one.
                let parameters = all_held / 4.0;
                let besides = |held: f64, peak: f64, ranks: f64| peak - held - parameters / ranks;
                let more = besides(held, peak, ranks) - besides(all_held, all_peak, 1.0);
                let blocks = more / (parameters / 20.0);
                assert!(blocks < 5.0, "{blocks} blocks are whole");
            }
            group.barrier()
        });
    }
}
