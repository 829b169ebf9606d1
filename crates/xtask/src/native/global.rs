//! `setup --global`: the same settings in the user's own Cargo configuration.

use super::settings::{Native, write_if_changed};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use toml_edit::DocumentMut;

/// Puts the links override into `$CARGO_HOME/config.toml` and keeps everything else in it.
///
/// Returns the file and whether it had to change.
///
/// # Errors
/// When the file is not TOML or cannot be written; it is untouched then.
pub fn install(native: &Native) -> Result<(PathBuf, bool)> {
    let path = config_file(&cargo_home()?);
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let new = edit(&old, native).map_err(|problem| Error::malformed(&path, problem))?;
    let changed = write_if_changed(&path, &new)?;
    Ok((path, changed))
}

/// The file that Cargo reads: the old name without extension wins where both are there.
pub fn config_file(cargo_home: &Path) -> PathBuf {
    let old_name = cargo_home.join("config");
    if old_name.is_file() { old_name } else { cargo_home.join("config.toml") }
}

/// `$CARGO_HOME`, by default `~/.cargo`.
///
/// # Errors
/// [`Error::NoHome`].
pub fn cargo_home() -> Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let default = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    set.or_else(default).ok_or(Error::NoHome)
}

fn edit(old: &str, native: &Native) -> Result<String, String> {
    let mut document: DocumentMut =
        old.parse().map_err(|error| format!("not valid TOML, mend it by hand first: {error}"))?;
    native.put_into(&mut document)?;
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native() -> Native {
        Native::shared("x86_64-unknown-linux-gnu", Path::new("/cache/native"))
    }

    const OVERRIDE: &str = "[target.x86_64-unknown-linux-gnu.mlx]
rustc-flags = \"-L native=/cache/native -l dylib=mlxc\"
rustc-env = { OUT_DIR = \"/cache/native\" }
";

    #[test]
    fn an_empty_configuration_gets_the_override_alone() {
        assert_eq!(edit("", &native()).as_deref(), Ok(OVERRIDE));
    }

    #[test]
    fn what_the_user_wrote_stays_to_the_letter() {
        let user = "\
# my mirrors
[source.crates-io]   # keep
replace-with = 'mirror'

[target.x86_64-unknown-linux-gnu]
linker = \"clang\" # faster

[alias]
b = \"build\"
";
        let new = edit(user, &native()).expect("edited");
        for line in user.lines() {
            assert!(new.contains(line), "lost `{line}` in:\n{new}");
        }
        assert!(new.contains(OVERRIDE), "{new}");
        assert_eq!(edit(&new, &native()), Ok(new.clone()), "a second time changes nothing");
    }

    #[test]
    fn an_older_build_is_replaced_not_added_to() {
        let old = OVERRIDE.replace("/cache/native", "/older/native");
        assert_eq!(edit(&old, &native()).as_deref(), Ok(OVERRIDE));
    }

    #[test]
    fn tables_on_one_line_are_kept_too() {
        let user = "target = { x86_64-unknown-linux-gnu = { linker = \"clang\" } }\n";
        let new = edit(user, &native()).expect("edited");
        let document: DocumentMut = new.parse().expect("valid");
        let triple = &document["target"]["x86_64-unknown-linux-gnu"];
        assert_eq!(triple["linker"].as_str(), Some("clang"));
        assert_eq!(triple["mlx"]["rustc-env"]["OUT_DIR"].as_str(), Some("/cache/native"));
    }

    #[test]
    fn a_broken_configuration_is_refused() {
        assert!(edit("[target\n", &native()).expect_err("broken").contains("not valid TOML"));
        assert!(edit("target = 3\n", &native()).expect_err("no table").contains("`target`"));
    }

    #[test]
    fn the_file_that_cargo_prefers_is_the_one_edited() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(config_file(home.path()), home.path().join("config.toml"));
        std::fs::write(home.path().join("config"), "").expect("written");
        assert_eq!(config_file(home.path()), home.path().join("config"));
    }
}
