//! What a step of a real model costs, from its recorded graph.
//!
//! A few blocks are recorded in the place of all: the difference of two models that differ in their number of blocks
//! is what blocks cost, and that of two batches what rows cost. Arithmetic and traffic are those of all blocks to the
//! last operation, since blocks are alike and MLX's graph has one part for each; memory is the simulated peak of the
//! backward pass, which grows by the same for each further block but for what its queue holds.

use super::{
    cluster::Number,
    error::PlanError,
    forward::{Forward, Known, Share},
    names::{Names, num_trained},
    plain::Plain,
    traffic::Traffic,
    work::Work,
    workload::{BlockCost, OutsideCost, Place, TensorSplit, Workload},
};
use crate::{
    Array, Result,
    checkpoint::{CheckpointPolicy, parts_in},
    distributed::{Splits, pipeline::survey},
    estimate::{Machine, Recording, Rows},
    graph::Graph,
    model::{BaseModel, splits},
    nn::shortened,
    optim::Optimizer,
    rng,
    train::{Communication, CompileMode, Precision, STARTED_TOGETHER, StepOptions, TrainConfig},
};
use mlx_rs::module::ModuleParameters;
use std::collections::{BTreeMap, HashMap};

/// Micro-batches of about so many tokens and twice as many tell what a row costs. With fewer, MLX is less ahead of the
/// device, and holds less; with more, the chunks of a loss make long graphs.
const TOKENS: usize = 4096;

/// Rows of few or no tokens are so many.
const ROWS: usize = 8;

/// Micro-batches of more tokens or rows are not recorded: their loss is in more chunks, and costs as much for each row.
const MAX_TOKENS: usize = 16_384;
const MAX_ROWS: usize = 64;

/// Among more ranks layers are not divided.
const MAX_TENSOR: usize = 64;

impl Workload {
    /// What a step of the model that `build` makes costs, with the settings of `config`, which says how many rows a
    /// step has: `batch_size * accumulation`.
    ///
    /// `build` is called a few times, for the whole model and for two of a few blocks; `rows` says what a row of the
    /// whole one is like. Nothing is computed. Blocks that differ in their
    /// parameters, and stacks of which there is more than one, make the whole model count as one block.
    ///
    /// # Errors
    /// [`PlanError::NoRows`]; what a step returns that is refused, such as rows that do not fit the model.
    pub fn of(
        name: &str,
        build: impl Fn() -> Result<Box<dyn BaseModel>>,
        rows: impl FnOnce(&mut dyn BaseModel) -> Result<Rows>,
        config: &TrainConfig,
    ) -> Result<Self> {
        let num_rows = config.batch_size.saturating_mul(config.accumulation);
        if num_rows == 0 {
            return Err(PlanError::NoRows { model: name.to_owned() }.into());
        }
        let optimizer = config.optimizer.build(&config.groups)?;
        let (whole, stacks) = shortened(usize::MAX, &build);
        let mut whole = whole?;
        let rows = &rows(whole.as_mut())?;
        let names = Names::of(whole.as_mut(), &stacks, &*optimizer);
        // Fused operations would say less of what they move, and tracing takes longer than planning.
        let options = StepOptions { compile: CompileMode::Off, ..config.step_options()? };
        let options = StepOptions { gradient_checkpointing: CheckpointPolicy::None, ..options };
        let tokens = rows.batch(1)?.x.size();
        let mut recorder = Recorder {
            names,
            rows,
            machine: Machine::here()?,
            optimizer,
            plain: Plain::options(&options),
            options,
            tokens_per_row: if whole.as_language_model().is_some() { tokens.max(1) } else { 1 },
            low: None,
            high: Depth { num_blocks: 1, model: whole },
        };
        if let Some([few, more]) = recorder.names.depths() {
            let depth = |num_blocks| {
                let model = shortened(num_blocks, &build).0?;
                Ok::<_, crate::Error>(Depth { num_blocks, model })
            };
            recorder.low = Some(depth(few)?);
            recorder.high = depth(more)?;
        }
        recorder.workload(name, num_rows)
    }
}

/// A model with so many blocks; a whole model is one.
struct Depth {
    num_blocks: usize,
    model: Box<dyn BaseModel>,
}

/// Records steps of two models that differ in the number of their blocks, or of one model that counts as a block.
struct Recorder<'r> {
    names: Names,
    rows: &'r Rows,
    machine: Machine,
    optimizer: Box<dyn Optimizer>,
    options: StepOptions,
    /// Of steps of which only the passes through the model count.
    plain: StepOptions,
    tokens_per_row: usize,
    low: Option<Depth>,
    high: Depth,
}

/// What a block costs, and what a step works with besides in the larger of the recorded micro-batches, in bytes.
struct Found {
    cost: BlockCost,
    working: f64,
}

/// What one recorded step costs.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// The passes through the model.
    passes: Work,
    /// What is done with gradients.
    update: Work,
    /// What waits for the backward pass, and what that works with.
    passing_bytes: f64,
}

/// Steps at both depths.
#[derive(Debug, Clone, Copy)]
struct Pair {
    low: Sample,
    high: Sample,
    /// How many blocks one has more.
    between: f64,
}

impl Recorder<'_> {
    fn workload(mut self, name: &str, num_rows: usize) -> Result<Workload> {
        let (divided, boundary_bytes) = self.divided()?;
        let Divided { tensor, before, places, axes } = divided;
        let none = self.block_cost(CheckpointPolicy::None, None, boundary_bytes)?;
        let mut policies = vec![none.cost.clone()];
        for policy in self.policies()? {
            // A model without a stack has no blocks to name.
            if let Ok(found) = self.block_cost(policy, Some(&none), boundary_bytes) {
                policies.push(found.cost);
            }
        }
        let outside = self.outside(num_rows, &none.cost)?;
        let recording = self.high.record(self.rows, 1, &*self.optimizer, &self.options)?;
        let (whole, sizes) = (Sample::of(&recording, &self.machine), recording.sizes());
        let numbers = sizes.num_trained.max(1) as f64;
        let arrays = num_trained(self.high.model.as_ref(), &*self.optimizer).max(1) as f64;
        let operations = whole.update.operations / arrays;
        let (largest, item_bytes) = largest(self.high.model.as_ref());
        let updated_together = STARTED_TOGETHER as f64 / item_bytes;
        let together = largest.max(updated_together.min(numbers));
        let batch = self.rows.batch(1)?;
        Ok(Workload {
            model: name.to_owned(),
            rows: num_rows,
            tokens_per_row: self.tokens_per_row,
            number: self.number(),
            num_blocks: self.names.num_blocks(),
            parameters: self.names.parameters(&places, |name| axes.axis(name)),
            optimizer_bytes: sizes.optimizer_bytes as f64 / numbers,
            gradient_bytes: sizes.gradients_bytes as f64 / numbers,
            travelling_bytes: match self.options.communication {
                Communication::F32 => 4.0,
                Communication::Bf16 => 2.0,
            },
            update: Work { operations, ..whole.update * numbers.recip() },
            update_bytes: recording.update_bytes(&self.machine) as f64 / together,
            updated_together,
            boundary_bytes,
            batch_bytes: batch.arrays().map(|array| array.nbytes() as f64).sum(),
            policies,
            before,
            outside,
            tensor,
            whole_matrices: self.names.whole_matrices(),
        })
    }

    /// The policies besides none that the model may follow.
    fn policies(&mut self) -> Result<Vec<CheckpointPolicy>> {
        let batch = self.rows.batch(1)?;
        let parts = parts_in(|| self.high.model.batch_loss(&batch))?;
        let parts =
            parts.into_iter().map(|part| CheckpointPolicy::Selective(vec![part.to_owned()]));
        let every = (self.names.num_blocks() >= 4).then_some(CheckpointPolicy::Every(2));
        Ok([CheckpointPolicy::Full].into_iter().chain(every).chain(parts).collect())
    }

    /// What a block costs under a policy; `none` is what it costs without one.
    fn block_cost(
        &mut self,
        policy: CheckpointPolicy,
        none: Option<&Found>,
        boundary_bytes: f64,
    ) -> Result<Found> {
        self.plain.gradient_checkpointing = policy.clone();
        let few = (TOKENS / self.tokens_per_row).clamp(1, ROWS);
        let many = 2 * few;
        let (at_few, at_many) = (self.pair(few)?, self.pair(many)?);
        let (few, rows) = (few as f64, (many - few) as f64);
        let row = at_many.work().beyond(at_few.work()) * rows.recip();
        let passing = at_many.passing_bytes();
        let kept_bytes = self.copies_bytes();
        let saved_bytes = match policy {
            // A checkpointed block keeps what comes into it and nothing else.
            CheckpointPolicy::Full if !self.names.is_one_block() => boundary_bytes,
            _ => ((passing - kept_bytes) / many as f64).max(0.0),
        };
        let again = none.map_or(0.0, |none| row.flops / none.cost.row.flops.max(1.0) - 1.0);
        let working = at_many.high.passing_bytes - self.high.num_blocks as f64 * passing;
        let extra = none.map_or(0.0, |none| working - none.working);
        let cost = BlockCost {
            row,
            micro_batch: at_few.work().beyond(row * few),
            saved_bytes,
            kept_bytes,
            extra_bytes: (extra / many as f64).max(0.0),
            // A third of what there was is the forward pass.
            rerun: (3.0 * again).clamp(0.0, 1.0),
            checkpointed: match policy {
                CheckpointPolicy::Full => 1.0,
                CheckpointPolicy::Every(number) => (number as f64).recip(),
                _ => 0.0,
            },
            policy,
        };
        Ok(Found { cost, working })
    }

    /// Bytes of a block's parameters in the dtype that it computes in, if that is another.
    fn copies_bytes(&self) -> f64 {
        match self.options.precision {
            Precision::Mixed => 2.0 * self.names.numbers_of_block(),
            Precision::F32 | Precision::Bf16 { .. } => 0.0,
        }
    }

    fn number(&self) -> Number {
        match self.options.precision {
            Precision::F32 => Number::F32,
            Precision::Mixed | Precision::Bf16 { .. } => Number::Bf16,
        }
    }

    /// What is not in blocks, for micro-batches of powers of four, beyond the largest of which it grows with the rows.
    fn outside(&mut self, num_rows: usize, none: &BlockCost) -> Result<Vec<OutsideCost>> {
        self.plain.gradient_checkpointing = CheckpointPolicy::None;
        let largest = num_rows.min((MAX_TOKENS / self.tokens_per_row).clamp(1, MAX_ROWS));
        let powers = (0..usize::BITS).step_by(2).map(|power| 1 << power);
        let sizes = powers.take_while(|&rows| rows < largest).chain([largest]);
        let mut costs = Vec::new();
        for rows in sizes {
            // So many rows may be more than MLX has numbers for.
            let Ok(recording) = self.record_passes(rows) else { break };
            let Sample { passes, passing_bytes, .. } = Sample::of(&recording, &self.machine);
            let blocks = self.high.num_blocks as f64;
            let of_blocks = (none.row * rows as f64 + none.micro_batch) * blocks;
            let kept = blocks * (rows as f64 * none.saved_bytes + none.kept_bytes);
            costs.push(OutsideCost {
                rows,
                work: passes.beyond(of_blocks),
                working_bytes: (passing_bytes - kept).max(0.0),
            });
        }
        if costs.is_empty() {
            // What it was refused for.
            self.record_passes(1)?;
        }
        Ok(costs)
    }

    /// Where parameters are used, what tensor ranks divide, and how many bytes of a row pass from block to block.
    fn divided(&mut self) -> Result<(Divided, f64)> {
        // Parameters are split by the same axes for all numbers of ranks that there can be.
        let mut axes = Splits::default();
        let mut refusals = BTreeMap::new();
        for ranks in (2..=MAX_TENSOR).rev() {
            match splits(self.high.model.as_mut(), ranks) {
                Ok(found) => axes = found,
                Err(refused) => drop(refusals.insert(ranks, refused.to_string())),
            }
        }
        let high = forward(&mut self.high, self.rows, &self.names, &axes)?;
        let (low, few) = match &mut self.low {
            Some(low) => (forward(low, self.rows, &self.names, &axes)?, low.num_blocks as f64),
            None => (OneRow::default(), 0.0),
        };
        let number = self.high.num_blocks as f64;
        let block = high.rest.per_block(low.rest, number - few);
        // Masks of dropout follow from no parameter, and are those of a block all the same.
        let drawn = high.before.per_block(low.before, number - few);
        let before = high.before.without(drawn, number);
        let mut outside = high.rest.without(block, number);
        outside += before;
        let ((flops, bytes), (outside_flops, outside_bytes)) = (block.shares(), outside.shares());
        let sums = block.sums.max(0.0);
        // The backward pass is about twice as much.
        let before = before.all * 3.0;
        let item_bytes = match self.number() {
            Number::F32 => 4.0,
            Number::Bf16 => 2.0,
        };
        // Without a stack, what tensor ranks add up is as large.
        let summed = if sums > 0.0 { block.summed_bytes / sums / 4.0 } else { 0.0 };
        let boundary = high.boundary.unwrap_or(summed);
        let divided = Divided {
            tensor: TensorSplit {
                max_ranks: MAX_TENSOR,
                refusals,
                sums,
                flops,
                bytes,
                // What a block keeps is what it makes.
                saved: bytes,
                outside_flops,
                outside_bytes,
            },
            before,
            places: high.places,
            axes,
        };
        Ok((divided, boundary * item_bytes))
    }

    fn pair(&mut self, rows: usize) -> Result<Pair> {
        let Self { rows: of, machine, optimizer, plain, .. } = self;
        let optimizer = Plain(&**optimizer);
        let mut sample = |depth: &mut Depth| -> Result<Sample> {
            Ok(Sample::of(&depth.record(of, rows, &optimizer, plain)?, machine))
        };
        let high = sample(&mut self.high)?;
        let low = self.low.as_mut().map(&mut sample).transpose()?.unwrap_or_default();
        let low_blocks = self.low.as_ref().map_or(0, |low| low.num_blocks);
        Ok(Pair { low, high, between: (self.high.num_blocks - low_blocks) as f64 })
    }

    /// The passes through the deeper model.
    fn record_passes(&mut self, rows: usize) -> Result<Recording> {
        let Self { rows: of, optimizer, plain, high, .. } = self;
        high.record(of, rows, &Plain(&**optimizer), plain)
    }
}

impl Depth {
    /// Records a step of one micro-batch.
    fn record(
        &mut self,
        rows: &Rows,
        num_rows: usize,
        optimizer: &dyn Optimizer,
        options: &StepOptions,
    ) -> Result<Recording> {
        let batch = rows.batch(num_rows)?;
        Recording::of_step(self.model.as_mut(), optimizer, options, &[batch])
    }
}

impl Sample {
    fn of(recording: &Recording, machine: &Machine) -> Self {
        let mut sample =
            Self { passing_bytes: recording.passing_bytes(machine) as f64, ..Self::default() };
        let traffic = Traffic::of(recording.graph());
        for (operation, is_update) in recording.operations() {
            let part = if is_update { &mut sample.update } else { &mut sample.passes };
            *part = *part + traffic.work(operation);
        }
        sample
    }
}

impl Pair {
    /// The passes of one block.
    fn work(&self) -> Work {
        self.high.passes.beyond(self.low.passes) * self.between.recip()
    }

    /// What one block keeps.
    fn passing_bytes(&self) -> f64 {
        (self.high.passing_bytes - self.low.passing_bytes) / self.between
    }
}

/// What the forward pass tells.
struct Divided {
    tensor: TensorSplit,
    before: Work,
    places: HashMap<String, Place>,
    axes: Splits,
}

/// How many numbers the largest trainable parameter has, and bytes of each.
fn largest(model: &dyn BaseModel) -> (f64, f64) {
    let parameters = model.trainable_parameters().flatten();
    let largest = parameters.into_values().max_by_key(|value| value.size());
    largest.map_or((1.0, 4.0), |value| {
        let numbers = value.size().max(1) as f64;
        (numbers, value.nbytes() as f64 / numbers)
    })
}

/// The forward pass of one row.
#[derive(Default)]
struct OneRow {
    before: Share,
    rest: Share,
    places: HashMap<String, Place>,
    /// How many numbers pass from block to block, if there is one stack.
    boundary: Option<f64>,
}

fn forward(depth: &mut Depth, rows: &Rows, names: &Names, axes: &Splits) -> Result<OneRow> {
    let model = depth.model.as_mut();
    let batch = rows.batch(1)?;
    model.training_mode(true);
    let key = rng::key(0)?;
    let mut loss = || rng::scope(&key, || model.batch_loss(&batch));
    let (loss, boundary) = match survey(&mut loss) {
        Ok((loss, survey)) => (loss, survey.boundaries.first().map(|(shape, _)| size(shape))),
        // There is no stack, or more than one.
        Err(_) => (loss()?, None),
    };
    let parameters: Vec<(String, Array)> = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    // A name of the graph begins with a small letter and has no blanks.
    let in_graph: Vec<String> =
        (0..parameters.len()).map(|index| format!("parameter/{index}")).collect();
    let pairs = parameters.iter().zip(&in_graph).map(|((_, value), name)| (value, name.as_str()));
    let graph = Graph::with_names(&[loss.value], pairs)?;
    let mut known = Vec::new();
    let mut used = Vec::new();
    for ((name, _), in_graph) in parameters.iter().zip(&in_graph) {
        if let Some(array) = graph.find(in_graph) {
            let (is_in_block, tensor_axis) = (names.is_in_block(name), axes.axis(name));
            known.push(Known { array, is_in_block, tensor_axis });
            used.push(name.clone());
        }
    }
    let Forward { places, before, rest } = Forward::of(&graph, &known);
    Ok(OneRow { before, rest, places: used.into_iter().zip(places).collect(), boundary })
}

fn size(shape: &[i32]) -> f64 {
    shape.iter().map(|&length| f64::from(length)).product()
}
