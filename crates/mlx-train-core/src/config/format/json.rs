//! JSON: `serde_json` judges the syntax, a walk over the text that it accepted finds the places.

use super::{DEEPEST, SyntaxError, lines::Lines};
use crate::config::node::{Entry, Kind, Node, Origin};
use serde::de::IgnoredAny;
use std::{collections::HashSet, sync::Arc};

pub(super) fn read(text: &str, origin: &Arc<Origin>) -> Result<Node, SyntaxError> {
    let lines = Lines::new(text, origin);
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let place = lines.place_of_byte(error.line(), error.column());
        SyntaxError::new(place, without_position(&error))
    })?;
    Walk { text, at: 0, lines }.value(0)
}

/// `serde_json` ends its messages in ` at line 1 column 2`, which the place says already.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]).to_owned()
}

/// A walk over valid JSON: only where values start and end is left to find.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    lines: Lines<'a>,
}

impl Walk<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let first = self.peek();
        let place = self.lines.place(self.at);
        if depth > DEEPEST {
            return Err(SyntaxError::too_deep(place));
        }
        let kind = match first {
            b'{' => self.table(depth)?,
            b'[' => self.list(depth)?,
            b'"' => Kind::String(self.string()?),
            _ => self.literal(),
        };
        Ok(Node::new(kind, place))
    }

    fn table(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        let (mut entries, mut names) = (Vec::new(), HashSet::new());
        self.at += 1;
        while self.peek() != b'}' {
            let place = self.lines.place(self.at);
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(SyntaxError::repeated_key(place, &name));
            }
            self.skip(b':');
            let value = self.value(depth + 1)?;
            entries.push(Entry { name, place, value });
            self.skip(b',');
        }
        self.at += 1;
        Ok(Kind::Table(entries))
    }

    fn list(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        let mut items = Vec::new();
        self.at += 1;
        while self.peek() != b']' {
            items.push(self.value(depth + 1)?);
            self.skip(b',');
        }
        self.at += 1;
        Ok(Kind::List(items))
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        let mut escaped = false;
        let inside = self.text.as_bytes()[start + 1..].iter().position(|&byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        self.at = inside.map_or(self.text.len(), |length| start + length + 2);
        // A half of a surrogate pair is valid JSON, but no text.
        serde_json::from_str(&self.text[start..self.at])
            .map_err(|e| SyntaxError::new(self.lines.place(start), without_position(&e)))
    }

    fn literal(&mut self) -> Kind {
        let rest = &self.text[self.at..];
        let length = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        self.at += length;
        match &rest[..length] {
            "null" => Kind::Null,
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            number => match number.parse() {
                Ok(integer) => Kind::Int(integer),
                // Valid JSON that is none of the above is a number, perhaps one beyond all floats.
                Err(_) => Kind::Float(number.parse().unwrap_or(f64::INFINITY)),
            },
        }
    }

    /// The next byte that is not space.
    fn peek(&mut self) -> u8 {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let spaces = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += spaces;
        rest.get(spaces).copied().unwrap_or_default()
    }

    fn skip(&mut self, byte: u8) {
        if self.peek() == byte {
            self.at += 1;
        }
    }
}
