//! The ranks as a grid, one axis for each way to split a run.

use super::{DistributedError, Group, Parallelism};
use crate::Result;

/// The ranks of a run as a grid: `rank = (pipeline * data_size + data) * tensor_size + tensor`.
///
/// Ranks that divide layers send most, so they are neighbours; those of a pipeline send least. Source: Narayanan
/// et al., arXiv:2104.04473, section 3.
///
/// ```
/// use mlx_train_core::distributed::{Group, Mesh, Parallelism};
/// let group = Group::of_environment()?; // alone, unless several were started
/// let mesh = Mesh::new(&group, Parallelism::data(group.world_size()))?;
/// assert_eq!(mesh.data().rank(), group.rank());
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mesh {
    parallelism: Parallelism,
    all: Group,
    data: Group,
    tensor: Group,
    pipeline: Group,
}

impl Mesh {
    /// One process that does everything.
    pub fn alone() -> Self {
        let alone = Group::alone();
        Self {
            parallelism: Parallelism::NONE,
            all: alone.clone(),
            data: alone.clone(),
            tensor: alone.clone(),
            pipeline: alone,
        }
    }

    /// All ranks of `group` in this layout. All ranks have to call it.
    ///
    /// # Errors
    /// [`DistributedError::WorldSize`] unless the layout takes as many ranks as there are;
    /// [`DistributedError::NoSplit`] when it splits the run in several ways and the backend cannot split groups.
    pub fn new(group: &Group, parallelism: Parallelism) -> Result<Self> {
        let world_size = group.world_size();
        if parallelism.num_ranks() != world_size {
            return Err(DistributedError::WorldSize { parallelism, world_size }.into());
        }
        let Parallelism { data, tensor, .. } = parallelism;
        let (rank, stage_size) = (group.rank(), data * tensor);
        // The ranks of one color differ in one coordinate alone.
        let colors = [
            (parallelism.data, rank / stage_size * tensor + rank % tensor),
            (parallelism.tensor, rank / tensor),
            (parallelism.pipeline, rank % stage_size),
        ];
        let mut groups = Vec::with_capacity(colors.len());
        for (parts, color) in colors {
            groups.push(match parts {
                1 => Group::alone(),
                _ if parts == world_size => group.clone(),
                _ => group.split(color)?,
            });
        }
        let [data, tensor, pipeline] = <[Group; 3]>::try_from(groups)
            .map_err(|_| crate::Error::message("a mesh has three axes"))?;
        Ok(Self { parallelism, all: group.clone(), data, tensor, pipeline })
    }

    /// Into how many parts the run is split.
    pub fn parallelism(&self) -> Parallelism {
        self.parallelism
    }

    /// All ranks.
    pub fn all(&self) -> &Group {
        &self.all
    }

    /// The ranks that have the same part of the model as this one, and other rows.
    pub fn data(&self) -> &Group {
        &self.data
    }

    /// The ranks that have other parts of the same layers, and the same rows.
    pub fn tensor(&self) -> &Group {
        &self.tensor
    }

    /// The ranks that have other blocks of the model, and the same rows; the first has the first blocks.
    pub fn pipeline(&self) -> &Group {
        &self.pipeline
    }
}
