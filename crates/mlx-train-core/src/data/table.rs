//! Tables of numbers: which columns are features, and which one is predicted.

use super::{DataError, InMemory, files::malformed};
use crate::Result;
use std::{collections::HashSet, path::Path};

/// Which columns of a table are used, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The column that is predicted.
    pub label: String,
    /// The columns that it is predicted from, in this order; empty for all others, in the file's.
    pub features: Vec<String>,
    /// How many classes the label has, which is then a whole number from 0; `None` when it is any number.
    pub num_classes: Option<usize>,
}

/// Where the used columns are in a file.
#[derive(Debug)]
pub(super) struct Picked {
    /// The features, then the label.
    pub(super) columns: Vec<usize>,
}

impl Columns {
    /// Finds the columns among those of a file, whose names were checked by [`check_names`].
    pub(super) fn pick(&self, path: &Path, names: &[String]) -> Result<Picked> {
        let find = |wanted: &String| {
            names.iter().position(|name| name == wanted).ok_or_else(|| {
                let known = names.join(", ");
                malformed(
                    path,
                    format!("it has no column `{wanted}` (columns: {known}): name one of them"),
                )
            })
        };
        let label = find(&self.label)?;
        let mut columns: Vec<usize> = match &self.features[..] {
            [] => (0..names.len()).filter(|&column| column != label).collect(),
            features => features.iter().map(find).collect::<Result<_>>()?,
        };
        let mut seen = HashSet::from([label]);
        if let Some(&twice) = columns.iter().find(|&&column| !seen.insert(column)) {
            let problem = format!(
                "column `{}` is used twice, as a feature and as the label or another feature: name it once",
                names[twice]
            );
            return Err(DataError::Invalid(problem).into());
        }
        if columns.is_empty() {
            let problem = "there is no column beside the label: a row needs at least one feature";
            return Err(malformed(path, problem));
        }
        columns.push(label);
        Ok(Picked { columns })
    }

    /// What the table is once its numbers are read.
    pub(super) fn dataset(&self, path: &Path, table: Table) -> Result<InMemory> {
        let Table { features, labels } = table;
        if labels.is_empty() {
            return Err(malformed(
                path,
                "it has no row below the names of its columns: give at least one",
            ));
        }
        let row_shape = [(features.len() / labels.len()) as i32];
        match self.num_classes {
            Some(_) => {
                let labels = labels.iter().map(|&label| label as i32).collect();
                InMemory::from_vecs(features, &row_shape, labels, &[])
            }
            None => InMemory::from_vecs(features, &row_shape, labels, &[1]),
        }
    }

    /// A label that can be used, or what is wrong with it.
    pub(super) fn label(&self, label: f32) -> Result<f32, String> {
        match self.num_classes {
            Some(num_classes)
                if label.fract() != 0.0 || !(0.0..num_classes as f32).contains(&label) =>
            {
                Err(format!(
                    "{label} is not one of {num_classes} classes (0 to {}): correct it, or set the number \
                     of classes",
                    num_classes.saturating_sub(1)
                ))
            }
            _ => Ok(label),
        }
    }
}

/// The numbers of the used columns.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Row by row.
    pub(super) features: Vec<f32>,
    pub(super) labels: Vec<f32>,
}

impl Table {
    /// Adds the numbers of one row in the order of [`Picked::columns`].
    pub(super) fn push(&mut self, row: impl Iterator<Item = f32>) {
        self.features.extend(row);
        self.labels.extend(self.features.pop());
    }
}

/// Refuses names that would not tell columns apart.
pub(super) fn check_names(path: &Path, names: &[String]) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        let column = index + 1;
        if name.is_empty() {
            let problem = format!("line 1: column {column} has no name: give every column one");
            return Err(malformed(path, problem));
        }
        if !seen.insert(name) {
            let problem =
                format!("line 1: column {column} is a second `{name}`: rename one of them");
            return Err(malformed(path, problem));
        }
    }
    Ok(())
}
