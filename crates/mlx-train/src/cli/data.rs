//! The data that the command line can train on: a text, or labelled images.

use crate::{
    Error, Result,
    config::ModelConfig,
    data::{Dataset, Text, bigram_entropy, idx},
};
use std::path::{Path, PathBuf};

/// What a run trains on: the `[data]` section of a config file.
#[derive(Debug, Clone, ModelConfig)]
pub(super) struct DataConfig {
    /// text: predict the next byte of a text. idx: classify images, as in MNIST.
    #[config(default = DataKind::Text)]
    pub(super) kind: DataKind,
    /// text: the file. idx: the folder with the four files of MNIST (train-images-idx3-ubyte, …).
    pub(super) path: Option<PathBuf>,
    /// text: how many bytes the model sees at once.
    #[config(default = 128, range = 1..)]
    pub(super) seq_len: usize,
    /// text: which share of it, at its end, is held out for evaluation.
    #[config(default = 0.1, range = 0.0..1.0)]
    pub(super) held_out: f64,
    /// idx: how many classes there are.
    #[config(default = 10, range = 1..)]
    pub(super) num_classes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub(super) enum DataKind {
    #[config(default)]
    Text,
    Idx,
}

/// Training and held-out rows, and what is known about them.
pub(super) struct Data {
    pub(super) training: Box<dyn Dataset>,
    pub(super) held_out: Box<dyn Dataset>,
    /// What a row's targets are, for rates such as "bytes/s".
    pub(super) unit: &'static str,
    /// A loss to compare the held-out loss with.
    pub(super) reference: Option<(&'static str, f64)>,
}

impl DataConfig {
    pub(super) fn load(&self) -> Result<Data> {
        let path = self.path.as_deref().ok_or_else(|| {
            Error::message(
                "there is no data to train on; say --set data.path=FILE for a text, or --set \
                 data.kind=idx --set data.path=FOLDER for images",
            )
        })?;
        match self.kind {
            DataKind::Text => self.load_text(path),
            DataKind::Idx => {
                let (training, held_out) = idx::load_folder(path, self.num_classes)?;
                Ok(Data {
                    training: Box::new(training),
                    held_out: Box::new(held_out),
                    unit: "images",
                    reference: None,
                })
            }
        }
    }

    fn load_text(&self, path: &Path) -> Result<Data> {
        let (training, held_out) = Text::open(path)?.split(self.held_out)?;
        Ok(Data {
            reference: Some(("bigram entropy", bigram_entropy(&held_out)?)),
            training: Box::new(training.windows(self.seq_len)?),
            held_out: Box::new(held_out.chunks(self.seq_len)?),
            unit: "bytes",
        })
    }
}
