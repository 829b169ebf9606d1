//! The data that the command line can train on: texts, tables and images.

use crate::{
    Error, Result,
    config::ModelConfig,
    data::{
        Columns, Dataset, InMemory, Packing, Padding, Sequences, Text, TokenFiles, Tokenizer,
        Tokens, bigram_entropy, csv, idx, read_documents,
    },
};
use std::path::{Path, PathBuf};

/// What a run trains on: the `[data]` section of a config file.
#[derive(Debug, Clone, ModelConfig)]
pub(super) struct DataConfig {
    /// text: a text file. jsonl: a text, tokens, or a prompt and its completion a line. tokens: a folder
    /// that `data prepare` made. csv: numbers in columns. parquet: a column of texts, or, with a label,
    /// columns of numbers. idx: images, as in MNIST.
    #[config(default = DataKind::Text)]
    pub(super) kind: DataKind,
    /// The file, or the folder (tokens: the output of `data prepare`; idx: the four files of MNIST).
    pub(super) path: Option<PathBuf>,
    /// text, jsonl, parquet: a tokenizer.json of Hugging Face; without one, tokens are bytes. A folder of
    /// tokens has its own.
    pub(super) tokenizer: Option<PathBuf>,
    /// jsonl, parquet: the key or column of the text.
    #[config(default = "text")]
    pub(super) field: String,
    /// text, jsonl, tokens, parquet: how many tokens the model sees at once.
    #[config(default = 128, range = 1..)]
    pub(super) seq_len: usize,
    /// text, jsonl, tokens, parquet: how documents become rows of that many tokens.
    #[config(default = Rows::Auto)]
    pub(super) rows: Rows,
    /// All but idx: which share is held out for evaluation, of texts at the end, of tables at random. A
    /// folder of tokens may have held-out documents already.
    #[config(default = 0.1, range = 0.0..1.0)]
    pub(super) held_out: f64,
    /// csv, parquet: the column that is predicted.
    pub(super) label: Option<String>,
    /// csv, parquet: the columns that it is predicted from; all others if there is none.
    pub(super) features: Vec<String>,
    /// csv, parquet, idx: how many classes there are. Without it, the label of a table is a number, and
    /// images have 10.
    #[config(range = 1..)]
    pub(super) num_classes: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub(super) enum DataKind {
    #[config(default)]
    Text,
    Jsonl,
    Tokens,
    Csv,
    Parquet,
    Idx,
}

/// How documents become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub(super) enum Rows {
    /// packed where there are prompts, windows elsewhere.
    #[config(default)]
    Auto,
    /// All documents as one sequence, cut at any token.
    Windows,
    /// Several documents a row, which do not see each other.
    Packed,
    /// One document a row, cut off after `seq_len` tokens.
    Padded,
}

/// Training and held-out rows, and what is known about them.
pub(super) struct Data {
    pub(super) training: Box<dyn Dataset>,
    pub(super) held_out: Box<dyn Dataset>,
    /// What a row's targets are, for rates such as "bytes/s".
    pub(super) unit: &'static str,
    /// A loss to compare the held-out loss with.
    pub(super) reference: Option<(&'static str, f64)>,
    /// What made the tokens, if the rows are of tokens.
    pub(super) tokenizer: Option<Tokenizer>,
    /// Whether a row's target is a class.
    pub(super) has_classes: bool,
}

impl DataConfig {
    pub(super) fn load(&self) -> Result<Data> {
        let path = self.path.as_deref().ok_or_else(|| {
            Error::message(
                "there is no data to train on; say --set data.path=FILE for a text, or --set \
                 data.kind=… --set data.path=… for jsonl, tokens, csv, parquet or idx",
            )
        })?;
        match self.kind {
            DataKind::Text => self.load_text(path),
            DataKind::Jsonl => self.load_documents(path, "jsonl"),
            DataKind::Tokens => {
                let files = TokenFiles::open(path)?;
                let (training, held_out) = files.split(self.held_out)?;
                let parts = (Sequences::new(training), Sequences::new(held_out));
                self.token_rows(parts, files.tokenizer()?)
            }
            DataKind::Csv => {
                let data = csv::read(path, &self.columns()?)?;
                self.table(&data)
            }
            DataKind::Parquet => self.load_parquet(path),
            DataKind::Idx => {
                let (training, held_out) =
                    idx::load_folder(path, self.num_classes.unwrap_or(IDX_CLASSES))?;
                Ok(Data::of_numbers(training, held_out, "images", true))
            }
        }
    }

    /// Whether the rows are of tokens.
    pub(super) fn has_tokens(&self) -> bool {
        match self.kind {
            DataKind::Text | DataKind::Jsonl | DataKind::Tokens => true,
            DataKind::Parquet => self.label.is_none(),
            DataKind::Csv | DataKind::Idx => false,
        }
    }

    fn load_text(&self, path: &Path) -> Result<Data> {
        let text = Text::open(path)?;
        let Some(tokenizer) = &self.tokenizer else {
            let (training, held_out) = text.split(self.held_out)?;
            let reference = ("bigram entropy", bigram_entropy(&held_out)?);
            let parts = [training, held_out].map(|text| Sequences::new(text.tokens()));
            let data = self.token_rows(parts.into(), Tokenizer::bytes())?;
            return Ok(Data { reference: Some(reference), ..data });
        };
        let tokenizer = Tokenizer::open(tokenizer)?;
        let parts = Sequences::new(text.encode(&tokenizer)?).split(self.held_out)?;
        self.token_rows(parts, tokenizer)
    }

    fn load_documents(&self, path: &Path, extension: &str) -> Result<Data> {
        if !path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) {
            return Err(Error::message(format!(
                "`{}` does not end in .{extension}, as data.kind={extension} needs it to; rename the file, or set \
                 another data.kind",
                path.display()
            )));
        }
        let tokenizer =
            self.tokenizer.as_ref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::open)?;
        let parts = read_documents(path, &self.field, &tokenizer)?.split(self.held_out)?;
        self.token_rows(parts, tokenizer)
    }

    #[cfg(feature = "parquet")]
    fn load_parquet(&self, path: &Path) -> Result<Data> {
        if self.has_tokens() {
            return self.load_documents(path, "parquet");
        }
        let data = crate::data::parquet::read(path, &self.columns()?)?;
        self.table(&data)
    }

    #[cfg(not(feature = "parquet"))]
    #[expect(clippy::unused_self, reason = "the signature is that of the other")]
    fn load_parquet(&self, path: &Path) -> Result<Data> {
        Err(Error::message(format!(
            "this program cannot read `{}`; build it with the cargo feature `parquet`",
            path.display()
        )))
    }

    /// Training and held-out documents as rows of tokens.
    fn token_rows(&self, parts: (Sequences, Sequences), tokenizer: Tokenizer) -> Result<Data> {
        let (training, held_out) = parts;
        let rows = match self.rows {
            Rows::Auto if training.has_loss_mask() => Rows::Packed,
            Rows::Auto => Rows::Windows,
            Rows::Windows if training.has_loss_mask() => {
                return Err(Error::message(
                    "data.rows is windows, which learn prompts as well as completions; set \
                     data.rows=packed or data.rows=padded",
                ));
            }
            chosen => chosen,
        };
        let windows = |tokens: &Tokens, cut: Cut| -> Result<Box<dyn Dataset>> {
            Ok(Box::new(cut(tokens, self.seq_len)?))
        };
        let documents = |documents: Sequences| -> Result<Box<dyn Dataset>> {
            Ok(match rows {
                Rows::Padded => {
                    // One length is one compiled step; the first token predicts and is not predicted.
                    let documents = documents.truncated(self.seq_len.saturating_add(1));
                    Box::new(documents.padded(Padding::Buckets(vec![self.seq_len]))?)
                }
                _ => Box::new(documents.packed(self.seq_len, Packing::BestFit)?),
            })
        };
        let (training, held_out) = if rows == Rows::Windows {
            (
                windows(training.tokens(), Tokens::windows)?,
                windows(held_out.tokens(), Tokens::chunks)?,
            )
        } else {
            (documents(training)?, documents(held_out)?)
        };
        let unit = if tokenizer.is_bytes() { "bytes" } else { "tokens" };
        let tokenizer = Some(tokenizer);
        Ok(Data { training, held_out, unit, reference: None, tokenizer, has_classes: false })
    }

    fn columns(&self) -> Result<Columns> {
        let label = self.label.clone().ok_or_else(|| {
            Error::message("which column is predicted? say --set data.label=NAME of a column")
        })?;
        Ok(Columns { label, features: self.features.clone(), num_classes: self.num_classes })
    }

    fn table(&self, data: &InMemory) -> Result<Data> {
        // The same rows are held out whatever the seed of the training is, so that runs compare.
        let (training, held_out) = data.split(self.held_out, 0)?;
        Ok(Data::of_numbers(training, held_out, "rows", self.num_classes.is_some()))
    }
}

/// As in MNIST.
const IDX_CLASSES: usize = 10;

/// Windows of tokens, at every offset or one after the other.
type Cut = fn(&Tokens, usize) -> Result<crate::data::Windows>;

impl Data {
    fn of_numbers(
        training: InMemory,
        held_out: InMemory,
        unit: &'static str,
        has_classes: bool,
    ) -> Self {
        let (training, held_out) = (Box::new(training), Box::new(held_out));
        Self { training, held_out, unit, reference: None, tokenizer: None, has_classes }
    }
}
