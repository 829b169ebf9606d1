//! Which part of each array a rank holds.

use super::{
    Origin, StepOptions, TrainState,
    stage::{Stage, nothing},
};
use crate::{
    Error, Result,
    distributed::{Group, Mesh, Placement, Split, bucket, gather::Share},
    ffi,
    model::{self, BaseModel},
    optim::{Optimizer, Parameter},
    train::{TrainError, parameters},
};
use mlx_rs::{Array, Dtype, module::ModuleParameters, ops::stack};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    slice::from_ref,
};

/// Which part of each parameter of a model this rank of a mesh holds.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) mesh: Mesh,
    /// What this rank runs, where several have the blocks of the model.
    pub(super) stage: Option<Stage>,
    /// The names of all parameters that are trained, by this rank or another, in natural order.
    pub(super) trained: Rc<[Rc<str>]>,
    by_name: HashMap<Rc<str>, Held>,
}

/// Which part of a parameter is held, and what has split it: first the ranks of `tensor`, then those of `data`.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) placement: Placement,
    /// The axis that is divided among the ranks that divide layers.
    pub(super) tensor: Option<usize>,
    /// The axis that is divided among the ranks that share a batch.
    pub(super) data: Option<usize>,
}

/// Which part of each array of a [snapshot](super::TrainStep::snapshot) this rank holds, in the order of the arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePlacements {
    /// Of the parameters.
    pub weights: Vec<Placement>,
    /// Of the rest.
    pub training: Vec<Placement>,
}

impl Layout {
    /// Divides the parameters of a model, none of which is cut yet.
    pub(super) fn new<M>(
        mesh: &Mesh,
        model: &mut M,
        optimizer: &dyn Optimizer,
        options: &StepOptions,
    ) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        let splits = model::splits(model, mesh.tensor().world_size())?;
        let trainable: HashSet<_> = parameters::trainable_names(model).into_iter().collect();
        let names = parameters::names(model);
        let values = parameters::get(model, &names)?;
        let mut by_name = HashMap::new();
        let mut trained = Vec::new();
        let mut shapes = Vec::with_capacity(names.len());
        for (name, value) in names.into_iter().zip(&values) {
            let parameter = Parameter { name: &name, value };
            let is_trained = trainable.contains(&name) && optimizer.trains(parameter);
            let held = Held::new(mesh, value.shape(), splits.axis(&name), is_trained)?;
            let parts = held.placement.splits().iter().map(|split| split.parts).product();
            if is_trained && parts > 1 && !optimizer.updates_parts(parameter) {
                let (name, optimizer) = (name.to_string(), format!("{optimizer:?}"));
                return Err(TrainError::NeedsWhole { name, parts, optimizer }.into());
            }
            trained.extend(is_trained.then(|| Rc::clone(&name)));
            shapes.push((Rc::clone(&name), held.shape_in_layers(mesh)));
            by_name.insert(name, held);
        }
        drop(values);
        // Nothing is refused for its parameters from here on.
        model::shard(model, mesh.tensor())?;
        let stages = Some(mesh.pipeline()).filter(|group| !group.is_alone());
        let stage = stages.map(|group| Stage::cut(group, model, shapes, options)).transpose()?;
        Ok(Self { mesh: mesh.clone(), stage, trained: trained.into(), by_name })
    }

    /// Gives the model of each rank its parts of the parameters that rank 0 begins with.
    ///
    /// One after the other: where the model was built and nothing of it computed yet, no rank needs memory for more
    /// than its own parts and one whole parameter.
    pub(super) fn begin<M>(&self, model: &mut M, origin: &mut Origin) -> Result<()>
    where
        M: ModuleParameters + ?Sized,
    {
        let all = self.mesh.all();
        if all.is_alone() && !matches!(origin, Origin::Weights(_)) {
            return Ok(());
        }
        let names = parameters::names(model);
        let mut parameters = model.parameters_mut().flatten();
        for name in names {
            let Some(parameter) = parameters.get_mut(&name) else { continue };
            let (held, dtype) = (self.held(&name)?, parameter.dtype());
            if !self.holds(&name) {
                let _others_take_it = origin.of_first(all, &name, parameter)?;
                **parameter = nothing(&held.shape_in_layers(&self.mesh), dtype)?;
                continue;
            }
            **parameter = match origin.of_first(all, &name, parameter)? {
                // A view would keep the whole.
                Some(whole) => held.placement.slice(&whole)?.contiguous()?,
                None => nothing(&held.placement.local_shape(), dtype)?,
            };
            ffi::eval([&**parameter])?;
        }
        Ok(())
    }

    /// Whether this rank holds a parameter, or a part of it.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.stage.as_ref().is_none_or(|stage| stage.holds(name))
    }

    /// The names of the parameters that this rank holds, in natural order.
    pub(super) fn names<M: ModuleParameters + ?Sized>(&self, model: &M) -> Vec<Rc<str>> {
        let mut names = parameters::names(model);
        names.retain(|name| self.holds(name));
        names
    }

    /// How many elements the part of a trained parameter has; `None` for one that is not trained.
    pub(super) fn trained_size(&self, name: &str) -> Option<i32> {
        let is_trained = self.trained.iter().any(|trained| **trained == *name);
        let held = self.by_name.get(name).filter(|_| is_trained)?;
        Some(held.placement.local_shape().iter().product())
    }

    /// Whether ranks that share a batch hold parts of parameters.
    pub(super) fn is_sharded(&self) -> bool {
        self.mesh.parallelism().is_sharded && !self.mesh.data().is_alone()
    }

    /// As [`Layout::share`], where no gradient is taken: `None` where this rank has all that its part of the model uses.
    pub(super) fn share_of_part(&self, name: &str) -> Result<Option<Share>> {
        Ok(self.share(name, Dtype::Float32)?.filter(|share| share.axis.is_some()))
    }

    /// Leaves whole parameters in a model, but for what layers divide, one after the other.
    pub(super) fn gather<M>(&self, model: &mut M) -> Result<()>
    where
        M: ModuleParameters + ?Sized,
    {
        let group = self.mesh.data();
        let names = self.names(model);
        let mut parameters = model.parameters_mut().flatten();
        for name in names {
            let Some(axis) = self.held(&name)?.data else { continue };
            let Some(parameter) = parameters.get_mut(&name) else { continue };
            let wholes = bucket::gathered(group, from_ref(parameter), &[axis])?;
            group.eval("the parts of a parameter", &wholes)?;
            for whole in wholes {
                **parameter = whole;
            }
        }
        Ok(())
    }

    /// The whole of which `part` is what this rank holds of a parameter.
    pub(super) fn whole(&self, name: &str, part: &Array) -> Result<Array> {
        let &Held { tensor, data, .. } = self.held(name)?;
        let mut whole = vec![part.clone()];
        // The last split first.
        for (group, axis) in [(self.mesh.data(), data), (self.mesh.tensor(), tensor)] {
            if let Some(axis) = axis {
                whole = bucket::gathered(group, &whole, &[axis])?;
            }
        }
        self.mesh.all().eval("the parts of a parameter", &whole)?;
        whole.pop().ok_or_else(|| Error::message("MLX lost the parts of a parameter"))
    }

    /// How a parameter comes to the model, and its gradient, as `dtype`, to the ranks that share a batch; `None`
    /// where each has all of it.
    pub(super) fn share(&self, name: &str, dtype: Dtype) -> Result<Option<Share>> {
        let group = self.mesh.data();
        if group.is_alone() {
            return Ok(None);
        }
        Ok(Some(Share { group: group.clone(), axis: self.held(name)?.data, dtype }))
    }

    /// How a parameter is held.
    pub(super) fn held(&self, name: &str) -> Result<&Held> {
        let missing = || TrainError::MissingParameter { name: name.to_string() };
        Ok(self.by_name.get(name).ok_or_else(missing)?)
    }

    /// The squares `()` of the norms of whole gradients, from those of the parts that are held; in a pipeline those of
    /// all [trained](Self::trained) parameters, of which others than these names count as zero.
    pub(super) fn squares_of_whole(
        &self,
        names: &[&str],
        mut squares: Vec<Array>,
    ) -> Result<Vec<Array>> {
        if self.mesh.all().is_alone() {
            return Ok(squares);
        }
        let held = names.iter().map(|name| self.held(name)).collect::<Result<Vec<_>>>()?;
        for (group, axes) in [
            (self.mesh.tensor(), held.iter().map(|it| it.tensor).collect::<Vec<_>>()),
            (self.mesh.data(), held.iter().map(|it| it.data).collect()),
        ] {
            let split: Vec<usize> = (0..axes.len()).filter(|&at| axes[at].is_some()).collect();
            if group.is_alone() || split.is_empty() {
                continue;
            }
            // All in one message: each is four bytes.
            let own: Vec<&Array> = split.iter().map(|&at| &squares[at]).collect();
            let summed = group.all_sum(&stack(&own, 0)?)?.split_equal(split.len() as i32, 0)?;
            for (at, sum) in split.into_iter().zip(summed) {
                squares[at] = sum.reshape(&[])?;
            }
        }
        match &self.stage {
            Some(stage) => stage.squares_of_all(&self.trained, names, &squares),
            None => Ok(squares),
        }
    }

    /// Which parts of the arrays of a snapshot this rank holds.
    pub(super) fn placements<M>(&self, model: &M, state: &TrainState) -> Result<StatePlacements>
    where
        M: ModuleParameters + ?Sized,
    {
        let placement = |name: &Rc<str>| Ok(self.held(name)?.placement.clone());
        let names = self.names(model);
        let weights = names.iter().map(placement).collect::<Result<_>>()?;
        let mut training = Vec::new();
        let of_parameters = state.names.iter().zip(state.carried.optimizer.by_parameter());
        for (name, arrays) in of_parameters {
            let parameter = placement(name)?;
            let local = parameter.local_shape();
            // Optimizers that update parts keep numbers of each element, and of all together.
            training.extend(arrays.iter().map(|array| {
                let is_part = array.shape() == local;
                if is_part { parameter.clone() } else { Placement::whole(array.shape()) }
            }));
        }
        for (name, _) in state.names.iter().zip(&state.carried.ema) {
            training.push(placement(name)?);
        }
        let rest = [&state.carried.updates, &state.carried.key];
        training.extend(rest.map(|array| Placement::whole(array.shape())));
        Ok(StatePlacements { weights, training })
    }
}

impl Held {
    /// Of a parameter of this shape, which layers that divide it split along an axis.
    fn new(mesh: &Mesh, shape: &[i32], tensor: Option<usize>, is_trained: bool) -> Result<Self> {
        let mut placement = Placement::whole(shape);
        if let Some(axis) = tensor {
            placement = placement.split(split(axis, mesh.tensor()))?;
        }
        let (group, parts) = (mesh.data(), mesh.data().world_size());
        let divides = |&length: &i32| length > 0 && (length as usize).is_multiple_of(parts);
        // What is not trained needs neither gradient nor state, and all ranks read it.
        let is_sharded = mesh.parallelism().is_sharded && is_trained && parts > 1;
        let data = placement.local_shape().iter().position(divides).filter(|_| is_sharded);
        if let Some(axis) = data {
            placement = placement.split(split(axis, group))?;
        }
        Ok(Self { placement, tensor, data })
    }

    /// What layers compute with: whole but for what is divided among the ranks that divide layers.
    fn shape_in_layers(&self, mesh: &Mesh) -> Vec<i32> {
        let mut shape = self.placement.shape().to_vec();
        if let Some(length) = self.tensor.and_then(|axis| shape.get_mut(axis)) {
            *length /= mesh.tensor().world_size() as i32;
        }
        shape
    }
}

/// This rank's part of an axis that a group divides.
fn split(axis: usize, group: &Group) -> Split {
    Split { axis, parts: group.world_size(), part: group.rank() }
}
