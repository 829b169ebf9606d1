//! Where the outputs of an operation are put: in the buffers of its inputs, or in new ones.

use super::{
    layout::Layout,
    machine::Backend,
    memory::Memory,
    rule::{Rule, View, rule},
};
use crate::graph::{ArrayId, Operation};

/// What handing an operation on takes.
pub(super) struct Work {
    /// Buffers that it needs until it has run, besides inputs and outputs.
    pub(super) temporary: Vec<usize>,
    pub(super) kernels: usize,
}

impl Memory<'_> {
    /// Gives the outputs of an operation their places.
    pub(super) fn place(&mut self, operation: &Operation) -> Work {
        let (inputs, outputs) = (&operation.inputs, &operation.outputs);
        let (Some(&out), Some(&first)) = (outputs.first(), inputs.first()) else {
            self.all_fresh(outputs);
            return Work::kernels(1);
        };
        match rule(&operation.name) {
            Rule::View(view) => return self.view(view, operation),
            Rule::Unary => self.unary(first, out),
            Rule::Binary if inputs.len() == 2 => self.binary(first, inputs[1], out),
            Rule::Select if inputs.len() == 3 => self.select([first, inputs[1], inputs[2]], out),
            Rule::Update => {
                let is_copied = self.update(first, out);
                return Work::kernels(1 + usize::from(is_copied));
            }
            Rule::Contiguous => {
                if self.is_filled_by(first, out) && self.layout(first).row_contiguous {
                    self.share(out, first, self.layout(first).clone());
                    return Work::kernels(0);
                }
                self.fresh(out);
            }
            Rule::Softmax => self.softmax(first, out),
            Rule::Product | Rule::ProductAndSum if inputs.len() >= 2 => {
                return self.product(operation);
            }
            Rule::RowMajor => {
                let copies = inputs.iter().filter(|&&input| {
                    !self.layout(input).row_contiguous && self.info(input).size() > 1
                });
                let copies: Vec<ArrayId> = copies.copied().collect();
                let temporary = self.copies(&copies);
                self.all_fresh(outputs);
                return Work { kernels: 1 + temporary.len(), temporary };
            }
            Rule::Convolution if inputs.len() == 2 => {
                self.fresh(out);
                return self.convolution(first, inputs[1], out);
            }
            Rule::Fused => self.fused(operation),
            _ => self.all_fresh(outputs),
        }
        Work::kernels(1)
    }

    fn view(&mut self, view: View, operation: &Operation) -> Work {
        let (inputs, outputs) = (&operation.inputs, &operation.outputs);
        let skipped =
            if view == View::SameOfLast { inputs.len().saturating_sub(outputs.len()) } else { 0 };
        let mut kernels = 0;
        for (index, &out) in outputs.iter().enumerate() {
            let Some(&input) = inputs.get(skipped + index).or(inputs.first()) else { continue };
            let (from, to) = (&self.info(input).shape, &self.info(out).shape);
            let layout = self.layout(input);
            let layout = match view {
                View::Same | View::SameOfLast => Some(layout.clone()),
                View::Broadcast => Some(layout.broadcast(from, to)),
                View::Transpose => Some(layout.transpose(from, to)),
                View::Ones => Some(layout.with_other_ones(from, to)),
                View::Reshape => layout.reshape(from, to),
                View::Slice if from.len() == to.len() => Some(layout.slice(to)),
                View::Slice => {
                    Some(Layout { data_size: layout.data_size, ..Layout::row_major(to) })
                }
                View::Bits => layout.row_contiguous.then(|| Layout::row_major(to)),
            };
            if let Some(layout) = layout {
                self.share(out, input, layout);
            } else {
                self.fresh(out);
                kernels = 1;
            }
        }
        Work::kernels(kernels)
    }

    fn unary(&mut self, input: ArrayId, out: ArrayId) {
        if !self.layout(input).contiguous {
            self.fresh(out);
        } else if self.is_reusable(input, out) {
            self.share(out, input, self.layout(input).clone());
        } else {
            self.make(out, self.layout(input).clone());
        }
    }

    fn binary(&mut self, a: ArrayId, b: ArrayId, out: ArrayId) {
        let (in_a, in_b) = (self.layout(a), self.layout(b));
        let is_one = |layout: &Layout| layout.data_size == 1;
        let in_step = (in_a.row_contiguous && in_b.row_contiguous)
            || (in_a.col_contiguous && in_b.col_contiguous);
        let candidates = match (is_one(in_a), is_one(in_b)) {
            (true, true) => return self.make(out, in_a.clone()),
            (true, false) if in_b.contiguous => vec![b],
            (false, true) if in_a.contiguous => vec![a],
            _ if in_step => vec![a, b],
            _ => {
                let is_whole = |array: &ArrayId| {
                    self.layout(*array).row_contiguous
                        && self.info(*array).size() == self.info(out).size()
                };
                let whole: Vec<ArrayId> = [a, b].into_iter().filter(is_whole).collect();
                return self.reuse_or(&whole, out, Layout::row_major(&self.info(out).shape));
            }
        };
        let layout = self.layout(candidates[0]).clone();
        self.reuse_or(&candidates, out, layout);
    }

    fn select(&mut self, inputs: [ArrayId; 3], out: ArrayId) {
        let layouts = inputs.map(|input| self.layout(input));
        let whole = Layout::row_major(&self.info(out).shape);
        if layouts.iter().all(|layout| layout.data_size == 1) {
            self.make(out, layouts[1].clone());
        } else if layouts.iter().all(|layout| layout.row_contiguous)
            || layouts.iter().all(|layout| layout.col_contiguous)
        {
            self.reuse_or(&inputs, out, layouts[1].clone());
        } else {
            let rows = inputs.into_iter().filter(|&input| self.layout(input).row_contiguous);
            let rows: Vec<ArrayId> = rows.collect();
            self.reuse_or(&rows, out, whole);
        }
    }

    /// Puts an output where the first of these inputs is that may be reused, or in a new buffer.
    fn reuse_or(&mut self, inputs: &[ArrayId], out: ArrayId, layout: Layout) {
        match inputs.iter().find(|&&input| self.is_reusable(input, out)) {
            Some(&input) => self.share(out, input, self.layout(input).clone()),
            None => self.make(out, layout),
        }
    }

    /// Puts an output where its input is, or copies that; whether it has been copied.
    fn update(&mut self, input: ArrayId, out: ArrayId) -> bool {
        let layout = self.layout(input);
        let is_whole = layout.contiguous && layout.data_size == self.info(input).size();
        if is_whole && self.is_reusable(input, out) {
            self.share(out, input, layout.clone());
            return false;
        }
        if is_whole {
            self.make(out, layout.clone());
        } else {
            self.fresh(out);
        }
        true
    }

    fn softmax(&mut self, input: ArrayId, out: ArrayId) {
        let layout = self.layout(input);
        if !layout.contiguous || layout.stride_from_end(0) != Some(1) {
            self.fresh(out);
        } else if self.is_free(input) {
            self.share(out, input, layout.clone());
        } else {
            self.make(out, layout.clone());
        }
    }

    fn product(&mut self, operation: &Operation) -> Work {
        let (inputs, out) = (&operation.inputs, operation.outputs[0]);
        let is_copied = match inputs.get(2).filter(|_| operation.name == "AddMM") {
            Some(&sum) => self.layout(sum).row_contiguous && self.update(sum, out),
            None => false,
        };
        if !self.is_placed(out) {
            self.fresh(out);
        }
        let copies = inputs.iter().take(2).copied();
        let copies = copies.filter(|&input| !self.layout(input).is_matrix(&self.info(input).shape));
        let copies: Vec<ArrayId> = copies.collect();
        let temporary = self.copies(&copies);
        Work { kernels: 1 + usize::from(is_copied) + temporary.len(), temporary }
    }

    /// A padded input, all its patches, and with fewer bits than f32 the weights and the output as f32.
    fn convolution(&mut self, input: ArrayId, weight: ArrayId, out: ArrayId) -> Work {
        const F32_BYTES: u64 = 4;
        if self.backend() != Backend::Cpu {
            return Work::kernels(1);
        }
        let (input, weight, output) = (self.info(input), self.info(weight), self.info(out));
        let filters = weight.shape.first().map_or(1, |&length| length.max(1) as u64);
        let rows = output.size() / output.shape.last().map_or(1, |&length| length.max(1) as u64);
        let mut bytes =
            vec![input.size() * F32_BYTES, rows * (weight.size() / filters) * F32_BYTES];
        if weight.item_bytes() != F32_BYTES {
            bytes.extend([weight.size() * F32_BYTES, output.size() * F32_BYTES]);
        }
        let temporary: Vec<usize> = bytes.into_iter().map(|bytes| self.temporary(bytes)).collect();
        Work { kernels: 2 + temporary.len(), temporary }
    }

    /// Outputs take the places of inputs one by one.
    fn fused(&mut self, operation: &Operation) {
        let (inputs, outputs) = (&operation.inputs, &operation.outputs);
        let size = self.info(outputs[0]).size();
        let large = || inputs.iter().copied().filter(|&input| self.info(input).size() > 1);
        let in_step = |of: fn(&Layout) -> bool| {
            large().all(|input| of(self.layout(input)) && self.info(input).size() == size)
        };
        let is_contiguous =
            in_step(|layout| layout.row_contiguous) || in_step(|layout| layout.col_contiguous);
        let mut open = outputs.iter().copied().peekable();
        let candidates: Vec<ArrayId> = large().collect();
        let layout =
            candidates.first().filter(|_| is_contiguous).map(|&input| self.layout(input).clone());
        for input in candidates {
            let Some(&out) = open.peek() else { break };
            let is_row = is_contiguous || self.layout(input).row_contiguous;
            let (from, to) = (self.info(input), self.info(out));
            if is_row
                && from.size() == to.size()
                && from.item_bytes() == to.item_bytes()
                && self.is_free(input)
            {
                self.share(out, input, self.layout(input).clone());
                open.next();
            }
        }
        for out in open {
            match &layout {
                Some(layout) => self.make(out, layout.clone()),
                None => self.fresh(out),
            }
        }
    }
}

impl Work {
    fn kernels(kernels: usize) -> Self {
        Self { temporary: Vec::new(), kernels }
    }
}
