//! A folder of token files, checked and mapped.

use super::{Part, ShardInfo, TokenIndex, Tokens, index, shard::Shard};
use crate::{
    Result,
    data::{
        DataError, Tokenizer,
        files::{hex, malformed},
    },
    file::FileError,
};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder of token files, as `data prepare` or a [`TokenWriter`](super::TokenWriter) leaves it.
///
/// It has an `index.json`, files of tokens such as `training-00000.bin`, and the `tokenizer.json` that
/// made them, unless they are bytes. The files are mapped, not loaded, so they may be larger than
/// memory. The format of a file is in the book (chapter "Data").
///
/// ```no_run
/// use mlx_train_core::data::TokenFiles;
/// let (training, held_out) = TokenFiles::open("tokens")?.split(0.01)?;
/// let (training, held_out) = (training.windows(1024)?, held_out.chunks(1024)?);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TokenFiles {
    folder: PathBuf,
    index: Arc<TokenIndex>,
    training: Tokens,
    held_out: Option<Tokens>,
}

impl TokenFiles {
    /// Opens a folder and compares each file's header with its size and with the index; the tokens
    /// themselves are read when they are asked for.
    ///
    /// # Errors
    /// [`DataError::Malformed`] that names the file when one is missing, cut short, of another
    /// vocabulary or tokenizer, of a newer format, or not listed in the index; when there is no
    /// index, because the folder is unfinished; [`FileError`] when the system refuses.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let index = TokenIndex::read(folder)?;
        refuse_unlisted(folder, &index)?;
        let training = open_part(folder, &index, &index.training, "the tokens")?;
        if training.is_empty() {
            let problem = "it lists no tokens to train on: prepare the data again";
            return Err(malformed(&folder.join(index::FILE), problem));
        }
        let held_out = match &index.held_out[..] {
            [] => None,
            shards => Some(open_part(folder, &index, shards, "the held-out tokens")?),
        };
        Ok(Self { folder: folder.to_owned(), index: Arc::new(index), training, held_out })
    }

    /// Whether a folder has the index of finished token files.
    pub fn is_at(folder: impl AsRef<Path>) -> bool {
        Self::index_path(folder.as_ref()).exists()
    }

    /// Whether a folder has an index, and it is one of token files.
    pub(in crate::data) fn has_index(folder: &Path) -> bool {
        TokenIndex::read(folder).is_ok()
    }

    pub(in crate::data) fn index_path(folder: &Path) -> PathBuf {
        folder.join(index::FILE)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the index says.
    pub fn index(&self) -> &TokenIndex {
        &self.index
    }

    /// The tokens to train on: all but those that were held out when the data was prepared.
    pub fn training(&self) -> &Tokens {
        &self.training
    }

    /// The documents that were held out when the data was prepared.
    pub fn held_out(&self) -> Option<&Tokens> {
        self.held_out.as_ref()
    }

    /// The training and the held-out tokens: those held out when the data was prepared or, if there
    /// are none, a fraction at the end.
    ///
    /// # Errors
    /// As [`Tokens::split`].
    pub fn split(&self, held_out_fraction: f64) -> Result<(Tokens, Tokens)> {
        match &self.held_out {
            Some(held_out) => Ok((self.training.clone(), held_out.clone())),
            None => self.training.split(held_out_fraction),
        }
    }

    /// The tokenizer that made the tokens.
    ///
    /// # Errors
    /// [`DataError::Malformed`] when the folder's `tokenizer.json` is not the one that made them; as
    /// [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::of_folder(&self.folder)?;
        if tokenizer.fingerprint() == self.index.tokenizer {
            return Ok(tokenizer);
        }
        let problem = "its tokenizer.json is missing or not the one that made the tokens: put that one \
                       back, or prepare the data again";
        Err(malformed(&self.folder, problem))
    }

    /// How many bytes the token files have.
    pub fn num_bytes(&self) -> u64 {
        self.shards().map(|shard| shard.num_bytes() as u64).sum()
    }

    /// Reads every file whole and compares it with its hash.
    ///
    /// # Errors
    /// [`DataError::Malformed`] for the first file that is damaged.
    pub fn verify(&self) -> Result<()> {
        self.shards().try_for_each(Shard::verify)
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        let parts = [Some(&self.training), self.held_out.as_ref()];
        let parts = parts.into_iter().flatten().flat_map(|tokens| tokens.parts.iter());
        parts.filter_map(
            |placed| if let Part::File(shard) = &placed.part { Some(shard) } else { None },
        )
    }
}

fn open_part(
    folder: &Path,
    index: &TokenIndex,
    shards: &[ShardInfo],
    what: &str,
) -> Result<Tokens> {
    let mut num_tokens = 0_usize;
    let mut parts = Vec::with_capacity(shards.len());
    for info in shards {
        let shard = Shard::open(&folder.join(&info.file))?;
        check_shard(&shard, index, info)?;
        let sum = num_tokens.checked_add(info.tokens).filter(|&sum| isize::try_from(sum).is_ok());
        num_tokens = sum.ok_or_else(|| {
            malformed(shard.path(), "with it there are more tokens than can be counted")
        })?;
        parts.push(Part::File(shard));
    }
    let origin = format!("{what} in {}", folder.display());
    let tokens = Tokens::from_parts(parts, index.vocab_size, origin.into());
    // Where the last document ends is where the tokens do.
    let documents = tokens.num_documents();
    let end = match documents.checked_sub(1) {
        Some(last) => tokens.document(last)?.end,
        None => 0,
    };
    if end != tokens.len() {
        return Err(DataError::Invalid(format!(
            "{} end within a document ({} of {} tokens are in documents): a file is missing at the end of \
             the index; prepare the data again",
            tokens.origin(),
            end,
            tokens.len()
        ))
        .into());
    }
    Ok(tokens)
}

/// A file of another run has another hash, one of another tokenizer another fingerprint.
pub(super) fn check_shard(shard: &Shard, index: &TokenIndex, info: &ShardInfo) -> Result<()> {
    let header = shard.header();
    let compare = |what: &str, found: &dyn ToString, listed: &dyn ToString| {
        let (found, listed) = (found.to_string(), listed.to_string());
        if found == listed {
            return Ok(());
        }
        let problem = format!(
            "its {what} is {found}, and {} says {listed}: the file is of another folder, or damaged; \
             put the right one back, or prepare the data again",
            index::FILE
        );
        Err(malformed(shard.path(), problem))
    };
    compare("vocabulary", &header.vocab_size, &index.vocab_size)?;
    compare("tokenizer", &hex(&header.fingerprint), &index.tokenizer)?;
    compare("number of tokens", &header.num_tokens, &info.tokens)?;
    compare("number of documents", &header.num_documents, &info.documents)?;
    compare("SHA-256", &hex(&header.sha256), &info.sha256)
}

/// A file that is not in the index would silently not be trained on.
fn refuse_unlisted(folder: &Path, index: &TokenIndex) -> Result<()> {
    let listed: HashSet<&str> =
        index.training.iter().chain(&index.held_out).map(|shard| shard.file.as_str()).collect();
    for entry in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let path = entry.map_err(FileError::read(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|extension| extension == "bin") && !listed.contains(&*name)
        {
            let problem = format!(
                "{} does not list it, so it would not be used: remove it, or prepare the data again",
                index::FILE
            );
            return Err(malformed(&path, problem));
        }
    }
    Ok(())
}
