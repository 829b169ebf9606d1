//! Text to tokens and back: bytes, or what a Hugging Face `tokenizer.json` describes.

use super::{
    DataError,
    files::{hex, malformed, read_at_most},
};
use crate::{
    Result,
    file::{FileError, write_whole},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokenizers::{ModelWrapper, step_decode_stream};

/// The vocabulary in a folder.
const FILE: &str = "tokenizer.json";
/// What Hugging Face writes beside it; the special tokens have their names here.
const CONFIG_FILE: &str = "tokenizer_config.json";
/// The largest known vocabularies take 35 MB.
const MAX_BYTES: u64 = 1 << 29;

/// Names that models give to the token after a text, where no `tokenizer_config.json` says it.
const EOS_NAMES: [&str; 6] =
    ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]"];
/// Names that models give to the token before a text.
const BOS_NAMES: [&str; 5] = ["<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "[CLS]"];

/// Turns text into tokens and tokens into text; a clone shares the vocabulary.
///
/// ```
/// use mlx_train_core::data::Tokenizer;
/// let bytes = Tokenizer::bytes();
/// assert_eq!(bytes.encode("hé")?, [104, 195, 169]);
/// assert_eq!(bytes.decode(&[104, 195, 169])?, "hé");
/// assert_eq!(bytes.vocab_size(), 256);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer(Arc<Kind>);

#[expect(clippy::large_enum_variant, reason = "there is one value a program, behind an Arc")]
enum Kind {
    Bytes,
    HuggingFace {
        tokenizer: tokenizers::Tokenizer,
        /// The file as it was read, to be written again.
        json: Vec<u8>,
        path: PathBuf,
        vocab_size: u32,
        eos: Option<u32>,
        bos: Option<u32>,
    },
}

impl Tokenizer {
    /// The tokenizer whose tokens are the 256 bytes; it needs no file and has no special tokens.
    pub fn bytes() -> Self {
        Self(Arc::new(Kind::Bytes))
    }

    /// Reads a `tokenizer.json`, or the one in a folder.
    ///
    /// The tokens after and before a text are those that a `tokenizer_config.json` beside it names as
    /// `eos_token` and `bos_token`; without that file, the special tokens with one of the usual names,
    /// such as `<|endoftext|>` and `</s>`. Truncation and padding are off, whatever the file says.
    ///
    /// # Errors
    /// [`FileError`] when a file cannot be read, [`DataError::Malformed`]
    /// when it describes no tokenizer, or one that encodes a text at random (`dropout`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let json = read_at_most(&path, MAX_BYTES)?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| {
            let problem = format!(
                "this describes no tokenizer ({error}): name a `tokenizer.json` of Hugging Face"
            );
            malformed(&path, problem)
        })?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| malformed(&path, error.to_string()))?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0)
        {
            let problem = format!(
                "it leaves out merges at random (`dropout` is {dropout}), so that a text has other \
                 tokens every time: set `dropout` to null in `model`"
            );
            return Err(malformed(&path, problem));
        }
        let largest = tokenizer.get_vocab(true).into_values().max();
        let Some(vocab_size) = largest.and_then(|id| id.checked_add(1)).filter(|&n| n <= 1 << 31)
        else {
            let problem =
                "its vocabulary is empty, or has an id of more than 31 bits: train it again";
            return Err(malformed(&path, problem.to_owned()));
        };
        let config = special_tokens(&path.with_file_name(CONFIG_FILE))?;
        let special = |key: &str, names: &[&str]| match &config {
            Some(config) => named(config, key).map(|name| match tokenizer.token_to_id(name) {
                Some(id) => Ok(id),
                None => Err(malformed(
                    &path.with_file_name(CONFIG_FILE),
                    format!("its `{key}` is {name:?}, which is no token of {}", path.display()),
                )),
            }),
            None => names.iter().find_map(|name| tokenizer.token_to_id(name)).map(Ok),
        };
        let eos = special("eos_token", &EOS_NAMES).transpose()?;
        let bos = special("bos_token", &BOS_NAMES).transpose()?;
        Ok(Self(Arc::new(Kind::HuggingFace { tokenizer, json, path, vocab_size, eos, bos })))
    }

    /// The tokenizer of a folder that [`Tokenizer::save`] wrote to: bytes, where it has no
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn of_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref().join(FILE);
        if path.exists() { Self::open(path) } else { Ok(Self::bytes()) }
    }

    /// Makes this the tokenizer of a folder: writes its `tokenizer.json`, and the names of the special
    /// tokens beside it. The tokenizer of bytes has no file. One that is there already is left alone.
    ///
    /// # Errors
    /// [`DataError::Malformed`] when the folder has another tokenizer and `replace` is false;
    /// [`FileError`] when the disk fails.
    pub fn save(&self, folder: impl AsRef<Path>, replace: bool) -> Result<()> {
        let folder = folder.as_ref();
        if !replace {
            self.check_place(folder)?;
        }
        let [file, config_file] = [FILE, CONFIG_FILE].map(|name| folder.join(name));
        let Kind::HuggingFace { tokenizer, json, eos, bos, .. } = &*self.0 else {
            if file.exists() {
                fs::remove_file(&file).map_err(FileError::write(&file))?;
            }
            return Ok(());
        };
        if self.is_in(folder) {
            return Ok(());
        }
        let name = |id: &Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let config = json!({ "eos_token": name(eos), "bos_token": name(bos) });
        write_whole(config_file, format!("{config:#}\n"))?;
        write_whole(file, json)?;
        Ok(())
    }

    /// Refuses a folder with another tokenizer, which would be lost.
    pub(super) fn check_place(&self, folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        if !file.exists() || self.is_in(folder) {
            return Ok(());
        }
        let problem = "the folder has another tokenizer than the tokens: name another folder, or replace \
                       the file with --force";
        Err(malformed(&file, problem))
    }

    fn is_in(&self, folder: &Path) -> bool {
        Self::of_folder(folder).is_ok_and(|found| found.fingerprint() == self.fingerprint())
    }

    /// Whether the tokens are bytes.
    pub fn is_bytes(&self) -> bool {
        matches!(*self.0, Kind::Bytes)
    }

    /// How many tokens a model needs: one more than the largest id.
    pub fn vocab_size(&self) -> u32 {
        match *self.0 {
            Kind::Bytes => 256,
            Kind::HuggingFace { vocab_size, .. } => vocab_size,
        }
    }

    /// The token after a text.
    pub fn eos(&self) -> Option<u32> {
        match *self.0 {
            Kind::Bytes => None,
            Kind::HuggingFace { eos, .. } => eos,
        }
    }

    /// The token before a text.
    pub fn bos(&self) -> Option<u32> {
        match *self.0 {
            Kind::Bytes => None,
            Kind::HuggingFace { bos, .. } => bos,
        }
    }

    /// 64 hexadecimal digits that are the same for the same tokens of every text: the SHA-256 of the
    /// file and its special tokens.
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint_bytes())
    }

    pub(super) fn fingerprint_bytes(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        match &*self.0 {
            Kind::Bytes => hash.update("bytes"),
            Kind::HuggingFace { json, eos, bos, .. } => {
                hash.update(json);
                hash.update(format!("eos {eos:?} bos {bos:?}"));
            }
        }
        hash.finalize().into()
    }

    /// The tokens of a text; those around it are not added.
    ///
    /// A special token that stands in the text, such as `<|endoftext|>`, becomes that token, as it
    /// does in Python.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the text has a character that the vocabulary lacks and the file
    /// names no token for that.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &*self.0 {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::HuggingFace { tokenizer, path, .. } => tokenizer
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| failed(path, "encode a text", &*error)),
        }
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for an id outside of the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let mut decoder = self.decoder();
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend(decoder.push(token)?);
        }
        bytes.extend(decoder.finish()?);
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Turns tokens into text one by one, as a model generates them.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, tokens: Vec::new(), prefix: String::new(), prefix_len: 0 }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &*self.0 {
            Kind::Bytes => Path::new("bytes"),
            Kind::HuggingFace { path, .. } => path,
        };
        f.debug_struct("Tokenizer")
            .field("path", &path)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

/// The text of tokens as they come; [`Tokenizer::decoder`] makes one.
///
/// ```
/// use mlx_train_core::data::Tokenizer;
/// let tokenizer = Tokenizer::bytes();
/// let mut decoder = tokenizer.decoder();
/// assert_eq!(decoder.push(104)?, b"h");
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens whose text is not out yet, after a few that decide how it begins.
    tokens: Vec<u32>,
    /// The text of those few.
    prefix: String,
    prefix_len: usize,
}

impl Decoder<'_> {
    /// The text that this token completes: nothing, while a character of several tokens is unfinished.
    ///
    /// Bytes and not a string, because a token of the tokenizer of bytes is a part of a character.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for an id outside of the vocabulary.
    pub fn push(&mut self, token: u32) -> Result<Vec<u8>> {
        let vocab_size = self.tokenizer.vocab_size();
        if token >= vocab_size {
            return Err(DataError::Invalid(format!(
                "token {token} is not one of the tokenizer's {vocab_size} (0 to {}): the model was \
                 trained with another tokenizer; name that one",
                vocab_size - 1
            ))
            .into());
        }
        let Kind::HuggingFace { tokenizer, path, .. } = &*self.tokenizer.0 else {
            return Ok(vec![token as u8]);
        };
        let (ids, prefix) = (&mut self.tokens, &mut self.prefix);
        step_decode_stream(tokenizer, vec![token], false, ids, prefix, &mut self.prefix_len)
            .map(|text| text.unwrap_or_default().into_bytes())
            .map_err(|error| failed(path, "decode tokens", &*error))
    }

    /// What is left when no token follows: a character that was not finished, as U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn finish(&self) -> Result<Vec<u8>> {
        let Kind::HuggingFace { tokenizer, path, .. } = &*self.tokenizer.0 else {
            return Ok(Vec::new());
        };
        let text = tokenizer
            .decode(&self.tokens, false)
            .map_err(|error| failed(path, "decode tokens", &*error))?;
        Ok(text.strip_prefix(&self.prefix).unwrap_or_default().to_owned().into_bytes())
    }
}

/// The content of a `tokenizer_config.json`, if there is one.
fn special_tokens(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read_at_most(path, MAX_BYTES)?;
    let config = serde_json::from_slice(&text).map_err(|error| {
        malformed(path, format!("this is no JSON ({error}): get it again, or remove it"))
    })?;
    Ok(Some(config))
}

/// The name of a special token, which is a string or an object with its `content`.
fn named<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn failed(path: &Path, what: &str, error: &(dyn std::error::Error + Send + Sync)) -> crate::Error {
    malformed(path, format!("the tokenizer cannot {what}: {error}"))
}
