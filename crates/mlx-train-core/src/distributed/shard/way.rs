//! The ways in which a field is split, which attributes name: `#[shard(columns)]` is [`Columns`].

use super::{Sharding, SplitBy};

/// Each rank computes a part of the outputs.
#[derive(Debug, Clone, Copy)]
pub struct Columns;

/// Each rank takes a part of the inputs, and what ranks make of theirs is added up.
#[derive(Debug, Clone, Copy)]
pub struct Rows;

/// Each rank knows a part of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary;

/// By columns and by rows in turn: of the layers that are marked so, each takes what the one before it has made.
///
/// Two of them share their work where the ranks divide the width between them, and nothing between them needs all of
/// it, as norms do. A layer without such a partner stays whole.
#[derive(Debug, Clone, Copy)]
pub struct Alternating;

/// Each rank has an equal share.
#[derive(Debug, Clone, Copy)]
pub struct Divide;

macro_rules! divide {
    ($($number:ty),*) => {
        $(impl SplitBy<Divide> for $number {
            fn split(&mut self, sharding: &mut Sharding<'_>) {
                let share = usize::try_from(*self).ok().and_then(|whole| sharding.divide(whole));
                if let Some(share) = share.and_then(|share| share.try_into().ok()) {
                    *self = share;
                }
            }
        })*
    };
}

divide!(u32, u64, usize, i32, i64, isize);
