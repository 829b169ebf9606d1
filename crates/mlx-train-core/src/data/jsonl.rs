//! JSONL: one JSON object a line, with a text, with tokens, or with a prompt and its completion.

use super::{
    files::malformed,
    lines::{LineStart, Lines},
};
use crate::Result;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a line holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Example {
    /// `{"text": "…"}`: every token is predicted.
    Text(String),
    /// `{"tokens": [1, 2, …]}`: what a tokenizer made of a text before, used as it is.
    Tokens(Vec<u32>),
    /// `{"prompt": "…", "completion": "…"}`: only the tokens of the completion are predicted.
    Completion {
        /// What the model is given.
        prompt: String,
        /// What it has to say.
        completion: String,
    },
}

/// The examples of a JSONL file, one at a time; the file may be larger than memory.
///
/// Blank lines, a byte order mark and `\r\n` are no mistakes. Other keys of an object are left alone.
#[derive(Debug)]
pub struct JsonLines {
    lines: Lines,
    format: LineFormat,
    line: Vec<u8>,
}

impl JsonLines {
    /// Opens a file whose texts are the values of `field`, usually `text`.
    ///
    /// # Errors
    /// [`FileError`](crate::file::FileError) when it cannot be opened.
    pub fn open(path: impl AsRef<Path>, field: &str) -> Result<Self> {
        let path = path.as_ref();
        let lines = Lines::open(path, LineStart::default())?;
        Ok(Self { lines, format: LineFormat::new(path, field), line: Vec::new() })
    }
}

/// Each line's number, from 1, and what it holds.
///
/// An error is a [`DataError::Malformed`](super::DataError::Malformed) that says the line, the column where one is known, what is
/// wrong and what to do.
impl Iterator for JsonLines {
    type Item = Result<(u64, Example)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line.clear();
        match self.lines.read(&mut self.line) {
            Err(error) => Some(Err(error)),
            Ok(None) => None,
            Ok(Some(start)) => {
                let number = start.lines + 1;
                Some(self.format.parse(number, &self.line).map(|example| (number, example)))
            }
        }
    }
}

/// How the lines of a file are read.
#[derive(Debug, Clone)]
pub(super) struct LineFormat {
    path: PathBuf,
    field: String,
}

impl LineFormat {
    pub(super) fn new(path: &Path, field: &str) -> Self {
        Self { path: path.to_owned(), field: field.to_owned() }
    }

    /// What one line holds.
    pub(super) fn parse(&self, number: u64, line: &[u8]) -> Result<Example> {
        self.example(line).map_err(|problem| self.problem(number, &problem))
    }

    /// An error about a line.
    pub(super) fn problem(&self, number: u64, problem: &str) -> crate::Error {
        malformed(&self.path, format!("line {number}: {problem}"))
    }

    fn example(&self, line: &[u8]) -> Result<Example, String> {
        let text = std::str::from_utf8(line).map_err(|error| {
            format!("byte {} is not UTF-8: convert the file to UTF-8", error.valid_up_to() + 1)
        })?;
        let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            // The message ends in a place that counts lines within this one.
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or_default();
            format!(
                "column {}: this is no JSON object ({what}): a line holds one, such as {{\"{}\": \"…\"}}",
                error.column(),
                self.field
            )
        })?;
        let has = |key: &str| object.contains_key(key);
        let (text, tokens) = (has(&self.field), self.field != "tokens" && has("tokens"));
        let pair = !["prompt", "completion"].contains(&&*self.field)
            && ["prompt", "completion"].into_iter().all(has);
        match (text, tokens, pair) {
            (true, false, false) => Ok(Example::Text(string(&mut object, &self.field)?)),
            (false, true, false) => Ok(Example::Tokens(tokens_of(&object["tokens"])?)),
            (false, false, true) => Ok(Example::Completion {
                prompt: string(&mut object, "prompt")?,
                completion: string(&mut object, "completion")?,
            }),
            (false, false, false) => {
                let keys: Vec<&str> = object.keys().map(String::as_str).collect();
                Err(format!(
                    "there is no `{}`, no `tokens` and no `prompt` with `completion` (keys: {}): name the \
                     key of the text",
                    self.field,
                    if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
                ))
            }
            _ => Err(format!(
                "two of `{}`, `tokens`, and `prompt` with `completion` are there: keep one",
                self.field
            )),
        }
    }
}

fn string(object: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get_mut(key).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        other => Err(format!(
            "`{key}` is {}, not a string: name the key of the text, or correct the line",
            kind(other.as_ref())
        )),
    }
}

fn tokens_of(value: &Value) -> Result<Vec<u32>, String> {
    let Value::Array(items) = value else {
        return Err(format!("`tokens` is {}, not a list of numbers", kind(Some(value))));
    };
    let token = |(index, item): (usize, &Value)| {
        item.as_u64().and_then(|token| u32::try_from(token).ok()).ok_or_else(|| {
            format!("`tokens[{index}]` is {item}, not a whole number from 0 to {}", u32::MAX)
        })
    };
    items.iter().enumerate().map(token).collect()
}

fn kind(value: Option<&Value>) -> &'static str {
    match value {
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
        Some(Value::Null) | None => "null",
    }
}
