//! A folder of native MLX, what it says of itself, and what Cargo is told of it.

use super::Backend;
use super::anew::STAMP;
use super::blas;
use super::python::Environment;
use super::settings::{self, Native, Settings};
use crate::platform;
use crate::workspace::Workspace;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One build of native MLX, whole or not.
#[derive(Debug, Clone)]
pub struct Build {
    dir: PathBuf,
}

/// What a complete build says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The release of MLX.
    pub mlx: String,
    /// The package whose mlx-c was compiled.
    pub mlx_sys: String,
    /// CPU or CUDA.
    pub backend: Backend,
    /// The Python of the environment.
    pub python: String,
    /// The compiler's first line of `--version`.
    pub compiler: String,
    /// What stands behind matrix products on the CPU.
    pub blas: String,
    /// Where pip installed.
    pub site_packages: PathBuf,
}

impl Build {
    /// A folder that holds one, or will.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The build that a checkout's settings name, if they name one of ours.
    pub fn in_use(workspace: &Workspace) -> Option<Self> {
        let text = std::fs::read_to_string(workspace.settings()).ok()?;
        let native = settings::out_dir(&text, &platform::triple())?;
        native.parent().map(Self::at)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of `bindings.rs`, `libmlxc.so` and `libmlxc.a`.
    pub fn native(&self) -> PathBuf {
        self.dir.join("native")
    }

    /// Its Python environment.
    pub fn environment(&self) -> Environment {
        Environment::at(self.dir.join("venv"))
    }

    /// The file that is written last.
    pub fn stamp_path(&self) -> PathBuf {
        self.dir.join(STAMP)
    }

    /// What it is, when it is whole.
    pub fn stamp(&self) -> Option<Stamp> {
        let text = std::fs::read_to_string(self.stamp_path()).ok()?;
        let stamp: Stamp = serde_json::from_str(&text).ok()?;
        let library = stamp.site_packages.join("mlx/lib/libmlx.so");
        let parts = [self.native().join("libmlxc.so"), self.native().join("bindings.rs"), library];
        // Cache cleaners delete single files, and systems replace their Python.
        let whole = parts.iter().all(|part| part.is_file()) && self.environment().is_whole();
        whole.then_some(stamp)
    }

    /// The links override for this machine.
    pub fn links_override(&self) -> Native {
        Native::shared(&platform::triple(), &self.native())
    }

    /// The settings file for a checkout.
    pub fn settings(&self) -> Settings {
        let python = self.environment().python();
        let blas_kernels = blas::kernels();
        Settings { native: Some(self.links_override()), blas_kernels, python: Some(python) }
    }

    /// Settings for programs that carry mlx-c inside: `cargo --config <this file> build …`.
    pub fn portable_settings(&self) -> PathBuf {
        self.dir.join("portable.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_whole_only_with_its_stamp_and_every_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let build = Build::at(folder.path().join("key"));
        let site_packages = build.dir().join("venv/site-packages");
        let library = site_packages.join("mlx/lib/libmlx.so");
        let python = build.environment().python();
        let parts = [
            build.native().join("libmlxc.so"),
            build.native().join("bindings.rs"),
            library,
            python,
        ];
        for part in &parts {
            std::fs::create_dir_all(part.parent().expect("a folder")).expect("made");
            std::fs::write(part, "").expect("written");
        }
        assert_eq!(build.stamp(), None, "no stamp");
        let stamp = Stamp {
            mlx: "0.32.2".to_owned(),
            mlx_sys: "0.7.0".to_owned(),
            backend: Backend::Cuda13,
            python: "3.11.2".to_owned(),
            compiler: "g++".to_owned(),
            blas: String::new(),
            site_packages,
        };
        let text = serde_json::to_string(&stamp).expect("serializable");
        std::fs::write(build.stamp_path(), text).expect("written");
        assert_eq!(build.stamp(), Some(stamp));
        std::fs::remove_file(&parts[0]).expect("removed");
        assert_eq!(build.stamp(), None, "a part is gone");
    }
}
