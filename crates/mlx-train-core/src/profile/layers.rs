//! What each layer of a model costs: a pass that runs one after the other by itself.

use super::trace::{Span, Track};
use crate::{
    Array, Result,
    batch::Batch,
    ffi,
    graph::Graph,
    model::{BaseModel, Loss},
    rng,
};
use mlx_rs::{Dtype, module::ModuleParameters, ops::ones_like};
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

/// What a layer of a model costs in training.
///
/// A layer may hold others, whose costs are part of its own but for those that are said to be without.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCost {
    /// Its name behind those of the layers that it is in: `Block 3/mlp`; the whole model has the name `model`.
    pub name: String,
    /// In how many layers it is.
    pub depth: usize,
    /// How many numbers its trained parameters have.
    pub num_parameters: u64,
    /// Its inputs, as `(8, 128, 64) Float32`.
    pub inputs: Vec<String>,
    /// How long it takes forward.
    pub forward_seconds: f64,
    /// How much longer it takes forward and backward.
    pub backward_seconds: f64,
    /// How long both take without the layers in it.
    pub own_seconds: f64,
    /// The floating-point operations of both, where MLX's description of them is understood.
    pub flops: Option<f64>,
    /// The same without the layers in it.
    pub own_flops: Option<f64>,
}

impl LayerCost {
    /// How long it takes forward and backward.
    pub fn seconds(&self) -> f64 {
        self.forward_seconds + self.backward_seconds
    }

    /// Takes the times of another round where they are shorter.
    fn keep_fastest(&mut self, again: &Self) {
        let both = self.seconds().min(again.seconds());
        self.forward_seconds = self.forward_seconds.min(again.forward_seconds);
        self.backward_seconds = both - self.forward_seconds;
    }
}

/// What the layers of a model cost in training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerProfile {
    layers: Vec<LayerCost>,
}

impl LayerProfile {
    /// A profile of these layers, each before those in it.
    fn new(layers: Vec<LayerCost>) -> Self {
        let mut profile = Self { layers };
        let mut inside = vec![(0.0, Some(0.0)); profile.layers.len()];
        for (layer, parent) in profile.layers.iter().zip(profile.parents()) {
            if let Some(parent) = parent {
                let (seconds, flops) = inside[parent];
                let flops = flops.zip(layer.flops).map(|(sum, flops)| sum + flops);
                inside[parent] = (seconds + layer.seconds(), flops);
            }
        }
        for (layer, (seconds, flops)) in profile.layers.iter_mut().zip(inside) {
            // By themselves, those inside may take longer than together.
            layer.own_seconds = (layer.seconds() - seconds).max(0.0);
            layer.own_flops = layer.flops.zip(flops).map(|(all, inside)| (all - inside).max(0.0));
        }
        profile
    }

    /// Every layer, each before those in it; the first is the whole model.
    pub fn layers(&self) -> &[LayerCost] {
        &self.layers
    }

    /// How long all of them take forward and backward, each by itself.
    pub fn seconds(&self) -> f64 {
        self.layers.iter().map(|layer| layer.own_seconds).sum()
    }

    /// The layers by the time that they take without those in them, the longest first.
    pub fn by_cost(&self) -> Vec<&LayerCost> {
        let mut layers: Vec<_> = self.layers.iter().collect();
        layers.sort_by(|a, b| b.own_seconds.total_cmp(&a.own_seconds));
        layers
    }

    /// The layers one after the other as spans, each around those in it: forward, and backward from the last.
    pub(super) fn spans(&self) -> Vec<Span> {
        let forward = self.timeline(Track::LayersForward, |layer| layer.forward_seconds);
        let mut backward = self.timeline(Track::LayersBackward, |layer| layer.backward_seconds);
        let end = |spans: &[Span]| spans.iter().map(|it| it.begin + it.took).max();
        if let (Some(start), Some(end)) = (end(&forward), end(&backward)) {
            for span in &mut backward {
                span.begin = start + end.saturating_sub(span.begin + span.took);
            }
        }
        [forward, backward].concat()
    }

    /// Lays the layers end to end. One that took less than those in it, each by itself, is as long as they.
    fn timeline(&self, track: Track, seconds: impl Fn(&LayerCost) -> f64) -> Vec<Span> {
        let mut lengths: Vec<Duration> = self
            .layers
            .iter()
            .map(|layer| Duration::try_from_secs_f64(seconds(layer)).unwrap_or_default())
            .collect();
        let parents = self.parents();
        let mut inside = vec![Duration::ZERO; lengths.len()];
        for index in (0..lengths.len()).rev() {
            lengths[index] = lengths[index].max(inside[index]);
            if let Some(parent) = parents[index] {
                inside[parent] += lengths[index];
            }
        }
        // Where the next layer inside of each, or the next one of the model, begins.
        let mut next = vec![Duration::ZERO; lengths.len()];
        let mut next_root = Duration::ZERO;
        let mut spans = Vec::with_capacity(lengths.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let place = parents[index].map_or(&mut next_root, |parent| &mut next[parent]);
            let begin = *place;
            *place += lengths[index];
            next[index] = begin;
            let mut args = vec![
                ("parameters", layer.num_parameters.into()),
                ("inputs", layer.inputs.join(", ").into()),
            ];
            args.extend(layer.flops.map(|flops| ("flops_forward_and_backward", flops.into())));
            let (name, took) = (layer.name.clone().into(), lengths[index]);
            spans.push(Span { track, name, begin, took, args });
        }
        spans
    }

    /// Of each layer, the position of the one that it is in.
    fn parents(&self) -> Vec<Option<usize>> {
        let mut path: Vec<usize> = Vec::new();
        let parent_of = |(index, layer): (usize, &LayerCost)| {
            path.truncate(layer.depth);
            let parent = path.last().copied();
            path.push(index);
            parent
        };
        self.layers.iter().enumerate().map(parent_of).collect()
    }
}

/// Measures what each layer of a model costs, as it is trained on `batch`.
///
/// The layers are the model itself, the blocks of its [`Stack`](crate::nn::Stack), the parts in them that
/// [`checkpoint::part`](crate::checkpoint::part) marks, and what [`layer`] marks. Each runs by itself on the
/// inputs that it has in the model, forward, and forward and backward, checkpointed as
/// [`with_policy`](crate::checkpoint::with_policy) around this says. All of them run once more than `repeats`
/// times, one round after the other, and of each the fastest counts: what else goes on in a machine makes a time
/// longer and never shorter. Their sum is more than a step, in which layers overlap, compile together and share what they read.
///
/// Draws come from a key of their own. Parameters are as they were when this returns.
///
/// # Errors
/// What the model returns, or when MLX fails.
pub fn profile_layers<M>(model: &mut M, batch: &Batch, repeats: usize) -> Result<LayerProfile>
where
    M: BaseModel + ?Sized,
{
    let own = Parameters::all(model);
    model.training_mode(true);
    let mut layers = Vec::new();
    // The first round compiles kernels and fills caches.
    for _ in 0..=repeats {
        let round = measure_once(model, batch);
        own.put_into(model);
        let round = round?;
        if layers.is_empty() {
            layers = round;
        } else {
            layers.iter_mut().zip(&round).for_each(|(layer, again)| layer.keep_fastest(again));
        }
    }
    Ok(LayerProfile::new(layers))
}

/// One round of measuring every layer.
fn measure_once<M>(model: &mut M, batch: &Batch) -> Result<Vec<LayerCost>>
where
    M: BaseModel + ?Sized,
{
    let _pass = PassGuard::new();
    let trained = Parameters::trained(model);
    let f = |model: &mut M, _: &[Array]| {
        let Loss { value, weight } = model.batch_loss(batch)?;
        Ok(vec![value, weight])
    };
    let mut whole = Marked { trained, module: model, f };
    rng::scope(&rng::key(0)?, || measure("model", &mut whole, &[]))?;
    Ok(PASS.take().unwrap_or_default().layers)
}

/// Runs `f(module, inputs)` as a layer of that name, which [`profile_layers`] measures; otherwise it only runs.
///
/// `f` gives the same for the same parameters of `module` and the same inputs: it may run several times.
///
/// ```
/// # use mlx_train_core::{Array, nn::Linear, profile::layer};
/// use mlx_rs::module::Module;
/// # let mut head = Linear::new(4, 16)?;
/// # let x = mlx_rs::ops::ones::<f32>(&[2, 4])?;
/// let logits = layer("head", &mut head, &[x], |head, x| Ok(head.forward(&x[0])?))?;
/// # assert_eq!(logits.shape(), [2, 16]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// What `f` returns; in a pass that measures, when MLX fails.
pub fn layer<M, F>(name: &str, module: &mut M, inputs: &[Array], mut f: F) -> Result<Array>
where
    M: ModuleParameters + ?Sized,
    F: FnMut(&mut M, &[Array]) -> Result<Array>,
{
    if !is_measuring() {
        return f(module, inputs);
    }
    let trained = Parameters::trained(module);
    let f = |module: &mut M, inputs: &[Array]| Ok(vec![f(module, inputs)?]);
    let mut outputs = measure(name, &mut Marked { trained, module, f }, inputs)?;
    Ok(outputs.swap_remove(0))
}

/// Whether layers are to be handed to [`measure`].
pub(crate) fn is_measuring() -> bool {
    PASS.with_borrow(Option::is_some)
}

/// A layer that can be measured.
pub(crate) trait Layer {
    /// The parameters that are trained.
    fn trained(&mut self) -> Vec<Array>;

    /// Puts others in their place, as many.
    fn set_trained(&mut self, values: &[Array]);

    /// Its outputs, computed as in training.
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>>;

    /// The same outputs, where every layer in this one runs at once and as it is.
    fn run_plainly(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        self.run(inputs)
    }
}

/// Measures a layer by itself, then those in it, and returns its outputs.
pub(crate) fn measure(name: &str, layer: &mut dyn Layer, inputs: &[Array]) -> Result<Vec<Array>> {
    let (name, depth) = PASS.with_borrow(|pass| {
        pass.as_ref().map(|pass| (pass.path(name), pass.open.len())).unwrap_or_default()
    });
    // Layers in this one are not measured while it is.
    let pass = PASS.take();
    let cost = cost(name, depth, layer, inputs);
    PASS.set(pass);
    let cost = cost?;
    with_pass(|pass| {
        pass.open.push(pass.layers.len());
        pass.layers.push(cost);
    });
    let outputs = layer.run_plainly(inputs);
    with_pass(|pass| pass.open.truncate(depth));
    outputs
}

thread_local! {
    static PASS: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

fn with_pass(f: impl FnOnce(&mut Pass)) {
    PASS.with_borrow_mut(|pass| {
        if let Some(pass) = pass {
            f(pass);
        }
    });
}

/// A pass that measures.
#[derive(Debug, Default)]
struct Pass {
    layers: Vec<LayerCost>,
    /// The layers that run, the outermost first.
    open: Vec<usize>,
}

/// A pass that goes on until this is dropped, also by a panic of the model.
struct PassGuard {
    outer: Option<Pass>,
}

impl PassGuard {
    fn new() -> Self {
        Self { outer: PASS.replace(Some(Pass::default())) }
    }
}

impl Drop for PassGuard {
    fn drop(&mut self) {
        PASS.set(self.outer.take());
    }
}

impl Pass {
    fn path(&self, name: &str) -> String {
        // That all is in the model goes without saying.
        let outer = self.open.iter().skip(1).next_back().and_then(|&index| self.layers.get(index));
        outer.map_or_else(|| name.to_owned(), |outer| format!("{}/{name}", outer.name))
    }
}

/// What a layer costs by itself.
fn cost(name: String, depth: usize, layer: &mut dyn Layer, inputs: &[Array]) -> Result<LayerCost> {
    let trained = layer.trained();
    ffi::eval(trained.iter().chain(inputs))?;
    let forward_seconds = seconds(|| layer.run(inputs))?;

    let outputs = floats(layer.run(inputs)?);
    let cotangents = outputs.iter().map(|output| Ok(ones_like(output)?));
    let cotangents = cotangents.collect::<Result<Vec<_>>>()?;
    drop(outputs);
    ffi::eval(&cotangents)?;
    let all = [&trained, inputs].concat();
    let mut both = || {
        let run = |arrays: &[Array]| {
            let (values, inputs) = arrays.split_at(trained.len());
            layer.set_trained(values);
            layer.run(inputs).map(floats)
        };
        let (mut outputs, gradients) = ffi::vjp(run, &all, &cotangents)?;
        outputs.extend(gradients);
        Ok(outputs)
    };
    // Another version of MLX may describe an operation in another way; the times are the same.
    let flops = both().map(|all| Graph::of(&all).ok().map(|graph| graph.total_flops()));
    let both_seconds = seconds(both);
    layer.set_trained(&trained);
    let shown = |input: &Array| format!("{:?} {:?}", input.shape(), input.dtype());
    Ok(LayerCost {
        name,
        depth,
        num_parameters: trained.iter().map(|value| value.size() as u64).sum(),
        inputs: inputs.iter().map(shown).collect(),
        forward_seconds,
        backward_seconds: (both_seconds? - forward_seconds).max(0.0),
        own_seconds: 0.0,
        flops: flops?,
        own_flops: None,
    })
}

/// The time until what `f` records is computed.
fn seconds(f: impl FnOnce() -> Result<Vec<Array>>) -> Result<f64> {
    let began = Instant::now();
    ffi::eval(&f()?)?;
    Ok(began.elapsed().as_secs_f64())
}

/// The arrays that have gradients.
fn floats(arrays: Vec<Array>) -> Vec<Array> {
    let is_float =
        |array: &Array| matches!(array.dtype(), Dtype::Float32 | Dtype::Bfloat16 | Dtype::Float16);
    arrays.into_iter().filter(is_float).collect()
}

/// A module with its function.
struct Marked<'m, M: ?Sized, F> {
    trained: Parameters,
    module: &'m mut M,
    f: F,
}

impl<M, F> Layer for Marked<'_, M, F>
where
    M: ModuleParameters + ?Sized,
    F: FnMut(&mut M, &[Array]) -> Result<Vec<Array>>,
{
    fn trained(&mut self) -> Vec<Array> {
        self.trained.values.clone()
    }

    fn set_trained(&mut self, values: &[Array]) {
        self.trained.values.clone_from_slice(values);
        self.trained.put_into(self.module);
    }

    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        (self.f)(self.module, inputs)
    }
}

/// Parameters of a module by name.
#[derive(Debug)]
struct Parameters {
    names: Vec<Rc<str>>,
    values: Vec<Array>,
}

impl Parameters {
    fn all<M: ModuleParameters + ?Sized>(module: &M) -> Self {
        Self::of(module.parameters().flatten())
    }

    fn trained<M: ModuleParameters + ?Sized>(module: &M) -> Self {
        Self::of(module.trainable_parameters().flatten())
    }

    fn of(parameters: HashMap<Rc<str>, &Array>) -> Self {
        let (names, values) =
            parameters.into_iter().map(|(name, value)| (name, value.clone())).unzip();
        Self { names, values }
    }

    fn put_into<M: ModuleParameters + ?Sized>(&self, module: &mut M) {
        let mut parameters = module.parameters_mut().flatten();
        for (name, value) in self.names.iter().zip(&self.values) {
            if let Some(parameter) = parameters.get_mut(name) {
                **parameter = value.clone();
            }
        }
    }
}
