//! Nothing waits for ever for a rank that is gone.

use super::{brought, ranks::run_to_the_end};
use mlx_train_core::distributed::{DEADLINE_EXIT_STATUS, Group};
use std::{
    slice::from_ref,
    time::{Duration, Instant},
};

/// Ranks 0 and 2 wait for a sum in which rank 1 never takes part.
fn others_end(test: &str, leave: fn()) {
    let began = Instant::now();
    let ended = run_to_the_end(test, 3, |group: &Group| {
        // All are there, however long that takes on a busy machine.
        group.barrier()?;
        let group = group.clone().with_limit(Duration::from_secs(1));
        if group.rank() == 1 {
            leave();
        }
        let sum = group.all_sum(&brought(group.rank(), &[1000]))?;
        group.eval("the gradients of all ranks", from_ref(&sum))
    });
    if ended.is_empty() {
        return;
    }
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    for rank in [0, 2] {
        let ended = &ended[rank];
        assert!(!ended.status.success(), "rank {rank}");
        // The ring may see that a connection is lost before the deadline comes.
        if ended.status.code() == Some(DEADLINE_EXIT_STATUS) {
            let message = format!("rank {rank} has waited 1 s for the gradients of all ranks");
            assert!(ended.output.contains(&message), "{}", ended.output);
        }
    }
}

#[test]
fn a_rank_that_stops_ends_the_others_at_their_deadline() {
    // As a rank does that is stopped: it lives, and does nothing.
    others_end("deadlines::a_rank_that_stops_ends_the_others_at_their_deadline", || {
        std::thread::sleep(Duration::from_secs(6));
        std::process::exit(0);
    });
}

#[test]
fn a_rank_that_dies_ends_the_others() {
    others_end("deadlines::a_rank_that_dies_ends_the_others", || std::process::abort());
}
