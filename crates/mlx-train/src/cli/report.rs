//! `report`: the page of a run, from its files.

use super::{Failure, args::ReportArgs};
use crate::run::RunFolder;
use std::io::Write;

pub(super) fn run(args: &ReportArgs, out: &mut impl Write) -> Result<(), Failure> {
    let run = RunFolder::find(&args.run).map_err(Failure::Refused)?;
    let page = run.write_report().map_err(Failure::Failed)?;
    Ok(writeln!(out, "{}", page.display())?)
}
