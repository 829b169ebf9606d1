//! What of a model a stage of a pipeline runs, and which parameters it holds for that.

use super::{Precision, StepOptions, lent::Lent};
use crate::{
    Array, Result,
    batch::Batch,
    distributed::{
        Group, PipelineError,
        pipeline::{self, Ended, Survey},
    },
    ffi,
    graph::Graph,
    model::{BaseModel, Loss},
    rng,
    train::parameters,
};
use mlx_rs::{
    Dtype,
    ops::{broadcast_to, stack, zeros_dtype},
};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    ops::Range,
    rc::Rc,
    slice::from_ref,
};

/// The part of the model that this rank of a pipeline runs, and which parameters all stages hold.
#[derive(Debug)]
pub(super) struct Stage {
    /// The ranks that have the other parts, in order.
    pub(super) group: Group,
    /// The blocks of the model's stack that run here.
    pub(super) blocks: Range<usize>,
    /// The stages that hold each parameter, in order; there is one at least.
    holders: HashMap<Rc<str>, Vec<usize>>,
    /// Every parameter, in natural order of the names.
    hollow: Vec<Hollow>,
    /// What is between the blocks, for each kind of batch that was seen.
    surveys: RefCell<Vec<(Kind, Rc<Survey>)>>,
}

/// A parameter as the model computes with it, without its values.
#[derive(Debug)]
pub(super) struct Hollow {
    pub(super) name: Rc<str>,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl Hollow {
    /// The parameters of a model of these shapes, in the dtypes that it computes in.
    pub(super) fn all<M: BaseModel + ?Sized>(
        model: &M,
        shapes: Vec<(Rc<str>, Vec<i32>)>,
        precision: Precision,
    ) -> Result<Vec<Self>> {
        let names: Vec<_> = shapes.iter().map(|(name, _)| Rc::clone(name)).collect();
        let values = parameters::get(model, &names)?;
        let hollow = shapes.into_iter().zip(&values).map(|((name, shape), value)| {
            let like = zeros_dtype(&[], value.dtype())?;
            Ok(Self { name, shape, dtype: precision.to_compute(&like)?.dtype() })
        });
        hollow.collect()
    }
}

/// What of a model a stage runs.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) blocks: Range<usize>,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

impl Part {
    pub(super) fn new(blocks: Range<usize>, is_first: bool, is_last: bool) -> Self {
        Self { blocks, is_first, is_last }
    }
}

/// Shapes and dtypes of a batch.
type Kind = Vec<(Vec<i32>, Dtype)>;

impl Stage {
    /// Cuts the model into stages. `shapes` are those of the parameters that its layers work with, in natural order of
    /// the names. Nothing is computed but who holds what, for which all stages have to come here.
    pub(super) fn cut<M>(
        group: &Group,
        model: &mut M,
        shapes: Vec<(Rc<str>, Vec<i32>)>,
        options: &StepOptions,
    ) -> Result<Self>
    where
        M: BaseModel + ?Sized,
    {
        pipeline::check_sends(group)?;
        let rows = options.pipeline.rows.as_ref().ok_or(PipelineError::NoRows)?;
        let batch = options.precision.batch_to_compute(rows.batch(1)?)?;
        let hollow = Hollow::all(model, shapes, options.precision)?;
        let survey = survey(model, &hollow, &batch)?;
        let (num_blocks, num_stages) = (survey.num_blocks(), group.world_size());
        let ranges = match &options.pipeline.blocks {
            Some(blocks) => pipeline::cut(blocks, num_blocks, num_stages)?,
            None => pipeline::partition(&vec![1.0; num_blocks], 0.0, 0.0, &vec![1.0; num_stages])?,
        };
        let blocks = ranges[group.rank()].clone();
        let part = Part::new(blocks.clone(), group.rank() == 0, group.rank() + 1 == num_stages);
        let used = used(model, &hollow, &batch, &part, &survey)?;
        let holders = holders(group, &hollow, &used)?;
        let surveys = RefCell::new(vec![(kind(&batch), Rc::new(survey))]);
        Ok(Self { group: group.clone(), blocks, holders, hollow, surveys })
    }

    /// Whether this rank holds a parameter.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.stages(name).contains(&self.group.rank())
    }

    /// Whether several stages hold a parameter, each of which has a part of its gradient.
    pub(super) fn is_shared(&self, name: &str) -> bool {
        self.stages(name).len() > 1
    }

    fn stages(&self, name: &str) -> &[usize] {
        self.holders.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of all parameters, in natural order.
    pub(super) fn names(&self) -> impl Iterator<Item = &Rc<str>> {
        self.hollow.iter().map(|it| &it.name)
    }

    pub(super) fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    pub(super) fn is_last(&self) -> bool {
        self.group.rank() + 1 == self.group.world_size()
    }

    /// What is between the blocks of the model for such a batch: of the input of the first block here, and of the
    /// output of the last.
    pub(super) fn boundaries<M>(
        &self,
        model: &mut M,
        batch: &Batch,
    ) -> Result<[(Vec<i32>, Dtype); 2]>
    where
        M: BaseModel + ?Sized,
    {
        let kind = kind(batch);
        let known = self.surveys.borrow().iter().find(|it| it.0 == kind).map(|it| Rc::clone(&it.1));
        let survey = if let Some(survey) = known {
            survey
        } else {
            let survey = Rc::new(survey(model, &self.hollow, batch)?);
            self.surveys.borrow_mut().push((kind, Rc::clone(&survey)));
            survey
        };
        let at = |index: usize| survey.boundaries.get(index).cloned().ok_or(PipelineError::NotRun);
        Ok([at(self.blocks.start)?, at(self.blocks.end)?])
    }

    /// The squares `()` of the gradients of all trained parameters, of which this stage has those of `names`. The
    /// parameters of other groups than these names are of count as zero.
    pub(super) fn squares_of_all(
        &self,
        trained: &[Rc<str>],
        names: &[&str],
        squares: &[Array],
    ) -> Result<Vec<Array>> {
        // Before the collective, which is not to stand among those of other groups in one evaluation.
        self.group.eval("the norms of gradients", squares)?;
        let own: HashMap<&str, &Array> = names.iter().copied().zip(squares).collect();
        let zero = Array::from_f32(0.0);
        let of = |name: &Rc<str>| {
            let is_counted = self.stages(name).first() == Some(&self.group.rank());
            own.get(&**name).copied().filter(|_| is_counted).unwrap_or(&zero)
        };
        let all: Vec<&Array> = trained.iter().map(of).collect();
        let all = self.group.all_sum(&stack(&all, 0)?)?;
        self.group.eval("the norms of the gradients of all stages", [&all])?;
        let squares = all.split_equal(trained.len() as i32, 0)?;
        squares.iter().map(|square| Ok(square.reshape(&[])?)).collect()
    }
}

/// What stands in the place of a parameter that is not held: one number for all of them, which takes no memory.
pub(super) fn nothing(shape: &[i32], dtype: Dtype) -> Result<Array> {
    let nothing = broadcast_to(zeros_dtype(&[], dtype)?, shape)?;
    ffi::eval([&nothing])?;
    Ok(nothing)
}

fn kind(batch: &Batch) -> Kind {
    batch.arrays().map(|array| (array.shape().to_vec(), array.dtype())).collect()
}

/// A model whose parameters are recorded and never computed: each is a node of its own.
pub(super) fn hollowed<T, M>(
    model: &mut M,
    hollow: &[Hollow],
    f: impl FnOnce(&mut Lent<'_, M>, &[Array]) -> Result<T>,
) -> Result<T>
where
    M: BaseModel + ?Sized,
{
    let names: Vec<Rc<str>> = hollow.iter().map(|it| Rc::clone(&it.name)).collect();
    let values = hollow.iter().map(|it| Ok(zeros_dtype(&it.shape, it.dtype)?));
    let values = values.collect::<Result<Vec<_>>>()?;
    let mut model = Lent::new(model, &names)?;
    model.set(&values)?;
    model.training_mode(true);
    rng::scope(&rng::key(0)?, || f(&mut model, &values))
}

/// What is between the blocks of a model.
pub(super) fn survey<M>(model: &mut M, hollow: &[Hollow], batch: &Batch) -> Result<Survey>
where
    M: BaseModel + ?Sized,
{
    hollowed(model, hollow, |model, _| Ok(pipeline::survey(|| model.batch_loss(batch))?.1))
}

/// Which parameters a stage needs: those that its output depends on, and those that it moves (running statistics).
pub(super) fn used<M>(
    model: &mut M,
    hollow: &[Hollow],
    batch: &Batch,
    part: &Part,
    survey: &Survey,
) -> Result<Vec<bool>>
where
    M: BaseModel + ?Sized,
{
    const RECEIVED: &str = "received";
    let Part { blocks, is_first, is_last } = part;
    let names: Vec<Rc<str>> = hollow.iter().map(|it| Rc::clone(&it.name)).collect();
    hollowed(model, hollow, |model, values| {
        let (shape, dtype) = &survey.boundaries[blocks.start];
        let received = zeros_dtype(shape, *dtype)?;
        let input = (!*is_first).then(|| received.clone());
        let ended = pipeline::stage(blocks.clone(), input, *is_last, || model.batch_loss(batch))?;
        let outputs = match ended {
            Ended::Output(output) => vec![output],
            Ended::Whole(Loss { value, weight }) => vec![value, weight],
        };
        let numbers: Vec<String> = (0..values.len()).map(|index| format!("p{index}")).collect();
        let graph =
            Graph::with_names(&outputs, values.iter().zip(numbers.iter().map(String::as_str)))?;
        let found: HashSet<&str> =
            graph.arrays().iter().filter_map(|array| array.name.as_deref()).collect();
        let mut used: Vec<bool> =
            numbers.iter().map(|number| found.contains(number.as_str())).collect();
        let after = parameters::get(&**model, &names)?;
        for ((used, before), after) in used.iter_mut().zip(values).zip(&after) {
            if !*used && !ffi::is_same_node(before, after)? {
                // What is before the stack runs here, too, but belongs to the first stage.
                let graph = Graph::with_names(from_ref(after), [(&received, RECEIVED)])?;
                *used = *is_first || graph.find(RECEIVED).is_some();
            }
        }
        Ok(used)
    })
}

/// The stages that hold each parameter, from what each of them needs.
fn holders(
    group: &Group,
    hollow: &[Hollow],
    used: &[bool],
) -> Result<HashMap<Rc<str>, Vec<usize>>> {
    let own: Vec<i32> = used.iter().map(|&used| i32::from(used)).collect();
    let all = group.all_gather(&Array::from_slice(&own, &[own.len() as i32]))?;
    group.eval("the stages to say which parameters they need", [&all])?;
    let all = all.try_as_slice::<i32>()?;
    let last = group.world_size() - 1;
    let stages = |index: usize| {
        let needs = |stage: &usize| all[stage * hollow.len() + index] != 0;
        let stages: Vec<usize> = (0..=last).filter(needs).collect();
        // Somebody has to keep what no stage needs, as weight decay and checkpoints still do.
        if stages.is_empty() { vec![last] } else { stages }
    };
    let names = hollow.iter().enumerate();
    Ok(names.map(|(index, it)| (Rc::clone(&it.name), stages(index))).collect())
}
