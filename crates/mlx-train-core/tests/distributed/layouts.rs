//! Ranks in any layout train as one process that has all parameters and all rows.

use super::{
    deep::{Deep, adamw, both, limited_groups, options, rows, small},
    numbers,
    ranks::{run, run_over},
    trained::assert_same,
};
use mlx_rs::module::ModuleParameters;
use mlx_train_core::{
    Array, Result,
    checkpoint::CheckpointPolicy,
    distributed::{Backend, Group, Mesh, Parallelism},
    optim::{Clip, Sgd},
    train::{Communication, CompileMode, Precision, StepOptions, TrainStep},
};
use std::collections::BTreeMap;

fn mesh(group: &Group, layout: &str) -> Result<Mesh> {
    Mesh::new(group, layout.parse::<Parallelism>()?)
}

/// One batch a step, the same rows in two, and limits.
fn trains_as_one_process(mesh: &Mesh) -> Result<()> {
    let layout = mesh.parallelism();
    let one_batch = |step, own| vec![rows(step, own)];
    let [ranks, one] = both(mesh, adamw, &options()?, one_batch)?;
    assert_same(&layout.to_string(), &ranks, &one, 1e-5, 1e-4);
    let [ranks, _] = both(mesh, adamw, &options()?, |step, own| {
        let middle = i32::midpoint(own.start, own.end);
        vec![rows(step, own.start..middle), rows(step, middle..own.end)]
    })?;
    assert_same(&format!("{layout}: micro-batches"), &ranks, &one, 1e-5, 1e-4);
    let clip = Clip::default().value(0.02)?.global_norm(0.1)?;
    let limited = StepOptions { clip, ..options()? };
    let [ranks, one] = both(mesh, limited_groups, &limited, one_batch)?;
    assert_same(&format!("{layout}: limits"), &ranks, &one, 1e-5, 1e-4);
    Ok(())
}

#[test]
fn two_ranks_train_as_one_process() {
    run("layouts::two_ranks_train_as_one_process", 2, |group| {
        for layout in ["dp=2", "fsdp=2", "tp=2"] {
            trains_as_one_process(&mesh(group, layout)?)?;
        }
        group.barrier()
    });
}

#[test]
fn four_ranks_train_as_one_process() {
    run("layouts::four_ranks_train_as_one_process", 4, |group| {
        for layout in ["dp=4", "fsdp=4"] {
            trains_as_one_process(&mesh(group, layout)?)?;
        }
        group.barrier()
    });
}

#[test]
fn ranks_that_divide_rows_and_layers_train_as_one_process() {
    let test = "layouts::ranks_that_divide_rows_and_layers_train_as_one_process";
    run_over(Backend::Mpi, test, 4, |group| {
        for layout in ["dp=2,tp=2", "fsdp=2,tp=2"] {
            trains_as_one_process(&mesh(group, layout)?)?;
        }
        group.barrier()
    });
}

#[test]
fn every_checkpointing_policy_trains_as_one_process() {
    run("layouts::every_checkpointing_policy_trains_as_one_process", 2, |group| {
        let selective = CheckpointPolicy::Selective(vec!["mlp".into()]);
        for policy in [CheckpointPolicy::None, CheckpointPolicy::Every(2), selective] {
            for layout in ["dp=2", "fsdp=2"] {
                let options = StepOptions { gradient_checkpointing: policy.clone(), ..options()? };
                let mesh = mesh(group, layout)?;
                let [ranks, one] = both(&mesh, adamw, &options, |step, own| vec![rows(step, own)])?;
                assert_same(&format!("{layout}, {policy}"), &ranks, &one, 1e-5, 1e-4);
            }
        }
        group.barrier()
    });
}

#[test]
fn compiled_and_low_precision_steps_are_those_of_one_process() {
    run("layouts::compiled_and_low_precision_steps_are_those_of_one_process", 2, |group| {
        let stochastic = Precision::Bf16 { stochastic_rounding: true };
        let (off, f32, bf16) = (CompileMode::Off, Communication::F32, Communication::Bf16);
        for (precision, compile, communication, tolerance) in [
            (Precision::F32, CompileMode::On, f32, 1e-5),
            (Precision::F32, off, bf16, 1e-2),
            (Precision::Mixed, off, f32, 3e-2),
            (stochastic, off, f32, 5e-2),
        ] {
            for layout in ["dp=2", "fsdp=2"] {
                let options = StepOptions { precision, compile, communication, ..options()? };
                let mesh = mesh(group, layout)?;
                let [ranks, one] = both(&mesh, adamw, &options, |step, own| vec![rows(step, own)])?;
                let name = format!("{layout}, {precision:?}, {compile:?}, {communication:?}");
                assert_same(&name, &ranks, &one, tolerance, 10.0 * tolerance);
            }
        }
        group.barrier()
    });
}

/// What a step of `Sgd` with a rate of 1 takes away: the gradients of the mean loss, by name.
fn gradients_of(mesh: &Mesh, rank: usize, communication: Communication) -> Result<Vec<Array>> {
    let mut model = small(0)?;
    let parameters = |model: &Deep| -> BTreeMap<String, Array> {
        let parameters = model.parameters().flatten().into_iter();
        parameters.map(|(name, value)| (name.to_string(), value.clone())).collect()
    };
    let before = parameters(&model);
    let options = StepOptions { communication, clip: Clip::default(), ..options()? };
    let mut step = TrainStep::parallel(mesh, &mut model, Sgd::default(), 0, options)?;
    // Every rank counts alike.
    let first = 10 * rank as i32;
    drop(step.run([Ok(rows(0, first..first + 10))], 1.0)?);
    step.gather_parameters()?;
    let after = parameters(&model);
    before.iter().map(|(name, before)| Ok(before.subtract(&after[name])?)).collect()
}

#[test]
fn gradients_that_travel_as_bf16_are_off_by_as_much_as_they_say() {
    let test = "layouts::gradients_that_travel_as_bf16_are_off_by_as_much_as_they_say";
    run(test, 4, |group| {
        // Alone, a rank has the gradients of its own rows.
        let own = gradients_of(&Mesh::alone(), group.rank(), Communication::F32)?;
        for layout in ["dp=4", "fsdp=4"] {
            let mesh = mesh(group, layout)?;
            let exact = gradients_of(&mesh, group.rank(), Communication::F32)?;
            let rounded = gradients_of(&mesh, group.rank(), Communication::Bf16)?;
            let mut most = 0.0_f32;
            for ((exact, rounded), own) in exact.iter().zip(&rounded).zip(&own) {
                let magnitudes = numbers(&group.all_sum(&own.abs()?)?)?;
                let off = numbers(&rounded.subtract(exact)?.abs()?)?;
                for (off, magnitude) in off.into_iter().zip(magnitudes) {
                    // N / 256 of the mean of N; besides, a weight near 1 has no digits below 1e-7.
                    assert!(off <= magnitude / 256.0 + 5e-7, "{off} of {magnitude}");
                    most = most.max(off);
                }
            }
            assert!(most > 1e-5, "{layout}: nothing was rounded");
        }
        group.barrier()
    });
}
