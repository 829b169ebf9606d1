//! A training step as MLX would compute it, recorded and not computed.

use super::{
    machine::Machine,
    memory::{Memory, Purpose, Subject},
};
use crate::{
    Array, Error, Result,
    batch::Batch,
    ffi::{self, Noted},
    graph::{ArrayId, Graph, Operation},
    model::BaseModel,
    optim::Optimizer,
    train::{StepOptions, TrainStep},
};
use mlx_rs::module::ModuleParameters;
use serde::Serialize;
use std::{collections::HashMap, rc::Rc};

/// The graph of a training step, and what the engine does with it.
#[derive(Debug, Clone)]
pub struct Recording {
    pub(super) graph: Graph,
    /// What is asked for, one list after the other, and whether the program waits for it.
    pub(super) evaluations: Vec<(Vec<ArrayId>, bool)>,
    /// The arrays that exist before the step.
    pub(super) resident: Vec<ArrayId>,
    /// The arrays that the program holds to the end.
    pub(super) held: Vec<ArrayId>,
    pub(super) purposes: Vec<Option<Purpose>>,
    pub(super) sizes: Sizes,
}

/// What a model and its training need whatever the batch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// How many numbers the parameters of the model have.
    pub num_parameters: u64,
    /// How many of them are trained.
    pub num_trained: u64,
    /// The parameters, in bytes.
    pub weights_bytes: u64,
    /// The gradients of those that are trained, in bytes.
    pub gradients_bytes: u64,
    /// What the optimizer keeps, and averaged weights, in bytes.
    pub optimizer_bytes: u64,
}

/// Names of arrays in the graph begin with what they are.
const WEIGHT: &str = "weight";
const STATE: &str = "state";
const BATCH: &str = "batch";
const GRADIENT: &str = "gradient";
const NEW_WEIGHT: &str = "new-weight";
const NEW_STATE: &str = "new-state";

impl Recording {
    /// Records one step of the engine itself, with all that `options` say, on micro-batches like this one.
    ///
    /// Nothing is computed, and the values of the batch do not matter. The model has its parameters back at the
    /// end.
    ///
    /// # Errors
    /// What a step returns that is refused: shapes that do not fit, nothing to train. When a model computes
    /// values while its loss is recorded and fails in it.
    pub fn of_step<M: BaseModel + ?Sized>(
        model: &mut M,
        optimizer: &dyn Optimizer,
        options: &StepOptions,
        micro_batches: &[Batch],
    ) -> Result<Self> {
        let own = Own::of(model);
        let width = output_width(model, micro_batches);
        let recorded = Self::record(model, optimizer, options, micro_batches, width);
        own.restore(model);
        recorded
    }

    fn record<M: BaseModel + ?Sized>(
        model: &mut M,
        optimizer: &dyn Optimizer,
        options: &StepOptions,
        micro_batches: &[Batch],
        output_width: Option<i32>,
    ) -> Result<Self> {
        let ((mut step, before), _) = ffi::without_evaluation(|| {
            let step = TrainStep::new(model, optimizer, 0, options.clone())?;
            let before = step.snapshot()?;
            Ok((step, before))
        })?;
        let trained: Vec<Rc<str>> = step.state().parameter_names().to_vec();
        let (_, noted) = ffi::without_evaluation(|| {
            let batches = micro_batches.iter().cloned().map(Ok);
            step.run(batches, 1e-3)
        })?;
        let after = step.snapshot()?;
        drop(step);

        // Of two names for one array the later counts: what a step leaves as it was exists before it.
        let Noted { evaluations, marked } = noted;
        let mut names = Names::default();
        names.add(NEW_WEIGHT, after.weights.iter().map(|(_, array)| array));
        names.add(NEW_STATE, after.training.iter().map(|(_, array)| array));
        names.add(GRADIENT, marked.iter().map(|(_, array)| array));
        names.add(WEIGHT, before.weights.iter().map(|(_, array)| array));
        names.add(STATE, before.training.iter().map(|(_, array)| array));
        for batch in micro_batches {
            names.add(BATCH, [&batch.x, &batch.y].into_iter().chain(&batch.segments));
        }
        let outputs: Vec<Array> =
            evaluations.iter().flat_map(|evaluation| &evaluation.arrays).cloned().collect();
        let graph = Graph::with_names(&outputs, names.iter())?;

        let weights = before.weights.iter();
        let is_trained = |name: &str| trained.iter().any(|trained| **trained == *name);
        let bytes = |array: &Array| array.nbytes() as u64;
        let mut sizes = Sizes::default();
        for (name, array) in weights {
            sizes.num_parameters += array.size() as u64;
            sizes.weights_bytes += bytes(array);
            sizes.num_trained += if is_trained(name) { array.size() as u64 } else { 0 };
        }
        sizes.optimizer_bytes = before.training.iter().map(|(_, array)| bytes(array)).sum();
        // Each micro-batch has gradients of its own.
        let marked_bytes: u64 = marked.iter().map(|(_, array)| bytes(array)).sum();
        sizes.gradients_bytes = marked_bytes / micro_batches.len().max(1) as u64;
        let lists: Vec<_> = evaluations.iter().map(|it| (it.arrays.len(), it.waits)).collect();
        Self::read(graph, &lists, sizes, output_width)
    }

    /// Finds what arrays are by their names, and by their shapes.
    fn read(
        graph: Graph,
        evaluations: &[(usize, bool)],
        sizes: Sizes,
        output_width: Option<i32>,
    ) -> Result<Self> {
        let (mut resident, mut held) = (Vec::new(), graph.outputs().to_vec());
        let mut purposes = vec![None; graph.arrays().len()];
        for id in graph.ids() {
            let array = graph.array(id);
            let kind = array.name.as_deref().and_then(|name| Some(name.split_once('/')?.0));
            let is_wide = output_width.is_some() && array.shape.last().copied() == output_width;
            let purpose = match kind {
                Some(WEIGHT | NEW_WEIGHT) => Purpose::Weights,
                Some(STATE | NEW_STATE) => Purpose::Optimizer,
                Some(BATCH) => Purpose::Batch,
                Some(GRADIENT) => Purpose::Gradients,
                _ if is_wide => Purpose::Outputs,
                _ => continue,
            };
            purposes[id.index()] = Some(purpose);
            if matches!(kind, Some(WEIGHT | STATE | BATCH)) {
                resident.push(id);
            }
            if kind == Some(BATCH) {
                held.push(id);
            }
        }
        for operation in graph.operations().iter().filter(|operation| operation.name == "AsType") {
            let (Some(from), Some(to)) = (operation.inputs.first(), operation.outputs.first())
            else {
                continue;
            };
            // The copy of a weight that the model computes with is one.
            let is_weight = purposes[from.index()] == Some(Purpose::Weights);
            if is_weight && matches!(purposes[to.index()], None | Some(Purpose::Outputs)) {
                purposes[to.index()] = Some(Purpose::Weights);
            }
        }
        let mut rest = graph.outputs();
        let mut lists = Vec::with_capacity(evaluations.len());
        for &(length, waits) in evaluations {
            let lost = || Error::message("MLX's description of a graph lacks an output");
            let (targets, after) = rest.split_at_checked(length).ok_or_else(lost)?;
            lists.push((targets.to_vec(), waits));
            rest = after;
        }
        Ok(Self { evaluations: lists, resident, held, purposes, sizes, graph })
    }

    /// The most bytes that the first evaluation of a step holds besides gradients and what was there before: of a step
    /// of one micro-batch, what waits for the backward pass, and what that works with.
    pub(crate) fn passing_bytes(&self, machine: &Machine) -> u64 {
        // What only waits for the evaluations after it is no part of it.
        self.passing(machine, self.evaluations.get(..1).unwrap_or_default())[0]
    }

    /// The same of the evaluations after the first: what the update works with.
    pub(crate) fn update_bytes(&self, machine: &Machine) -> u64 {
        self.passing(machine, &self.evaluations)[1]
    }

    fn passing(&self, machine: &Machine, evaluations: &[(Vec<ArrayId>, bool)]) -> [u64; 2] {
        let Self { graph, resident, held, purposes, .. } = self;
        let subject = Subject { graph, resident, held, purposes };
        Memory::new(&subject, machine).evaluate(evaluations).passing
    }

    /// The operations of the step, without those that make what was there before, and whether each belongs to the
    /// update and not to the passes through the model: no gradient needs it.
    pub(crate) fn operations(&self) -> Vec<(&Operation, bool)> {
        let Self { graph, resident, purposes, .. } = self;
        let is_gradient = |id: &ArrayId| purposes[id.index()] == Some(Purpose::Gradients);
        let gradients: Vec<ArrayId> = graph.ids().filter(is_gradient).collect();
        let passes = graph.needed_by(&gradients, resident);
        let all = graph.needed_by(graph.outputs(), resident);
        let kept = graph.operations().iter().zip(passes.into_iter().zip(all));
        kept.filter(|(_, (_, is_needed))| *is_needed)
            .map(|(operation, (passes, _))| (operation, !passes))
            .collect()
    }

    /// The graph of the step.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What the model and its training need whatever the batch is.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }
}

/// The length of the last axis of what the model makes of a batch, if it is a list of numbers for each row.
fn output_width<M: BaseModel + ?Sized>(model: &mut M, micro_batches: &[Batch]) -> Option<i32> {
    let batch = micro_batches.first()?;
    // Layers with a mode of their own would count this batch among those that they were trained on.
    model.training_mode(false);
    // It only tells what the memory is for, so a model without a forward pass of its own goes without.
    let outputs = model.forward(&batch.x).ok()?;
    outputs.shape().last().copied().filter(|&width| width > 1)
}

/// Names for arrays, each with a number of its own.
#[derive(Default)]
struct Names(Vec<(Array, String)>);

impl Names {
    fn add<'a>(&mut self, kind: &str, arrays: impl IntoIterator<Item = &'a Array>) {
        for array in arrays {
            let name = format!("{kind}/{}", self.0.len());
            self.0.push((array.clone(), name));
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&Array, &str)> {
        self.0.iter().map(|(array, name)| (array, name.as_str()))
    }
}

/// The parameters of a model.
struct Own(HashMap<Rc<str>, Array>);

impl Own {
    fn of<M: ModuleParameters + ?Sized>(model: &M) -> Self {
        let parameters = model.parameters().flatten();
        Self(parameters.into_iter().map(|(name, array)| (name, array.clone())).collect())
    }

    fn restore<M: ModuleParameters + ?Sized>(self, model: &mut M) {
        let mut parameters = model.parameters_mut().flatten();
        for (name, array) in self.0 {
            if let Some(parameter) = parameters.get_mut(&name) {
                **parameter = array;
            }
        }
    }
}
