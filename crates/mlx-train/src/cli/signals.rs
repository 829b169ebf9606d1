//! What Ctrl-C and SIGTERM do to a run.

use crate::{Error, Result, launch::Stop, train::StopSignal};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};
use std::{
    io::{Write, stderr},
    thread,
};

/// From now on, the first signal asks the run to stop after its step, and the second ends the process.
///
/// SIGHUP is left as it is: `nohup` ignores it, and has to be obeyed. One of several ranks tells what it does.
///
/// # Errors
/// When the system refuses.
pub(super) fn stop_on_signal(tells: bool) -> Result<StopSignal> {
    let failed = |error| Error::message(format!("cannot handle signals such as Ctrl-C: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let stop = StopSignal::new();
    let handle = stop.clone();
    let wait = move || {
        for signal in &mut signals {
            if handle.is_requested() {
                // Without destructors: MLX's would wait for the step. A shell expects this code.
                low_level::exit(128 + signal);
            }
            handle.request();
            if tells {
                // Nobody is left to tell when standard error is closed.
                _ = writeln!(
                    stderr(),
                    "stopping after this step, and saving; again to stop at once"
                );
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(stop)
}

/// From now on, the first signal asks all ranks to stop, and the second kills them.
///
/// # Errors
/// When the system refuses.
pub(super) fn pass_signals_on() -> Result<Stop> {
    let failed = |error| Error::message(format!("cannot handle signals such as Ctrl-C: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let stop = Stop::default();
    let handle = stop.clone();
    let wait = move || signals.forever().for_each(|_| handle.request());
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(stop)
}
