//! Windows of a sequence of tokens: what a language model trains on and is evaluated on.

use super::{Batch, DataError, Dataset, Tokens, dataset::check_rows, values::array};
use crate::Result;

/// Windows of a sequence of tokens: `x` and `y` are both `(B, T)` int32, and `y` is `x` one token
/// later.
///
/// [`Tokens::windows`] and [`Tokens::chunks`] make them; a window does not stop at the end of a
/// document.
#[derive(Debug, Clone)]
pub struct Windows {
    tokens: Tokens,
    seq_len: usize,
    stride: usize,
    len: usize,
}

impl Windows {
    /// Windows of `seq_len + 1` tokens whose starts are `stride` apart.
    pub(super) fn new(tokens: Tokens, seq_len: usize, stride: usize) -> Result<Self> {
        if seq_len == 0 {
            let text = "a window of sequence length 0 predicts nothing: use at least 1".to_owned();
            return Err(DataError::Invalid(text).into());
        }
        let Some(last_start) =
            tokens.len().checked_sub(seq_len).and_then(|start| start.checked_sub(1))
        else {
            return Err(tokens.too_short(seq_len).into());
        };
        Ok(Self { len: last_start / stride + 1, tokens, seq_len, stride })
    }

    /// How many tokens a window predicts.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The tokens that the windows are of.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}

impl Dataset for Windows {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        check_rows(rows, self.len)?;
        let mut window = Vec::with_capacity(self.seq_len + 1);
        let [mut x, mut y] = [(); 2].map(|()| Vec::with_capacity(rows.len() * self.seq_len));
        for row in rows {
            let start = row * self.stride;
            window.clear();
            self.tokens.copy(start..start + self.seq_len + 1, &mut window)?;
            x.extend_from_slice(&window[..self.seq_len]);
            y.extend_from_slice(&window[1..]);
        }
        let shape = [rows.len() as i32, self.seq_len as i32];
        Ok(Batch::new(array(&x, &shape)?, array(&y, &shape)?))
    }
}
