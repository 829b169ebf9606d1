//! Reads MLX's text of a graph.
//!
//! ```text
//! Inputs: A [(2,3), float32], x [(3), int32]
//! Outputs: B [(), bool]
//! Scatter Sum A [(2,3), float32], x [(3), int32] -> B [(), bool]
//! ```

use super::{ArrayId, ArrayInfo, Graph, GraphError, Operation};
use mlx_rs::Dtype;
use std::collections::{HashMap, HashSet};

type Result<T> = std::result::Result<T, GraphError>;

/// Far more than any step has, and no more than memory holds.
const MAX_ARRAYS: usize = 1 << 24;

/// How many axes MLX's kernels can deal with is far below it.
const MAX_AXES: usize = 64;

/// How much of a line an error shows.
const SHOWN_CHARS: usize = 80;

/// Whether a name is found again in the text, and is none of MLX's own.
pub(super) fn is_given_name(name: &str) -> bool {
    let is_part = |c: char| !c.is_whitespace() && !c.is_control() && !"[](),".contains(c);
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(char::is_uppercase)
}

/// Reads the whole text.
pub(super) fn parse(text: &str) -> Result<Graph> {
    let mut reader = Reader::default();
    let mut lines = text.lines().enumerate();
    let mut heading = |heading: &'static str| {
        let (index, line) = lines.next().unwrap_or((0, ""));
        let wrong = wrong(index, line, "there is no list of inputs and outputs");
        Ok((index, line.strip_prefix(heading).ok_or(wrong)?))
    };
    let (index, line) = heading("Inputs: ")?;
    let inputs = reader.arrays(index, line)?;
    let (index, line) = heading("Outputs: ")?;
    let outputs = reader.arrays(index, line)?;
    let mut operations = Vec::new();
    let mut made: HashSet<ArrayId> = inputs.iter().copied().collect();
    for (index, line) in lines {
        let operation = reader.operation(index, line)?;
        if !operation.inputs.iter().all(|input| made.contains(input)) {
            return Err(wrong(index, line, "an array is read before it is made"));
        }
        for &output in &operation.outputs {
            if !made.insert(output) {
                return Err(wrong(index, line, "an array is made twice"));
            }
        }
        operations.push(operation);
    }
    if !outputs.iter().all(|output| made.contains(output)) {
        return Err(wrong(1, "Outputs", "an output is not made"));
    }
    Ok(Graph { arrays: reader.arrays, operations, inputs, outputs })
}

/// The arrays that were seen so far.
#[derive(Default)]
struct Reader<'t> {
    arrays: Vec<ArrayInfo>,
    ids: HashMap<&'t str, ArrayId>,
}

impl<'t> Reader<'t> {
    /// `Scatter Sum A [..], B [..] -> C [..]`
    fn operation(&mut self, index: usize, line: &'t str) -> Result<Operation> {
        let arrow = wrong(index, line, "there is no arrow between inputs and outputs");
        let (left, right) = line.split_once(" -> ").ok_or(arrow)?;
        // The word before the first bracket is the first input; an operation may have several words, and
        // one without inputs has a blank after it.
        let (name, inputs) = match left.find(" [(") {
            None => (left.trim_end(), ""),
            Some(bracket) => match left[..bracket].rfind(' ') {
                Some(blank) => (&left[..blank], &left[blank + 1..]),
                None => return Err(wrong(index, line, "there is no name of an operation")),
            },
        };
        if name.is_empty() {
            return Err(wrong(index, line, "there is no name of an operation"));
        }
        let (inputs, outputs) = (self.arrays(index, inputs)?, self.arrays(index, right)?);
        if outputs.is_empty() {
            return Err(wrong(index, line, "an operation makes nothing"));
        }
        Ok(Operation { name: name.to_owned(), inputs, outputs })
    }

    /// `A [(2,3), float32], B [(), bool]`
    fn arrays(&mut self, index: usize, list: &'t str) -> Result<Vec<ArrayId>> {
        let mut found = Vec::new();
        let mut rest = list.trim_end();
        while !rest.is_empty() {
            let wrong = |reason| wrong(index, rest, reason);
            let (name, after) = rest.split_once(" [(").ok_or_else(|| wrong("there is no shape"))?;
            let (shape, after) =
                after.split_once("), ").ok_or_else(|| wrong("there is no end of a shape"))?;
            let (dtype, after) =
                after.split_once(']').ok_or_else(|| wrong("there is no end of an array"))?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(wrong("the name of an array has a blank"));
            }
            let shape = read_shape(shape).ok_or_else(|| wrong("a shape is no list of lengths"))?;
            let dtype = read_dtype(dtype).ok_or_else(|| wrong("a dtype is not known"))?;
            found.push(self.id(name, shape, dtype).map_err(|reason| match reason {
                Refused::TooMany => GraphError::TooLarge { what: "arrays", limit: MAX_ARRAYS },
                Refused::Differs => wrong("an array has two shapes or dtypes"),
            })?);
            rest = match after.strip_prefix(", ") {
                Some("") => return Err(wrong("there is nothing after a comma")),
                Some(more) => more,
                None if after.is_empty() => after,
                None => return Err(wrong("there is no comma between arrays")),
            };
        }
        Ok(found)
    }

    fn id(
        &mut self,
        name: &'t str,
        shape: Vec<i32>,
        dtype: Dtype,
    ) -> std::result::Result<ArrayId, Refused> {
        if let Some(&id) = self.ids.get(name) {
            let known = &self.arrays[id.index()];
            let is_same = known.shape == shape && known.dtype == dtype;
            return if is_same { Ok(id) } else { Err(Refused::Differs) };
        }
        if self.arrays.len() == MAX_ARRAYS {
            return Err(Refused::TooMany);
        }
        let id = ArrayId(self.arrays.len() as u32);
        let given = is_given_name(name).then(|| name.to_owned());
        self.arrays.push(ArrayInfo { name: given, shape, dtype });
        self.ids.insert(name, id);
        Ok(id)
    }
}

enum Refused {
    TooMany,
    Differs,
}

fn read_shape(text: &str) -> Option<Vec<i32>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let lengths = text.split(',').map(|length| length.parse().ok().filter(|&length| length >= 0));
    let shape: Vec<i32> = lengths.collect::<Option<_>>()?;
    let elements = shape.iter().try_fold(1_u64, |n, &length| n.checked_mul(length as u64))?;
    // So that bytes and sums of them do not overflow.
    (shape.len() <= MAX_AXES && elements < 1 << 48).then_some(shape)
}

fn read_dtype(text: &str) -> Option<Dtype> {
    Some(match text {
        "bool" => Dtype::Bool,
        "uint8" => Dtype::Uint8,
        "uint16" => Dtype::Uint16,
        "uint32" => Dtype::Uint32,
        "uint64" => Dtype::Uint64,
        "int8" => Dtype::Int8,
        "int16" => Dtype::Int16,
        "int32" => Dtype::Int32,
        "int64" => Dtype::Int64,
        "float16" => Dtype::Float16,
        "bfloat16" => Dtype::Bfloat16,
        "float32" => Dtype::Float32,
        "float64" => Dtype::Float64,
        "complex64" => Dtype::Complex64,
        _ => return None,
    })
}

fn wrong(index: usize, text: &str, reason: &'static str) -> GraphError {
    GraphError::Text { line: index + 1, reason, text: text.chars().take(SHOWN_CHARS).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "Inputs: weight/0 [(2,3), float32], A [(3), int32]\n\
        Outputs: C [(), bool], weight/0 [(2,3), float32]\n\
        Arange  -> B [(3), uint32]\n\
        Scatter Sum weight/0 [(2,3), float32], A [(3), int32], B [(3), uint32] -> C [(), bool], D [(0,3), bfloat16]\n";

    #[test]
    fn every_part_of_a_text_is_read() {
        let graph = parse(TEXT).unwrap();
        let names: Vec<&str> = graph.operations().iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["Arange", "Scatter Sum"]);
        let [arange, scatter] = graph.operations() else { panic!("there are two operations") };
        assert_eq!((arange.inputs.len(), arange.outputs.len()), (0, 1));
        assert_eq!((scatter.inputs.len(), scatter.outputs.len()), (3, 2));
        assert_eq!(scatter.inputs[2], arange.outputs[0]);
        let weight = graph.find("weight/0").unwrap();
        assert_eq!((graph.outputs()[1], graph.inputs()[0]), (weight, weight));
        assert_eq!((graph.array(weight).nbytes(), graph.array(weight).shape.len()), (24, 2));
        let empty = graph.array(scatter.outputs[1]);
        assert_eq!((empty.size(), empty.dtype), (0, Dtype::Bfloat16));
        // MLX's own names mean nothing.
        assert_eq!(graph.find("C"), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        let head = "Inputs: A [(2), float32]\nOutputs: B [(2), float32]\n";
        let cases = [
            ("", "line 1: there is no list"),
            ("Inputs: \nfoo", "line 2: there is no list"),
            ("Abs A [(2), float32], B [(2), float32]", "line 3: there is no arrow"),
            ("Abs A [(2), float33] -> B [(2), float32]", "line 3: a dtype is not known"),
            ("Abs A [(2), float32] -> B [(-2), float32]", "line 3: a shape is no list"),
            ("Abs A [(3), float32] -> B [(2), float32]", "line 3: an array has two shapes"),
            ("Abs Z [(2), float32] -> B [(2), float32]", "line 3: an array is read before"),
            ("Abs A [(2), float32] -> A [(2), float32]", "line 3: an array is made twice"),
            ("Abs A [(2), float32] -> ", "line 3: an operation makes nothing"),
            ("A [(2), float32] -> B [(2), float32]", "line 3: there is no name of an operation"),
            ("", "line 2: an output is not made"),
        ];
        for (index, (text, expected)) in cases.into_iter().enumerate() {
            let text = if index < 2 { text.to_owned() } else { format!("{head}{text}") };
            assert!(refused(&text).contains(expected), "{text}: {}", refused(&text));
        }
    }

    #[test]
    fn a_shape_whose_bytes_overflow_is_refused() {
        for shape in ["2147483647,2147483647", "2147483648", "1,,2", " "] {
            let text = format!("Inputs: A [({shape}), float32]\nOutputs: A [({shape}), float32]\n");
            assert!(parse(&text).is_err(), "{shape}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(at in 0..TEXT.len(), len in 0..40_usize, put in "[ A-D(),\\[\\]0-9>-]{0,8}") {
            let mut text = TEXT.to_owned();
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &put);
            if let Ok(graph) = parse(&text) {
                let count = graph.arrays().len();
                for operation in graph.operations() {
                    prop_assert!(operation.inputs.iter().all(|input| input.index() < count));
                    prop_assert!(graph.flops(operation) >= 0.0);
                }
            }
        }
    }
}
