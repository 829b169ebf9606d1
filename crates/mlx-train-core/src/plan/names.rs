//! The parameters of a model by name: which belong to a block, and whether blocks are alike.

use super::workload::{Parameter, Place};
use crate::{model::BaseModel, optim, optim::Optimizer};
use mlx_rs::{Array, module::ModuleParameters};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Of how many blocks models are recorded, where there are more: one more of them, or two of which one is
/// checkpointed, tell what all do.
const FEW_AND_MORE: [usize; 2] = [2, 4];

/// The parameters of a whole model.
#[derive(Debug)]
pub(super) struct Names {
    entries: Vec<Entry>,
    blocks: Option<Blocks>,
    whole_matrices: Option<String>,
}

/// One parameter.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    shape: Vec<i32>,
    item_bytes: u64,
    is_trained: bool,
}

/// The blocks of the only stack, which are alike.
#[derive(Debug)]
struct Blocks {
    /// What stands before the number of a block: `model.layers.`.
    prefix: String,
    number: usize,
}

impl Names {
    /// The parameters of a model that was built with stacks of so many blocks.
    pub(super) fn of(
        model: &mut dyn BaseModel,
        stacks: &[usize],
        optimizer: &dyn Optimizer,
    ) -> Self {
        let trainable: BTreeSet<_> = model.trainable_parameters().flatten().into_keys().collect();
        let mut whole_matrices = None;
        let parameters = model.parameters().flatten();
        let mut entries: Vec<Entry> = Vec::with_capacity(parameters.len());
        for (name, value) in &parameters {
            let parameter = optim::Parameter { name, value };
            let is_trained = trainable.contains(name) && optimizer.trains(parameter);
            if is_trained && !optimizer.updates_parts(parameter) {
                whole_matrices = Some(name.to_string());
            }
            entries.push(Entry {
                name: name.to_string(),
                shape: value.shape().to_vec(),
                item_bytes: (value.nbytes() / value.size().max(1)) as u64,
                is_trained,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let blocks = match stacks {
            &[number] if number > 0 => Blocks::in_names(&entries, number),
            _ => None,
        };
        Self { entries, blocks, whole_matrices }
    }

    /// How many blocks there are; the whole model is one where they are not alike.
    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.as_ref().map_or(1, |blocks| blocks.number)
    }

    /// Whether the whole model counts as one block.
    pub(super) fn is_one_block(&self) -> bool {
        self.blocks.is_none()
    }

    /// Two numbers of blocks to record, if blocks are alike.
    pub(super) fn depths(&self) -> Option<[usize; 2]> {
        let number = self.blocks.as_ref()?.number;
        Some(match number {
            0..=3 => [usize::from(number > 1), number],
            _ => FEW_AND_MORE,
        })
    }

    /// Whether a parameter of this name, of any model of these blocks, is in one.
    pub(super) fn is_in_block(&self, name: &str) -> bool {
        self.blocks.as_ref().is_none_or(|blocks| blocks.pattern(name).is_some())
    }

    /// How many numbers the parameters of a block have.
    pub(super) fn numbers_of_block(&self) -> f64 {
        let first = |entry: &&Entry| {
            self.blocks.as_ref().is_none_or(|blocks| blocks.index(&entry.name) == Some(0))
        };
        let sizes = self
            .entries
            .iter()
            .filter(first)
            .map(|entry| entry.shape.iter().map(|&length| f64::from(length)).product::<f64>());
        sizes.sum()
    }

    /// The parameter whose update needs whole matrices, if there is one.
    pub(super) fn whole_matrices(&self) -> Option<String> {
        self.whole_matrices.clone()
    }

    /// The parameters, those of the first block for all blocks, with the places and axes of splits by name.
    pub(super) fn parameters(
        &self,
        places: &HashMap<String, Place>,
        axis: impl Fn(&str) -> Option<usize>,
    ) -> Vec<Parameter> {
        let first = |entry: &&Entry| {
            self.blocks.as_ref().is_none_or(|blocks| blocks.index(&entry.name).unwrap_or(0) == 0)
        };
        let parameters = self.entries.iter().filter(first).map(|entry| {
            let pattern = self.blocks.as_ref().and_then(|blocks| blocks.pattern(&entry.name));
            Parameter {
                place: match pattern {
                    Some(_) => Place::Block,
                    None if self.is_one_block() => Place::Block,
                    None => places.get(&entry.name).copied().unwrap_or(Place::After),
                },
                tensor_axis: axis(&entry.name),
                name: pattern.unwrap_or_else(|| entry.name.clone()),
                shape: entry.shape.clone(),
                item_bytes: entry.item_bytes,
                is_trained: entry.is_trained,
            }
        });
        parameters.collect()
    }
}

impl Blocks {
    /// The prefix that `number` blocks follow and no more, if they have the same parameters.
    fn in_names(entries: &[Entry], number: usize) -> Option<Self> {
        let mut indices: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for entry in entries {
            for (dot, _) in entry.name.match_indices('.') {
                let (prefix, rest) = entry.name.split_at(dot + 1);
                let index = rest.split('.').next().and_then(|index| index.parse().ok());
                if let Some(index) = index {
                    indices.entry(prefix).or_default().insert(index);
                }
            }
        }
        let mut stacks =
            indices.into_iter().filter(|(_, found)| found.iter().copied().eq(0..number));
        let blocks = Self { prefix: stacks.next()?.0.to_owned(), number };
        // Another list of as many may be the stack.
        if stacks.next().is_some() {
            return None;
        }
        let mut by_block: Vec<Alike<'_>> = vec![Alike::new(); number];
        for entry in entries {
            if let (Some(index), Some(pattern)) =
                (blocks.index(&entry.name), blocks.pattern(&entry.name))
            {
                let Entry { shape, item_bytes, is_trained, .. } = entry;
                by_block[index].insert((pattern, shape, *item_bytes, *is_trained));
            }
        }
        by_block.windows(2).all(|pair| pair[0] == pair[1]).then_some(blocks)
    }

    /// Which block a parameter belongs to.
    fn index(&self, name: &str) -> Option<usize> {
        name.strip_prefix(&self.prefix)?.split('.').next()?.parse().ok()
    }

    /// The name with `*` in the place of the number.
    fn pattern(&self, name: &str) -> Option<String> {
        self.index(name)?;
        let rest = name.strip_prefix(&self.prefix)?.split_once('.')?.1;
        Some(format!("{}*.{rest}", self.prefix))
    }
}

/// What the parameters of a block are, but for its number.
type Alike<'e> = BTreeSet<(String, &'e [i32], u64, bool)>;

/// How many arrays of a model are trained.
pub(super) fn num_trained(model: &dyn BaseModel, optimizer: &dyn Optimizer) -> usize {
    let trainable = model.trainable_parameters().flatten();
    let trained = |(name, value): &(&std::rc::Rc<str>, &&Array)| {
        optimizer.trains(optim::Parameter { name, value })
    };
    trainable.iter().filter(trained).count()
}
