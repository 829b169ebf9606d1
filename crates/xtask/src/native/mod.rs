//! Native MLX on Linux: where it is kept, how it is built, how Cargo is told.
//!
//! A build is a folder `<home>/<key>`, where the key names the MLX release, the backend, the processor
//! and a hash of everything it is made from. Paths inside are absolute (the environment's scripts, the
//! libraries' names), so it is made in place rather than renamed into place; the file `complete`,
//! written last, tells a whole build from one that was cut short, which the next run clears away. A
//! whole one that `--force` replaces waits aside until the new one is whole (see [`anew`]).

pub mod anew;
pub mod backend;
pub mod bindings;
mod blas;
pub mod build;
mod elf;
pub mod global;
pub mod home;
mod mlx_c;
pub mod python;
pub mod requirements;
pub mod settings;
mod version;

pub use backend::Backend;
pub use build::{Build, Stamp};
pub use version::Version;

use crate::error::{Error, Result};
use crate::platform::{self, Program};
use crate::progress::Progress;
use crate::shell;
use crate::workspace::{MlxSys, Workspace};
use home::Home;
use python::{Environment, Interpreter};
use requirements::Requirements;
use settings::{Native, Settings};
use sha2::{Digest, Sha256};
use std::env::consts::ARCH;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raised when the steps below change what they make of the same inputs.
const RECIPE: &str = "1";

/// MLX's Linux wheels are tagged `manylinux_2_35`.
const GLIBC: &str = "2.35";

/// Everything that decides what a build is.
#[derive(Debug)]
pub struct Plan {
    mlx_sys: MlxSys,
    requirements: Requirements,
    inputs: PathBuf,
    backend: Backend,
    home: Home,
    build: Build,
}

impl Plan {
    /// Reads what there is and decides; touches nothing.
    ///
    /// # Errors
    /// When mlx-sys cannot be found, or its MLX is not the one that the wheels bring.
    pub fn new(workspace: &Workspace, backend: Backend) -> Result<Self> {
        let home = Home::find()?;
        let mlx_sys = workspace.mlx_sys()?;
        let inputs = workspace.native_inputs();
        let requirements = Requirements::read(inputs.join(backend.requirements_file()))?;
        requirements.check_against(&mlx_sys)?;
        if !["x86_64", "aarch64"].contains(&ARCH) {
            let mlx_version = mlx_sys.mlx_version.to_string();
            let (system, arch) = (std::env::consts::OS.to_owned(), ARCH.to_owned());
            return Err(Error::UnsupportedMachine { system, arch, mlx_version });
        }
        let hash = hash_of_inputs(&inputs, &mlx_sys, &requirements)?;
        let key = format!("mlx-{}-{backend}-{ARCH}-{hash}", mlx_sys.mlx_version);
        let build = Build::at(home.build(&key));
        Ok(Self { mlx_sys, requirements, inputs, backend, home, build })
    }

    /// The folder it is about.
    pub fn build(&self) -> &Build {
        &self.build
    }

    /// Makes the build unless it is whole already (or `force`); says whether there was work to do.
    ///
    /// # Errors
    /// When a program is missing, a download fails, or a compiler refuses.
    pub fn ensure(&self, force: bool) -> Result<bool> {
        if !force && self.build.stamp().is_some() {
            return Ok(false);
        }
        let compiler = check_tools()?;
        let interpreter = Interpreter::find()?;
        let lock = self.home.lock()?;
        // The one we waited for may have made it.
        if !force && self.build.stamp().is_some() {
            return Ok(false);
        }
        let is_whole = self.build.stamp().is_some();
        anew::make_anew(self.build.dir(), is_whole, || {
            let made = self.make(&compiler, &interpreter, &lock);
            made.map_err(|error| or_full_disk(error, self.build.dir()))
        })?;
        Ok(true)
    }

    fn make(&self, compiler: &str, interpreter: &Interpreter, lock: &File) -> Result<()> {
        let progress = Progress::start();
        let dir = self.build.dir();
        progress.step(format_args!(
            "MLX {} for {}, into {}",
            self.mlx_sys.mlx_version,
            self.backend,
            dir.display()
        ));
        let work = dir.join("work");
        let native = self.build.native();
        for folder in [&work, &native] {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }

        progress.step(format_args!("private environment of Python {}", interpreter.version));
        let environment = self.build.environment();
        environment.create(interpreter, lock)?;
        progress.step(format_args!("wheels: {}", self.wheel_names()));
        environment.install(&self.requirements, &self.home.wheels(), lock)?;
        let site_packages = environment.site_packages()?;

        progress.step("Rust bindings of mlx-c");
        bindings::Bindings {
            mlx_c: &self.mlx_sys.mlx_c,
            half: &self.inputs.join("half_bindings.rs"),
            libclang: &site_packages.join("clang/native"),
            compiler,
            out: &native.join("bindings.rs"),
        }
        .generate(lock)?;

        progress.step("fast BLAS behind MLX");
        let replaced = blas::replace(&site_packages, compiler, &work, lock)?;

        progress.step(format_args!(
            "mlx-c of mlx-sys {}, {} compilers at a time",
            self.mlx_sys.version,
            platform::cores()
        ));
        mlx_c::MlxC {
            sources: &self.mlx_sys.mlx_c,
            inputs: &self.inputs,
            mlx: &site_packages.join("mlx"),
            out: &native,
            work: &work,
            compiler,
            lock,
            progress: &progress,
        }
        .build(platform::cores())?;

        self.try_out(&progress, &environment)?;
        self.finish(&site_packages, compiler, interpreter, &replaced)?;
        progress.step("native MLX is built");
        Ok(())
    }

    fn wheel_names(&self) -> String {
        let names =
            self.requirements.pins.iter().map(|pin| format!("{} {}", pin.name, pin.version));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Loads the library as a program will, asks its version, and multiplies two matrices.
    fn try_out(&self, progress: &Progress, environment: &Environment) -> Result<()> {
        if self.backend.is_cuda() && backend::driver_version().is_none() {
            progress.step("no NVIDIA driver here: built, but not tried out");
            return Ok(());
        }
        progress.step("trying it out");
        let script = "import ctypes, sys, mlx.core as mx\n\
            ctypes.CDLL(sys.argv[1])\n\
            a = mx.random.normal((64, 64), key=mx.random.key(1)); b = a @ a.T\n\
            error = mx.abs(b - (a[:, None, :] * a[None, :, :]).sum(-1)).max().item()\n\
            assert error < 1e-3, f'a 64 by 64 product is off by {error}'\n\
            mx.eval(mx.linalg.qr(a, stream=mx.cpu))\n\
            print(mx.__version__)";
        let library = self.build.native().join("libmlxc.so");
        let mut command = Command::new(environment.python());
        let version = shell::capture(command.args(["-c", script]).arg(&library))?;
        if version.trim().parse().ok().as_ref() == Some(&self.mlx_sys.mlx_version) {
            return Ok(());
        }
        Err(Error::malformed(&library, format!("loads MLX {}, not the pinned one", version.trim())))
    }

    fn finish(
        &self,
        site_packages: &Path,
        compiler: &str,
        interpreter: &Interpreter,
        replaced: &blas::Replaced,
    ) -> Result<()> {
        let native = self.build.native();
        let portable =
            Native::portable(&platform::triple(), &native, &site_packages.join("mlx/lib"));
        let portable = Settings { native: Some(portable), blas_kernels: None, python: None };
        settings::write_if_changed(&self.build.portable_settings(), &portable.render())?;
        let work = self.build.dir().join("work");
        std::fs::remove_dir_all(&work).map_err(Error::io("remove", &work))?;
        let stamp = Stamp {
            mlx: self.mlx_sys.mlx_version.to_string(),
            mlx_sys: self.mlx_sys.version.clone(),
            backend: self.backend,
            python: interpreter.version.clone(),
            compiler: compiler_version(compiler)?,
            blas: self.describe_blas(replaced),
            site_packages: site_packages.to_path_buf(),
        };
        let text = serde_json::to_string_pretty(&stamp)
            .map_err(|error| Error::malformed(self.build.stamp_path(), error))?;
        settings::write_if_changed(&self.build.stamp_path(), &text).map(drop)
    }

    fn describe_blas(&self, replaced: &blas::Replaced) -> String {
        if replaced.libraries.is_empty() {
            return "the wheel's own".to_owned();
        }
        let openblas = self.requirements.pins.iter().find(|pin| pin.name == "scipy-openblas32");
        let version = openblas.map_or("", |pin| pin.version.as_str());
        format!("OpenBLAS {version} behind {} functions of MLX", replaced.num_functions)
    }
}

/// Many programs hide that the disk is full, Python's `venv` for one; says it where it is so.
fn or_full_disk(error: Error, dir: &Path) -> Error {
    const LOW_BYTES: u64 = 100_000_000;
    match platform::free_bytes(dir) {
        Some(free_bytes) if free_bytes < LOW_BYTES => {
            Error::FullDisk { path: dir.to_path_buf(), free_bytes, source: Box::new(error) }
        }
        _ => error,
    }
}

/// The C++ compiler to call: `CXX`, or g++.
pub fn compiler() -> String {
    std::env::var("CXX").ok().filter(|name| !name.trim().is_empty()).unwrap_or("g++".to_owned())
}

/// The first line of `--version`.
///
/// # Errors
/// When it does not run.
pub fn compiler_version(compiler: &str) -> Result<String> {
    let printed = shell::capture(Command::new(compiler).arg("--version"))?;
    Ok(printed.lines().next().unwrap_or_default().to_owned())
}

/// Refuses early, with everything that is missing at once.
fn check_tools() -> Result<String> {
    let needed: Version = GLIBC.parse().map_err(|error| Error::malformed("glibc", error))?;
    if let Some(found) = platform::glibc().filter(|found| *found < needed) {
        return Err(Error::OldGlibc { needed: needed.to_string(), found: found.to_string() });
    }
    let compiler = compiler();
    let lacking = [compiler.as_str(), "ar"].into_iter().filter(|name| shell::find(name).is_none());
    let lacking: Vec<_> = lacking.map(|name| format!("`{name}`")).collect();
    if lacking.is_empty() {
        return Ok(compiler);
    }
    let mut missing = format!("{} (to compile mlx-c)", lacking.join(" and "));
    let mut programs = vec![Program::Gxx];
    if Interpreter::find().is_err() {
        missing += " and `python3` with venv (to fetch MLX's wheels)";
        programs.push(Program::Python);
    }
    Err(Error::MissingPrograms { missing, install: platform::install_command(&programs) })
}

/// Sixteen digits that change whenever anything changes that a build is made from.
fn hash_of_inputs(inputs: &Path, mlx_sys: &MlxSys, requirements: &Requirements) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(RECIPE.as_bytes());
    add(mlx_sys.version.as_bytes());
    add(requirements.text.as_bytes());
    for name in ["compat.cpp", "compat.h", "half_bindings.rs"] {
        let path = inputs.join(name);
        add(&std::fs::read(&path).map_err(Error::io("read", &path))?);
    }
    let first = hasher.finalize().into_iter().take(8);
    Ok(format!("{:016x}", first.fold(0, |number, byte| (number << 8) | u64::from(byte))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(folder: &Path) -> (MlxSys, Requirements) {
        for name in ["compat.cpp", "compat.h", "half_bindings.rs"] {
            std::fs::write(folder.join(name), name).expect("written");
        }
        let mlx_version = "0.32.2".parse().expect("a version");
        let mlx_sys =
            MlxSys { version: "0.7.0".to_owned(), mlx_c: folder.to_path_buf(), mlx_version };
        let path = folder.join("requirements.txt");
        (mlx_sys, Requirements { path, text: "mlx==0.32.2".to_owned(), pins: Vec::new() })
    }

    #[test]
    fn the_key_changes_with_every_input() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut mlx_sys, mut requirements) = inputs(folder.path());
        let key = |sys: &MlxSys, req: &Requirements| {
            hash_of_inputs(folder.path(), sys, req).expect("readable")
        };
        let mut keys = vec![key(&mlx_sys, &requirements)];
        assert_eq!(keys[0], key(&mlx_sys, &requirements), "the same inputs, the same key");
        requirements.text.push_str(".1");
        keys.push(key(&mlx_sys, &requirements));
        mlx_sys.version = "0.7.1".to_owned();
        keys.push(key(&mlx_sys, &requirements));
        std::fs::write(folder.path().join("compat.h"), "changed").expect("written");
        keys.push(key(&mlx_sys, &requirements));
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 4);
    }
}
