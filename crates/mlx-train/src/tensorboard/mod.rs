//! TensorBoard event files: scalars over the steps, and texts.
//!
//! Only TensorBoard's own file format is written; nothing of TensorBoard or TensorFlow is needed.
//! Field numbers are those of `event.proto`, `summary.proto` and `tensor.proto` in
//! <https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto>.

mod message;
mod record;

use crate::{Result, file::FileError, growing::Growing};
use message::Message;
use record::framed;
use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// One event file that grows in the folder that `tensorboard --logdir` is shown.
///
/// ```
/// # use mlx_train::tensorboard::EventFile;
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let folder = folder.path();
/// let mut events = EventFile::create(folder)?;
/// for step in 0..100 {
///     events.scalars(step, [("loss", 1.0 / (step + 1) as f64)])?;
/// }
/// # Ok::<(), mlx_train::Error>(())
/// ```
#[derive(Debug)]
pub struct EventFile(Growing);

/// TensorBoard takes any file with `tfevents` in its name.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".mlx-train";

impl EventFile {
    /// Starts a new file in a folder, and makes the folder.
    ///
    /// # Errors
    /// [`FileError`] when the disk fails.
    pub fn create(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let failed = |source| FileError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        loop {
            // TensorBoard reads the files of a folder in the order of their names, and only forward.
            let now = now();
            let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
            let path = folder.join(format!("{PREFIX}{seconds:010}.{nanos:09}{SUFFIX}"));
            match File::create_new(&path) {
                Ok(file) => {
                    let mut events = Self(Growing::new(path, file));
                    // 2 is what tells TensorBoard that restarts are marked; see `restart`.
                    events.write(&event(0).bytes(3, b"brain.Event:2"))?;
                    return Ok(events);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(FileError::Write { path, source }.into()),
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes the files that this type wrote into a folder, and nothing else.
    ///
    /// # Errors
    /// [`FileError`] when the system refuses.
    pub fn remove_all(folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let failed = |source| FileError::Read { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                let failed = |source| FileError::Write { path: path.clone(), source };
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Makes TensorBoard forget what this folder's files have from `step` on: a run goes on there.
    ///
    /// # Errors
    /// [`FileError`] when the disk fails.
    pub fn restart(&mut self, step: u64) -> Result<()> {
        let start = Message::default().integer(1, 1);
        self.write(&event(step).message(7, &start))
    }

    /// Writes numbers of a step, by tag; a `/` in a tag groups charts. They are kept as f32.
    ///
    /// # Errors
    /// [`FileError`] when the disk fails.
    pub fn scalars<'t>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'t str, f64)>,
    ) -> Result<()> {
        let summary = values.into_iter().fold(Message::default(), |summary, (tag, value)| {
            let value = Message::default().bytes(1, tag.as_bytes()).float(2, value as f32);
            summary.message(1, &value)
        });
        self.write(&event(step).message(5, &summary))
    }

    /// Writes a text in Markdown, which the tab "Text" shows.
    ///
    /// # Errors
    /// [`FileError`] when the disk fails.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        const STRING: u64 = 7;
        const TENSOR: u64 = 2;
        let scalar_shape = Message::default();
        let tensor = Message::default()
            .integer(1, STRING)
            .message(2, &scalar_shape)
            .bytes(8, text.as_bytes());
        let plugin = Message::default().bytes(1, b"text");
        let metadata = Message::default().message(1, &plugin).integer(4, TENSOR);
        let value =
            Message::default().bytes(1, tag.as_bytes()).message(9, &metadata).message(8, &tensor);
        self.write(&event(step).message(5, &Message::default().message(1, &value)))
    }

    fn write(&mut self, event: &Message) -> Result<()> {
        self.0.append(&framed(event.encoded()))
    }
}

/// An event of this moment.
fn event(step: u64) -> Message {
    Message::default().double(1, now().as_secs_f64()).integer(2, step)
}

fn now() -> std::time::Duration {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
