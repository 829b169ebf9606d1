//! What an operation does with memory, by its name: which of MLX's kernels reuse a buffer, and which make one.
//!
//! Source: the `eval_cpu` and `eval_gpu` functions of MLX 0.32.2.

/// How an operation comes by the memory of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Another look at the buffer of its input.
    View(View),
    /// One number from each number of its input, in whose buffer they may be put.
    Unary,
    /// One number from each two.
    Binary,
    /// One number from each two, by a condition.
    Select,
    /// The elements of its first input, with some changed: in its buffer, or in a copy.
    Update,
    /// Elements in the order of the axes, copied unless they are in it already.
    Contiguous,
    /// A softmax over the last axis, which a kernel wants in one piece.
    Softmax,
    /// A product of matrices, which are copied when BLAS cannot read them as they are.
    Product,
    /// The same, added to its third input.
    ProductAndSum,
    /// Something that reads its input in the order of the axes, or a copy that is.
    RowMajor,
    /// A convolution, which on a CPU makes a matrix of all patches.
    Convolution,
    /// Several operations that MLX's compiler has made one of.
    Fused,
    /// New memory for all of its outputs.
    Fresh,
}

/// What a view shows of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// All of it.
    Same,
    /// All of it, with outputs for the last inputs.
    SameOfLast,
    Broadcast,
    Transpose,
    /// With axes of length 1 put in or left out.
    Ones,
    /// Under other axes, or in a copy that has them.
    Reshape,
    /// A part of it.
    Slice,
    /// Elements of another dtype.
    Bits,
}

/// What the operation of this name does.
pub(super) fn rule(name: &str) -> Rule {
    // `Scatter Sum`, `View float32`
    let name = name.split_once(' ').map_or(name, |(first, _)| first);
    match name {
        "Copy" | "StopGradient" | "Depends" => Rule::View(View::Same),
        "CustomTransforms" => Rule::View(View::SameOfLast),
        "Broadcast" | "BroadcastAxes" => Rule::View(View::Broadcast),
        "Transpose" => Rule::View(View::Transpose),
        "ExpandDims" | "Squeeze" => Rule::View(View::Ones),
        "Reshape" | "Flatten" | "Unflatten" => Rule::View(View::Reshape),
        "Slice" | "Split" | "AsStrided" => Rule::View(View::Slice),
        "View" => Rule::View(View::Bits),
        "Abs" | "ArcCos" | "ArcCosh" | "ArcSin" | "ArcSinh" | "ArcTan" | "ArcTanh" | "AsType"
        | "BitwiseInvert" | "Ceil" | "Conjugate" | "Cos" | "Cosh" | "Erf" | "ErfInv" | "Exp"
        | "Expm1" | "Floor" | "Imag" | "Log" | "Log10" | "Log1p" | "Log2" | "LogicalNot"
        | "Negative" | "Real" | "Round" | "Rsqrt" | "Sigmoid" | "Sign" | "Sin" | "Sinh"
        | "Sqrt" | "Square" | "Tan" | "Tanh" => Rule::Unary,
        "Add" | "ArcTan2" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Divide" | "Equal"
        | "Greater" | "GreaterEqual" | "LeftShift" | "Less" | "LessEqual" | "LogAddExp"
        | "LogicalAnd" | "LogicalOr" | "Maximum" | "Minimum" | "Multiply" | "NaNEqual"
        | "NotEqual" | "Power" | "Remainder" | "RightShift" | "Subtract" => Rule::Binary,
        "Select" => Rule::Select,
        "DynamicSliceUpdate" | "MaskedScatter" | "Scatter" | "ScatterAxis" | "SliceUpdate" => {
            Rule::Update
        }
        "Contiguous" => Rule::Contiguous,
        "Softmax" | "RMSNorm" | "LayerNorm" => Rule::Softmax,
        "Matmul" => Rule::Product,
        "AddMM" => Rule::ProductAndSum,
        "CumSum" | "CumProd" | "CumMin" | "CumMax" | "CumLogAddExp" | "LogSumExp"
        | "RMSNormVJP" | "LayerNormVJP" => Rule::RowMajor,
        "Convolution" => Rule::Convolution,
        name if name.starts_with("Compiled") => Rule::Fused,
        _ => Rule::Fresh,
    }
}

/// Whether the operation of this name computes nothing and copies nothing, as far as its name tells.
pub(crate) fn is_view(name: &str) -> bool {
    matches!(rule(name), Rule::View(_))
}
