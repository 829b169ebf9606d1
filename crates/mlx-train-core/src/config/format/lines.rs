//! From an offset in a text to its line and column.

use crate::config::node::{Origin, Place};
use std::sync::Arc;

/// The line starts of a text, so that each place is found by bisection.
pub(super) struct Lines<'a> {
    origin: &'a Arc<Origin>,
    starts: Vec<usize>,
    /// The bytes that only continue a character: columns count characters.
    continuations: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &str, origin: &'a Arc<Origin>) -> Self {
        let offsets = |wanted: fn(u8) -> bool| {
            let bytes = text.bytes().enumerate();
            bytes.filter(move |(_, byte)| wanted(*byte)).map(|(offset, _)| offset)
        };
        let starts = std::iter::once(0).chain(offsets(|b| b == b'\n').map(|offset| offset + 1));
        let continuations = offsets(|byte| byte & 0b1100_0000 == 0b1000_0000);
        Self { origin, starts: starts.collect(), continuations: continuations.collect() }
    }

    /// The place of the character at a byte offset.
    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let until = |offset| self.continuations.partition_point(|byte| *byte < offset);
        let column = offset - start - (until(offset) - until(start)) + 1;
        Place::new(self.origin, line, column)
    }

    /// The place of the byte at a line and column, both from one.
    pub(super) fn place_of_byte(&self, line: usize, column: usize) -> Place {
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        self.place(start + column.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        let origin = Arc::new(Origin::Text("TOML"));
        let text = "a\nüb = 1\n";
        let lines = Lines::new(text, &origin);
        let at = |needle| lines.place(text.find(needle).unwrap()).line_and_column().unwrap();
        assert_eq!((at("a"), at("ü"), at("b"), at("1")), ((1, 1), (2, 1), (2, 2), (2, 6)));
        assert_eq!(lines.place(text.len()).line_and_column(), Some((3, 1)));
    }
}
