//! `plot`: the curves of a run, from its numbers on disk.

use super::{Failure, args::PlotArgs};
use crate::{Error, run::RunFolder};
use std::io::Write;

pub(super) fn run(args: &PlotArgs, out: &mut impl Write) -> Result<(), Failure> {
    let run = RunFolder::find(&args.run).map_err(Failure::Refused)?;
    let folder = args.output.clone().unwrap_or_else(|| run.plots());
    let plots = run.draw(&folder).map_err(Failure::Failed)?;
    if plots.is_empty() {
        return Err(Failure::Refused(Error::message(format!(
            "`{}` has no two numbers to draw a line through yet; wait for the run to report, or lower \
             train.log_every",
            run.metrics().display()
        ))));
    }
    for plot in plots {
        writeln!(out, "{}", folder.join(&plot.file).with_added_extension("svg").display())?;
        writeln!(out, "{}", folder.join(&plot.file).with_added_extension("png").display())?;
    }
    Ok(())
}
