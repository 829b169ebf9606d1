//! What the repository itself says: its folder and the mlx-sys package that Cargo resolved.

use crate::error::{Error, Result};
use crate::native::Version;
use crate::{platform, shell};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository that this xtask belongs to.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

/// mlx-sys as Cargo resolved it, unpacked in the registry's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlxSys {
    /// Its own version.
    pub version: String,
    /// The folder that holds mlx-c: `…/mlx-sys-0.7.0/src/mlx-c`.
    pub mlx_c: PathBuf,
    /// The MLX release that this mlx-c is written for.
    pub mlx_version: Version,
}

impl Workspace {
    /// Finds the repository from the environment that `cargo xtask` sets.
    pub fn find() -> Self {
        // Cargo's run-time value first: the compiled-in one is stale when the checkout was moved.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.ancestors().nth(2).unwrap_or(&package).to_path_buf();
        Self { root }
    }

    /// A file or folder of the repository.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The files that native MLX is built from.
    pub fn native_inputs(&self) -> PathBuf {
        self.path("crates/xtask/native")
    }

    /// Cargo's settings for native MLX in this checkout; git ignores the file.
    pub fn settings(&self) -> PathBuf {
        self.path(".cargo/mlx-native.toml")
    }

    /// The same Cargo that runs this xtask, in the repository's folder.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// Asks Cargo where mlx-sys is, and mlx-sys for which MLX it is written.
    ///
    /// # Errors
    /// When `cargo metadata` fails (no network on the very first use) or mlx-sys looks different.
    pub fn mlx_sys(&self) -> Result<MlxSys> {
        let mut command = self.cargo();
        command.args(["metadata", "--format-version", "1"]);
        // Without a filter Cargo would fetch the packages of every platform first.
        command.args(["--filter-platform", &platform::triple()]);
        let metadata = shell::capture(&mut command)?;
        MlxSys::from_metadata(&metadata)
    }
}

impl MlxSys {
    fn from_metadata(metadata: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
        }
        #[derive(Deserialize)]
        struct Package {
            name: String,
            version: String,
            manifest_path: PathBuf,
        }
        let metadata: Metadata = serde_json::from_str(metadata)
            .map_err(|error| Error::malformed("cargo metadata", error))?;
        let package = metadata.packages.into_iter().find(|package| package.name == "mlx-sys");
        let Some(package) = package else {
            let problem = "no package `mlx-sys` in the dependency graph; is mlx-rs still a dependency of mlx-train-core?";
            return Err(Error::malformed("Cargo.lock", problem));
        };
        let mlx_c = package.manifest_path.with_file_name("src").join("mlx-c");
        let cmake = mlx_c.join("CMakeLists.txt");
        let text = std::fs::read_to_string(&cmake).map_err(Error::io("read", &cmake))?;
        let mlx_version = pinned_mlx(&text).ok_or_else(|| {
            Error::malformed(&cmake, "no line `GIT_TAG vX.Y.Z` names the MLX release")
        })?;
        Ok(Self { version: package.version, mlx_c, mlx_version })
    }
}

/// The Cargo to call: the one that called us, which is the one that rust-toolchain.toml chose.
pub fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Reads `GIT_TAG v0.32.2)` out of mlx-c's CMake file.
fn pinned_mlx(cmake: &str) -> Option<Version> {
    let after = cmake.split("GIT_TAG").nth(1)?;
    let tag = after.split_whitespace().next()?;
    tag.trim_end_matches(')').strip_prefix('v')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mlx_release_is_read_from_mlx_c() {
        let cmake =
            "FetchContent_Declare(\n    mlx\n    GIT_REPOSITORY \"x\"\n    GIT_TAG v0.32.2)\n";
        assert_eq!(pinned_mlx(cmake), "0.32.2".parse().ok());
        assert_eq!(pinned_mlx("GIT_TAG main)"), None);
        assert_eq!(pinned_mlx(""), None);
    }

    #[test]
    fn the_workspace_holds_the_native_inputs() {
        let workspace = Workspace::find();
        assert!(workspace.native_inputs().join("compat.cpp").is_file());
        assert!(workspace.path("rust-toolchain.toml").is_file());
    }
}
