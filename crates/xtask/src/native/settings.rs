//! Cargo's settings files: how mlx-sys is told where MLX is.
//!
//! Cargo's *links override* (`[target.TRIPLE.mlx]`) stands in for mlx-sys's build script. Of two
//! settings files the nearer wins for a string, while lists are joined; so the flags are the one
//! string `rustc-flags`, and a checkout's own file replaces the one that `--global` wrote.

use crate::error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, value};

/// How long an idle OpenBLAS thread spins before it sleeps: `2^4` processor cycles, its least.
///
/// By default it spins `2^26`. Where another program wants the same core, that keeps the thread that
/// has work from running: training the reference transformer on two cores with one of them busy took
/// 55 s instead of 27. On a machine of its own the speed is the same.
const BLAS_SPIN: (&str, &str) = ("OPENBLAS_THREAD_TIMEOUT", "4");

/// How many CUDA graphs MLX keeps; a CPU build does not read it.
///
/// By default it keeps 400, and fails with "Cache thrashing" when a training run needs more: the
/// reference transformer with an evaluation in between did, on an H200, and with 4000 it did not.
const CUDA_GRAPHS: (&str, &str) = ("MLX_CUDA_GRAPH_CACHE_SIZE", "4000");

/// What the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `x86_64-unknown-linux-gnu`, or nothing where mlx-sys builds itself (macOS).
    pub native: Option<Native>,
    /// The kernels that OpenBLAS is told to use; nothing leaves the choice to it.
    pub blas_kernels: Option<&'static str>,
    /// The Python that has the same MLX, for parity tests.
    pub python: Option<PathBuf>,
}

/// The links override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// The target it is for.
    pub triple: String,
    /// What mlx-sys would have printed as `cargo::rustc-flags`.
    pub rustc_flags: String,
    /// The folder of `bindings.rs`.
    pub out_dir: PathBuf,
}

impl Native {
    /// Programs for this machine: they load `libmlxc.so` from its absolute path.
    pub fn shared(triple: &str, native: &Path) -> Self {
        let rustc_flags = format!("-L native={} -l dylib=mlxc", native.display());
        Self { triple: triple.to_owned(), rustc_flags, out_dir: native.to_path_buf() }
    }

    /// Programs to carry elsewhere: mlx-c inside, `libmlx.so` wherever the loader finds it.
    pub fn portable(triple: &str, native: &Path, mlx_lib: &Path) -> Self {
        let rustc_flags = format!(
            "-L native={} -L native={} -l static=mlxc -l dylib=mlx -l dylib=stdc++",
            native.display(),
            mlx_lib.display()
        );
        Self { triple: triple.to_owned(), rustc_flags, out_dir: native.to_path_buf() }
    }

    /// Puts the override into a settings document and leaves all else as it is.
    ///
    /// # Errors
    /// When `target` is there and is no table.
    pub fn put_into(&self, document: &mut DocumentMut) -> Result<(), String> {
        let target = table_at(document.as_table_mut(), "target")?;
        let triple = table_at(target, &self.triple)?;
        let mlx = table_at(triple, "mlx")?;
        mlx.set_implicit(false);
        mlx.insert("rustc-flags", value(&self.rustc_flags));
        let mut env = toml_edit::InlineTable::new();
        env.insert("OUT_DIR", self.out_dir.display().to_string().into());
        mlx.insert("rustc-env", value(env));
        Ok(())
    }
}

/// The table under `key`, made when it is missing.
fn table_at<'a>(parent: &'a mut Table, key: &str) -> Result<&'a mut Table, String> {
    let mut empty = Table::new();
    empty.set_implicit(true);
    let item = parent.entry(key).or_insert(Item::Table(empty));
    // `target = { … }` on one line is a table all the same: write it out.
    if let Some(inline) = item.as_inline_table() {
        *item = Item::Table(inline.clone().into_table());
    }
    item.as_table_mut().ok_or_else(|| format!("`{key}` is not a table; mend it by hand first"))
}

impl Settings {
    /// The whole file.
    pub fn render(&self) -> String {
        let mut document = DocumentMut::new();
        let mut env = Table::new();
        if let Some(native) = &self.native {
            // An empty document has no `target` that could be in the way.
            let _ = native.put_into(&mut document);
            for (name, text) in [BLAS_SPIN, CUDA_GRAPHS] {
                env.insert(name, default_variable(text));
            }
        }
        if let Some(kernels) = self.blas_kernels {
            env.insert("OPENBLAS_CORETYPE", default_variable(kernels));
        }
        if let Some(python) = &self.python {
            env.insert("MLX_TRAIN_PYTHON", default_variable(&python.display().to_string()));
        }
        document.insert("env", Item::Table(env));
        format!(
            "# Written by `cargo xtask setup`; your changes would be lost at its next run.\n{document}"
        )
    }
}

/// A variable for the programs that Cargo starts, unless the user has set it.
fn default_variable(text: &str) -> Item {
    let mut entry = toml_edit::InlineTable::new();
    entry.insert("value", text.into());
    entry.insert("force", false.into());
    value(entry)
}

/// The build folder that a settings file points at, if it points at one.
pub fn out_dir(text: &str, triple: &str) -> Option<PathBuf> {
    let document: DocumentMut = text.parse().ok()?;
    let out_dir =
        document.get("target")?.get(triple)?.get("mlx")?.get("rustc-env")?.get("OUT_DIR")?;
    out_dir.as_str().map(PathBuf::from)
}

/// The Python that a settings file names for parity tests.
pub fn python(text: &str) -> Option<PathBuf> {
    let document: DocumentMut = text.parse().ok()?;
    document.get("env")?.get("MLX_TRAIN_PYTHON")?.get("value")?.as_str().map(PathBuf::from)
}

/// Writes `text` to `path` whole or not at all, and only when it differs; says whether it did.
///
/// # Errors
/// [`Error::Io`]; the old file is untouched then.
pub fn write_if_changed(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    // Replace what a link points at, not the link: people keep their settings elsewhere.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut fresh =
        tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write in", folder))?;
    fresh.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
    fresh.as_file().sync_all().map_err(Error::io("write", &path))?;
    let permissions = permissions_of(&path);
    fresh.as_file().set_permissions(permissions).map_err(Error::io("write", &path))?;
    fresh.persist(&path).map_err(|error| Error::io("replace", &path)(error.error))?;
    Ok(true)
}

/// The old file's, or what an ordinary new file has (a temporary one is private).
fn permissions_of(path: &Path) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .map_or_else(|_| PermissionsExt::from_mode(0o644), |metadata| metadata.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TRIPLE: &str = "x86_64-unknown-linux-gnu";

    #[test]
    fn the_file_is_what_cargo_reads() {
        let settings = Settings {
            native: Some(Native::shared(TRIPLE, Path::new("/home/me/.cache/native"))),
            blas_kernels: Some("SKYLAKEX"),
            python: Some(PathBuf::from("/home/me/.cache/venv/bin/python")),
        };
        let expected = "\
# Written by `cargo xtask setup`; your changes would be lost at its next run.
[target.x86_64-unknown-linux-gnu.mlx]
rustc-flags = \"-L native=/home/me/.cache/native -l dylib=mlxc\"
rustc-env = { OUT_DIR = \"/home/me/.cache/native\" }

[env]
OPENBLAS_THREAD_TIMEOUT = { value = \"4\", force = false }
MLX_CUDA_GRAPH_CACHE_SIZE = { value = \"4000\", force = false }
OPENBLAS_CORETYPE = { value = \"SKYLAKEX\", force = false }
MLX_TRAIN_PYTHON = { value = \"/home/me/.cache/venv/bin/python\", force = false }
";
        assert_eq!(settings.render(), expected);
        assert_eq!(out_dir(expected, TRIPLE), Some(PathBuf::from("/home/me/.cache/native")));
        assert_eq!(python(expected), settings.python);
    }

    #[test]
    fn other_files_point_at_no_build() {
        for text in ["", "not toml [", "[target]\n", "[target.x86_64-unknown-linux-gnu]\nmlx = 3\n"]
        {
            assert_eq!(out_dir(text, TRIPLE), None, "{text}");
        }
    }

    #[test]
    fn writing_the_same_text_again_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/settings.toml");
        assert!(write_if_changed(&path, "a = 1\n").expect("written"));
        assert!(!write_if_changed(&path, "a = 1\n").expect("the same"));
        assert!(write_if_changed(&path, "a = 2\n").expect("written"));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "a = 2\n");
        let left = path.parent().expect("a folder").read_dir().expect("listed").count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn links_and_permissions_of_the_old_file_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "old").expect("written");
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o600)).expect("set");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        assert!(write_if_changed(&link, "new").expect("written"));
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).expect("there"), "new");
        let mode = std::fs::metadata(&real).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn without_set_up_the_repository_names_the_command() {
        let workspace = crate::workspace::Workspace::find();
        let read = |name| std::fs::read_to_string(workspace.path(name)).expect("checked in");
        let config: DocumentMut = read(".cargo/config.toml").parse().expect("valid");
        let included = config["include"].as_array().expect("a list");
        let path = |i: usize| included.get(i)?.as_inline_table()?.get("path")?.as_str();
        // The later one wins, so what set-up writes has to come second.
        assert_eq!((path(0), path(1)), (Some("mlx-missing.toml"), Some("mlx-native.toml")));
        for triple in [TRIPLE, "aarch64-unknown-linux-gnu"] {
            let sentence = out_dir(&read(".cargo/mlx-missing.toml"), triple).expect("an override");
            assert!(sentence.to_string_lossy().contains("\n        cargo xtask setup\n"));
        }
    }
}
