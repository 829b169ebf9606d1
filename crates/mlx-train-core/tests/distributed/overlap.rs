//! What ranks have to wait for: the order that the graph of a step forces, whatever the device makes of the rest.

use super::{
    deep::{Deep, adamw, options, rows},
    ranks::run,
};
use mlx_train_core::{
    distributed::{Mesh, Parallelism},
    ffi,
    graph::{Graph, Operation},
    model::BaseModel,
    train::TrainStep,
};

const NUM_BLOCKS: usize = 4;

/// For each operation that is `behind`, how many of those that are `before` it cannot do without.
fn num_before(
    graph: &Graph,
    behind: impl Fn(&Operation) -> bool,
    before: impl Fn(&Operation) -> bool,
) -> Vec<u32> {
    // A bit for each of those that are before, in the arrays that were computed from them.
    let mut from = vec![0_u128; graph.ids().count()];
    let mut next = 1;
    let mut counts = Vec::new();
    for operation in graph.operations() {
        let mut bits = operation.inputs.iter().fold(0, |bits, input| bits | from[input.index()]);
        if behind(operation) {
            counts.push(bits.count_ones());
        }
        if before(operation) {
            bits |= next;
            next <<= 1;
        }
        for output in &operation.outputs {
            from[output.index()] = bits;
        }
    }
    counts.sort_unstable();
    counts
}

fn multiplies(operation: &Operation) -> bool {
    matches!(operation.name.as_str(), "Matmul" | "AddMM")
}

#[test]
fn a_block_is_gathered_while_the_one_before_it_runs() {
    run("overlap::a_block_is_gathered_while_the_one_before_it_runs", 2, |group| {
        let mesh = Mesh::new(group, Parallelism::sharded(2))?;
        let mut model = Deep::new(0, 16, NUM_BLOCKS, 0.0)?;
        let mut step = TrainStep::parallel(&mesh, &mut model, adamw(), 0, options()?)?;
        let graph =
            step.with_evaluation_weights(|model| Graph::of(&[model.forward(&rows(0, 0..8).x)?]))?;
        let gathers = |operation: &Operation| operation.name == "AllGather";
        let mut waits_for = num_before(&graph, gathers, multiplies);
        waits_for.retain(|&count| count > 0);
        // The first layer, and both layers of every block but the last two: a block needs the input of the block
        // before it, not its output.
        assert_eq!(waits_for, [1, 3, 5]);
        group.barrier()
    });
}

#[test]
fn gradients_of_a_block_are_added_up_while_the_next_ones_are_computed() {
    let test = "overlap::gradients_of_a_block_are_added_up_while_the_next_ones_are_computed";
    run(test, 2, |group| {
        for layout in ["dp=2", "fsdp=2"] {
            let mesh = Mesh::new(group, layout.parse()?)?;
            let mut model = Deep::new(0, 16, NUM_BLOCKS, 0.0)?;
            let mut step = TrainStep::parallel(&mesh, &mut model, adamw(), 0, options()?)?;
            let (output, noted) = ffi::without_evaluation(|| step.run([Ok(rows(0, 0..8))], 0.1))?;
            let parameters = noted.evaluations.iter().flat_map(|it| it.arrays.iter().cloned());
            let graph = Graph::of(&parameters.collect::<Vec<_>>())?;
            drop(output);
            let sums = |operation: &Operation| operation.name.ends_with("AllReduce");
            let waits_for = num_before(&graph, multiplies, sums);
            let gathers = |operation: &Operation| operation.name == "AllGather";
            let gathered_after = num_before(&graph, gathers, sums);
            let num_waiting = |sums: u32| waits_for.iter().filter(|&&count| count == sums).count();
            // All know the weights of the losses. Then two blocks go backwards before the sum of the first is needed.
            let per_block = num_waiting(2);
            assert!(num_waiting(1) >= 2 * per_block, "{layout}: {waits_for:?}");
            assert_eq!(num_waiting(3), per_block, "{layout}: {waits_for:?}");
            assert!(num_waiting(NUM_BLOCKS as u32) > 0, "{layout}: {waits_for:?}");
            // A block is gathered again while the one behind it goes backwards, which waits for one sum less.
            if mesh.parallelism().is_sharded {
                assert_eq!(gathered_after[NUM_BLOCKS + 1..], [0, 1, 1, 2]);
            }
        }
        group.barrier()
    });
}
