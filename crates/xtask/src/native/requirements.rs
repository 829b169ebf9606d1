//! pip's requirements files: exact versions, each with the hashes of its wheels.

use super::Version;
use crate::error::{Error, Result};
use crate::workspace::MlxSys;
use std::path::PathBuf;

/// A checked-in list of wheels.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// The file.
    pub path: PathBuf,
    /// Its text, part of the build's key.
    pub text: String,
    /// What it pins, in the file's order.
    pub pins: Vec<Pin>,
}

/// One package: `mlx==0.32.2 --hash=sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The package's name on the index.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// SHA-256 of every wheel that may be taken, in hexadecimal.
    pub hashes: Vec<String>,
}

impl Requirements {
    /// Reads a file and refuses anything that is not pinned and hashed.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not `name==version --hash=sha256:…`.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let pins = parse(&text).map_err(|problem| Error::malformed(&path, problem))?;
        Ok(Self { path, text, pins })
    }

    /// The version of MLX that the file brings.
    ///
    /// # Errors
    /// When it names no `mlx`.
    pub fn mlx_version(&self) -> Result<Version> {
        let pin = self.pins.iter().find(|pin| pin.name == "mlx");
        pin.and_then(|pin| pin.version.parse().ok())
            .ok_or_else(|| Error::malformed(&self.path, "no line `mlx==X.Y.Z`"))
    }

    /// Refuses wheels of another MLX than the one that mlx-sys was written for.
    ///
    /// # Errors
    /// [`Error::VersionMismatch`] for the first package of MLX whose version differs.
    pub fn check_against(&self, mlx_sys: &MlxSys) -> Result<()> {
        self.mlx_version()?;
        let of_mlx = self.pins.iter().filter(|pin| is_mlx(&pin.name));
        for pin in of_mlx {
            if pin.version.parse().ok().as_ref() != Some(&mlx_sys.mlx_version) {
                return Err(Error::VersionMismatch {
                    mlx_sys: mlx_sys.version.clone(),
                    wanted: mlx_sys.mlx_version.to_string(),
                    requirements: self.path.clone(),
                    package: pin.name.clone(),
                    pinned: pin.version.clone(),
                });
            }
        }
        Ok(())
    }
}

fn is_mlx(name: &str) -> bool {
    name == "mlx" || name.starts_with("mlx-")
}

fn parse(text: &str) -> Result<Vec<Pin>, String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().filter(|line| !line.trim().is_empty()).map(parse_pin).collect()
}

fn parse_pin(line: &str) -> Result<Pin, String> {
    let (requirement, options) = line.split_at(line.find(" --").unwrap_or(line.len()));
    // What comes after a `;` says which Pythons the line is for; pip decides on that.
    let first = requirement.split(';').next().unwrap_or_default().trim();
    let (name, version) = first
        .split_once("==")
        .filter(|(_, version)| !version.contains(char::is_whitespace))
        .ok_or_else(|| format!("`{first}` is not pinned as name==version"))?;
    let hashes: Vec<String> =
        options.split_whitespace().map(parse_hash).collect::<Result<_, _>>()?;
    if hashes.is_empty() {
        return Err(format!("`{first}` has no --hash=sha256:…"));
    }
    Ok(Pin { name: name.to_owned(), version: version.to_owned(), hashes })
}

fn parse_hash(word: &str) -> Result<String, String> {
    let hash = word.strip_prefix("--hash=sha256:").unwrap_or_default();
    if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(hash.to_owned());
    }
    Err(format!("`{word}` is not --hash=sha256: and 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    fn mlx_sys(mlx_version: &str) -> MlxSys {
        let mlx_version = mlx_version.parse().expect("a version");
        MlxSys { version: "0.7.0".to_owned(), mlx_c: PathBuf::new(), mlx_version }
    }

    #[test]
    fn every_checked_in_file_is_pinned_hashed_and_of_one_mlx() {
        for name in ["cpu", "cuda12", "cuda13", "macos"] {
            let path = Workspace::find().native_inputs().join(format!("requirements-{name}.txt"));
            let requirements = Requirements::read(path).expect("well formed");
            requirements.check_against(&mlx_sys("0.32.2")).expect("one MLX");
            assert!(requirements.pins.len() >= 2, "{name}");
        }
    }

    #[test]
    fn another_mlx_than_the_one_of_mlx_sys_is_refused() {
        let path = Workspace::find().native_inputs().join("requirements-cpu.txt");
        let requirements = Requirements::read(path).expect("well formed");
        let refused = requirements.check_against(&mlx_sys("0.33.0")).expect_err("differs");
        let message = refused.to_string();
        assert!(message.contains("MLX 0.33.0") && message.contains("pins mlx 0.32.2"), "{message}");
    }

    #[test]
    fn continued_lines_are_one_requirement() {
        let hash = "ab".repeat(32);
        let text = format!(
            "# why\n\nmlx==1.2 \\\n    --hash=sha256:{hash} \\\n    --hash=sha256:{hash}\n"
        );
        let pins = parse(&text).expect("well formed");
        assert_eq!(pins.len(), 1);
        assert_eq!((pins[0].name.as_str(), pins[0].version.as_str()), ("mlx", "1.2"));
        assert_eq!(pins[0].hashes, [hash.clone(), hash]);
    }

    #[test]
    fn a_line_may_be_for_some_pythons_alone() {
        let hash = "ab".repeat(32);
        let text =
            format!("numpy==2.2.6 ; python_version < \"3.11\" \\\n    --hash=sha256:{hash}\n");
        let pins = parse(&text).expect("well formed");
        assert_eq!((pins[0].name.as_str(), pins[0].version.as_str()), ("numpy", "2.2.6"));
    }

    #[test]
    fn unpinned_or_unhashed_requirements_are_refused() {
        for (text, complaint) in [
            ("mlx>=1.2", "not pinned"),
            ("mlx==1.2", "no --hash"),
            ("mlx==1.2 --hash=sha256:abc", "64 hexadecimal"),
            ("mlx==1.2 --pre", "64 hexadecimal"),
            ("mlx==1.2 scipy --hash=sha256:abc", "not pinned"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(complaint), "{refused}");
        }
    }
}
