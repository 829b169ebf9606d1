//! Files as memory: read by address, loaded page by page when touched.

use memmap2::{MmapOptions, MmapRaw};
use std::{
    fs::{self, File},
    io::{Error, ErrorKind, Result},
    ops::Range,
    path::{self, Path, PathBuf},
};

/// A file that is mapped into memory, for reading.
///
/// The file may be larger than memory: the system loads a page when it is first read, and drops it
/// when room is needed. No slice of the mapping is ever handed out, because no slice may change
/// while it is borrowed and another program can write to the file; bytes are copied instead, by
/// address. One danger is left, as with every mapping: a page that another program cuts off the file
/// cannot be loaded, and the system ends this process with SIGBUS. Each copy therefore looks at the
/// file's size first and fails with an error when it shrank; only a cut in the microseconds between
/// the look and the copy still ends the process, as a power cut would. No file stays open, so that
/// thousands can be mapped.
#[derive(Debug)]
pub struct FileMap {
    path: PathBuf,
    map: MmapRaw,
}

impl FileMap {
    /// Maps a file as long as it is now.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let map = MmapOptions::new().map_raw_read_only(&File::open(path)?)?;
        // The process may go to another folder.
        Ok(Self { path: path::absolute(path)?, map })
    }

    /// How many bytes the file had when it was mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the file had no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the bytes of a range to `read`, a block of at most 4 KiB at a time, in their order.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] when the range leaves the file, also when the file became
    /// shorter since it was mapped.
    pub fn read(&self, range: Range<usize>, mut read: impl FnMut(&[u8])) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            let message = format!("bytes {range:?} of a file of {} were asked for", self.len());
            return Err(Error::new(ErrorKind::UnexpectedEof, message));
        }
        if fs::metadata(&self.path)?.len() < self.len() as u64 {
            let message = "it became shorter after it was opened";
            return Err(Error::new(ErrorKind::UnexpectedEof, message));
        }
        // Large enough to be copied quickly, small enough to stay in the first cache.
        let mut block = [0_u8; 4096];
        for start in range.clone().step_by(block.len()) {
            let block = &mut block[..(range.end - start).min(4096)];
            // SAFETY: `start + block.len() <= range.end <= self.len()`, so the source lies in the
            // mapping, which lives as long as `self`; `block` is memory of this function alone, so
            // the two do not overlap. A program that writes to the file meanwhile changes which
            // bytes are copied and nothing else, because no reference to the source exists.
            unsafe {
                let source = self.map.as_ptr().add(start);
                std::ptr::copy_nonoverlapping(source, block.as_mut_ptr(), block.len());
            }
            read(block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(map: &FileMap, range: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        map.read(range, |block| bytes.extend(block)).map(|()| bytes)
    }

    #[test]
    fn any_range_of_the_file_is_read_and_none_outside_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        let map = FileMap::open(&path).unwrap();
        for range in [0..0, 0..1, 1..4097, 4095..8193, 9_999..10_000, 0..10_000] {
            assert_eq!(read(&map, range.clone()).unwrap(), content[range]);
        }
        #[expect(clippy::reversed_empty_ranges, reason = "this is what has to be refused")]
        let outside = [0..10_001, 10_000..10_001, 5..4, usize::MAX - 1..usize::MAX];
        for range in outside {
            assert_eq!(read(&map, range).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }

    // Without the look at the size, this read would end the test process with SIGBUS.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_cut_is_an_error_and_no_signal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let map = FileMap::open(&path).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
        let error = read(&map, 50_000..50_001).unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }
}
