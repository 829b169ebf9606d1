//! Ranks that hold parts of every parameter train as one process that has all.

use super::{
    deep::{Deep, adamw, options, rows, small},
    numbers,
    ranks::run,
};
use mlx_train_core::{
    Array, Result,
    distributed::{Group, Mesh, Parallelism},
    model::BaseModel,
    optim::{self, Adafactor, AdamW, Clip, Muon, Optimizer, ParameterGroups, StateFormat},
    profile::Memory,
    train::{StepOptions, TrainStep},
};

fn mesh(group: &Group) -> Result<Mesh> {
    Mesh::new(group, Parallelism::sharded(group.world_size()))
}

#[test]
fn a_step_that_is_not_finite_on_one_rank_is_skipped_on_all() {
    run("fsdp::a_step_that_is_not_finite_on_one_rank_is_skipped_on_all", 2, |group| {
        for layout in ["dp=2", "fsdp=2"] {
            let mesh = Mesh::new(group, layout.parse()?)?;
            let mut model = small(0)?;
            let mut step = TrainStep::parallel(&mesh, &mut model, adamw(), 0, options()?)?;
            let parts = |step: &TrainStep<'_, Deep>| -> Result<Vec<Vec<f32>>> {
                step.snapshot()?.weights.iter().map(|(_, part)| numbers(part)).collect()
            };
            let before = parts(&step)?;
            let mut batch = rows(0, 0..8);
            if group.rank() == 1 {
                batch.x = batch.x.multiply(Array::from_f32(f32::NAN))?;
            }
            assert!(!step.run([Ok(batch)], 0.01)?.is_finite()?, "{layout}");
            assert_eq!(parts(&step)?, before, "{layout}");
            assert!(step.run([Ok(rows(0, 0..8))], 0.01)?.is_finite()?, "{layout}");
            assert_ne!(parts(&step)?, before, "{layout}");
        }
        group.barrier()
    });
}

#[test]
fn what_is_trained_is_held_in_parts_and_the_rest_whole() {
    run("fsdp::what_is_trained_is_held_in_parts_and_the_rest_whole", 2, |group| {
        let mut model = small(group.rank())?;
        let frozen = optim::Group::new(["blocks.*"])?.frozen();
        let optimizer = ParameterGroups::new(AdamW::default()).group(frozen);
        let mut step = TrainStep::parallel(&mesh(group)?, &mut model, optimizer, 0, options()?)?;
        drop(step.run([Ok(rows(0, 0..8))], 0.01)?);
        let (arrays, placements) = (step.snapshot()?, step.placements()?);
        let weights = arrays.weights.iter().zip(&placements.weights);
        for ((name, array), placement) in
            weights.chain(arrays.training.iter().zip(&placements.training))
        {
            assert_eq!(array.shape(), placement.local_shape(), "{name}");
            // Two ranks do not divide the head's three rows, but its columns; its bias stays.
            let parameter = ["first.weight", "first.bias", "head.weight"];
            let is_part = parameter.iter().any(|parameter| name.contains(parameter));
            assert_eq!(placement.is_whole(), !is_part, "{name}");
        }
        step.gather_parameters()?;
        // It is the model of every rank again.
        let outputs = model.forward(&rows(0, 0..8).x)?;
        let (low, high) = (group.all_min(&outputs)?, group.all_max(&outputs)?);
        assert_eq!(numbers(&low)?, numbers(&high)?);
        group.barrier()
    });
}

#[test]
fn a_model_of_parts_is_evaluated_with_whole_averaged_weights() {
    run("fsdp::a_model_of_parts_is_evaluated_with_whole_averaged_weights", 2, |group| {
        let outputs = |mesh: &Mesh| -> Result<Vec<Vec<f32>>> {
            let mut model = small(0)?;
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
            let ([held, peak], shallow) = (memory(&mesh, 12)?, memory(&mesh, 6)?[1]);
            if group.is_first() {
                let ranks = group.world_size() as f64;
                let alone = Mesh::alone();
                let ([all_held, all_peak], all_shallow) =
                    (memory(&alone, 12)?, memory(&alone, 6)?[1]);
                let share = held / all_held * ranks;
                assert!(share < 1.02, "{share} of a rank's part is held between steps");
                // Six blocks more cost their part, and no more of them are whole than before.
                let share = (peak - shallow) / (all_peak - all_shallow) * ranks;
                assert!(share < 1.2, "six blocks take {share} of a rank's part");
                // Besides parameters, moments, averages and gradients there is what one process needs, too, and two
                // blocks: in messages and as weights, and the gradients of one.
                let parameters = all_held / 4.0;
                let besides = |held: f64, peak: f64, ranks: f64| peak - held - parameters / ranks;
                let more = besides(held, peak, ranks) - besides(all_held, all_peak, 1.0);
                let blocks = more / (parameters / 12.0);
                assert!(blocks < 5.0, "{blocks} blocks are whole");
            }
            group.barrier()
        });
    }
}
