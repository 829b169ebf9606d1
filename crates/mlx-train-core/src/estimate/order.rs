//! In which order MLX computes the operations behind some arrays.
//!
//! It goes through the graph from what is asked for, in breadth until as many operations as a limit are
//! waiting and in depth from there on, and computes in the opposite order. An operation is reached when all that
//! need it were. Source: `eval_impl` in mlx/transforms.cpp of MLX 0.32.2.

use crate::graph::{ArrayId, Graph};

/// Who makes each array of a graph.
pub(super) struct Makers(Vec<Option<u32>>);

impl Makers {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut makers = vec![None; graph.arrays().len()];
        for (index, operation) in graph.operations().iter().enumerate() {
            for output in &operation.outputs {
                makers[output.index()] = Some(index as u32);
            }
        }
        Self(makers)
    }

    /// The position of the operation that makes this array.
    pub(super) fn of_array(&self, array: ArrayId) -> Option<usize> {
        self.0[array.index()].map(|index| index as usize)
    }
}

/// A step of the order: an operation, and which of its outputs it was reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) operation: usize,
    pub(super) output: ArrayId,
}

/// The operations that are not done and that `targets` need, in the order in which they are computed.
pub(super) fn order(
    graph: &Graph,
    makers: &Makers,
    is_done: &[bool],
    targets: &[ArrayId],
    max_width: usize,
) -> Vec<Visit> {
    let maker = |array: ArrayId| makers.of_array(array).filter(|&index| !is_done[index]);
    let operations = graph.operations();
    let mut uses = vec![0_u32; operations.len()];
    let mut open: Vec<usize> = Vec::new();
    let mut count = |inputs: &[ArrayId], open: &mut Vec<usize>| {
        for index in inputs.iter().filter_map(|&input| maker(input)) {
            if uses[index] == 0 {
                open.push(index);
            }
            uses[index] += 1;
        }
    };
    count(targets, &mut open);
    while let Some(index) = open.pop() {
        count(&operations[index].inputs, &mut open);
    }

    // What asks for the targets comes first, and is left out at the end.
    let inputs = |visit: Option<Visit>| match visit {
        None => targets,
        Some(visit) => &operations[visit.operation].inputs,
    };
    let mut found: Vec<Option<Visit>> = vec![None];
    let mut next = 0;
    let mut deferred: Vec<(Option<Visit>, usize)> = Vec::new();
    loop {
        let (visit, first) = if next < found.len() {
            next += 1;
            (found[next - 1], 0)
        } else if let Some(deferred) = deferred.pop() {
            deferred
        } else {
            break;
        };
        for (position, &input) in inputs(visit).iter().enumerate().skip(first) {
            let Some(operation) = maker(input) else { continue };
            if found.len() - next >= max_width {
                deferred.push((visit, position));
                break;
            }
            uses[operation] -= 1;
            if uses[operation] == 0 {
                found.push(Some(Visit { operation, output: input }));
            }
        }
    }
    found.into_iter().rev().flatten().collect()
}
