//! Texts to token files: once, with every core, and going on where it was interrupted.

mod held_out;
mod journal;
mod pipeline;

use super::{DataError, DocumentFormat, TokenFiles, TokenWriter, Tokenizer, files::malformed};
use crate::{Result, file::FileError};
use held_out::HeldOut;
use journal::{Input, Journal, Recipe};
use pipeline::{Encoded, Source};
use std::{
    fs::{self, File, TryLockError},
    num::NonZero,
    path::{Path, PathBuf},
    thread,
};

/// Makes a folder of token files from texts, JSONL and Parquet files of any size.
///
/// The files are read one after another, in the order that they are given; several threads make tokens
/// of them, and the result does not depend on how many. A token file appears whole or not at all. After
/// each, `prepare.json` says how far the work has come: the same call goes on there after an
/// interruption and ends in the same bytes as one that was never interrupted.
///
/// ```
/// use mlx_train_core::data::{Prepare, Tokenizer};
/// # let folder = tempfile::tempdir().unwrap();
/// # let (book, tokens) = (folder.path().join("book.txt"), folder.path().join("tokens"));
/// std::fs::write(&book, "Call me Ishmael.").unwrap();
/// let files = Prepare::new([book], tokens, Tokenizer::bytes()).run(|_| {})?;
/// assert_eq!(files.training().len(), 16);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Prepare {
    /// The files to read, in this order; see [`DocumentFormat::of`].
    pub inputs: Vec<PathBuf>,
    /// The folder of token files.
    pub output: PathBuf,
    /// What makes tokens of text.
    pub tokenizer: Tokenizer,
    /// The key of the text in JSONL, the column in Parquet.
    pub field: String,
    /// How many tokens a file has; so many are in memory at once.
    pub shard_tokens: usize,
    /// Which share of the documents is held out of training, at least 0 and below 1.
    pub held_out: f64,
    /// How many threads make tokens.
    pub num_threads: usize,
    /// Removes what another preparation left in the folder, instead of refusing or going on.
    pub replace: bool,
}

/// How far a preparation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PrepareProgress {
    /// How many bytes of the input are read; those of Parquet files are estimated by rows.
    pub bytes_read: u64,
    /// How many bytes the input has.
    pub total_bytes: u64,
    /// How many tokens there are, also those of an earlier run that this one goes on from.
    pub tokens: u64,
    /// How many documents have ended.
    pub documents: u64,
    /// How many token files are written.
    pub shards: usize,
    /// How many of them an earlier run wrote.
    pub earlier_shards: usize,
}

impl Prepare {
    /// Tokens in a file unless said otherwise: 128 MiB of u16.
    pub const SHARD_TOKENS: usize = 1 << 26;

    /// The usual settings: `text` as the field, [`Prepare::SHARD_TOKENS`], nothing held out, a thread a
    /// core.
    pub fn new(
        inputs: impl IntoIterator<Item = impl Into<PathBuf>>,
        output: impl Into<PathBuf>,
        tokenizer: Tokenizer,
    ) -> Self {
        Self {
            inputs: inputs.into_iter().map(Into::into).collect(),
            output: output.into(),
            tokenizer,
            field: "text".to_owned(),
            shard_tokens: Self::SHARD_TOKENS,
            held_out: 0.0,
            num_threads: thread::available_parallelism().map_or(1, NonZero::get),
            replace: false,
        }
    }

    /// Does the work, or what is left of it, and calls `progress` after every record.
    ///
    /// # Errors
    /// As [`Prepare::start`] and [`Preparation::run`].
    pub fn run(&self, progress: impl FnMut(&PrepareProgress)) -> Result<TokenFiles> {
        self.start()?.run(progress)
    }

    /// Checks the settings, the inputs and the folder, and makes or opens it; reads no input.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when a setting is out of its range, or the folder holds tokens of other
    /// inputs or settings; [`DataError::Malformed`] when an input is no text, or another process is at
    /// work in the folder; [`FileError`] when the system refuses.
    pub fn start(&self) -> Result<Preparation> {
        let (source, recipe) = self.plan()?;
        fs::create_dir_all(&self.output)
            .map_err(|source| FileError::Folder { path: self.output.clone(), source })?;
        let lock = lock(&self.output)?;
        if self.replace {
            clear(&self.output)?;
        }
        let is_finished = TokenFiles::is_at(&self.output);
        let journal = match Journal::read(&self.output)? {
            Some(journal) => journal,
            None if is_finished => return Err(occupied(&self.output)),
            None => {
                if !self.replace {
                    self.tokenizer.check_place(&self.output)?;
                }
                Journal::start(recipe.clone())
            }
        };
        journal.check(&self.output, &recipe)?;
        remove(&self.output, is_partial)?;
        journal.write(&self.output)?;
        let source = Source { start: journal.position, ..source };
        Ok(Preparation { prepare: self.clone(), source, journal, is_finished, _lock: lock })
    }

    /// What is to be read, and the recipe that an earlier run has to have followed.
    fn plan(&self) -> Result<(Source, Recipe)> {
        let invalid = |problem: &str| Err(DataError::Invalid(problem.to_owned()).into());
        if self.inputs.is_empty() {
            return invalid("there is no input: name at least one file");
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return invalid("the share of held-out documents must be at least 0 and below 1");
        }
        if self.shard_tokens == 0 || self.num_threads == 0 {
            return invalid("a token file needs at least 1 token, and the work at least 1 thread");
        }
        let formats = self.inputs.iter().map(|path| Ok((path.clone(), DocumentFormat::of(path)?)));
        let formats: Vec<_> = formats.collect::<Result<_>>()?;
        let inputs = self.inputs.iter().map(|path| {
            if path.is_dir() {
                return Err(malformed(path, "it is a folder: name the files in it"));
            }
            Ok(Input::of(path).map_err(FileError::read(path))?)
        });
        let inputs: Vec<_> = inputs.collect::<Result<_>>()?;
        let source = Source {
            inputs: formats,
            field: self.field.clone(),
            held_out: HeldOut::new(self.held_out),
            start: journal::Position::default(),
        };
        let (fingerprint, field) = (self.tokenizer.fingerprint(), self.field.clone());
        let recipe = Recipe::new(inputs, fingerprint, field, self.shard_tokens, self.held_out);
        Ok((source, recipe))
    }
}

/// Work that can be done: [`Prepare::start`] makes one. No other process works in the folder meanwhile.
#[derive(Debug)]
pub struct Preparation {
    prepare: Prepare,
    source: Source,
    journal: Journal,
    is_finished: bool,
    _lock: File,
}

impl Preparation {
    /// Whether an earlier run did all of the work.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Does the work, or what is left of it, and calls `progress` after every record.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with file and line for the first record that cannot be used;
    /// [`DataError::Invalid`] when a part would be empty; [`FileError`] when the disk fails. The token
    /// files that were finished stay, and the next call goes on after them.
    pub fn run(self, mut progress: impl FnMut(&PrepareProgress)) -> Result<TokenFiles> {
        let Self { prepare, source, journal, .. } = &self;
        if self.is_finished {
            return TokenFiles::open(&prepare.output);
        }
        let mut run = Run::new(prepare, journal.clone())?;
        pipeline::run(source, &prepare.tokenizer, prepare.num_threads, |encoded| {
            run.write(encoded)?;
            progress(&run.progress);
            Ok(())
        })?;
        run.finish()
    }
}

/// A preparation at work.
#[derive(Debug)]
struct Run<'a> {
    prepare: &'a Prepare,
    writer: TokenWriter,
    journal: Journal,
    /// How many bytes come before each input.
    bytes_before: Vec<u64>,
    progress: PrepareProgress,
}

impl<'a> Run<'a> {
    fn new(prepare: &'a Prepare, journal: Journal) -> Result<Self> {
        let (training, held_out) = (journal.training.clone(), journal.held_out.clone());
        let shards = || training.iter().chain(&held_out);
        let mut total_bytes = 0;
        let bytes_before = journal.recipe.inputs.iter().map(|input| {
            total_bytes += input.bytes;
            total_bytes - input.bytes
        });
        let bytes_before = bytes_before.collect();
        let num_shards = shards().count();
        let progress = PrepareProgress {
            bytes_read: 0,
            total_bytes,
            tokens: shards().map(|shard| shard.tokens as u64).sum(),
            documents: journal.position.document,
            shards: num_shards,
            earlier_shards: num_shards,
        };
        let writer = TokenWriter::go_on(
            &prepare.output,
            &prepare.tokenizer,
            prepare.shard_tokens,
            training,
            held_out,
        )?;
        Ok(Self { prepare, writer, journal, bytes_before, progress })
    }

    fn write(&mut self, encoded: Encoded) -> Result<()> {
        let Encoded { position, bytes_read, tokens, ends_document, held_out } = encoded;
        // The first record may be the one in which the last file of an earlier run became full.
        let mut written =
            if self.journal.position.is_in(&position) { self.journal.position.tokens } else { 0 };
        while written < tokens.len() {
            // Only before a further token, so that a file has the end of its last document.
            if self.writer.room(held_out) == 0 {
                self.flush(journal::Position { tokens: written, ..position })?;
            }
            let end = tokens.len().min(written + self.writer.room(held_out));
            self.writer.push_within(held_out, &tokens[written..end])?;
            self.progress.tokens += (end - written) as u64;
            written = end;
        }
        if ends_document {
            self.writer.end_document(held_out);
            self.progress.documents += 1;
        }
        self.progress.bytes_read = self.bytes_before[position.input] + bytes_read;
        Ok(())
    }

    /// Writes the files of both parts, then that they are written.
    fn flush(&mut self, position: journal::Position) -> Result<()> {
        self.writer.flush()?;
        let (training, held_out) = self.writer.shards();
        self.journal.position = position;
        self.journal.training = training.to_vec();
        self.journal.held_out = held_out.to_vec();
        self.progress.shards = training.len() + held_out.len();
        self.journal.write(&self.prepare.output)
    }

    fn finish(self) -> Result<TokenFiles> {
        let Self { prepare, writer, progress, .. } = self;
        let (training, held_out) = writer.num_tokens();
        if training == 0 || (held_out == 0 && prepare.held_out > 0.0) {
            return Err(DataError::Invalid(format!(
                "of {} documents, {training} tokens are for training and {held_out} held out: give more \
                 documents, or hold none out here and let the training split the tokens",
                progress.documents
            ))
            .into());
        }
        writer.finish()
    }
}

/// Keeps other processes out of a folder until it is dropped, or the process ends however it may.
fn lock(folder: &Path) -> Result<File> {
    let file = File::open(folder).map_err(FileError::read(folder))?;
    // Any other error is of a disk that locks nothing, as some in networks.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let problem =
            "another process prepares data in it: wait for its end, or name another folder";
        return Err(malformed(folder, problem));
    }
    Ok(file)
}

fn occupied(folder: &Path) -> crate::Error {
    let problem = "it has token files that were not prepared from texts: name another folder, or replace \
                   them with --force";
    malformed(folder, problem)
}

/// Removes all that an earlier preparation wrote, and nothing that has only the same name.
fn clear(folder: &Path) -> Result<()> {
    let names = [TokenFiles::index_path(folder), folder.join(journal::FILE)];
    let is_ours = TokenFiles::has_index(folder) || matches!(Journal::read(folder), Ok(Some(_)));
    if let Some(other) = names.iter().find(|path| path.exists() && !is_ours) {
        let problem = "it is not of a preparation: name another folder, or remove it yourself";
        return Err(malformed(other, problem));
    }
    // First what says that the rest is usable.
    for path in names.iter().filter(|path| path.exists()) {
        fs::remove_file(path).map_err(FileError::write(path))?;
    }
    remove(folder, TokenWriter::wrote)
}

/// What a process that was killed left half written.
fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".partial")
}

fn remove(folder: &Path, unwanted: fn(&Path) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let path = entry.map_err(FileError::read(folder))?.path();
        if unwanted(&path) {
            fs::remove_file(&path).map_err(FileError::write(&path))?;
        }
    }
    Ok(())
}
