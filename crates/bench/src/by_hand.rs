//! A training step as somebody writes it who has a model and no engine: what the engine's is compared with.
//!
//! It is the same maths: the model's own loss, and the library's clipping and optimizer. There is no data loading,
//! no check, no report and nothing that could be saved; [`super::step_overhead`] sees that the losses are the same.

use mlx_train::{
    Array, Error, ModuleParameters as _, Result,
    data::Batch,
    ffi::{self, Compiled, compile},
    mlx_rs::Dtype,
    model::BaseModel,
    optim::{self, AdamW, Clip, OptimizerState, Parameter},
    rng,
    train::{CompileMode, Precision, StepOptions},
};
use std::{iter::once, mem, rc::Rc};

/// A model in a loop, with the state of `AdamW`.
pub struct ByHand {
    /// The weights, in the order of their names, then their moments.
    state: Vec<Array>,
    step: u16,
    update: Update,
}

/// Runs as it is, or traced once.
enum Update {
    Eager(Box<Maths>),
    Compiled(Compiled<'static>),
}

/// What a step is made of.
struct Maths {
    model: Box<dyn BaseModel>,
    names: Vec<Rc<str>>,
    moments: OptimizerState,
    clip: Clip,
    precision: Precision,
    /// From which nothing is drawn, but without which layers do not train.
    key: Array,
}

impl ByHand {
    /// Starts with the model as it is.
    pub fn new(model: Box<dyn BaseModel>, options: &StepOptions) -> Result<Self> {
        let (names, weights): (Vec<_>, Vec<_>) = model
            .parameters()
            .flatten()
            .into_iter()
            .map(|(name, weight)| (name, weight.clone()))
            .unzip();
        let parameters = names.iter().zip(&weights);
        let parameters = parameters.map(|(name, value)| Parameter { name, value });
        let moments = OptimizerState::new(&AdamW::default(), parameters)?;
        let state: Vec<_> = weights.into_iter().chain(moments.arrays().cloned()).collect();
        ffi::eval(&state)?;
        let &StepOptions { clip, precision, .. } = options;
        let mut maths = Maths { model, names, moments, clip, precision, key: rng::key(0)? };
        let update = if options.compile == CompileMode::On {
            Update::Compiled(compile(move |inputs| maths.update(inputs), false)?)
        } else {
            Update::Eager(Box::new(maths))
        };
        Ok(Self { state, step: 0, update })
    }

    /// One step, evaluated; returns the loss `()` before it.
    pub fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<Array> {
        self.step += 1;
        let mut inputs = mem::take(&mut self.state);
        inputs.extend([batch.x.clone(), batch.y.clone()]);
        inputs.extend([learning_rate, f32::from(self.step)].map(Array::from_f32));
        let mut outputs = match &mut self.update {
            Update::Eager(maths) => maths.update(&inputs)?,
            Update::Compiled(compiled) => compiled.call(&inputs)?,
        };
        // Nobody holds the old values then, and the new ones take their memory.
        drop(inputs);
        let loss = outputs.pop().ok_or_else(|| Error::message("the step has no outputs"))?;
        ffi::eval(once(&loss).chain(&outputs))?;
        self.state = outputs;
        Ok(loss)
    }
}

impl Maths {
    /// The state, `x`, `y`, the learning rate and the number of the step to the next state and the loss.
    fn update(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [state @ .., x, y, learning_rate, step] = inputs else {
            return Err(Error::message("the step has no inputs"));
        };
        let (weights, moments) = state.split_at(self.names.len());
        let (loss, gradients) = self.gradients(weights, &Batch::new(x.clone(), y.clone()))?;
        let gradients = self.clip.apply(&gradients)?.gradients;
        let moments = self.moments.with_arrays(moments.iter().cloned())?;
        let (weights, moments) =
            optim::apply(&AdamW::default(), weights, &gradients, &moments, learning_rate, step)?;
        self.set(&weights)?;
        Ok(weights.into_iter().chain(moments.arrays().cloned()).chain(loss).collect())
    }

    /// The loss and its gradients, in f32.
    fn gradients(&mut self, weights: &[Array], batch: &Batch) -> Result<(Vec<Array>, Vec<Array>)> {
        let weights = weights.iter().map(|weight| self.precision.to_compute(weight));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let batch = self.precision.batch_to_compute(batch.clone())?;
        let argnums: Vec<_> = (0..weights.len()).collect();
        let key = self.key.clone();
        let loss = |weights: &[Array]| {
            self.set(weights)?;
            Ok(vec![rng::scope(&key, || self.model.batch_loss(&batch))?.value])
        };
        let (loss, gradients) = ffi::value_and_grad(loss, &weights, &argnums)?;
        let gradients = gradients.iter().map(|gradient| gradient.as_dtype(Dtype::Float32));
        Ok((loss, gradients.collect::<Result<_, _>>()?))
    }

    fn set(&mut self, weights: &[Array]) -> Result<()> {
        let mut parameters = self.model.parameters_mut().flatten();
        for (name, weight) in self.names.iter().zip(weights) {
            let parameter = parameters.get_mut(name);
            let parameter =
                parameter.ok_or_else(|| Error::message(format!("the model has lost {name}")))?;
            **parameter = weight.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_train::{
        model::FromConfig,
        models::transformer::{Transformer, TransformerConfig},
        train::TrainStep,
    };

    #[test]
    fn the_step_by_hand_is_that_of_the_engine() -> Result<()> {
        let config = TransformerConfig {
            vocab_size: 32,
            hidden_size: 16,
            num_layers: 2,
            num_heads: 2,
            dropout: 0.0,
            tie_word_embeddings: true,
            ..TransformerConfig::default()
        };
        let mut model = rng::scope(&rng::key(0)?, || Transformer::from_config(&config))?;
        for precision in [Precision::F32, Precision::Mixed] {
            let clip = Clip::default().global_norm(1.0)?;
            let compile = CompileMode::Off;
            let options = StepOptions { clip, precision, compile, ..StepOptions::default() };
            let mut by_hand = ByHand::new(Box::new(model.clone()), &options)?;
            let mut step = TrainStep::new(&mut model, AdamW::default(), 0, options)?;
            let tokens: Vec<i32> = (0..22).map(|index| index * index % 32).collect();
            let x = Array::from_slice(&tokens[..20], &[2, 10]);
            let y = Array::from_slice(&tokens[1..21], &[2, 10]);
            let batch = Batch::new(x, y);
            for _ in 0..5 {
                let output = step.run([Ok(batch.clone())], 0.01)?;
                let expected: f32 = output.loss.value.try_item_exact()?;
                let loss: f32 = by_hand.step(&batch, 0.01)?.try_item_exact()?;
                // The same operations; only the order of sums over parameters may differ.
                assert!((loss / expected - 1.0).abs() < 1e-5, "{loss} by hand, {expected}");
            }
        }
        Ok(())
    }
}
