//! Over MPI: what the ring has not, groups of some of the ranks and ways to all of them.

use super::{
    brought,
    collectives::{all_collectives, total},
    numbers,
    ranks::{run_over, run_to_the_end_over},
};
use mlx_rs::Dtype;
use mlx_train_core::{
    Result,
    distributed::{Backend, DEADLINE_EXIT_STATUS, Group, Mesh, Parallelism},
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

#[test]
fn ranks_of_mpirun_compute_what_arithmetic_says() {
    let test = "mpi::ranks_of_mpirun_compute_what_arithmetic_says";
    for world_size in [2, 3] {
        run_over(Backend::Mpi, test, world_size, all_collectives);
    }
}

/// Asserts that `group` is of these ranks of all, in their order, and adds up what they bring alone.
fn is_of(group: &Group, ranks: &[usize], all: &Group) -> Result<()> {
    assert_eq!(group.world_size(), ranks.len());
    assert_eq!(ranks[group.rank()], all.rank());
    let x = brought(all.rank(), &[7]);
    let mut expected = vec![0.0; 7];
    for rank in ranks {
        for (sum, x) in expected.iter_mut().zip(numbers(&brought(*rank, &[7]))?) {
            *sum += x;
        }
    }
    let sum = group.all_sum(&x)?;
    group.eval("a part of the ranks", [&sum])?;
    assert_eq!(numbers(&sum)?, expected, "{ranks:?}");
    Ok(())
}

#[test]
fn ranks_of_one_color_are_a_group_in_the_order_of_their_ranks() {
    let test = "mpi::ranks_of_one_color_are_a_group_in_the_order_of_their_ranks";
    run_over(Backend::Mpi, test, 4, |group| {
        let rank = group.rank();
        let (row, column) = (group.split(rank / 2)?, group.split(rank % 2)?);
        is_of(&row, &[rank / 2 * 2, rank / 2 * 2 + 1], group)?;
        is_of(&column, &[rank % 2, rank % 2 + 2], group)?;
        // One that is not split evenly, whose colors are far apart, and a part of a part.
        let most = group.split(if rank == 2 { 1 << 20 } else { 0 })?;
        let others: &[usize] = if rank == 2 { &[2] } else { &[0, 1, 3] };
        is_of(&most, others, group)?;
        is_of(&row.split(row.rank())?, &[rank], group)?;
        // The whole is what it was.
        is_of(group, &[0, 1, 2, 3], group)?;
        group.barrier()
    });
}

#[test]
fn the_groups_of_a_mesh_are_its_rows_in_each_way() {
    run_over(Backend::Mpi, "mpi::the_groups_of_a_mesh_are_its_rows_in_each_way", 4, |group| {
        let rank = group.rank();
        let (pairs, apart) = ([rank / 2 * 2, rank / 2 * 2 + 1], [rank % 2, rank % 2 + 2]);
        let mesh = Mesh::new(group, "dp=2,tp=2".parse::<Parallelism>()?)?;
        is_of(mesh.tensor(), &pairs, group)?;
        is_of(mesh.data(), &apart, group)?;
        assert!(mesh.pipeline().is_alone());
        let mesh = Mesh::new(group, "dp=2,pp=2".parse::<Parallelism>()?)?;
        is_of(mesh.data(), &pairs, group)?;
        is_of(mesh.pipeline(), &apart, group)?;
        is_of(mesh.all(), &[0, 1, 2, 3], group)?;
        group.barrier()
    });
}

#[test]
fn arrays_pass_between_ranks_that_are_no_neighbours() {
    let test = "mpi::arrays_pass_between_ranks_that_are_no_neighbours";
    run_over(Backend::Mpi, test, 4, |group| {
        let rank = group.rank();
        let opposite = (rank + 2) % 4;
        let mine = brought(rank, &[33, 3]).as_dtype(Dtype::Bfloat16)?;
        let send = || group.eval("the opposite rank to receive", [&group.send(&mine, opposite)?]);
        let receive = || numbers(&group.receive(&[33, 3], Dtype::Bfloat16, opposite)?);
        let received = if rank < 2 {
            send()?;
            receive()?
        } else {
            let received = receive()?;
            send()?;
            received
        };
        let theirs = brought(opposite, &[33, 3]).as_dtype(Dtype::Bfloat16)?;
        assert_eq!(received, numbers(&theirs)?);
        group.barrier()
    });
}

#[test]
fn a_rank_does_not_wait_at_its_end_for_ever() {
    let test = "mpi::a_rank_does_not_wait_at_its_end_for_ever";
    let began = Instant::now();
    let ended = run_to_the_end_over(Backend::Mpi, test, 2, |group| {
        group.barrier()?;
        if group.rank() == 0 {
            // As a rank does that waits for another: longer than that one has.
            sleep(Duration::from_mins(1));
        }
        // The same ranks, with a limit of its own.
        Group::init(Backend::Mpi, Duration::from_secs(1)).map(drop)
    });
    for ended in ended {
        assert_eq!(ended.status.code(), Some(DEADLINE_EXIT_STATUS), "{}", ended.output);
        let message = "rank 1 has waited 1 s for all ranks to end";
        assert!(ended.output.contains(message), "{}", ended.output);
        assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    }
}

#[test]
fn a_rank_that_fails_takes_those_of_mpirun_down() {
    let test = "mpi::a_rank_that_fails_takes_those_of_mpirun_down";
    let ended = run_to_the_end_over(Backend::Mpi, test, 3, |group| {
        group.barrier()?;
        assert_ne!(group.rank(), 1, "rank 1 is the one that fails");
        let sum = group.all_sum(&brought(group.rank(), &[1000]))?;
        assert_eq!(numbers(&sum)?, total(3, &[1000])?);
        Ok(())
    });
    for ended in ended {
        assert!(!ended.status.success());
        assert!(ended.output.contains("rank 1 is the one that fails"), "{}", ended.output);
    }
}
