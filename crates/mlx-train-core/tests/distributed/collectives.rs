//! Collectives are plain arithmetic on what the ranks bring along.

use super::{brought, numbers, ranks::run};
use mlx_rs::Dtype;
use mlx_train_core::{Array, Result, distributed::Group};

/// Sums what all ranks bring, element by element.
pub fn total(world_size: usize, shape: &[i32]) -> Result<Vec<f32>> {
    let mut total = vec![0.0; shape.iter().product::<i32>() as usize];
    for rank in 0..world_size {
        for (sum, x) in total.iter_mut().zip(numbers(&brought(rank, shape))?) {
            *sum += x;
        }
    }
    Ok(total)
}

pub fn all_collectives(group: &Group) -> Result<()> {
    let (rank, size) = (group.rank(), group.world_size());
    // Fewer numbers than ranks, an odd count, several packets, and a view.
    for shape in [&[1][..], &[7], &[12, 5], &[300, 700]] {
        let x = brought(rank, shape);
        assert_eq!(numbers(&group.all_sum(&x)?)?, total(size, shape)?, "{shape:?}");
        assert_eq!(numbers(&group.all_max(&x)?)?, numbers(&brought(size - 1, shape))?);
        assert_eq!(numbers(&group.all_min(&x)?)?, numbers(&brought(0, shape))?);
        let gathered = group.all_gather(&x)?;
        assert_eq!(gathered.shape()[0], shape[0] * size as i32);
        let expected: Vec<f32> = (0..size)
            .map(|rank| numbers(&brought(rank, shape)))
            .collect::<Result<Vec<_>>>()?
            .concat();
        assert_eq!(numbers(&gathered)?, expected);
        for root in 0..size {
            assert_eq!(numbers(&group.broadcast(&x, root)?)?, numbers(&brought(root, shape))?);
        }
    }
    let view = brought(rank, &[6, 4]).transpose()?;
    let sum = Array::from_slice(&total(size, &[6, 4])?, &[6, 4]).transpose()?;
    assert_eq!(numbers(&group.all_sum(&view)?)?, numbers(&sum)?);

    let rows = 12;
    let scattered = group.reduce_scatter(&brought(rank, &[rows, 5]))?;
    let part = rows as usize / size * 5;
    assert_eq!(numbers(&scattered)?, total(size, &[rows, 5])?[rank * part..(rank + 1) * part]);

    let scalars = group.all_gather(&Array::from_int(rank as i32))?;
    assert_eq!((scalars.shape(), scalars.dtype()), (&[size as i32][..], Dtype::Int32));
    assert_eq!(numbers(&scalars)?, (0..size).map(|rank| rank as f32).collect::<Vec<_>>());
    let half = group.all_sum(&brought(rank, &[7]).as_dtype(Dtype::Bfloat16)?)?;
    assert_eq!(half.dtype(), Dtype::Bfloat16);
    let flag = group.broadcast(&Array::from_bool(rank == size - 1), size - 1)?;
    assert_eq!((flag.dtype(), flag.try_item_exact::<bool>()?), (Dtype::Bool, true));
    group.barrier()
}

#[test]
fn two_three_and_four_ranks_compute_what_arithmetic_says() {
    let test = "collectives::two_three_and_four_ranks_compute_what_arithmetic_says";
    for world_size in [2, 3, 4] {
        run(test, world_size, all_collectives);
    }
}

#[test]
fn arrays_that_are_not_computed_yet_keep_their_order() {
    run("collectives::arrays_that_are_not_computed_yet_keep_their_order", 2, |group| {
        // More of them, with more behind each, than MLX looks at side by side.
        let bring = |index: i32| -> Result<Array> {
            let x = Array::from_int(index).multiply(Array::from_int(2))?;
            Ok(x.add(Array::from_int(1000 * group.rank() as i32))?.reshape(&[1])?)
        };
        let indices = 0..60;
        let sent = indices.clone().map(|index| group.broadcast(&bring(index)?, 1));
        let sent = sent.collect::<Result<Vec<_>>>()?;
        group.eval("the test", &sent)?;
        for (index, x) in indices.zip(&sent) {
            assert_eq!(numbers(x)?, [(1000 + 2 * index) as f32]);
        }
        group.barrier()
    });
}

#[test]
fn arrays_pass_around_a_ring() {
    run("collectives::arrays_pass_around_a_ring", 3, |group| {
        let (rank, size) = (group.rank(), group.world_size());
        let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
        let mine = brought(rank, &[33]);
        let send = || group.eval("a neighbour to receive", [&group.send(&mine, next)?]);
        let receive =
            || -> Result<Vec<f32>> { numbers(&group.receive(&[33], Dtype::Float32, before)?) };
        // One of them begins to send.
        let received = if rank == 0 {
            send()?;
            receive()?
        } else {
            let received = receive()?;
            send()?;
            received
        };
        assert_eq!(received, numbers(&brought(before, &[33]))?);
        Ok(())
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    run("collectives::what_cannot_be_is_refused_before_anything_is_sent", 4, |group| {
        let (rank, x) = (group.rank(), Array::from_f32(1.0));
        let refused = |outcome: Result<Array>| outcome.expect_err("refused").to_string();
        let opposite = refused(group.send(&x, (rank + 2) % 4));
        assert!(opposite.contains("neighbours alone"), "{opposite}");
        assert!(refused(group.send(&x, rank)).contains(&format!("rank {rank} of 4")));
        assert!(refused(group.receive(&[1], Dtype::Float32, 9)).contains("rank 9 of 4"));
        assert!(refused(group.broadcast(&x, 4)).contains("rank 4 of 4"));
        let uneven = refused(group.reduce_scatter(&brought(rank, &[6, 2])));
        assert!(uneven.contains("[6, 2] over 4 ranks"), "{uneven}");
        let split = group.split(0).map(|_| x).map_err(|error| error.to_string());
        assert!(split.expect_err("a ring").contains("ring cannot split"));
        group.barrier()
    });
}

#[test]
fn a_process_alone_is_a_group_of_one() -> Result<()> {
    let group = Group::alone();
    assert_eq!((group.rank(), group.world_size(), group.backend()), (0, 1, None));
    let x = brought(0, &[3, 2]);
    for same in [
        group.all_sum(&x)?,
        group.all_max(&x)?,
        group.all_min(&x)?,
        group.all_gather(&x)?,
        group.reduce_scatter(&x)?,
        group.broadcast(&x, 0)?,
        group.split(3)?.all_sum(&x)?,
    ] {
        assert_eq!((same.shape(), numbers(&same)?), (x.shape(), numbers(&x)?));
    }
    assert!(group.send(&x, 0).is_err() && group.receive(&[1], Dtype::Float32, 1).is_err());
    group.barrier()
}
