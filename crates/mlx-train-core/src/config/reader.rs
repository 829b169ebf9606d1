//! Reading a tree into a config: where the reader is, and every problem on the way.

use super::{
    ConfigError, ModelConfig, Problem,
    document::Document,
    node::{Entry, Kind, Node, Place},
    range::Range,
    schema::{FieldSchema, FieldType},
    suggest::{hint, shorten},
    table::TAG,
};
use std::{
    fmt::{Display, Write},
    str::FromStr,
};

/// More problems than this are only counted: a file that is wrong all over is another file.
const MOST_PROBLEMS: usize = 50;

/// Where in a config the reading or checking is, and what was wrong so far.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Reader {
    path: String,
    problems: Vec<Problem>,
    omitted: usize,
}

/// Reads a whole config; what `document` leaves out is as in `base`, or else the default.
pub(crate) fn resolve<C: ModelConfig>(
    document: &Document,
    base: Option<&C>,
) -> Result<C, ConfigError> {
    let mut reader = Reader { path: document.path().to_owned(), ..Reader::default() };
    let Some(config) = C::read(document.root(), base, &mut reader) else {
        return reader.finish(()).map(|()| C::default());
    };
    reader.check(&config, Some(document.root()));
    reader.finish(config)
}

impl Reader {
    /// Checks the ranges of `config`, and, once nothing else is wrong, what its own functions check.
    ///
    /// `source` is the tree that the config was read from, for the places.
    pub(crate) fn check<C: ModelConfig>(&mut self, config: &C, source: Option<&Node>) {
        let place = source.map(|node| node.place.without_position()).unwrap_or_default();
        self.check_ranges(
            &C::field_type(),
            None,
            &config.to_node(),
            Source { node: source, place: &place },
        );
        if self.problems.is_empty() {
            config.cross_check(self);
            for problem in &mut self.problems {
                problem.place_at(&place);
            }
        }
    }

    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        // Stable, so that problems without a place keep the order of the fields.
        self.problems.sort_by_key(|problem| problem.place().line_and_column());
        Err(ConfigError::Invalid { problems: self.problems, omitted: self.omitted })
    }

    /// Runs `f` one key deeper.
    pub(crate) fn at_key<T>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Runs `f` in an element of a list.
    pub(crate) fn at_index<T>(&mut self, index: usize, f: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        let _ = write!(self.path, "[{index}]");
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// What `#[config(validate = …)]` said.
    pub fn check_result<E: Display>(&mut self, result: Result<(), E>) {
        if let Err(message) = result {
            let message = match self.path.as_str() {
                "" => message.to_string(),
                path => format!("`{path}`: {message}"),
            };
            self.push(Place::default(), message);
        }
    }

    /// A value that is written as text, and refused in its own words.
    pub(crate) fn read_text<T>(&mut self, node: &Node) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let Some(text) = node.text() else { return self.refuse_type(node, &FieldType::String) };
        match text.parse() {
            Ok(value) => Some(value),
            Err(refused) => {
                self.push(node.place.clone(), format!("{}: {refused}", self.subject()));
                None
            }
        }
    }

    /// Notes that the current field `is …`, at the place of `node`.
    pub(crate) fn refuse(&mut self, node: &Node, is: &str) {
        self.push(node.place.clone(), format!("{} {is}", self.subject()));
    }

    /// Notes that the current field `is …`.
    pub(crate) fn refuse_value(&mut self, is: &str) {
        self.push(Place::default(), format!("{} {is}", self.subject()));
    }

    /// Notes that `node` has another type than the current field. Always `None`.
    pub(crate) fn refuse_type<T>(&mut self, node: &Node, ty: &FieldType) -> Option<T> {
        let null = if node.kind == Kind::Null { "; leave the key out for its default" } else { "" };
        self.refuse(node, &format!("is {}, but must be {}{null}", node.kind, ty.expectation()));
        None
    }

    fn subject(&self) -> String {
        match self.path.as_str() {
            "" => "the config".to_owned(),
            path => format!("`{path}`"),
        }
    }

    pub(crate) fn push(&mut self, place: Place, message: String) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem::new(&self.path, place, message));
        } else {
            self.omitted += 1;
        }
    }

    /// Notes the keys of a table that it does not have.
    pub(crate) fn refuse_unknown(&mut self, entries: &[Entry], known: &[&str]) {
        for entry in entries.iter().filter(|entry| !known.contains(&entry.name.as_str())) {
            if self.problems.len() >= MOST_PROBLEMS {
                self.omitted += 1;
                continue;
            }
            let place = entry.place.clone();
            self.at_key(&shorten(&entry.name), |reader| {
                let hint = hint(&entry.name, "keys here", known);
                reader.push(place, format!("unknown key {}{hint}", reader.subject()));
            });
        }
    }

    fn check_ranges(&mut self, ty: &FieldType, range: Option<&Range>, node: &Node, source: Source) {
        match (ty, &node.kind) {
            (FieldType::Optional(_), Kind::Null) => {}
            (FieldType::Optional(ty), _) => self.check_ranges(ty, range, node, source),
            (FieldType::List(ty) | FieldType::Array(ty, _), Kind::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    let source = source.index(index);
                    self.at_index(index, |reader| reader.check_ranges(ty, range, item, source));
                }
            }
            (FieldType::Config(schema), _) => self.check_fields(&schema.fields, node, source),
            (FieldType::Enum(schema), Kind::Table(_)) => {
                let kind = node.get(TAG).and_then(Node::text);
                let variant = schema.variants.iter().find(|variant| Some(variant.name) == kind);
                let fields = variant.map_or(&[][..], |variant| &variant.fields);
                self.check_fields(fields, node, source);
            }
            _ => self.check_number(range, node, source),
        }
    }

    fn check_fields(&mut self, fields: &[FieldSchema], node: &Node, source: Source) {
        for field in fields {
            let Some(value) = node.get(field.name) else { continue };
            let (ty, range) = (&field.ty, field.range.as_ref());
            let source = source.key(field.name);
            self.at_key(field.name, |reader| reader.check_ranges(ty, range, value, source));
        }
    }

    fn check_number(&mut self, range: Option<&Range>, node: &Node, source: Source) {
        if let Kind::Float(value) = node.kind
            && !value.is_finite()
        {
            let message = format!("{} is {value}, but must be a finite number", self.subject());
            self.push(source.place.clone(), message);
        } else if let Some(range) = range
            && node.is_number()
            && !range.contains(&node.kind)
        {
            let value = node.clone().into_json();
            let message =
                format!("{} is {value}, but must be {}", self.subject(), range.in_words());
            self.push(source.place.clone(), message);
        }
    }
}

/// Where a value comes from, if it comes from a document, and else the nearest place around it.
#[derive(Clone, Copy)]
struct Source<'a> {
    node: Option<&'a Node>,
    place: &'a Place,
}

impl<'a> Source<'a> {
    fn step(self, node: Option<&'a Node>) -> Self {
        Self { node, place: node.map_or(self.place, |node| &node.place) }
    }

    fn key(self, name: &str) -> Self {
        self.step(self.node.and_then(|node| node.get(name)))
    }

    fn index(self, index: usize) -> Self {
        self.step(self.node.and_then(|node| match &node.kind {
            Kind::List(items) => items.get(index),
            _ => None,
        }))
    }
}
