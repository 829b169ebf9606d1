//! Gradients of collectives, against the arithmetic of all ranks together.

use super::{brought, numbers, ranks::run};
use mlx_train_core::{Array, Result, distributed::Group, ffi};
use std::slice::from_ref;

/// The gradient of `sum(weights * f(x))` with respect to `x`, on this rank.
fn gradient(x: &Array, weights: &Array, f: impl Fn(&Array) -> Result<Array>) -> Result<Vec<f32>> {
    let loss = |x: &[Array]| Ok(vec![f(&x[0])?.multiply(weights)?.sum(None)?]);
    let (_, gradients) = ffi::value_and_grad(loss, from_ref(x), &[0])?;
    numbers(&gradients[0])
}

/// The weights of rank `rank` in its loss.
fn weights(rank: usize, shape: &[i32]) -> Array {
    brought(2 * rank + 1, shape)
}

/// Those of all ranks, added up.
fn summed(world_size: usize, shape: &[i32]) -> Result<Vec<f32>> {
    let mut total = Array::from_f32(0.0);
    for rank in 0..world_size {
        total = total.add(weights(rank, shape))?;
    }
    numbers(&total)
}

fn rows(all: &[f32], rank: usize, world_size: usize) -> Vec<f32> {
    let part = all.len() / world_size;
    all[rank * part..(rank + 1) * part].to_vec()
}

#[test]
fn gradients_are_those_of_the_sum_of_all_losses() {
    let test = "gradients::gradients_are_those_of_the_sum_of_all_losses";
    for world_size in [2, 3] {
        run(test, world_size, |group: &Group| {
            let (rank, size) = (group.rank(), group.world_size());
            let (n, all) = ([6, 2], [6 * size as i32, 2]);
            let x = brought(rank, &n);

            // Every loss has this rank's x in the sum, times its own weights.
            let of_sum = gradient(&x, &weights(rank, &n), |x| group.all_sum(x))?;
            assert_eq!(of_sum, summed(size, &n)?);
            // Every loss has this rank's rows.
            let of_gather = gradient(&x, &weights(rank, &all), |x| group.all_gather(x))?;
            assert_eq!(of_gather, rows(&summed(size, &all)?, rank, size));
            // Each loss has its own rows of every x.
            let part = [6 / size as i32, 2];
            let of_scatter = gradient(&x, &weights(rank, &part), |x| group.reduce_scatter(x))?;
            let every: Vec<Vec<f32>> =
                (0..size).map(|rank| numbers(&weights(rank, &part))).collect::<Result<_>>()?;
            assert_eq!(of_scatter, every.concat());
            // Every loss has the x of the root, and no other.
            let of_broadcast = gradient(&x, &weights(rank, &n), |x| group.broadcast(x, 1))?;
            let expected = if rank == 1 { summed(size, &n)? } else { vec![0.0; 12] };
            assert_eq!(of_broadcast, expected);
            // No gradient passes a maximum.
            let of_max = gradient(&x, &weights(rank, &n), |x| group.all_max(x))?;
            assert_eq!(of_max, vec![0.0; 12]);
            group.barrier()
        });
    }
}

#[test]
fn a_layer_split_over_ranks_has_the_gradients_of_the_whole_layer() {
    let test = "gradients::a_layer_split_over_ranks_has_the_gradients_of_the_whole_layer";
    run(test, 2, |group: &Group| {
        // y = (x up) down, up split by columns and down by rows; the loss is one for all ranks.
        let small = |seed, shape: &[i32]| {
            Ok::<_, mlx_train_core::Error>(
                brought(0, shape).add(Array::from_f32(seed))?.multiply(Array::from_f32(0.1))?,
            )
        };
        let (x, up, down) = (small(0.0, &[3, 4])?, small(1.0, &[4, 6])?, small(2.0, &[6, 5])?);
        let weights = small(3.0, &[3, 5])?;
        let whole = |inputs: &[Array]| {
            let y = inputs[0].matmul(&inputs[1])?.matmul(&inputs[2])?;
            Ok(vec![y.multiply(&weights)?.sum(None)?])
        };
        let (_, expected) =
            ffi::value_and_grad(whole, &[x.clone(), up.clone(), down.clone()], &[0, 1, 2])?;

        let rank = group.rank() as i32;
        let columns = up.transpose()?.split_equal(2, 0)?[group.rank()].transpose()?;
        let own_rows = down.split_equal(2, 0)?[group.rank()].clone();
        let split = |inputs: &[Array]| {
            let x = group.copy_to_parallel(&inputs[0])?;
            let y = group.reduce_from_parallel(&x.matmul(&inputs[1])?.matmul(&inputs[2])?)?;
            Ok(vec![y.multiply(&weights)?.sum(None)?])
        };
        let (_, gradients) =
            ffi::value_and_grad(split, &[x.clone(), columns, own_rows], &[0, 1, 2])?;
        let close = |ours: &Array, whole: &Array| -> Result<()> {
            for (ours, whole) in numbers(ours)?.into_iter().zip(numbers(whole)?) {
                assert!((ours - whole).abs() < 1e-4 * whole.abs().max(1.0), "{ours} and {whole}");
            }
            Ok(())
        };
        close(&gradients[0], &expected[0])?;
        close(
            &gradients[1],
            &expected[1].transpose()?.split_equal(2, 0)?[group.rank()].transpose()?,
        )?;
        close(&gradients[2], &expected[2].split_equal(2, 0)?[group.rank()])?;

        // Rows go to the ranks and come back, in one loss of all.
        let rows = |inputs: &[Array]| {
            let own = group.scatter_to_parallel(&inputs[0])?;
            let own = own.multiply(Array::from_int(rank + 1))?;
            Ok(vec![group.gather_from_parallel(&own)?.multiply(&small(1.0, &[4, 3])?)?.sum(None)?])
        };
        let (_, gradients) = ffi::value_and_grad(rows, &[small(0.0, &[4, 3])?], &[0])?;
        let mut expected = numbers(&small(1.0, &[4, 3])?)?;
        for (index, value) in expected.iter_mut().enumerate() {
            *value *= if index < 6 { 1.0 } else { 2.0 };
        }
        close(&gradients[0], &Array::from_slice(&expected, &[4, 3]))?;
        group.barrier()
    });
}
