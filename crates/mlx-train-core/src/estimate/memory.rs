//! MLX's evaluation of a graph, simulated: which buffers exist when.
//!
//! A buffer is held by the arrays that show it and by the operations that wait to run. An array is held by the
//! operations that read it and are not handed on yet, and by the program. An operation may go on with the
//! buffer of an array that nothing else holds. Source: `eval_impl` in mlx/transforms.cpp, `eval` of the
//! backends and `is_donatable` of arrays in MLX 0.32.2.

use super::{
    layout::Layout,
    machine::{Backend, Machine},
    order::{Makers, Visit, order},
    queue::Queue,
};
use crate::graph::{ArrayId, ArrayInfo, Graph, Operation};
use std::collections::BTreeSet;

/// How much larger than what it is reused for a buffer may be, in bytes.
const REUSE_SLACK_BYTES: u64 = 16384;

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Weights,
    Gradients,
    Optimizer,
    Batch,
    Outputs,
    Activations,
}

/// Bytes by purpose.
pub(super) type ByPurpose = [u64; Purpose::COUNT];

impl Purpose {
    pub(super) const COUNT: usize = Self::Activations as usize + 1;
}

/// What the simulation is told of a graph.
pub(super) struct Subject<'g> {
    pub(super) graph: &'g Graph,
    /// The arrays that exist before the step.
    pub(super) resident: &'g [ArrayId],
    /// The arrays that the program holds to the end.
    pub(super) held: &'g [ArrayId],
    /// What arrays are for, where it is known.
    pub(super) purposes: &'g [Option<Purpose>],
}

/// A simulated device.
pub(super) struct Memory<'g> {
    graph: &'g Graph,
    machine: &'g Machine,
    makers: Makers,
    is_done: Vec<bool>,
    purposes: &'g [Option<Purpose>],
    /// Where each array is, from the time that it exists.
    places: Vec<Option<Place>>,
    /// How many operations and programs hold each array.
    holders: Vec<u32>,
    buffers: Vec<Buffer>,
    nothing: Layout,
    queue: Queue,
    by_purpose: ByPurpose,
    active: u64,
    /// What there was before the step.
    before: u64,
    /// Whether the first evaluation has ended.
    is_past_first: bool,
    peak: Peak,
}

/// The most that there was at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peak {
    pub(super) bytes: u64,
    pub(super) by_purpose: ByPurpose,
    /// The most that is neither a gradient nor was there before, in the first evaluation and in those after it.
    pub(super) passing: [u64; 2],
}

struct Place {
    layout: Layout,
    buffer: usize,
}

struct Buffer {
    bytes: u64,
    holders: u32,
    purpose: Purpose,
}

impl<'g> Memory<'g> {
    /// The memory before the step.
    pub(super) fn new(subject: &Subject<'g>, machine: &'g Machine) -> Self {
        let graph = subject.graph;
        let num_arrays = graph.arrays().len();
        let mut this = Self {
            graph,
            machine,
            makers: Makers::of(graph),
            is_done: vec![false; graph.operations().len()],
            purposes: subject.purposes,
            places: (0..num_arrays).map(|_| None).collect(),
            holders: vec![0; num_arrays],
            // What an array without a place would have: nothing.
            buffers: vec![Buffer { bytes: 0, holders: 1, purpose: Purpose::Activations }],
            nothing: Layout::row_major(&[]),
            queue: Queue::new(machine.backend),
            by_purpose: ByPurpose::default(),
            active: 0,
            before: 0,
            is_past_first: false,
            peak: Peak::default(),
        };
        for &array in subject.resident {
            if let Some(operation) = this.makers.of_array(array) {
                this.is_done[operation] = true;
            }
            this.exists(array);
        }
        for &array in subject.held {
            this.holders[array.index()] += 1;
        }
        this.before = this.active;
        this.peak.passing = [0; 2];
        this
    }

    /// Computes what a program asks for, one list after the other; `true` waits until it is there.
    pub(super) fn evaluate(mut self, evaluations: &[(Vec<ArrayId>, bool)]) -> Peak {
        let targets: Vec<ArrayId> =
            evaluations.iter().flat_map(|(targets, _)| targets).copied().collect();
        for Visit { operation, .. } in self.order(&targets) {
            let Operation { inputs, outputs, .. } = &self.graph.operations()[operation];
            for input in inputs {
                // Each output of an operation holds its inputs.
                self.holders[input.index()] += outputs.len() as u32;
                if self.makers.of_array(*input).is_none() {
                    self.exists(*input);
                }
            }
        }
        for (targets, waits) in evaluations {
            for visit in self.order(targets) {
                self.is_done[visit.operation] = true;
                self.compute(visit);
            }
            self.queue.commit(false);
            if *waits {
                self.wait_until(self.queue.idle_at());
            }
            self.is_past_first = true;
        }
        self.peak
    }

    fn order(&self, targets: &[ArrayId]) -> Vec<Visit> {
        order(self.graph, &self.makers, &self.is_done, targets, self.machine.max_width)
    }

    /// An array that is there before the step, if it is not known yet.
    fn exists(&mut self, array: ArrayId) {
        if self.places[array.index()].is_none() {
            let layout = Layout::row_major(&self.graph.array(array).shape);
            self.make(array, layout);
        }
    }

    fn compute(&mut self, visit: Visit) {
        let graph = self.graph;
        let operation = &graph.operations()[visit.operation];
        self.wait_until(self.queue.now() + self.machine.seconds_per_operation);
        let work = self.place(operation);
        let seconds = self.seconds(operation, work.kernels);

        // MLX lets go of one output here, that which it has reached the operation by.
        let own = self.buffer(visit.output);
        let arrays = operation.inputs.iter().chain(&operation.outputs);
        let mut held: BTreeSet<usize> = arrays.map(|&array| self.buffer(array)).collect();
        held.remove(&own);
        for &buffer in &held {
            self.buffers[buffer].holders += 1;
        }
        let inputs = operation.inputs.iter().filter(|_| work.kernels > 0);
        let read: Vec<(usize, u64)> =
            inputs.map(|&input| (self.buffer(input), self.layout(input).data_size)).collect();
        let held = held.into_iter().chain(work.temporary).collect();
        let full_until = self.queue.hand_on(held, work.kernels, seconds, &read);
        self.wait_until(full_until);

        for _ in &operation.outputs {
            for &input in &operation.inputs {
                self.holders[input.index()] -= 1;
                self.drop_if_unheld(input);
            }
        }
        for &output in &operation.outputs {
            self.drop_if_unheld(output);
        }
    }

    /// A buffer of its own for an array whose elements lie in the order of the axes.
    pub(super) fn fresh(&mut self, array: ArrayId) {
        self.make(array, Layout::row_major(&self.graph.array(array).shape));
    }

    pub(super) fn all_fresh(&mut self, arrays: &[ArrayId]) {
        for &array in arrays {
            self.fresh(array);
        }
    }

    pub(super) fn make(&mut self, array: ArrayId, layout: Layout) {
        let purpose = self.purposes[array.index()].unwrap_or(Purpose::Activations);
        let buffer =
            self.allocate(layout.data_size * self.graph.array(array).item_bytes(), purpose);
        self.places[array.index()] = Some(Place { layout, buffer });
    }

    pub(super) fn share(&mut self, out: ArrayId, input: ArrayId, layout: Layout) {
        let buffer = self.buffer(input);
        self.buffers[buffer].holders += 1;
        // A view of weights is one, also where it is as wide as the outputs.
        let is_fixed = matches!(
            self.buffers[buffer].purpose,
            Purpose::Weights | Purpose::Optimizer | Purpose::Batch
        );
        if let Some(purpose) = self.purposes[out.index()]
            && !(is_fixed && purpose == Purpose::Outputs)
        {
            let Buffer { bytes, purpose: before, .. } = self.buffers[buffer];
            self.by_purpose[before as usize] -= bytes;
            self.by_purpose[purpose as usize] += bytes;
            self.buffers[buffer].purpose = purpose;
        }
        self.places[out.index()] = Some(Place { layout, buffer });
    }

    pub(super) fn copies(&mut self, arrays: &[ArrayId]) -> Vec<usize> {
        arrays.iter().map(|&array| self.temporary(self.info(array).nbytes())).collect()
    }

    pub(super) fn temporary(&mut self, bytes: u64) -> usize {
        self.allocate(bytes, Purpose::Activations)
    }

    /// A new buffer with one holder.
    fn allocate(&mut self, bytes: u64, purpose: Purpose) -> usize {
        let bytes = self.machine.allocated(bytes);
        self.active += bytes;
        self.by_purpose[purpose as usize] += bytes;
        if self.active > self.peak.bytes {
            self.peak.bytes = self.active;
            self.peak.by_purpose = self.by_purpose;
        }
        let lasting = self.before + self.by_purpose[Purpose::Gradients as usize];
        let passing = &mut self.peak.passing[usize::from(self.is_past_first)];
        *passing = (*passing).max(self.active.saturating_sub(lasting));
        self.buffers.push(Buffer { bytes, holders: 1, purpose });
        self.buffers.len() - 1
    }

    fn release(&mut self, buffer: usize) {
        let Buffer { bytes, holders, purpose } = &mut self.buffers[buffer];
        *holders -= 1;
        if *holders == 0 {
            self.active -= *bytes;
            self.by_purpose[*purpose as usize] -= *bytes;
        }
    }

    fn drop_if_unheld(&mut self, array: ArrayId) {
        if self.holders[array.index()] == 0
            && let Some(place) = self.places[array.index()].take()
        {
            self.release(place.buffer);
        }
    }

    /// Whether nothing else holds the array or its buffer.
    pub(super) fn is_free(&self, array: ArrayId) -> bool {
        self.holders[array.index()] == 1 && self.buffers[self.buffer(array)].holders == 1
    }

    pub(super) fn is_reusable(&self, input: ArrayId, out: ArrayId) -> bool {
        let (from, to) = (self.info(input), self.info(out));
        self.is_free(input) && from.item_bytes() == to.item_bytes() && self.is_filled_by(input, out)
    }

    /// Whether `out` fills the buffer of `input`, or nearly.
    pub(super) fn is_filled_by(&self, input: ArrayId, out: ArrayId) -> bool {
        self.buffers[self.buffer(input)].bytes <= self.info(out).nbytes() + REUSE_SLACK_BYTES
    }

    /// Whether an array has a place yet.
    pub(super) fn is_placed(&self, array: ArrayId) -> bool {
        self.places[array.index()].is_some()
    }

    /// The kind of the simulated device.
    pub(super) fn backend(&self) -> Backend {
        self.machine.backend
    }

    pub(super) fn layout(&self, array: ArrayId) -> &Layout {
        self.places[array.index()].as_ref().map_or(&self.nothing, |place| &place.layout)
    }

    fn buffer(&self, array: ArrayId) -> usize {
        self.places[array.index()].as_ref().map_or(0, |place| place.buffer)
    }

    pub(super) fn info(&self, array: ArrayId) -> &'g ArrayInfo {
        self.graph.array(array)
    }

    fn seconds(&self, operation: &Operation, kernels: usize) -> f64 {
        if kernels == 0 {
            return 0.0;
        }
        let arrays = operation.inputs.iter().chain(&operation.outputs);
        let bytes: u64 = arrays.map(|&array| self.bytes(array)).sum();
        let arithmetic = self.graph.flops(operation) / self.machine.flops_per_second;
        arithmetic.max(bytes as f64 / self.machine.bytes_per_second)
    }

    /// How many bytes of its buffer an array spans.
    fn bytes(&self, array: ArrayId) -> u64 {
        let place = self.places[array.index()].as_ref();
        place.map_or(0, |place| place.layout.data_size * self.info(array).item_bytes())
    }

    /// Lets time go on, and what has run by then go.
    fn wait_until(&mut self, time: f64) {
        for buffer in self.queue.wait_until(time) {
            self.release(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Result};
    use mlx_rs::{
        Dtype,
        ops::{matmul, zeros_dtype},
    };

    use std::slice;

    const MIB: u64 = 1 << 20;

    /// A CPU whose thread of operations is never waited for, or always.
    fn machine(is_device_slow: bool) -> Machine {
        let (seconds_per_operation, per_second) =
            if is_device_slow { (1e-9, 1.0) } else { (1.0, 1e18) };
        Machine {
            backend: Backend::Cpu,
            seconds_per_operation,
            flops_per_second: per_second,
            bytes_per_second: per_second,
            max_width: 20,
            limit: None,
        }
    }

    /// The most that is held while `outputs` are computed from arrays that exist and are held.
    fn peak(outputs: &[Array], resident: &[&Array], machine: &Machine) -> Result<u64> {
        let names: Vec<String> = (0..resident.len()).map(|index| format!("x{index}")).collect();
        let names = resident.iter().zip(&names).map(|(array, name)| (*array, name.as_str()));
        let graph = Graph::with_names(outputs, names)?;
        let resident: Vec<ArrayId> =
            graph.ids().filter(|&id| graph.array(id).name.is_some()).collect();
        let held = [&resident, graph.outputs()].concat();
        let purposes = vec![None; graph.arrays().len()];
        let subject =
            Subject { graph: &graph, resident: &resident, held: &held, purposes: &purposes };
        let outputs = graph.outputs().to_vec();
        Ok(Memory::new(&subject, machine).evaluate(&[(outputs, true)]).bytes)
    }

    /// An array of one MiB.
    fn mib() -> Result<Array> {
        Ok(zeros_dtype(&[512, 512], Dtype::Float32)?)
    }

    #[test]
    fn a_chain_of_functions_goes_on_in_one_buffer() -> Result<()> {
        let x = mib()?;
        let chain = x.exp()?.negative()?.abs()?;
        assert_eq!(peak(&[chain], &[&x], &machine(true))?, 2 * MIB);
        Ok(())
    }

    #[test]
    fn what_is_read_again_later_is_not_reused() -> Result<()> {
        let x = mib()?;
        let y = x.exp()?;
        let sum = y.negative()?.add(&y)?;
        assert_eq!(peak(&[sum], &[&x], &machine(true))?, 3 * MIB);
        Ok(())
    }

    #[test]
    fn a_view_is_no_copy_and_what_blas_cannot_read_is() -> Result<()> {
        let (x, w) = (zeros_dtype(&[4, 64, 8, 128], Dtype::Float32)?, mib()?);
        let heads = x.transpose_axes(&[0, 2, 1, 3])?;
        assert_eq!(peak(slice::from_ref(&heads), &[&x], &machine(true))?, MIB);
        // (4, 8, 64, 128) in another order than its axes, as rows of a matrix.
        let rows = heads.reshape(&[512, 512])?;
        assert_eq!(peak(&[rows], &[&x], &machine(true))?, 2 * MIB);
        // The rows of a head lie apart, so each product has a copy of its own until it has run.
        let scores = matmul(&heads, heads.transpose_axes(&[0, 1, 3, 2])?)?; // (4, 8, 64, 64)
        assert_eq!(peak(&[scores], &[&x], &machine(true))?, 3 * MIB + MIB / 2);
        let transposed = matmul(&w, w.transpose_axes(&[1, 0])?)?;
        assert_eq!(peak(&[transposed], &[&w], &machine(true))?, 2 * MIB);
        Ok(())
    }

    #[test]
    fn a_device_that_is_behind_holds_more_and_not_without_end() -> Result<()> {
        let w = mib()?;
        let chain = |length: usize| (0..length).try_fold(w.clone(), |x, _| matmul(&x, &w));
        let peak = |length, is_slow| peak(&[chain(length)?], &[&w], &machine(is_slow));
        assert_eq!(peak(200, false)?, 3 * MIB);
        let behind = peak(200, true)?;
        assert!(behind > 40 * MIB && behind < 80 * MIB, "{behind}");
        assert_eq!(peak(400, true)?, behind);
        Ok(())
    }
}
