//! Several documents a row, which must not see each other.

use super::{
    Batch, DataError, Dataset, Sequences,
    dataset::check_rows,
    sequences::{Predictions, Rows},
    values::array,
};
use crate::Result;
use std::{collections::BTreeMap, sync::Arc};

/// Which documents share a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As they come, each row full: a document that does not fit goes on in the next row, where it starts
    /// without what came before. Only the last row has padding.
    InOrder,
    /// Longest first, each into the row that it leaves least room in. Only documents longer than a row
    /// are split. "Best-fit packing", Ding et al., arXiv:2404.10830, section 3.
    BestFit,
}

/// A dataset of documents packed into rows: inputs and targets `(B, T)` int32 with segments `(B, T)` int32.
///
/// [`Batch::segments`] counts the documents of a row from 0, and is -1 in padding; a model lets a token see
/// only earlier ones of its own segment ([`crate::model::BaseModel::batch_loss`]). A document's last token is
/// no input, as nothing follows it, so no token predicts another document's first.
///
/// Positions go on through a row, and need not start again with each document where they are rotary:
/// the score of query `i` and key `j` depends on `i - j` alone (arXiv:2104.09864, section 3.2), which is the
/// same wherever their document starts. A model with absolute positions would need positions of its own.
#[derive(Debug, Clone)]
pub struct Packed {
    sequences: Sequences,
    seq_len: usize,
    layout: Arc<Layout>,
}

/// What each row is made of.
#[derive(Debug, Default)]
struct Layout {
    pieces: Vec<Predictions>,
    /// Where each row's pieces end.
    ends: Vec<usize>,
}

impl Packed {
    /// Packs documents into rows of `seq_len` predictions. Only their ends are read now; the layout takes
    /// 16 bytes a document and 8 a row.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when `seq_len` is 0, or no document has two tokens; what reading the
    /// documents' ends returns.
    pub fn new(sequences: Sequences, seq_len: usize, packing: Packing) -> Result<Self> {
        if seq_len == 0 {
            let problem = "rows of sequence length 0 predict nothing: use at least 1";
            return Err(DataError::Invalid(problem.into()).into());
        }
        let documents = sequences.all_predictions()?.filter(|document| document.len > 0);
        let layout = match packing {
            Packing::InOrder => in_order(documents, seq_len),
            Packing::BestFit => best_fit(documents, seq_len),
        };
        if layout.ends.is_empty() {
            let problem = format!(
                "{} has no document of at least two tokens, so there is nothing to predict",
                sequences.tokens().origin()
            );
            return Err(DataError::Invalid(problem).into());
        }
        Ok(Self { sequences, seq_len, layout: Arc::new(layout) })
    }

    /// How many predictions a row has room for.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Which share of all positions is predictions and not padding, above 0 and up to 1.
    pub fn filled(&self) -> f64 {
        let predictions: usize = self.layout.pieces.iter().map(|piece| piece.len).sum();
        predictions as f64 / (self.len() as f64 * self.seq_len as f64)
    }

    /// What a row is made of.
    fn pieces(&self, row: usize) -> &[Predictions] {
        let start = row.checked_sub(1).map_or(0, |before| self.layout.ends[before]);
        &self.layout.pieces[start..self.layout.ends[row]]
    }
}

impl Dataset for Packed {
    fn len(&self) -> usize {
        self.layout.ends.len()
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        check_rows(rows, self.len())?;
        let mut batch = Rows::new(rows.len(), self.seq_len);
        let mut segments = Vec::with_capacity(rows.len() * self.seq_len);
        for (index, &row) in rows.iter().enumerate() {
            let pieces = self.pieces(row);
            batch.push(&self.sequences, pieces.iter().copied())?;
            for (segment, piece) in (0..).zip(pieces) {
                segments.resize(segments.len() + piece.len, segment);
            }
            segments.resize((index + 1) * self.seq_len, PADDING_SEGMENT);
        }
        let segments = array(&segments, &[rows.len() as i32, self.seq_len as i32])?;
        Ok(batch.into_batch()?.with_segments(segments))
    }
}

/// The segment of padding, so that it sees nothing but padding.
const PADDING_SEGMENT: i32 = -1;

/// Pieces of at most `seq_len`, the first ones of each document that long.
fn split(document: Predictions, seq_len: usize) -> impl Iterator<Item = Predictions> {
    (0..document.len).step_by(seq_len).map(move |offset| Predictions {
        start: document.start + offset,
        len: seq_len.min(document.len - offset),
    })
}

fn in_order(documents: impl Iterator<Item = Predictions>, seq_len: usize) -> Layout {
    let mut layout = Layout::default();
    let mut room = seq_len;
    for Predictions { mut start, mut len } in documents {
        while len > 0 {
            let here = len.min(room);
            layout.pieces.push(Predictions { start, len: here });
            (start, len, room) = (start + here, len - here, room - here);
            if room == 0 {
                layout.ends.push(layout.pieces.len());
                room = seq_len;
            }
        }
    }
    if room < seq_len {
        layout.ends.push(layout.pieces.len());
    }
    layout
}

fn best_fit(documents: impl Iterator<Item = Predictions>, seq_len: usize) -> Layout {
    let mut pieces: Vec<Predictions> =
        documents.flat_map(|document| split(document, seq_len)).collect();
    // Stable, so that pieces of one length stay in order and one dataset has one layout.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len));
    let mut rows: Vec<Vec<Predictions>> = Vec::new();
    // The rows that have this much room.
    let mut with_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for piece in pieces {
        let fullest = with_room.range_mut(piece.len..).next();
        let found = fullest.and_then(|(&room, numbers)| Some((numbers.pop()?, room)));
        let (row, room) = found.unwrap_or((rows.len(), seq_len));
        if row == rows.len() {
            rows.push(Vec::new());
        }
        if with_room.get(&room).is_some_and(Vec::is_empty) {
            with_room.remove(&room);
        }
        rows[row].push(piece);
        if room > piece.len {
            with_room.entry(room - piece.len).or_default().push(row);
        }
    }
    let mut layout = Layout::default();
    for row in rows {
        layout.pieces.extend(row);
        layout.ends.push(layout.pieces.len());
    }
    layout
}
