//! Records to tokens on several threads, in the order of the records.

use super::{held_out::HeldOut, journal::Position};
use crate::{
    Error, Result,
    data::{
        Tokenizer,
        documents::{DocumentFormat, Encoder, Place, Record, Records},
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// What is read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) inputs: Vec<(PathBuf, DocumentFormat)>,
    pub(super) field: String,
    pub(super) held_out: HeldOut,
    pub(super) start: Position,
}

/// The tokens of a record.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Where the record is.
    pub(super) position: Position,
    /// How much of its file is read once the record is.
    pub(super) bytes_read: u64,
    pub(super) tokens: Vec<u32>,
    pub(super) ends_document: bool,
    pub(super) held_out: bool,
}

/// Work for one thread: records of one file, and where to send what becomes of them.
struct Block {
    encoder: Arc<Encoder>,
    records: Vec<(Position, bool, Record)>,
    answer: SyncSender<Answer>,
}

type Answer = Result<Vec<Encoded>>;

/// Enough for a thread to be busy, and few enough to fit memory many times.
const BLOCK_BYTES: usize = 1 << 18;

/// Hands the tokens of all records to `write`, one after another as they are in the files.
///
/// Which thread does what depends on chance, the result does not: answers are taken in the order of the
/// questions. No more than four blocks a thread are in memory.
pub(super) fn run(
    source: &Source,
    tokenizer: &Tokenizer,
    num_threads: usize,
    mut write: impl FnMut(Encoded) -> Result<()>,
) -> Result<()> {
    let (send_block, blocks) = sync_channel::<Block>(num_threads);
    let (send_answer, answers) = sync_channel::<Receiver<Answer>>(2 * num_threads);
    let blocks = Mutex::new(blocks);
    thread::scope(|scope| {
        for _ in 0..num_threads {
            scope.spawn(|| work(&blocks));
        }
        scope.spawn(move || read(source, tokenizer, &send_block, &send_answer));
        // After an error nobody takes answers any more, which ends the reader, and so the workers.
        answers.into_iter().try_for_each(|answer| {
            answer.recv().map_err(|_| panicked())??.into_iter().try_for_each(&mut write)
        })
    })
}

fn work(blocks: &Mutex<Receiver<Block>>) {
    loop {
        // The lock is held while waiting, and released before the work.
        let block = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { encoder, records, answer }) = block else { return };
        // A thread that ended here would leave the reader waiting for someone to take its blocks.
        let tokens = catch_unwind(AssertUnwindSafe(|| encode(&encoder, records)));
        // Whoever does not wait for the answer any more has an error to tell.
        _ = answer.send(tokens.unwrap_or_else(|_| Err(panicked())));
    }
}

fn panicked() -> Error {
    Error::message(
        "the tokenizer panicked; what it said is above: use another tokenizer.json, or report it",
    )
}

fn encode(encoder: &Encoder, records: Vec<(Position, bool, Record)>) -> Answer {
    let one = |(position, held_out, record): (Position, bool, Record)| {
        Ok(Encoded {
            position,
            bytes_read: record.bytes_read,
            tokens: encoder.encode_whole(&record)?,
            ends_document: record.ends_document,
            held_out,
        })
    };
    records.into_iter().map(one).collect()
}

/// Reads all files and asks for the tokens of their records, until nobody wants them any more.
fn read(
    source: &Source,
    tokenizer: &Tokenizer,
    blocks: &SyncSender<Block>,
    answers: &SyncSender<Receiver<Answer>>,
) {
    let mut next = source.start;
    for (input, (path, format)) in source.inputs.iter().enumerate().skip(source.start.input) {
        let encoder = Arc::new(Encoder::new(path, *format, &source.field, tokenizer));
        let start = if input == source.start.input { next.record } else { Place::default() };
        next = Position { input, record: start, ..next };
        let mut records = match Records::open(path, *format, &source.field, start) {
            Ok(records) => records,
            Err(error) => return fail(error, answers),
        };
        loop {
            let block = match block(&mut records, &mut next, source.held_out) {
                Ok(block) if block.is_empty() => break,
                Ok(block) => block,
                Err(error) => return fail(error, answers),
            };
            let (answer, receiver) = sync_channel(1);
            let block = Block { encoder: Arc::clone(&encoder), records: block, answer };
            if answers.send(receiver).is_err() || blocks.send(block).is_err() {
                return;
            }
        }
    }
}

/// The next records of a file, none at its end.
fn block(
    records: &mut Records,
    next: &mut Position,
    held_out: HeldOut,
) -> Result<Vec<(Position, bool, Record)>> {
    let (mut block, mut bytes) = (Vec::new(), 0);
    while bytes < BLOCK_BYTES {
        let Some(record) = records.read()? else { break };
        // Many short records take more than their bytes.
        bytes += record.len() + 64;
        let position = Position { record: record.place, tokens: 0, ..*next };
        next.document += u64::from(record.ends_document);
        block.push((position, held_out.contains(position.document), record));
    }
    Ok(block)
}

/// Tells an error in the place of the next answer.
fn fail(error: Error, answers: &SyncSender<Receiver<Answer>>) {
    let (answer, receiver) = sync_channel(1);
    // The receiver is at hand, so the channel of one takes the message.
    _ = answer.send(Err(error));
    _ = answers.send(receiver);
}
