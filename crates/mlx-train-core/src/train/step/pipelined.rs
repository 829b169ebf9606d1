//! The micro-batches of a step on one stage of a pipeline.

use super::{
    Accumulated, StageTimes, TrainStep, data_parallel::draws_of_rank, gradients::Mean, lent::Lent,
    program::Program, stage::Stage,
};
use crate::{
    Error, Result,
    batch::Batch,
    checkpoint::with_policy_and_constants,
    distributed::{
        Operation, Schedule,
        bucket::{SUMMED_BYTES, sums},
        gather,
        pipeline::{self, Action, Ended, Link, Message, Neighbour},
    },
    ffi,
    model::{BaseModel, Loss},
    profile::{self, Phase},
    rng,
};
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, indexing::TryIndexOp, maximum, zeros_dtype},
    stop_gradient,
};
use std::{
    collections::HashMap,
    rc::Rc,
    slice::from_ref,
    time::{Duration, Instant},
};

impl<M: BaseModel + ?Sized> TrainStep<'_, M> {
    /// Whether this rank holds some of the blocks alone.
    pub(super) fn is_pipelined(&self) -> bool {
        self.program.layout.stage.is_some()
    }

    /// The mean over micro-batches that pass all stages.
    pub(super) fn pipelined(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        parameters: &[Array],
        others: &[Array],
    ) -> Result<Accumulated> {
        let program = Rc::clone(&self.program);
        let stage = program.stage()?;
        let precision = program.options.precision;
        // All of them at once: their number decides what comes first.
        let batches = batches.map(|batch| precision.batch_to_compute(batch?));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let mut key = self.state.carried.key.clone();
        let mut draws = Vec::with_capacity(batches.len());
        for _ in &batches {
            let of_batch;
            (key, of_batch) = rng::split(&key)?;
            draws.push(draws_of_rank(program.layout.mesh.data(), &of_batch)?);
        }
        let schedule = program.options.pipeline.schedule;
        let schedule = Schedule::new(schedule, stage.group.world_size(), batches.len());
        let mut pass = Pass {
            program: &program,
            stage,
            link: Link::new(&stage.group),
            compute: program.to_compute(parameters)?,
            others: others.to_vec(),
            batches,
            draws,
            in_flight: HashMap::new(),
            arriving: HashMap::new(),
            leaving: HashMap::new(),
            sums: None,
            losses: Vec::new(),
            waited: Duration::ZERO,
        };
        let began = Instant::now();
        for action in pipeline::actions(&schedule, stage.group.rank()) {
            let _span = profile::span(Phase::ForwardBackward);
            pass.act(action)?;
        }
        pass.wait_for_sent()?;
        self.stage_times = Some(StageTimes { took: began.elapsed(), waited: pass.waited });
        let (mean, others) = pass.end()?;
        Ok(Accumulated { mean, others, key })
    }
}

impl<M: ?Sized> Program<'_, M> {
    fn stage(&self) -> Result<&Stage> {
        let stage = self.layout.stage.as_ref();
        stage.ok_or_else(|| Error::message("this rank is no stage of a pipeline"))
    }
}

/// The micro-batches of one step, as they pass this stage.
struct Pass<'p, 'a, M: ?Sized> {
    program: &'p Program<'a, M>,
    stage: &'p Stage,
    link: Link,
    /// The trained parameters in the dtype that the model computes in.
    compute: Vec<Array>,
    others: Vec<Array>,
    batches: Vec<Batch>,
    /// The key of each micro-batch, the same on all stages.
    draws: Vec<Array>,
    in_flight: HashMap<usize, InFlight>,
    /// Outputs of the stage before that are on their way.
    arriving: HashMap<usize, Array>,
    /// What is to be sent.
    leaving: HashMap<Message, Array>,
    /// Of the gradients of sums of losses, in f32.
    sums: Option<Vec<Array>>,
    /// On the last stage, of each micro-batch.
    losses: Vec<Loss>,
    waited: Duration,
}

/// A micro-batch that is computed forward and not yet backward.
struct InFlight {
    /// The gradient of the stage's output, to be received.
    cotangent: Array,
    /// Recorded and not computed: of the trained parameters, and of the stage's input unless it is the first.
    gradients: Vec<Array>,
}

/// What a forward pass records.
struct Forward {
    output: Array,
    gradients: Vec<Array>,
    /// On the last stage.
    loss: Option<Loss>,
}

impl<M: BaseModel + ?Sized> Pass<'_, '_, M> {
    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Receive(Message::Activation(index)) => {
                let [(shape, dtype), _] = self.boundaries(index)?;
                let input = self.link.receive(&shape, dtype, Neighbour::Previous)?;
                ffi::async_eval([&input])?;
                self.arriving.insert(index, input);
            }
            Action::Receive(Message::Gradient(index)) => {
                ffi::async_eval(self.in_flight.get(&index).map(|it| &it.cotangent))?;
            }
            Action::Compute(Operation::Forward(index)) => self.forward(index)?,
            Action::Compute(Operation::Backward(index)) => self.backward(index)?,
            Action::Send(message) => {
                let to = match message {
                    Message::Activation(_) => Neighbour::Next,
                    Message::Gradient(_) => Neighbour::Previous,
                };
                let array = self.leaving.remove(&message).ok_or_else(out_of_order)?;
                self.link.send(&array, to)?;
            }
        }
        Ok(())
    }

    fn boundaries(&self, index: usize) -> Result<[(Vec<i32>, Dtype); 2]> {
        self.stage.boundaries(&mut **self.program.borrow()?, &self.batches[index])
    }

    /// Computes the output of the stage. All that the backward pass needs is referred to by the gradients that are
    /// recorded with it, and by nothing else, so that MLX keeps that and frees the rest.
    fn forward(&mut self, index: usize) -> Result<()> {
        let input = self.arriving.remove(&index);
        self.wait("the output of the stage before", input.as_slice())?;
        let cotangent = if self.stage.is_last() {
            Array::from_f32(1.0)
        } else {
            let [_, (shape, dtype)] = self.boundaries(index)?;
            self.link.receive(&shape, dtype, Neighbour::Next)?
        };
        let (program, batch, draws) = (self.program, &self.batches[index], &self.draws[index]);
        let (Forward { output, gradients, loss }, others) =
            program.with_others(&self.others, |others| {
                let (compute, input) = (&self.compute, input.as_ref());
                gather::scope(|| {
                    let batch = (batch, draws);
                    program
                        .differentiate_stage(self.stage, compute, others, batch, input, &cotangent)
                })
            })?;
        drop(input);
        let losses = loss.iter().flat_map(|Loss { value, weight }| [value, weight]);
        let all = program.layout.mesh.all();
        all.eval(
            "the forward pass of a stage",
            [&output].into_iter().chain(&others).chain(losses),
        )?;
        self.others = others;
        self.losses.extend(loss);
        self.in_flight.insert(index, InFlight { cotangent, gradients });
        if !self.stage.is_last() {
            self.leaving.insert(Message::Activation(index), output);
        }
        Ok(())
    }

    /// Computes the gradients of the stage's parameters and of its input.
    fn backward(&mut self, index: usize) -> Result<()> {
        let in_flight = self.in_flight.remove(&index).ok_or_else(out_of_order)?;
        let InFlight { cotangent, mut gradients } = in_flight;
        self.wait("the gradient of the stage behind", from_ref(&cotangent))?;
        drop(cotangent);
        let of_input = gradients.split_off(self.compute.len());
        let sums = self.sums.take();
        let gradients = gradients.into_iter().enumerate().map(|(at, gradient)| {
            let gradient = gradient.as_dtype(Dtype::Float32)?;
            let sum = sums.as_ref().and_then(|sums| sums.get(at));
            Ok(sum.map_or(Ok(gradient.clone()), |sum| sum.add(&gradient))?)
        });
        let summed = gradients.collect::<Result<Vec<_>>>()?;
        // The new sums take the memory of the old ones.
        drop(sums);
        let all = self.program.layout.mesh.all();
        all.eval("the backward pass of a stage", summed.iter().chain(&of_input))?;
        self.sums = Some(summed);
        let of_input = of_input.into_iter().next();
        self.leaving.extend(of_input.map(|gradient| (Message::Gradient(index), gradient)));
        Ok(())
    }

    /// Waits for what a neighbour sends.
    fn wait(&mut self, what: &str, arrays: &[Array]) -> Result<()> {
        let began = Instant::now();
        self.stage.group.eval(what, arrays)?;
        self.waited += began.elapsed();
        Ok(())
    }

    /// Waits until the neighbours have all that this stage has for them.
    fn wait_for_sent(&mut self) -> Result<()> {
        let began = Instant::now();
        self.link.end()?;
        self.waited += began.elapsed();
        Ok(())
    }

    /// The mean of all micro-batches, and the parameters that are not trained as they were left.
    fn end(self) -> Result<(Mean, Vec<Array>)> {
        let (mut total, mut weight) = (Array::from_f32(0.0), Array::from_f32(0.0));
        for loss in &self.losses {
            total = total.add(loss.value.multiply(&loss.weight)?)?;
            weight = weight.add(&loss.weight)?;
        }
        let (program, group) = (self.program, &self.stage.group);
        let mut losses = concatenate(&[total.reshape(&[1])?, weight.reshape(&[1])?], 0)?;
        losses = group.all_sum(&losses)?;
        group.eval("the loss of the last stage", [&losses])?;
        let mut gradients = program.sum_of_stages(self.stage, self.sums.unwrap_or_default())?;
        if program.layout.is_sharded() {
            losses = program.layout.mesh.data().all_sum(&losses)?;
            program.layout.mesh.data().eval("the losses of all ranks", [&losses])?;
            program.sum_copies(&mut gradients)?;
        }
        let weight = losses.try_index(1)?;
        // Where no target counts, nothing is added.
        let positive = maximum(&weight, Array::from_f32(f32::MIN_POSITIVE))?;
        let value = losses.try_index(0)?.divide(&positive)?;
        let gradients = gradients.iter().map(|sum| Ok(sum.divide(&positive)?));
        let mean =
            Mean { loss: Loss { value, weight }, gradients: gradients.collect::<Result<_>>()? };
        Ok((mean, self.others))
    }
}

impl<M: BaseModel + ?Sized> Program<'_, M> {
    /// Records the stage of a micro-batch with draws from its key, and the gradients for the `cotangent` of the
    /// stage's output: that of its last block, or on the last stage the sum of the loss over its targets. Also returns
    /// the parameters that are not trained, as the stage has left them.
    fn differentiate_stage(
        &self,
        stage: &Stage,
        compute: &[Array],
        others: &[Array],
        (batch, draws): (&Batch, &Array),
        input: Option<&Array>,
        cotangent: &Array,
    ) -> Result<(Forward, Vec<Array>)> {
        // What leads to the stack moves statistics of the first stage on every stage, which are put back.
        let elsewhere = stage.names().filter(|name| !stage.holds(name));
        let names: Vec<Rc<str>> = self.names.iter().chain(elsewhere).cloned().collect();
        let mut model = self.borrow()?;
        let mut model = Lent::new(&mut **model, &names)?;
        // Copies are added up once, after all micro-batches.
        let dtype = self.options.communication.dtype();
        let share = |name| Ok(self.layout.share(name, dtype)?.filter(|it| it.axis.is_some()));
        let trained = &self.names[..self.num_trained];
        let shares = trained.iter().map(|name| share(name)).collect::<Result<Vec<_>>>()?;
        let (mut loss, mut taken) = (None, Vec::new());
        let run = |arrays: &[Array]| -> Result<Vec<Array>> {
            let (compute, input) = arrays.split_at(compute.len());
            let is_outside = |at: usize| !self.in_blocks[at].get();
            model.set(gather::lend(compute, &shares, is_outside)?.iter().chain(others))?;
            model.training_mode(true);
            let policy = &self.options.gradient_checkpointing;
            let ended = rng::scope(draws, || {
                let (blocks, input) = (stage.blocks.clone(), input.first().cloned());
                pipeline::stage(blocks, input, stage.is_last(), || {
                    with_policy_and_constants(policy, others, || model.batch_loss(batch))
                })
            })?;
            taken = gather::taken();
            Ok(vec![match ended {
                Ended::Output(output) => output,
                Ended::Whole(Loss { value, weight }) => {
                    let value = value.as_dtype(Dtype::Float32)?;
                    let weight = stop_gradient(weight.as_dtype(Dtype::Float32)?)?;
                    let sum = value.multiply(&weight)?;
                    loss = Some(Loss { value, weight });
                    sum
                }
            }])
        };
        let inputs: Vec<Array> = compute.iter().chain(input).cloned().collect();
        let (outputs, gradients) = ffi::vjp(run, &inputs, from_ref(cotangent))?;
        ffi::mark("gradient", &gradients);
        // From the next micro-batch on, small ones that no block has taken travel together.
        self.note_taken(taken);
        let mut after = model.parameters()?;
        after.truncate(self.names.len());
        let after = after.split_off(compute.len());
        let output = outputs.into_iter().next().ok_or_else(out_of_order)?;
        Ok((Forward { output, gradients, loss }, after))
    }

    /// Adds up the gradients of parameters that ranks which hold parts of others have copies of.
    fn sum_copies(&self, gradients: &mut [Array]) -> Result<()> {
        let mut copies = Vec::new();
        for (at, name) in self.names[..self.num_trained].iter().enumerate() {
            copies.extend(self.layout.held(name)?.data.is_none().then_some(at));
        }
        let own: Vec<Array> = copies.iter().map(|&at| gradients[at].clone()).collect();
        let data = self.layout.mesh.data();
        let sums = sums(data, &own, self.options.communication.dtype())?;
        data.eval("the gradients of parameters that are not divided", &sums)?;
        for (at, sum) in copies.into_iter().zip(sums) {
            gradients[at] = sum;
        }
        Ok(())
    }

    /// Adds to the gradients of parameters that several stages hold what the other stages have of them.
    fn sum_of_stages(&self, stage: &Stage, mut sums: Vec<Array>) -> Result<Vec<Array>> {
        let bucket_len = (SUMMED_BYTES / size_of::<f32>()) as i32;
        for name in stage.names().filter(|name| stage.is_shared(name)) {
            let Some(size) = self.layout.trained_size(name) else { continue };
            let own = self.names[..self.num_trained].iter().position(|it| it == name);
            let flat = own.map(|own| sums[own].reshape(&[-1])).transpose()?;
            let mut parts = Vec::new();
            // Stages that do not hold it take part with zeros, a few at a time.
            for first in (0..size).step_by(bucket_len as usize) {
                let last = size.min(first.saturating_add(bucket_len));
                let part = match &flat {
                    Some(flat) => flat.try_index(first..last)?,
                    None => zeros_dtype(&[last - first], Dtype::Float32)?,
                };
                let sum = stage.group.all_sum(&part)?;
                stage.group.eval("the gradients of parameters that several stages hold", [&sum])?;
                parts.extend(flat.as_ref().map(|_| sum));
            }
            if let Some(own) = own {
                sums[own] = concatenate(&parts, 0)?.reshape(sums[own].shape())?;
            }
        }
        Ok(sums)
    }
}

fn out_of_order() -> Error {
    Error::message("a stage of a pipeline has lost a micro-batch")
}
