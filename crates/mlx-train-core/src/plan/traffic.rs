//! How much work operations of a graph are.

use super::work::Work;
use crate::{
    estimate::is_view,
    graph::{ArrayId, Graph, Operation},
};

/// The work of operations of one graph.
#[derive(Debug)]
pub(super) struct Traffic<'g> {
    graph: &'g Graph,
    /// How many bytes are behind each array: one number that is shown a thousand times is one.
    bytes: Vec<f64>,
}

impl<'g> Traffic<'g> {
    pub(super) fn of(graph: &'g Graph) -> Self {
        let mut bytes: Vec<f64> =
            graph.arrays().iter().map(|array| array.nbytes() as f64).collect();
        for operation in graph.operations() {
            let [input] = operation.inputs[..] else { continue };
            if operation.name.starts_with("Broadcast") {
                for output in &operation.outputs {
                    bytes[output.index()] = bytes[input.index()];
                }
            }
        }
        Self { graph, bytes }
    }

    /// What a device has to do for `operation`: the arithmetic of a product, the reading and writing of all else.
    pub(super) fn work(&self, operation: &Operation) -> Work {
        if is_view(&operation.name) {
            return Work::default();
        }
        if Graph::is_product(operation) {
            return Work { flops: self.graph.flops(operation), bytes: 0.0, operations: 1.0 };
        }
        let bytes = |arrays: &[ArrayId]| -> f64 {
            arrays.iter().map(|array| self.bytes[array.index()]).sum()
        };
        let made = bytes(&operation.outputs);
        // A look-up reads as much of a table as it makes.
        let read =
            if operation.name.starts_with("Gather") { made } else { bytes(&operation.inputs) };
        Work { flops: 0.0, bytes: made + read, operations: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use mlx_rs::{
        Array, Dtype,
        ops::{indexing::TryIndexOp, matmul, zeros_dtype},
    };

    fn work(output: Array) -> Result<Work> {
        let graph = Graph::of(&[output])?;
        let traffic = Traffic::of(&graph);
        let made_here = graph.operations().iter().filter(|operation| !operation.inputs.is_empty());
        Ok(made_here.map(|operation| traffic.work(operation)).sum())
    }

    #[test]
    fn products_compute_and_all_else_moves_bytes_once_for_each_array() -> Result<()> {
        let zeros = |shape: &[i32]| -> Result<Array> {
            let zeros = zeros_dtype(shape, Dtype::Float32)?;
            crate::ffi::eval([&zeros])?;
            Ok(zeros)
        };
        let (a, b) = (zeros(&[8, 16])?, zeros(&[16, 4])?);
        let product = work(matmul(&a, &b)?)?;
        assert_eq!(product, Work { flops: 1024.0, bytes: 0.0, operations: 1.0 });
        // Two arrays of 512 bytes are read and one is written; the row of 64 bytes is read once.
        assert_eq!(work(a.add(&a)?)?, Work { flops: 0.0, bytes: 1536.0, operations: 1.0 });
        assert_eq!(work(a.add(zeros(&[16])?)?)?.bytes as u64, 512 + 64 + 512);
        // Three of a thousand rows.
        let rows = zeros(&[1000, 16])?.try_index(&Array::from_slice(&[1, 5, 9], &[3]))?;
        assert!(work(rows)?.bytes < 1000.0);
        assert_eq!(work(a.transpose()?.expand_dims(0)?)?, Work::default());
        Ok(())
    }
}
