//! `run.json`: which run a folder of checkpoints belongs to.

use super::{
    names::{RUN, random},
    read::read_bounded,
    sealed::{seal, unseal},
};
use crate::{Error, Result, file::write_whole};
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    run_id: String,
}

/// 16 hexadecimal digits that no other run has.
pub(super) fn new_run_id() -> String {
    format!("{:016x}", random())
}

/// The run of a folder, or why it is not known.
pub(super) fn read_run(folder: &Path) -> Result<String, String> {
    let bytes = read_bounded(folder, RUN, 4096).map_err(|error| error.to_string())?;
    parse_run(&bytes)
}

pub(super) fn parse_run(bytes: &[u8]) -> Result<String, String> {
    Ok(unseal::<Run>(bytes)?.run_id)
}

pub(super) fn write_run(folder: &Path, run_id: &str) -> Result<()> {
    let text = seal(&Run { run_id: run_id.to_owned() })
        .map_err(|error| Error::message(error.to_string()))?;
    Ok(write_whole(folder.join(RUN), text)?)
}
