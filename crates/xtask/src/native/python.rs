//! The private Python environment: the pinned wheels of MLX, libclang and OpenBLAS.

use super::requirements::Requirements;
use crate::error::{Error, Result};
use crate::platform::{self, Program};
use crate::shell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The minor versions of Python 3 that MLX 0.32.2 has wheels for.
const MINORS: std::ops::RangeInclusive<u64> = 10..=14;

/// A Python that can make the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its name on PATH.
    pub program: String,
    /// `3.11.2`.
    pub version: String,
}

impl Interpreter {
    /// Finds a Python that MLX has wheels for, the machine's default one first.
    ///
    /// # Errors
    /// [`Error::NoPython`] with what was found and what to install.
    pub fn find() -> Result<Self> {
        let numbered = MINORS.rev().map(|minor| format!("python3.{minor}"));
        let mut found = Vec::new();
        for program in std::iter::once("python3".to_owned()).chain(numbered) {
            if shell::find(&program).is_none() {
                continue;
            }
            match probe(&program) {
                Ok(version) => return Ok(Self { program, version }),
                Err(reason) => found.push(format!("{program} ({reason})")),
            }
        }
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        Err(Error::NoPython { found, install: platform::install_command(&[Program::Python]) })
    }
}

/// The version, or why this Python will not do.
fn probe(program: &str) -> Result<String, String> {
    let ask = "import platform, importlib.util as u; \
               print(platform.python_implementation(), platform.python_version(), \
               all(u.find_spec(m) for m in ('venv', 'ensurepip')))";
    let printed = shell::capture(Command::new(program).args(["-c", ask]))
        .map_err(|_| "does not run".to_owned())?;
    judge(&printed)
}

fn judge(printed: &str) -> Result<String, String> {
    let words: Vec<&str> = printed.split_whitespace().collect();
    let [implementation, version, has_venv] = words[..] else {
        return Err("says nothing of its version".to_owned());
    };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u64>().ok());
    let supported =
        numbers.next() == Some(3) && numbers.next().is_some_and(|m| MINORS.contains(&m));
    match (implementation, supported, has_venv) {
        ("CPython", true, "True") => Ok(version.to_owned()),
        ("CPython", true, _) => Err(format!("{version}, without venv")),
        _ => Err(format!("{implementation} {version}")),
    }
}

/// A virtual environment of ours.
#[derive(Debug, Clone)]
pub struct Environment {
    path: PathBuf,
}

impl Environment {
    /// One that exists, or will.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes it, with nothing but pip inside.
    ///
    /// # Errors
    /// When Python's `venv` fails.
    pub fn create(&self, interpreter: &Interpreter, lock: &File) -> Result<()> {
        let mut command = shell::holding(lock, &interpreter.program)?;
        shell::capture(command.args(["-m", "venv", "--clear"]).arg(&self.path)).map(drop)
    }

    /// Its `python`.
    pub fn python(&self) -> PathBuf {
        self.path.join("bin/python")
    }

    /// Whether its `python` is there and the Python behind it still is.
    pub fn is_whole(&self) -> bool {
        self.python().exists()
    }

    /// The folder that pip installs to.
    ///
    /// # Errors
    /// When its Python does not run.
    pub fn site_packages(&self) -> Result<PathBuf> {
        let ask = "import sysconfig; print(sysconfig.get_path('platlib'))";
        let printed = shell::capture(Command::new(self.python()).args(["-c", ask]))?;
        Ok(PathBuf::from(printed.trim()))
    }

    /// Installs exactly the wheels of `requirements`, fetching those that `wheels` lacks.
    ///
    /// # Errors
    /// [`Error::Download`], or pip's own refusal of a wheel whose hash differs.
    pub fn install(&self, requirements: &Requirements, wheels: &Path, lock: &File) -> Result<()> {
        std::fs::create_dir_all(wheels).map_err(Error::io("create", wheels))?;
        // What is there already needs no network. pip checks the hash of each kept wheel as well.
        if has_any_wheel(wheels) && self.install_kept(requirements, wheels, lock).is_ok() {
            return Ok(());
        }
        let mut fetch = self.pip(lock, "download")?;
        fetch.args(["--retries", "2", "--dest"]).arg(wheels);
        fetch.arg("--requirement").arg(&requirements.path);
        shell::stream(&mut fetch).map_err(|source| Error::Download {
            requirements: requirements.path.clone(),
            wheels: wheels.to_path_buf(),
            source: Box::new(source),
        })?;
        self.install_kept(requirements, wheels, lock)
    }

    fn install_kept(&self, requirements: &Requirements, wheels: &Path, lock: &File) -> Result<()> {
        let mut install = self.pip(lock, "install")?;
        install.args(["--no-index", "--find-links"]).arg(wheels);
        install.arg("--requirement").arg(&requirements.path);
        shell::capture(&mut install).map(drop)
    }

    /// pip with what both of its steps need: nothing but hashed wheels, and no question asked.
    fn pip(&self, lock: &File, action: &str) -> Result<Command> {
        let mut command = shell::holding(lock, self.python())?;
        command.args(["-m", "pip", "--disable-pip-version-check", "--no-input", action]);
        // The file lists the whole closure, so pip has nothing to resolve.
        command.args(["--no-deps", "--require-hashes", "--only-binary", ":all:"]);
        Ok(command)
    }
}

fn has_any_wheel(wheels: &Path) -> bool {
    let Ok(entries) = wheels.read_dir() else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "whl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_without_wheels_or_venv_are_refused_with_the_reason() {
        assert_eq!(judge("CPython 3.11.2 True\n").as_deref(), Ok("3.11.2"));
        assert_eq!(judge("CPython 3.14.0rc1 True\n").as_deref(), Ok("3.14.0rc1"));
        assert_eq!(judge("CPython 3.11.2 False\n"), Err("3.11.2, without venv".to_owned()));
        assert_eq!(judge("CPython 3.9.18 True\n"), Err("CPython 3.9.18".to_owned()));
        assert_eq!(judge("PyPy 3.11.2 True\n"), Err("PyPy 3.11.2".to_owned()));
        assert!(judge("").is_err());
    }

    #[test]
    fn an_environment_whose_python_is_gone_is_not_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = Environment::at(folder.path());
        assert!(!environment.is_whole());
        std::fs::create_dir(folder.path().join("bin")).expect("a folder");
        std::os::unix::fs::symlink("/gone/python3.11", environment.python()).expect("a link");
        assert!(!environment.is_whole());
    }
}
