//! What a shared library needs and what it offers, read from its ELF tables.

use crate::error::{Error, Result};
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::path::Path;

/// The dynamic tables of one shared library.
#[derive(Debug, Default)]
pub struct SharedObject {
    /// The libraries that the loader must find for it, by name.
    pub needed: Vec<String>,
    /// The functions and data that others may use.
    pub defined: BTreeSet<String>,
    /// Those that it expects from others.
    pub undefined: BTreeSet<String>,
}

impl SharedObject {
    /// Reads a 64-bit ELF file.
    ///
    /// # Errors
    /// When the file cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let data = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&data).map_err(|error| Error::malformed(path, error))
    }

    fn parse(data: &[u8]) -> object::Result<Self> {
        let file = ElfFile64::<Endianness>::parse(data)?;
        let mut found = Self { needed: needed(data)?, ..Self::default() };
        for symbol in file.dynamic_symbols() {
            let set = if symbol.is_undefined() { &mut found.undefined } else { &mut found.defined };
            set.insert(symbol.name()?.to_owned());
        }
        Ok(found)
    }
}

fn needed(data: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((entries, strings)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, strings)?;
    let wanted = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    wanted
        .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_the_c_library() {
        let this = std::env::current_exe().expect("a running test");
        let tables = SharedObject::read(&this).expect("an ELF file");
        assert!(tables.needed.iter().any(|name| name.starts_with("libc.so")));
        assert!(tables.undefined.contains("abort") || tables.undefined.contains("memcpy"));
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let refused = SharedObject::read(Path::new("/dev/null"));
        assert!(refused.expect_err("empty").to_string().starts_with("/dev/null: "));
    }
}
