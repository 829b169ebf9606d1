//! Where arrays lie in a safetensors file: the bytes before them, and their order.

use super::{
    StoreError,
    array_file::{LENGTH_BYTES, MAX_HEADER_BYTES, file_dtype, natural_order},
};
use mlx_rs::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::{collections::HashSet, path::Path};

/// An array as a header describes it.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [i32],
}

impl Described<'_> {
    /// How many bytes the array takes in a file.
    pub(super) fn num_bytes(&self) -> usize {
        let elements: usize = self.shape.iter().map(|&axis| axis as usize).product();
        elements * file_dtype(self.dtype).bitsize() / 8
    }
}

/// A file that is about to be written.
pub(super) struct FileLayout {
    /// The length of the header, the header, and spaces that align what follows.
    pub(super) head: Vec<u8>,
    /// The places of the arrays in the list that was described, as they follow one another.
    pub(super) order: Vec<usize>,
}

impl FileLayout {
    /// Orders arrays by name, those of wider elements first, so that each is aligned.
    pub(super) fn new(
        arrays: &[Described<'_>],
        metadata: &[(&str, &str)],
        path: &Path,
    ) -> Result<Self, StoreError> {
        let unsavable = |name: &str, problem: &str| StoreError::Unsavable {
            name: name.into(),
            path: path.to_owned(),
            problem: problem.into(),
        };
        let width = |index: usize| file_dtype(arrays[index].dtype).bitsize();
        let mut order: Vec<usize> = (0..arrays.len()).collect();
        order.sort_by(|&a, &b| {
            width(b).cmp(&width(a)).then_with(|| natural_order(arrays[a].name, arrays[b].name))
        });

        let mut offset = 0;
        let mut infos = Vec::with_capacity(arrays.len());
        let mut names = HashSet::new();
        for array in order.iter().map(|&index| &arrays[index]) {
            let name = array.name;
            if name.is_empty() || name == "__metadata__" {
                return Err(unsavable(name, "the format has no room for that name; rename it"));
            }
            if !names.insert(name) {
                return Err(unsavable(name, "two arrays have that name; rename one"));
            }
            let elements: i64 = array.shape.iter().map(|&axis| i64::from(axis)).product();
            if i32::try_from(elements).is_err() {
                return Err(unsavable(name, "it has over 2^31 - 1 elements; split it"));
            }
            let end = offset + array.num_bytes();
            infos.push((
                name.to_owned(),
                TensorInfo {
                    dtype: file_dtype(array.dtype),
                    shape: array.shape.iter().map(|&axis| axis as usize).collect(),
                    data_offsets: (offset, end),
                },
            ));
            offset = end;
        }
        let metadata = (!metadata.is_empty())
            .then(|| metadata.iter().map(|&(key, text)| (key.into(), text.into())).collect());
        let header = Metadata::new(metadata, infos)
            .and_then(|header| Ok(serde_json::to_vec(&header)?))
            .map_err(|error| unsavable("the header", &error.to_string()))?;
        if header.len() as u64 > MAX_HEADER_BYTES {
            return Err(unsavable("the header", "it is over 100 MB; save fewer arrays a file"));
        }
        // Spaces after the JSON align the arrays.
        let header_bytes = header.len().next_multiple_of(LENGTH_BYTES);
        let mut head = (header_bytes as u64).to_le_bytes().to_vec();
        head.extend(header);
        head.resize(LENGTH_BYTES + header_bytes, b' ');
        Ok(Self { head, order })
    }
}
