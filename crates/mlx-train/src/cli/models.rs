//! `models`: what is registered.

use super::{
    Failure::{self, Refused},
    args::ModelsCommand,
};
use crate::registry::{ModelEntry, ModelRegistry};
use serde_json::{Value, json};
use std::io::{Write, stderr};

pub(super) fn run(command: ModelsCommand, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        ModelsCommand::List { pattern, json } => {
            let entries = ModelRegistry::list(&pattern).map_err(Refused)?;
            if entries.is_empty() {
                // Not on standard output, which a program may read.
                _ = writeln!(stderr(), "no model matches `{pattern}`; `models list` shows all");
            }
            list(&entries, json, out)
        }
        ModelsCommand::Describe { name, json: false } => {
            Ok(write!(out, "{}", ModelRegistry::describe(&name).map_err(Refused)?)?)
        }
        ModelsCommand::Describe { name, json: true } => {
            print_json(&json!(ModelRegistry::describe(&name).map_err(Refused)?), out)
        }
        ModelsCommand::Schema { name } => {
            print_json(&ModelRegistry::get_model(&name).map_err(Refused)?.json_schema(), out)
        }
    }
}

fn list(entries: &[&ModelEntry], as_json: bool, out: &mut impl Write) -> Result<(), Failure> {
    if as_json {
        let entries: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.name(),
                    "aliases": entry.aliases(),
                    "tags": entry.tags(),
                    "summary": entry.summary(),
                })
            })
            .collect();
        return print_json(&Value::from(entries), out);
    }
    let width = entries.iter().map(|entry| entry.name().len()).max().unwrap_or(0);
    for entry in entries {
        writeln!(out, "{:width$}  {}", entry.name(), entry.summary())?;
    }
    Ok(())
}

pub(super) fn print_json(value: &Value, out: &mut impl Write) -> Result<(), Failure> {
    Ok(writeln!(out, "{value:#}")?)
}
