//! What a computation consists of, before it is computed: its operations with the shapes and dtypes of their
//! arrays, in an order in which they can be computed.
//!
//! MLX records every operation and computes nothing until it is asked for a value, so the graph of a whole
//! training step of a model that fits no memory is at hand. It is read from MLX's own description
//! ([`ffi::graph_text`]), which tells operations, shapes and dtypes, but neither axes nor strides.

mod error;
mod flops;
mod parse;

pub use error::GraphError;

use crate::{Result, ffi};
use mlx_rs::{Array, Dtype};

/// The operations behind some arrays.
///
/// ```
/// use mlx_train_core::{Array, graph::Graph};
/// let a = Array::ones::<f32>(&[2, 3])?;
/// let b = Array::ones::<f32>(&[3, 4])?;
/// let graph = Graph::of(&[mlx_rs::ops::matmul(&a, &b)?])?;
/// let product = graph.operations().last().expect("there is one");
/// assert_eq!(product.name, "Matmul");
/// assert_eq!(graph.array(product.outputs[0]).shape, [2, 4]);
/// assert_eq!(graph.flops(product), 2.0 * 2.0 * 3.0 * 4.0);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    arrays: Vec<ArrayInfo>,
    operations: Vec<Operation>,
    inputs: Vec<ArrayId>,
    outputs: Vec<ArrayId>,
}

/// Which array of a [`Graph`]; it counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayId(u32);

/// What is known of an array of a [`Graph`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayInfo {
    /// The name that it was given for [`Graph::with_names`], if it was.
    pub name: Option<String>,
    /// Its axes.
    pub shape: Vec<i32>,
    /// The type of its elements.
    pub dtype: Dtype,
}

/// One operation of a [`Graph`], such as `Matmul`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What MLX calls it; operations that its compiler has fused have a long name that begins with `Compiled`.
    pub name: String,
    /// What it reads, in MLX's order; one array may be there twice.
    pub inputs: Vec<ArrayId>,
    /// What it makes; most make one array.
    pub outputs: Vec<ArrayId>,
}

impl Graph {
    /// Reads the graph behind `outputs`; computes nothing.
    ///
    /// # Errors
    /// [`GraphError`] when MLX describes it in a way that is not known; when MLX fails.
    pub fn of(outputs: &[Array]) -> Result<Self> {
        Self::with_names(outputs, [])
    }

    /// Reads the graph behind `outputs`, in which some arrays get names to find them by.
    ///
    /// A name consists of any characters but blanks, brackets and commas, begins with no capital letter, which
    /// MLX's own names do, and is given to one array.
    ///
    /// # Errors
    /// As [`Graph::of`], and [`GraphError::Name`] for a name that would not be found again.
    pub fn with_names<'a>(
        outputs: &[Array],
        names: impl IntoIterator<Item = (&'a Array, &'a str)>,
    ) -> Result<Self> {
        let names: Vec<_> = names.into_iter().collect();
        if let Some((_, name)) = names.iter().find(|(_, name)| !parse::is_given_name(name)) {
            return Err(GraphError::Name { name: (*name).to_owned() }.into());
        }
        Ok(parse::parse(&ffi::graph_text(outputs, names)?)?)
    }

    /// The operations, each after those whose outputs it reads.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// An array of this graph.
    ///
    /// # Panics
    /// When `id` is of another graph that has more arrays.
    pub fn array(&self, id: ArrayId) -> &ArrayInfo {
        &self.arrays[id.index()]
    }

    /// Which arrays there are.
    pub fn ids(&self) -> impl Iterator<Item = ArrayId> + use<> {
        (0..self.arrays.len() as u32).map(ArrayId)
    }

    /// Every array, by its [`ArrayId::index`].
    pub fn arrays(&self) -> &[ArrayInfo] {
        &self.arrays
    }

    /// The arrays that no operation of this graph makes: they have values, or a trace puts them there.
    pub fn inputs(&self) -> &[ArrayId] {
        &self.inputs
    }

    /// The arrays that the graph was asked for.
    pub fn outputs(&self) -> &[ArrayId] {
        &self.outputs
    }

    /// Which of the operations `targets` need, when the arrays `there` have values.
    pub(crate) fn needed_by(&self, targets: &[ArrayId], there: &[ArrayId]) -> Vec<bool> {
        let mut is_there = vec![false; self.arrays.len()];
        for array in there {
            is_there[array.index()] = true;
        }
        let mut is_needed = vec![false; self.arrays.len()];
        for target in targets {
            is_needed[target.index()] = true;
        }
        let mut operations = vec![false; self.operations.len()];
        for (index, operation) in self.operations.iter().enumerate().rev() {
            let makes = |made: &ArrayId| is_needed[made.index()] && !is_there[made.index()];
            operations[index] = operation.outputs.iter().any(makes);
            if operations[index] {
                for input in &operation.inputs {
                    is_needed[input.index()] = true;
                }
            }
        }
        operations
    }

    /// The array of this name.
    pub fn find(&self, name: &str) -> Option<ArrayId> {
        let index = self.arrays.iter().position(|array| array.name.as_deref() == Some(name))?;
        Some(ArrayId(index as u32))
    }
}

impl ArrayId {
    /// Its position in [`Graph::arrays`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ArrayInfo {
    /// How many elements it has.
    pub fn size(&self) -> u64 {
        self.shape.iter().map(|&length| u64::from(length.unsigned_abs())).product()
    }

    /// How many bytes its elements take together.
    pub fn nbytes(&self) -> u64 {
        self.size() * self.item_bytes()
    }

    /// How many bytes one element takes.
    pub fn item_bytes(&self) -> u64 {
        match self.dtype {
            Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
            Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
            Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::ops::{matmul, zeros_dtype};
    use std::slice;

    #[test]
    fn a_graph_has_the_operations_and_names_of_its_arrays_and_nothing_is_computed() -> Result<()> {
        // A terabyte: computing it would fail.
        let x = zeros_dtype(&[1 << 18, 1 << 20], Dtype::Float32)?;
        let sum = x.add(&x)?.sum(false)?;
        let graph = Graph::with_names(&[sum], [(&x, "x")])?;
        let id = graph.find("x").expect("it was named");
        assert_eq!(graph.array(id).nbytes(), 1 << 40);
        let add = graph.operations().iter().find(|operation| operation.name == "Add");
        assert_eq!(add.expect("it was recorded").inputs, [id, id]);
        Ok(())
    }

    #[test]
    fn a_graph_deeper_than_a_stack_is_read() -> Result<()> {
        let mut x = Array::from_f32(1.0);
        for _ in 0..20_000 {
            x = x.negative()?;
        }
        assert_eq!(Graph::of(&[x])?.operations().len(), 20_000);
        Ok(())
    }

    #[test]
    fn products_convolutions_and_attention_are_counted_in_full() -> Result<()> {
        let zeros = |shape: &[i32]| zeros_dtype(shape, Dtype::Float32);
        let flops = |array: Array| Ok::<_, crate::Error>(Graph::of(&[array])?.total_flops() as u64);
        let batched = matmul(zeros(&[5, 2, 3])?, zeros(&[5, 3, 4])?)?;
        assert_eq!(flops(batched)?, 5 * 2 * (2 * 3 * 4));
        let image = mlx_rs::ops::conv2d(
            zeros(&[1, 8, 8, 3])?,
            zeros(&[6, 3, 3, 3])?,
            None,
            None,
            None,
            None,
        )?;
        assert_eq!(flops(image)?, 6 * 6 * 6 * 2 * 27);
        assert_eq!(flops(zeros(&[7, 2])?.exp()?)?, 14);
        assert_eq!(flops(zeros(&[7, 2])?.sum(false)?)?, 14);
        assert_eq!(flops(zeros(&[7, 2])?.reshape(&[14])?)?, 0);
        Ok(())
    }

    #[test]
    fn a_name_that_would_not_be_found_is_refused() {
        let x = Array::from_f32(1.0);
        for name in ["", "two words", "A", "a,b", "a[0]", "a\0"] {
            let refused = Graph::with_names(slice::from_ref(&x), [(&x, name)]);
            assert!(
                matches!(refused, Err(crate::Error::Graph(GraphError::Name { .. }))),
                "{name:?}"
            );
        }
    }
}
