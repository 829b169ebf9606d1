//! One file of a checkpoint, on its way to the disk.
//!
//! A piece of it is added up just before it is written, when it is in the cache for both. The disk works meanwhile: a
//! system that is not told to begin waits for seconds, and then at the end all is still to be done.

use super::{fault, manifest::FileEntry};
use crate::{
    file::FileError,
    store::{array_file::SUMMED_BYTES, checksums::Summing},
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    thread::{self, Scope, ScopedJoinHandle},
};

/// How much is written before the disk is told to begin with it.
const BEGIN_BYTES: usize = if cfg!(test) { 32 } else { 1 << 26 };

/// Writes a file of which nothing is there yet, and returns when it is on disk: what comes first, and then arrays.
pub(super) fn write_file(
    path: &Path,
    head: &[u8],
    arrays: &[(&str, &[u8])],
) -> Result<FileEntry, FileError> {
    let write = || {
        fault::point()?;
        let file = File::create_new(path)?;
        thread::scope(|scope| {
            let mut writing = Writing::new(&file, scope);
            writing.put(head)?;
            for (name, bytes) in arrays {
                writing.summing.begin(name);
                writing.put(bytes)?;
            }
            writing.finish()
        })
    };
    write().map_err(FileError::write(path))
}

/// A file of which some is written.
struct Writing<'scope, 'env> {
    file: &'scope File,
    /// Small arrays are gathered, so that each is not a call of the system.
    buffer: BufWriter<&'scope File>,
    summing: Summing,
    bytes: u64,
    /// How much the disk was not told to begin with.
    not_begun: usize,
    scope: &'scope Scope<'scope, 'env>,
    /// Waits for the disk.
    disk: Option<ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl<'scope, 'env> Writing<'scope, 'env> {
    fn new(file: &'scope File, scope: &'scope Scope<'scope, 'env>) -> Self {
        let buffer = BufWriter::with_capacity(SUMMED_BYTES, file);
        Self { file, buffer, summing: Summing::new(), bytes: 0, not_begun: 0, scope, disk: None }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        fault::point()?;
        for piece in bytes.chunks(SUMMED_BYTES) {
            self.summing.update(piece);
            self.buffer.write_all(piece)?;
            self.bytes += piece.len() as u64;
            self.not_begun += piece.len();
            if self.not_begun >= BEGIN_BYTES
                && self.disk.as_ref().is_none_or(ScopedJoinHandle::is_finished)
            {
                self.disk_done()?;
                let file = self.file;
                let sync = thread::Builder::new().spawn_scoped(self.scope, || file.sync_data());
                // Without a thread, all is left for the end.
                (self.disk, self.not_begun) = (sync.ok(), 0);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<FileEntry> {
        self.buffer.flush()?;
        fault::point()?;
        self.disk_done()?;
        self.file.sync_all()?;
        Ok(FileEntry { bytes: self.bytes, checksums: self.summing.finish() })
    }

    /// What the disk has to say: the system tells of a failure once, to whoever asks first.
    fn disk_done(&mut self) -> io::Result<()> {
        let panicked = |_| Err(io::Error::other("the thread that waits for the disk panicked"));
        let disk = self.disk.take();
        disk.map_or(Ok(()), |thread| thread.join().unwrap_or_else(panicked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Checksums;
    use std::fs;

    #[test]
    fn what_is_written_is_what_was_given_however_long_its_parts_are() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        // Around the length of a piece (16 bytes), and of what the disk begins with (32).
        for lengths in [[0, 0, 0], [1, 0, 3], [15, 16, 17], [31, 64, 65], [8, 200, 1]] {
            let path = folder.path().join(format!("{lengths:?}"));
            let [head, a, b] = lengths.map(|length| &bytes[..length]);
            let entry = write_file(&path, head, &[("a", a), ("b", b)]).unwrap();
            assert_eq!(fs::read(path).unwrap(), [head, a, b].concat(), "{lengths:?}");
            assert_eq!(entry.bytes as usize, lengths.iter().sum::<usize>());
            let mut whole = Summing::new();
            whole.update(head);
            for (name, part) in [("a", a), ("b", b)] {
                whole.begin(name);
                whole.update(part);
            }
            assert_eq!(entry.checksums, whole.finish(), "{lengths:?}");
            assert!(matches!(entry.checksums, Checksums::Xxh3 { arrays, .. } if arrays.len() == 2));
        }
    }
}
