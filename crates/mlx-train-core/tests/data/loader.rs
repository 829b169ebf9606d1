//! Threads, positions and epochs: what the loader hands out, and when it stops.

use crate::{draw, ints, numbered};
use mlx_rs::Array;
use mlx_train_core::{
    Error, Result,
    data::{Batch, DataLoader, Dataset, EpochEnd, LoaderOptions, Order, Position, Remainder},
};
use proptest::prelude::*;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

/// Long enough for any machine; only a failing test waits for it.
const FOREVER: Duration = Duration::from_mins(2);

fn orders(num_rows: usize) -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Sequential),
        Just(Order::Shuffled),
        prop::collection::vec(0.1_f64..9.0, num_rows).prop_map(Order::weighted),
    ]
}

fn epoch_ends() -> impl Strategy<Value = EpochEnd> {
    prop_oneof![Just(EpochEnd::RunOn), Just(EpochEnd::Smaller), Just(EpochEnd::Drop)]
}

/// Up to 40 rows, and options that fit them.
fn runs() -> impl Strategy<Value = (i32, LoaderOptions)> {
    let sizes = (1_i32..40).prop_flat_map(|rows| (Just(rows), 1..=rows as usize));
    sizes.prop_flat_map(|(rows, batch_size)| {
        (orders(rows as usize), epoch_ends(), any::<u64>()).prop_map(
            move |(order, epoch_end, seed)| {
                let options =
                    LoaderOptions { batch_size, order, seed, epoch_end, ..Default::default() };
                (rows, options)
            },
        )
    })
}

fn loader(rows: i32, options: LoaderOptions) -> DataLoader {
    DataLoader::new(numbered(rows), options).unwrap()
}

/// The rows of each of the next batches.
fn batches(loader: &mut DataLoader, count: usize) -> Vec<Vec<i32>> {
    loader.by_ref().take(count).map(|batch| ints(&batch.unwrap().y)).collect()
}

fn through_json(position: &Position) -> Position {
    serde_json::from_str(&serde_json::to_string(position).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn batches_do_not_depend_on_the_number_of_threads_and_go_on_where_a_run_stopped(
        (rows, options) in runs(), before in 0_usize..12,
    ) {
        let mut whole = loader(rows, LoaderOptions { num_workers: 0, ..options.clone() });
        let first = batches(&mut whole, before);
        let position = through_json(&whole.position());
        let rest = batches(&mut whole, 7);
        for num_workers in [1, 2, 4] {
            let options = LoaderOptions { num_workers, prefetch: 1 + num_workers % 3, ..options.clone() };
            let mut other = loader(rows, options.clone());
            prop_assert_eq!(&first, &batches(&mut other, before));
            // What is made ahead is not counted.
            prop_assert_eq!(&position, &other.position());
            prop_assert_eq!(&rest, &batches(&mut other, 7));

            let mut resumed = loader(rows, options);
            batches(&mut resumed, 3);
            resumed.resume_at(&position).unwrap();
            prop_assert_eq!(&rest, &batches(&mut resumed, 7));
        }
    }

    #[test]
    fn epochs_end_as_the_options_say(
        (rows, options) in runs().prop_filter("rows once", |run| !matches!(run.1.order, Order::Weighted(_))),
        epochs in 0_u64..4,
    ) {
        let LoaderOptions { batch_size, epoch_end, .. } = options;
        let mut loader = loader(rows, LoaderOptions { epochs: Some(epochs), ..options });
        let all = batches(&mut loader, 1000);
        prop_assert_eq!(all.len() as u64, loader.batches_in(epochs));
        prop_assert_eq!(loader.position().rows_taken(), epochs * rows as u64);
        let message = loader.next_batch().unwrap_err().to_string();
        prop_assert!(message.contains("the last epoch is over"), "{}", message);

        let per_epoch = match epoch_end {
            EpochEnd::Drop => rows as usize / batch_size * batch_size,
            EpochEnd::RunOn | EpochEnd::Smaller => rows as usize,
        };
        let taken = all.concat();
        prop_assert_eq!(taken.len(), per_epoch * epochs as usize);
        for epoch in taken.chunks(per_epoch) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert!(epoch.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", epoch);
        }
        let size = |batch: &Vec<i32>| batch.len() == batch_size;
        match epoch_end {
            // Only the very last batch ends early.
            EpochEnd::RunOn => prop_assert!(all.iter().rev().skip(1).all(size)),
            EpochEnd::Smaller => prop_assert!(all.iter().all(|batch| batch.len() <= batch_size)),
            EpochEnd::Drop => prop_assert!(all.iter().all(size)),
        }
    }

    #[test]
    fn the_batches_of_all_ranks_are_the_large_batches_of_one(
        per_rank in 1_usize..9, world_size in 1_usize..5, batches_an_epoch in 1_usize..4, seed: u64,
    ) {
        let rows = (per_rank * world_size * batches_an_epoch) as i32;
        let options = |rank, world_size, batch_size| LoaderOptions {
            batch_size, seed, rank, world_size, remainder: Remainder::Drop, ..Default::default()
        };
        let mut one = loader(rows, options(0, 1, per_rank * world_size));
        let mut ranks: Vec<DataLoader> =
            (0..world_size).map(|rank| loader(rows, options(rank, world_size, per_rank))).collect();
        for _ in 0..2 * batches_an_epoch {
            let mut large = batches(&mut one, 1).concat();
            let mut together: Vec<i32> =
                ranks.iter_mut().flat_map(|rank| batches(rank, 1).concat()).collect();
            large.sort_unstable();
            together.sort_unstable();
            prop_assert_eq!(large, together);
        }
        // So one saved position serves every rank.
        prop_assert!(ranks.windows(2).all(|pair| pair[0].position() == pair[1].position()));
    }
}

proptest! {
    #[test]
    fn parts_together_are_the_batches_of_one_process_and_have_one_position(
        (rows, options) in runs(), parts in 1_usize..5,
    ) {
        let options = LoaderOptions { epochs: Some(3), ..options };
        let count = 3 * rows as usize;
        let mut one = loader(rows, options.clone());
        let whole = batches(&mut one, count);
        let of_part = |part| loader(rows, options.clone()).part(part, parts);
        let Ok(mut loaders) = (0..parts).map(of_part).collect::<Result<Vec<_>>>() else {
            // Unequal parts, or a last batch of fewer rows than there are parts.
            let is_small = whole.iter().any(|batch| batch.len() < parts);
            prop_assert!(!options.batch_size.is_multiple_of(parts) || is_small);
            return Ok(());
        };
        let dealt: Vec<_> = loaders.iter_mut().map(|loader| batches(loader, count)).collect();
        for (number, batch) in whole.iter().enumerate() {
            let together: Vec<i32> = dealt.iter().flat_map(|part| part[number].clone()).collect();
            prop_assert_eq!(&together, batch);
            let [fewest, most] = [
                dealt.iter().map(|part| part[number].len()).min(),
                dealt.iter().map(|part| part[number].len()).max(),
            ];
            prop_assert!(fewest > Some(0) && most <= fewest.map(|fewest| fewest + 1));
        }
        for loader in &loaders {
            prop_assert_eq!(loader.position(), one.position());
        }
    }
}

#[test]
fn a_position_of_other_data_or_another_order_is_refused_and_told_apart() {
    let of = |rows, options| loader(rows, options);
    let shuffled = LoaderOptions { batch_size: 4, seed: 1, ..LoaderOptions::default() };
    let mut saved = of(10, shuffled.clone());
    draw(&mut saved, 3);
    let position = saved.position();
    assert_eq!(position.rows_taken(), 12);

    let weighted = |weight| Order::weighted(vec![weight; 10]);
    for (rows, options, difference) in [
        (11, shuffled.clone(), "rows: 10 when it was saved, 11 now"),
        (10, LoaderOptions { seed: 2, ..shuffled.clone() }, "seed: 1 when it was saved, 2 now"),
        (
            10,
            LoaderOptions { order: Order::Sequential, ..shuffled.clone() },
            "order: shuffled when",
        ),
        (10, LoaderOptions { world_size: 2, ..shuffled.clone() }, "world size: 1 when"),
    ] {
        let mut other = of(rows, options);
        let message = other.resume_at(&position).unwrap_err().to_string();
        assert!(message.contains(difference), "{message}");
        assert_eq!(other.position().rows_taken(), 0);
    }
    // Weights are told apart, and nothing is drawn from the seed of a sequential order.
    let of_weights = |weight| of(10, LoaderOptions { order: weighted(weight), ..shuffled.clone() });
    assert!(of_weights(1.0).resume_at(&of_weights(2.0).position()).is_err());
    assert!(of_weights(1.0).resume_at(&of_weights(1.0).position()).is_ok());
    let sequential =
        |seed| of(10, LoaderOptions { order: Order::Sequential, seed, ..shuffled.clone() });
    assert!(sequential(1).resume_at(&sequential(2).position()).is_ok());
    // Who is alone has no remainder; of two, it is another order.
    let share =
        |world_size, remainder| of(10, LoaderOptions { world_size, remainder, ..shuffled.clone() });
    let repeated = |world_size| share(world_size, Remainder::Repeat).position();
    assert!(share(1, Remainder::Drop).resume_at(&repeated(1)).is_ok());
    let refused = share(2, Remainder::Drop).resume_at(&repeated(2)).unwrap_err().to_string();
    assert!(refused.contains("remainder: repeated when it was saved, dropped now"), "{refused}");
    // Another batch size, number of threads or end of the epoch is no other order.
    let options =
        LoaderOptions { batch_size: 3, num_workers: 0, epoch_end: EpochEnd::Drop, ..shuffled };
    let mut other = of(10, options);
    other.resume_at(&position).unwrap();
    assert_eq!(draw(&mut other, 1), draw(&mut saved, 1)[..3]);

    let huge = serde_json::to_string(&position).unwrap().replace("12", "18446744073709551615");
    let refused = other.resume_at(&serde_json::from_str(&huge).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("more than any run takes"), "{refused}");
}

#[test]
fn options_that_make_no_batches_are_refused() {
    let refused = |options| DataLoader::new(numbered(3), options).unwrap_err().to_string();
    let default = LoaderOptions { batch_size: 2, ..LoaderOptions::default() };
    for (options, problem) in [
        (LoaderOptions { batch_size: 0, ..default.clone() }, "at least one row"),
        (LoaderOptions { prefetch: 0, ..default.clone() }, "raise prefetch from 0"),
        (
            LoaderOptions { batch_size: 4, epoch_end: EpochEnd::Drop, ..default.clone() },
            "fills no batch of 4",
        ),
        (LoaderOptions { rank: 1, ..default }, "rank 1 is not one of 1"),
    ] {
        let message = refused(options);
        assert!(message.contains(problem), "{message}");
    }
}

/// What a dataset of three rows does when it is asked for one.
struct Acting<F>(F);

impl<F> std::fmt::Debug for Acting<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acting")
    }
}

impl<F: Fn(usize) -> Result<Array> + Send + Sync> Dataset for Acting<F> {
    fn len(&self) -> usize {
        3
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        let values = (self.0)(rows[0])?;
        Ok(Batch::new(values.clone(), values))
    }
}

fn acting(
    num_workers: usize,
    prefetch: usize,
    act: impl Fn(usize) -> Result<Array> + Send + Sync + 'static,
) -> DataLoader {
    let order = Order::Sequential;
    let options =
        LoaderOptions { batch_size: 1, order, num_workers, prefetch, ..LoaderOptions::default() };
    DataLoader::new(Acting(act), options).unwrap()
}

#[test]
fn errors_and_panics_of_any_thread_reach_the_caller_with_their_rows() {
    for num_workers in [0, 1, 2, 4] {
        let disk_is_gone = Arc::new(AtomicBool::new(true));
        let is_gone = Arc::clone(&disk_is_gone);
        let mut loader = acting(num_workers, 2, move |row| match row {
            1 if is_gone.load(Ordering::SeqCst) => Err(Error::message("the disk is gone")),
            2 => panic!("row two is cursed"),
            row => Ok(Array::from_int(row as i32)),
        });
        loader.next_batch().unwrap();

        let error = loader.next_batch().unwrap_err();
        assert_eq!(error.to_string(), "no batch could be made of row 1 of the data");
        assert!(format!("{error:?}").contains("because: the disk is gone"), "{error:?}");
        disk_is_gone.store(false, Ordering::SeqCst);

        // The batch that failed is tried again, and nothing was lost.
        assert_eq!(loader.position().rows_taken(), 1);
        assert_eq!(loader.next_batch().unwrap().x.try_item_exact::<i32>().unwrap(), 1);
        let text = format!("{:?}", loader.next_batch().unwrap_err());
        assert!(text.contains("row 2 of the data"), "{text}");
        assert!(text.contains("the dataset panicked: row two is cursed"), "{text}");
    }
}

#[test]
fn each_thread_is_as_many_batches_ahead_as_it_should_and_no_more() {
    for (num_workers, prefetch) in [(1, 1), (1, 3), (3, 2)] {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut loader = acting(num_workers, prefetch, move |row| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Array::from_int(row as i32))
        });
        assert_eq!(made.load(Ordering::SeqCst), 0);
        let ahead = num_workers * prefetch;
        for handed_out in 1..20 {
            loader.next_batch().unwrap();
            // They get there without being asked again, and stop there.
            while made.load(Ordering::SeqCst) < handed_out + ahead {
                thread::yield_now();
            }
            assert!(made.load(Ordering::SeqCst) <= handed_out + ahead);
        }
        assert!(loader.waited() > Duration::ZERO);
    }
}

#[test]
fn dropping_the_loader_waits_for_no_thread_and_ends_them_all() {
    // Threads say that they are at work, and then wait until the gate is gone.
    let (working, at_work): (Sender<()>, Receiver<()>) = channel();
    let (gate, closed): (Sender<()>, Receiver<()>) = channel();
    let (alive, ended): (Sender<()>, Receiver<()>) = channel();
    let (working, closed, alive) = (Mutex::new(working), Mutex::new(closed), Mutex::new(alive));
    let mut loader = acting(2, 1, move |row| {
        let _held = &alive;
        if row > 0 {
            working.lock().unwrap().send(()).unwrap();
            let _ = closed.lock().unwrap().recv();
        }
        Ok(Array::from_int(row as i32))
    });
    loader.next_batch().unwrap();
    at_work.recv_timeout(FOREVER).unwrap();

    let (dropped, is_dropped) = channel();
    thread::spawn(move || {
        drop(loader);
        dropped.send(()).unwrap();
    });
    is_dropped.recv_timeout(FOREVER).expect("dropping the loader waits for the dataset");
    assert_eq!(ended.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    // The dataset goes with the last thread.
    drop(gate);
    assert_eq!(ended.recv_timeout(FOREVER), Err(RecvTimeoutError::Disconnected));
}

/// An operation that is recorded, not computed.
fn recorded(row: usize) -> Result<Array> {
    Ok(Array::from_slice(&[row as i32, 1], &[2]).add(Array::from_int(1))?)
}

#[test]
fn what_a_thread_records_is_computed_there_because_no_other_thread_can() {
    // Why the loader evaluates batches where they are made. Should MLX ever allow this, it need not.
    let foreign = thread::spawn(|| recorded(1).unwrap()).join().unwrap();
    let message = mlx_rs::transforms::eval([&foreign]).unwrap_err().to_string();
    assert!(message.contains("There is no Stream"), "{message}");

    let mut loader = acting(2, 2, recorded);
    for row in [0, 1, 2, 0, 1, 2] {
        let Batch { x, .. } = loader.next_batch().unwrap();
        let doubled = x.add(&x).unwrap();
        assert_eq!(ints(&doubled), [2 * (row + 1), 4]);
    }
    // Nor does a thread compute what another has recorded: an error, and no wrong number.
    let foreign = Mutex::new(recorded(1).unwrap());
    let mut loader = acting(1, 1, move |_| Ok(foreign.lock().unwrap().clone()));
    let text = format!("{:?}", loader.next_batch().unwrap_err());
    assert!(text.contains("There is no Stream"), "{text}");
}
