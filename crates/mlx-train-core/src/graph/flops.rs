//! How much arithmetic an operation takes.

use super::{ArrayInfo, Graph, Operation};

impl Graph {
    /// The floating-point operations of `operation`, one of this graph: a product and its sum are two.
    ///
    /// Matrix products, convolutions and attention are counted in full, anything else as one for each element
    /// that it makes or reads, whichever are more; what only moves or renames elements takes none.
    pub fn flops(&self, operation: &Operation) -> f64 {
        let input = |index: usize| operation.inputs.get(index).map(|&id| self.array(id));
        let made: u64 = operation.outputs.iter().map(|&id| self.array(id).size()).sum();
        let read: u64 = operation.inputs.iter().map(|&id| self.array(id).size()).max().unwrap_or(0);
        match operation.name.as_str() {
            "Matmul" | "AddMM" | "GatherMM" | "BlockMaskedMM" | "QuantizedMatmul" | "QQMatmul"
            | "GatherQMM" => 2.0 * made as f64 * length(input(0), -1),
            "Convolution" => {
                let per_channel = input(1)
                    .map_or(1.0, |weight| weight.size() as f64 / length(Some(weight), 0).max(1.0));
                2.0 * made as f64 * per_channel
            }
            // Scores and their weighted sum; the backward pass makes the scores anew, and four gradients.
            "ScaledDotProductAttention" => attention(input(0), input(1)),
            "ScaledDotProductAttentionVJP" => 2.5 * attention(input(0), input(1)),
            name if is_arithmetic(name) => made.max(read) as f64,
            _ => 0.0,
        }
    }

    /// Whether `operation` is a product of matrices, a convolution or attention.
    pub fn is_product(operation: &Operation) -> bool {
        let products = [
            "Matmul",
            "AddMM",
            "GatherMM",
            "BlockMaskedMM",
            "QuantizedMatmul",
            "QQMatmul",
            "GatherQMM",
            "Convolution",
            "ScaledDotProductAttention",
            "ScaledDotProductAttentionVJP",
        ];
        products.contains(&operation.name.as_str())
    }

    /// The floating-point operations of all operations together.
    pub fn total_flops(&self) -> f64 {
        self.operations().iter().map(|operation| self.flops(operation)).sum()
    }
}

/// Attention of q `(B, H, T, D)` to k `(B, H', S, D)`.
fn attention(q: Option<&ArrayInfo>, k: Option<&ArrayInfo>) -> f64 {
    4.0 * q.map_or(0.0, |q| q.size() as f64) * length(k, -2)
}

/// The length of an axis, which counts from the end if it is negative.
fn length(array: Option<&ArrayInfo>, axis: i32) -> f64 {
    let shape = array.map_or(&[][..], |array| &array.shape);
    let index = if axis < 0 { shape.len() as i32 + axis } else { axis };
    shape.get(index as usize).map_or(1.0, |&length| f64::from(length))
}

/// Whether numbers are computed, and not only moved, renamed or drawn.
fn is_arithmetic(name: &str) -> bool {
    let moves = [
        "Arange",
        "AsStrided",
        "AsType",
        "Broadcast",
        "BroadcastAxes",
        "Concatenate",
        "Contiguous",
        "Copy",
        "CustomTransforms",
        "Depends",
        "DynamicSlice",
        "DynamicSliceUpdate",
        "ExpandDims",
        "Flatten",
        "Full",
        "Gather",
        "GatherAxis",
        "Load",
        "NumberOfElements",
        "Pad",
        "RandomBits",
        "Reshape",
        "Scatter",
        "ScatterAxis",
        "Select",
        "Slice",
        "SliceUpdate",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
    ];
    !moves.contains(&name) && !name.starts_with("View ")
}
