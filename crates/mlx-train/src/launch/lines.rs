//! What processes write, line by line.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc::SyncSender,
    thread,
};

/// A line that a process has written, with its end.
#[derive(Debug)]
pub(super) struct Line {
    /// Which of the processes.
    pub(super) process: usize,
    pub(super) is_error: bool,
    pub(super) text: Vec<u8>,
}

/// The longest line that is passed on in one piece.
const LONGEST: u64 = 1 << 16;

/// Sends what comes from `source`, until it ends.
pub(super) fn read(
    process: usize,
    is_error: bool,
    source: impl Read + Send + 'static,
    lines: SyncSender<Line>,
) -> std::io::Result<()> {
    let mut source = BufReader::new(source);
    let read = move || {
        loop {
            let mut text = Vec::new();
            let size = source.by_ref().take(LONGEST).read_until(b'\n', &mut text);
            if !size.is_ok_and(|size| size > 0) {
                return;
            }
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
            if lines.send(Line { process, is_error, text }).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name(format!("output of process {process}")).spawn(read).map(drop)
}
