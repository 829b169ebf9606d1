//! A file that grows by pieces that readers need whole.

use crate::{Result, file::FileError};
use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

/// A file, open at its end.
#[derive(Debug)]
pub(crate) struct Growing {
    path: PathBuf,
    file: File,
    /// What the disk has not taken yet.
    pending: Vec<u8>,
}

impl Growing {
    pub(crate) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, pending: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a piece to the system at once. What the disk refuses goes with the next piece that it takes.
    pub(crate) fn append(&mut self, piece: &[u8]) -> Result<()> {
        self.pending.extend(piece);
        while !self.pending.is_empty() {
            // Not `write_all`: after half of a piece, the other half has to come next.
            match self.file.write(&self.pending) {
                Ok(0) => return Err(self.failed(ErrorKind::WriteZero.into()).into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(source).into()),
            }
        }
        Ok(())
    }

    /// Waits until it is on the disk, to outlive the machine too.
    pub(crate) fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data().map_err(|source| self.failed(source))?)
    }

    fn failed(&self, source: std::io::Error) -> FileError {
        FileError::Write { path: self.path.clone(), source }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs,
        io::Read,
        mem,
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    #[test]
    fn what_a_full_disk_refuses_waits_for_the_next_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut growing = Growing::new(path.clone(), File::create(&path).unwrap());
        let full = File::options().write(true).open("/dev/full").unwrap();
        let real = mem::replace(&mut growing.file, full);
        let refused = growing.append(b"one ").unwrap_err();
        assert!(refused.to_string().contains("the disk is full"), "{refused}");
        growing.file = real;
        growing.append(b"two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one two");
    }

    #[test]
    fn after_half_of_a_piece_comes_the_other_half() {
        // A socket that nobody reads takes some of a large piece and refuses the rest.
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut growing = Growing::new("a".into(), OwnedFd::from(writer).into());
        let large: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
        let mut outcome = growing.append(&large);
        assert!(outcome.is_err());
        let mut received = Vec::new();
        while outcome.is_err() {
            _ = reader.read_to_end(&mut received);
            outcome = growing.append(b"");
        }
        // The last half may have filled the socket again.
        _ = reader.read_to_end(&mut received);
        growing.append(b"end").unwrap();
        drop(growing);
        reader.read_to_end(&mut received).unwrap();
        assert!(received == [&large[..], b"end"].concat(), "{} bytes", received.len());
    }
}
