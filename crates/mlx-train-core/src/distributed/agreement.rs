//! What ranks tell each other besides arrays.

use super::{DistributedError, Group};
use crate::{Array, Error, Result};
use std::slice::from_ref;

/// The exit status of a rank that ends because another one has failed, which says why: `EX_PROTOCOL` of `sysexits.h`,
/// an error on the other side.
pub const FOLLOWER_EXIT_STATUS: i32 = 76;

impl Group {
    /// Bytes of each rank, as many as it likes, in the order of ranks.
    ///
    /// # Errors
    /// When there are 2^31 of them, or MLX fails.
    pub fn gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        const LENGTH: usize = size_of::<u32>();
        if self.is_alone() {
            return Ok(vec![own.to_vec()]);
        }
        let too_long = |_| Error::message("what a rank has to tell is too long");
        let longest = Array::from_int(i32::try_from(own.len()).map_err(too_long)?);
        let longest = self.all_max(&longest)?;
        self.eval("the other ranks to tell something", from_ref(&longest))?;
        let size = LENGTH + longest.try_item_exact::<i32>()? as usize;
        let mut padded = (own.len() as u32).to_le_bytes().to_vec();
        padded.extend(own);
        padded.resize(size, 0);
        let all = self.all_gather(&Array::from_slice(&padded, &[padded.len() as i32]))?;
        self.eval("what the other ranks tell", from_ref(&all))?;
        let texts = all.try_as_slice::<u8>()?.chunks_exact(size).map(|bytes| {
            let (length, text) = bytes.split_first_chunk::<LENGTH>()?;
            text.get(..u32::from_le_bytes(*length) as usize).map(<[u8]>::to_vec)
        });
        let texts = texts.collect::<Option<_>>();
        texts.ok_or_else(|| Error::message("MLX lost what a rank has told"))
    }

    /// `result`, unless another rank has failed: then all have, and nobody waits for one that is gone.
    ///
    /// # Errors
    /// That of this rank, unless an earlier one has the same to say; or else [`DistributedError::Rank`] with that of
    /// the first one that failed.
    pub fn agree<T>(&self, result: Result<T>) -> Result<T> {
        if self.is_alone() {
            return result;
        }
        // One byte more, so that a text of nothing is that of a rank that has not failed.
        let own = result.as_ref().err().map(|error| format!("!{error}")).unwrap_or_default();
        let failures = self.gather_bytes(own.as_bytes())?;
        let first = failures.iter().enumerate().find(|(_, text)| !text.is_empty());
        match (result, first) {
            (Err(error), Some((rank, text))) if rank == self.rank() || text != own.as_bytes() => {
                Err(error)
            }
            (_, Some((rank, text))) => {
                let reason = String::from_utf8_lossy(&text[1..]).into_owned();
                Err(DistributedError::Rank { rank, reason }.into())
            }
            (result, None) => result,
        }
    }
}
