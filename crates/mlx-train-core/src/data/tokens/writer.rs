//! Token files written one after another.

use super::{
    ShardInfo, TokenFiles, TokenIndex,
    folder::check_shard,
    shard::{Content, Shard},
};
use crate::{
    Result,
    data::{
        DataError, Tokenizer,
        files::{hex, malformed},
    },
    file::FileError,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the names of the files start with.
const TRAINING: &str = "training";
const HELD_OUT: &str = "held-out";

/// Writes a folder of token files; the documents come one after another.
///
/// A file is in memory until it has `shard_tokens` tokens, and appears whole or not at all. The folder
/// can be opened once [`TokenWriter::finish`] has written its index.
///
/// ```
/// use mlx_train_core::data::{TokenWriter, Tokenizer};
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("tokens");
/// let tokenizer = Tokenizer::bytes();
/// let mut writer = TokenWriter::create(&folder, &tokenizer, 1 << 20)?;
/// for text in ["a document", "another"] {
///     writer.push(false, &tokenizer.encode(text)?)?;
///     writer.end_document(false);
/// }
/// assert_eq!(writer.finish()?.training().num_documents(), 2);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TokenWriter {
    folder: PathBuf,
    tokenizer: Tokenizer,
    fingerprint: [u8; 32],
    shard_tokens: usize,
    index: TokenIndex,
    training: Content,
    held_out: Content,
}

impl TokenWriter {
    /// Starts an empty folder, or one that has no token files yet.
    ///
    /// # Errors
    /// [`DataError::Malformed`] when the folder has token files or another tokenizer already,
    /// [`DataError::Invalid`] when `shard_tokens` is 0, [`FileError`] when the folder cannot be made.
    pub fn create(
        folder: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        shard_tokens: usize,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        if TokenFiles::is_at(folder) {
            let problem = "it has token files already: name another folder, or remove this one";
            return Err(malformed(folder, problem));
        }
        tokenizer.check_place(folder)?;
        Self::go_on(folder, tokenizer, shard_tokens, Vec::new(), Vec::new())
    }

    /// Goes on after files that were written before, once these are what they should be.
    pub(in crate::data) fn go_on(
        folder: &Path,
        tokenizer: &Tokenizer,
        shard_tokens: usize,
        training: Vec<ShardInfo>,
        held_out: Vec<ShardInfo>,
    ) -> Result<Self> {
        if shard_tokens == 0 {
            let problem = "a token file of 0 tokens holds nothing: use at least 1".to_owned();
            return Err(DataError::Invalid(problem).into());
        }
        fs::create_dir_all(folder)
            .map_err(|source| FileError::Folder { path: folder.to_owned(), source })?;
        let vocab_size = tokenizer.vocab_size();
        let mut index = TokenIndex::new(vocab_size, tokenizer.fingerprint(), tokenizer.eos());
        for info in training.iter().chain(&held_out) {
            check_shard(&Shard::open(&folder.join(&info.file))?, &index, info)?;
        }
        (index.training, index.held_out) = (training, held_out);
        Ok(Self {
            folder: folder.to_owned(),
            tokenizer: tokenizer.clone(),
            fingerprint: tokenizer.fingerprint_bytes(),
            shard_tokens,
            index,
            training: Content::new(vocab_size),
            held_out: Content::new(vocab_size),
        })
    }

    /// Adds tokens to the current document of the training or the held-out part.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when a token is not below the tokenizer's vocabulary; [`FileError`] when
    /// the disk fails.
    pub fn push(&mut self, held_out: bool, tokens: &[u32]) -> Result<()> {
        let mut rest = tokens;
        while !rest.is_empty() {
            if self.room(held_out) == 0 {
                self.flush()?;
            }
            let (now, later) = rest.split_at(rest.len().min(self.room(held_out)));
            self.push_within(held_out, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Ends the current document of a part; one without a token leaves no trace.
    /// [`TokenWriter::finish`] ends the last.
    pub fn end_document(&mut self, held_out: bool) {
        self.part(held_out).end_document();
    }

    /// Writes what is left, the tokenizer and the index, and opens the folder.
    ///
    /// # Errors
    /// [`DataError::Malformed`] when there was no token; [`FileError`] when the disk fails.
    pub fn finish(mut self) -> Result<TokenFiles> {
        self.training.end_document();
        self.held_out.end_document();
        self.flush()?;
        if self.index.training.is_empty() {
            let problem = "there is no token to write: give a text that is not empty";
            return Err(malformed(&self.folder, problem));
        }
        // Whose place it is was checked at the start.
        self.tokenizer.save(&self.folder, true)?;
        // Last, because it says that all is there.
        self.index.write(&self.folder)?;
        TokenFiles::open(&self.folder)
    }

    /// How many tokens a part takes before its file is full.
    pub(in crate::data) fn room(&mut self, held_out: bool) -> usize {
        let shard_tokens = self.shard_tokens;
        shard_tokens - self.part(held_out).num_tokens()
    }

    /// Adds as many tokens as there is room for.
    pub(in crate::data) fn push_within(&mut self, held_out: bool, tokens: &[u32]) -> Result<()> {
        let vocab_size = self.tokenizer.vocab_size();
        if let Some(token) = tokens.iter().find(|&&token| token >= vocab_size) {
            return Err(DataError::Invalid(format!(
                "token {token} is not below the vocabulary's size of {vocab_size}: name the tokenizer \
                 that it is of"
            ))
            .into());
        }
        self.part(held_out).push(tokens);
        Ok(())
    }

    /// Writes the current file of each part that has tokens.
    pub(in crate::data) fn flush(&mut self) -> Result<()> {
        for (name, content, shards) in [
            (TRAINING, &mut self.training, &mut self.index.training),
            (HELD_OUT, &mut self.held_out, &mut self.index.held_out),
        ] {
            if content.num_tokens() == 0 {
                continue;
            }
            let file = format!("{name}-{:05}.bin", shards.len());
            let sha256 = content.write(&self.folder.join(&file), self.fingerprint)?;
            shards.push(ShardInfo {
                file,
                tokens: content.num_tokens(),
                documents: content.num_documents(),
                sha256: hex(&sha256),
            });
            *content = Content::new(self.index.vocab_size);
        }
        Ok(())
    }

    /// The files that are written, of the training and of the held-out part.
    pub(in crate::data) fn shards(&self) -> (&[ShardInfo], &[ShardInfo]) {
        (&self.index.training, &self.index.held_out)
    }

    /// How many tokens the training and the held-out part have.
    pub(in crate::data) fn num_tokens(&self) -> (usize, usize) {
        let sum = |shards: &[ShardInfo], content: &Content| {
            shards.iter().map(|shard| shard.tokens).sum::<usize>() + content.num_tokens()
        };
        (sum(&self.index.training, &self.training), sum(&self.index.held_out, &self.held_out))
    }

    /// Whether a file's name is one that a writer gives.
    pub(in crate::data) fn wrote(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = [TRAINING, HELD_OUT]
            .into_iter()
            .find_map(|part| name.strip_prefix(part)?.strip_prefix('-')?.strip_suffix(".bin"));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }

    fn part(&mut self, held_out: bool) -> &mut Content {
        if held_out { &mut self.held_out } else { &mut self.training }
    }
}
