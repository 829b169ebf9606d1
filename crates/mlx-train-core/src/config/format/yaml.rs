//! YAML 1.2 with its core schema, less what configs do not need: aliases, tags, several documents.
//!
//! How plain scalars are resolved: <https://yaml.org/spec/1.2.2/#103-core-schema>.

use super::{DEEPEST, SyntaxError, quote::quote};
use crate::config::node::{Entry, Kind, Node, Origin, Place};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};
use serde_json::Value;
use std::{collections::HashSet, fmt::Write, sync::Arc};

pub(super) fn read(text: &str, origin: &Arc<Origin>) -> Result<Node, SyntaxError> {
    let mut events = Events { parser: Parser::new_from_str(text), origin };
    loop {
        let (event, place) = events.next()?;
        match event {
            Event::DocumentStart(_) => break,
            // Nothing but space and comments.
            Event::StreamEnd => return Ok(Node::new(Kind::Null, place)),
            _ => {}
        }
    }
    let first = events.next()?;
    let root = events.value(first, 0)?;
    loop {
        let (event, place) = events.next()?;
        match event {
            Event::DocumentStart(_) => {
                let message = "a second document starts here; a config is one document";
                return Err(SyntaxError::new(place, message));
            }
            Event::StreamEnd => return Ok(root),
            _ => {}
        }
    }
}

struct Events<'a> {
    parser: Parser<'a, StrInput<'a>>,
    origin: &'a Arc<Origin>,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.place(&span.start))),
            Some(Err(error)) => {
                Err(SyntaxError::new(self.place(error.marker()), error.info().to_owned()))
            }
            None => Ok((Event::StreamEnd, Place::whole(self.origin))),
        }
    }

    fn place(&self, marker: &Marker) -> Place {
        Place::new(self.origin, marker.line(), marker.col() + 1)
    }

    fn value(&mut self, (event, place): (Event, Place), depth: usize) -> Result<Node, SyntaxError> {
        if depth > DEEPEST {
            return Err(SyntaxError::too_deep(place));
        }
        let kind = match event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) => resolve(&text),
            Event::Scalar(text, _, _, None) => Kind::String(text.into_owned()),
            Event::SequenceStart(_, None) => self.list(depth)?,
            Event::MappingStart(_, None) => self.table(depth)?,
            Event::Alias(_) => {
                let message = "aliases (`*name`) are not supported; write the value out";
                return Err(SyntaxError::new(place, message));
            }
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                let message = format!("tags (`{tag}`) are not supported; remove it");
                return Err(SyntaxError::new(place, message));
            }
            _ => return Err(SyntaxError::new(place, "a value is expected here")),
        };
        Ok(Node::new(kind, place))
    }

    fn list(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                item => items.push(self.value(item, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        let (mut entries, mut names) = (Vec::new(), HashSet::new());
        loop {
            let (name, place) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Kind::Table(entries)),
                (Event::Scalar(name, _, _, None), place) => (name.into_owned(), place),
                (_, place) => return Err(SyntaxError::new(place, "a key must be a plain name")),
            };
            if !names.insert(name.clone()) {
                return Err(SyntaxError::repeated_key(place, &name));
            }
            let value = self.next()?;
            let value = self.value(value, depth + 1)?;
            entries.push(Entry { name, place, value });
        }
    }
}

/// A plain scalar by the core schema.
fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    let (sign, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if matches!(magnitude, ".inf" | ".Inf" | ".INF") {
        return Kind::Float(sign * f64::INFINITY);
    }
    integer(text)
        .or_else(|| float(text, magnitude))
        .unwrap_or_else(|| Kind::String(text.to_owned()))
}

fn integer(text: &str) -> Option<Kind> {
    let parse = |digits: &str, radix| {
        let unsigned = !digits.starts_with(['+', '-']);
        unsigned.then(|| i128::from_str_radix(digits, radix).ok()).flatten()
    };
    let value = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(digits), _) => parse(digits, 16),
        (_, Some(digits)) => parse(digits, 8),
        _ => text.parse().ok(),
    };
    value.map(Kind::Int)
}

fn float(text: &str, magnitude: &str) -> Option<Kind> {
    // Rust also reads `inf` and `nan`, which are strings in YAML.
    let starts = magnitude.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    starts.then(|| text.parse().ok().map(Kind::Float)).flatten()
}

/// Writes a value in block style, with short lists on one line.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_block(value, 0, &mut out),
        _ => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
    out
}

/// The members of a table or list, each on its own line.
fn write_block(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let _ = write!(out, "{pad}{}:", string(name));
                if is_block(value) {
                    out.push('\n');
                    write_block(value, indent + 1, out);
                } else {
                    let _ = writeln!(out, " {}", inline(value));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{pad}- ");
                if is_block(item) {
                    // The dash takes the place of the indent of the first member.
                    let mut block = String::new();
                    write_block(item, indent + 1, &mut block);
                    out.push_str(block.trim_start_matches(' '));
                } else {
                    let _ = writeln!(out, "{}", inline(item));
                }
            }
        }
        _ => {}
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Number(number) if number.is_f64() => {
            format!("{:?}", number.as_f64().unwrap_or_default())
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A string, in quotes unless it is plainly a word.
fn string(text: &str) -> String {
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        // YAML 1.1 readers take these for booleans.
        && !matches!(text.to_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off");
    if word && matches!(resolve(text), Kind::String(_)) {
        return text.to_owned();
    }
    quote(text)
}
