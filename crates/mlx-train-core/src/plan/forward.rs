//! What the forward pass of a model tells: where each parameter is used, and what tensor ranks divide.
//!
//! Parameters are named in the recorded graph. What is computed from one of a block is in the blocks or after them;
//! what is not, and flows into them, is before them. An array is divided among tensor ranks if it is computed from a
//! parameter by columns, until a product with one by rows, whose outputs are added up.

use super::{traffic::Traffic, work::Work, workload::Place};
use crate::{
    estimate::is_view,
    graph::{ArrayId, Graph, Operation},
};
use std::ops::AddAssign;

/// A parameter in the graph.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) array: ArrayId,
    pub(super) is_in_block: bool,
    /// The axis by which tensor ranks divide it.
    pub(super) tensor_axis: Option<usize>,
}

/// The forward pass.
#[derive(Debug)]
pub(super) struct Forward {
    /// Where each parameter is used, in the order in which they were given.
    pub(super) places: Vec<Place>,
    /// What is computed from no block.
    pub(super) before: Share,
    /// All else: the blocks and what comes after them.
    pub(super) rest: Share,
}

/// Some of the forward pass, and how much of it is divided among tensor ranks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) all: Work,
    pub(super) divided: Work,
    /// How many sums over tensor ranks there are, and what they add up.
    pub(super) sums: f64,
    pub(super) summed_bytes: f64,
}

/// What is known of an array.
#[derive(Debug, Clone, Default)]
struct Flow {
    /// The parameter that it is, and the axis of the array by which that is divided.
    parameter: Option<(usize, Option<usize>)>,
    /// The parameters that it is computed from without any of a block.
    from: Vec<usize>,
    follows_block: bool,
    is_divided: bool,
}

impl Forward {
    /// Follows the parameters through the graph of a loss.
    pub(super) fn of(graph: &Graph, parameters: &[Known]) -> Self {
        let mut flows = vec![Flow::default(); graph.arrays().len()];
        for (index, known) in parameters.iter().enumerate() {
            flows[known.array.index()].parameter = Some((index, known.tensor_axis));
        }
        let traffic = Traffic::of(graph);
        let (mut before, mut rest) = (Share::default(), Share::default());
        let mut is_before = vec![false; parameters.len()];
        let mut is_after = vec![false; parameters.len()];
        for operation in operations_after(graph, parameters) {
            let inputs: Vec<&Flow> =
                operation.inputs.iter().map(|input| &flows[input.index()]).collect();
            if let [input] = inputs[..]
                && let Some(parameter) = input.parameter
                && (is_view(&operation.name) || operation.name == "AsType")
            {
                let parameter = Some(renamed(operation, parameter));
                let same = Flow { parameter, ..Flow::default() };
                for output in &operation.outputs {
                    flows[output.index()] = same.clone();
                }
                continue;
            }
            let used = inputs.iter().filter_map(|flow| flow.parameter.map(|(index, _)| index));
            let used: Vec<usize> = used.collect();
            let uses_block = used.iter().any(|&index| parameters[index].is_in_block);
            let follows_block = uses_block || inputs.iter().any(|flow| flow.follows_block);
            let passed = inputs.iter().flat_map(|flow| flow.from.iter().copied());
            let mut from = Vec::new();
            if follows_block {
                for &index in &used {
                    is_after[index] = true;
                }
                for index in passed {
                    is_before[index] = true;
                }
            } else {
                from.extend(passed.chain(used));
                from.sort_unstable();
                from.dedup();
            }
            let sums = adds_up(operation, &inputs);
            let is_divided = !sums && is_divided(&inputs);
            let part = if follows_block { &mut rest } else { &mut before };
            *part += Share::of(traffic.work(operation), sums || is_divided);
            if sums {
                let bytes = operation.outputs.iter().map(|&made| graph.array(made).nbytes() as f64);
                *part += Share { sums: 1.0, summed_bytes: bytes.sum(), ..Share::default() };
            }
            let made = Flow { parameter: None, from, follows_block, is_divided };
            for output in &operation.outputs {
                flows[output.index()] = made.clone();
            }
        }
        let places = parameters.iter().enumerate().map(|(index, known)| {
            match (known.is_in_block, is_before[index], is_after[index]) {
                (true, _, _) => Place::Block,
                (false, true, true) => Place::Both,
                (false, true, false) => Place::Before,
                (false, false, _) => Place::After,
            }
        });
        Self { places: places.collect(), before, rest }
    }
}

impl Share {
    fn of(work: Work, is_divided: bool) -> Self {
        let divided = if is_divided { work } else { Work::default() };
        Self { all: work, divided, ..Self::default() }
    }

    /// What of this is more than in `other`, for each of `number` blocks that it has more.
    pub(super) fn per_block(self, other: Self, number: f64) -> Self {
        Self {
            all: self.all.beyond(other.all) * number.recip(),
            divided: self.divided.beyond(other.divided) * number.recip(),
            sums: (self.sums - other.sums) / number,
            summed_bytes: (self.summed_bytes - other.summed_bytes) / number,
        }
    }

    /// What is left when `number` blocks are taken away.
    pub(super) fn without(self, block: Self, number: f64) -> Self {
        Self {
            all: self.all.beyond(block.all * number),
            divided: self.divided.beyond(block.divided * number),
            sums: self.sums - number * block.sums,
            summed_bytes: self.summed_bytes - number * block.summed_bytes,
        }
    }

    /// The divided share of products, and of all else.
    pub(super) fn shares(&self) -> (f64, f64) {
        let share = |part: f64, all: f64| if all > 0.0 { (part / all).min(1.0) } else { 0.0 };
        (share(self.divided.flops, self.all.flops), share(self.divided.bytes, self.all.bytes))
    }
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.all = self.all + other.all;
        self.divided = self.divided + other.divided;
        self.sums += other.sums;
        self.summed_bytes += other.summed_bytes;
    }
}

/// The operations behind the outputs but those that make parameters.
fn operations_after<'g>(graph: &'g Graph, parameters: &[Known]) -> Vec<&'g Operation> {
    let parameters: Vec<ArrayId> = parameters.iter().map(|known| known.array).collect();
    let needed = graph.needed_by(graph.outputs(), &parameters);
    let operations = graph.operations().iter().zip(needed);
    operations.filter_map(|(operation, is_needed)| is_needed.then_some(operation)).collect()
}

/// A parameter after an operation that gives it other axes or another dtype. The graph tells no axes: a matrix that
/// is transposed has its two in the other order, and what has more is not followed.
fn renamed(operation: &Operation, (index, axis): (usize, Option<usize>)) -> (usize, Option<usize>) {
    let axis = match operation.name.as_str() {
        "Transpose" => axis.and_then(|axis| 1_usize.checked_sub(axis)),
        "AsType" | "Copy" | "StopGradient" | "Depends" => axis,
        _ => None,
    };
    (index, axis)
}

/// Whether tensor ranks add up what they make here: a product with a parameter by its rows, or a look-up in parts of
/// a table.
fn adds_up(operation: &Operation, inputs: &[&Flow]) -> bool {
    let axis = |index: usize| inputs.get(index).and_then(|flow| flow.parameter).and_then(|it| it.1);
    match operation.name.as_str() {
        "Matmul" | "AddMM" => axis(1) == Some(0),
        name if name.starts_with("Gather") => axis(0) == Some(0),
        _ => false,
    }
}

/// Whether each tensor rank makes a part of the outputs: some input is a part, be it of an array or a parameter.
fn is_divided(inputs: &[&Flow]) -> bool {
    inputs.iter().any(|flow| flow.is_divided || flow.parameter.is_some_and(|it| it.1.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use mlx_rs::{
        Array, Dtype,
        ops::{matmul, zeros_dtype},
    };

    #[test]
    fn columns_divide_until_rows_add_up_and_tables_are_before_and_after() -> Result<()> {
        let zeros = |shape: &[i32]| Ok::<Array, crate::Error>(zeros_dtype(shape, Dtype::Float32)?);
        let (table, up, down) = (zeros(&[32, 8])?, zeros(&[16, 8])?, zeros(&[8, 16])?);
        let norm = zeros(&[8])?;
        let x = table.take_axis(Array::from_slice(&[1, 2, 3], &[3]), 0)?; // (3, 8)
        let hidden = matmul(&x, up.transpose()?)?.exp()?; // (3, 16)
        let x = x.add(matmul(&hidden, down.transpose()?)?)?.multiply(&norm)?; // (3, 8)
        let logits = matmul(&x, table.transpose()?)?; // (3, 32)
        let graph = Graph::with_names(
            &[logits],
            [(&table, "table"), (&up, "up"), (&down, "down"), (&norm, "norm")],
        )?;
        let known = |name: &str, is_in_block, tensor_axis| Known {
            array: graph.find(name).expect("it was named"),
            is_in_block,
            tensor_axis,
        };
        let parameters = [
            known("table", false, Some(0)),
            known("up", true, Some(0)),
            known("down", true, Some(1)),
            known("norm", false, None),
        ];
        let Forward { places, before, rest } = Forward::of(&graph, &parameters);
        assert_eq!(places, [Place::Both, Place::Block, Place::Block, Place::After]);
        // The look-up adds up before the block, the product by rows in it.
        assert_eq!(((before.sums) as u8, (rest.sums) as u8), (1, 1));
        assert_eq!(rest.summed_bytes as u64, 3 * 8 * 4);
        // Both products of the block and the logits are divided.
        assert_eq!(rest.divided.flops as u64, 2 * 3 * (8 * 16 + 16 * 8 + 8 * 32));
        assert_eq!(rest.all.flops as u64, rest.divided.flops as u64);
        // The exponential is of parts, the sum and the norm of whole arrays.
        assert_eq!(rest.divided.bytes as u64, 2 * 3 * 16 * 4);
        assert_eq!(rest.all.bytes as u64, 2 * 3 * 16 * 4 + (3 * 3 * 8 + 2 * 3 * 8 + 8) * 4);
        Ok(())
    }
}
