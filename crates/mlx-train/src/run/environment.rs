//! Where a run runs: the machine, the versions, the command.

use crate::{ffi::DeviceInfo, profile::Bytes};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// What one process knows of where it runs. What is unknown is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The program and its arguments, as they were given.
    pub command: Vec<String>,
    /// The folder that it was started in.
    pub folder: String,
    /// The Git commit of that folder, and whether it has changes.
    pub git: Option<String>,
    /// The version of mlx-train.
    pub mlx_train: String,
    /// The version of MLX.
    pub mlx: String,
    /// The compiler of this crate.
    pub rustc: String,
    /// The operating system.
    pub system: String,
    /// The processor.
    pub cpu: String,
    /// How many threads it runs at once.
    pub num_threads: usize,
    /// All memory of the machine.
    pub memory_bytes: Option<u64>,
    /// The device of the computations.
    pub device: String,
    /// The part of MLX that computes: `CPU`, `Metal` or `CUDA`.
    pub backend: String,
    /// What the environment tells MLX: `MLX_MAX_MB_PER_BUFFER=100`.
    pub mlx_variables: Vec<String>,
}

impl Environment {
    /// Looks around. Takes some milliseconds; what cannot be found out is left empty.
    pub fn here() -> Self {
        let device = mlx_train_core::ffi::device_info().unwrap_or_default();
        let folder = env::current_dir().unwrap_or_default();
        Self {
            command: env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            git: git_commit(&folder),
            folder: folder.display().to_string(),
            mlx_train: env!("CARGO_PKG_VERSION").into(),
            mlx: mlx_train_core::ffi::mlx_version().unwrap_or_default(),
            rustc: env!("MLX_TRAIN_RUSTC").into(),
            system: system(),
            cpu: cpu(),
            num_threads: thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(),
            backend: backend(&device).into(),
            device: device.name.unwrap_or_default(),
            mlx_variables: mlx_variables(),
        }
    }

    /// The command line as a shell takes it.
    pub fn command_line(&self) -> String {
        self.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// Labels and values of what is known, for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let memory = self.memory_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default();
        let threads = match self.num_threads {
            0 => String::new(),
            threads => threads.to_string(),
        };
        let device = format!("{} ({})", self.device, self.backend);
        let rows = [
            ("command", self.command_line()),
            ("folder", self.folder.clone()),
            ("Git commit", self.git.clone().unwrap_or_default()),
            ("mlx-train", self.mlx_train.clone()),
            ("MLX", self.mlx.clone()),
            ("rustc", self.rustc.clone()),
            ("system", self.system.clone()),
            ("processor", self.cpu.clone()),
            ("threads", threads),
            ("memory", memory),
            ("device", device),
            ("MLX variables", self.mlx_variables.join(" ")),
        ];
        rows.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

fn backend(device: &DeviceInfo) -> &'static str {
    match device.is_gpu {
        false => "CPU",
        true if cfg!(target_os = "macos") => "Metal",
        true => "CUDA",
    }
}

/// The variables that MLX reads, by name; those of this project begin alike and are no business of MLX.
fn mlx_variables() -> Vec<String> {
    let is_mlx = |name: &str| name.starts_with("MLX_") && !name.starts_with("MLX_TRAIN_");
    let variables = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| is_mlx(name))?;
        Some(format!("{name}={}", value.to_string_lossy()))
    });
    let mut variables: Vec<String> = variables.collect();
    variables.sort_unstable();
    variables
}

/// The commit that is checked out, marked if files differ from it; `None` without Git or repository.
fn git_commit(folder: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        // A look must not lock the repository for whoever works in it.
        capture(git.arg("-C").arg(folder).arg("--no-optional-locks").args(args))
    };
    let commit = git(&["rev-parse", "--verify", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    let is_changed = changes.is_some_and(|changes| !changes.is_empty());
    Some(if is_changed { format!("{commit}, with changes") } else { commit })
}

fn system() -> String {
    let name = if cfg!(target_os = "macos") {
        capture(Command::new("sw_vers").arg("-productVersion"))
            .map(|version| format!("macOS {version}"))
    } else {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        name.map(|name| name.trim_matches('"').to_owned())
    };
    format!("{} ({})", name.as_deref().unwrap_or(env::consts::OS), env::consts::ARCH)
}

fn cpu() -> String {
    let name = if cfg!(target_os = "macos") {
        capture(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]))
    } else {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = info.lines().find_map(|line| line.strip_prefix("model name"));
        line.map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    name.unwrap_or_default()
}

fn memory_bytes() -> Option<u64> {
    if cfg!(target_os = "macos") {
        return capture(Command::new("sysctl").args(["-n", "hw.memsize"]))?.parse().ok();
    }
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What a program prints, without the end of the line; `None` unless it succeeds.
fn capture(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A word that a shell takes as one.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_outside_of_a_repository_has_no_commit_and_is_no_error() {
        assert_eq!(git_commit(&env::temp_dir().join("no such folder")), None);
        assert_eq!(capture(&mut Command::new("no such program")), None);
    }

    #[test]
    fn a_commit_with_changes_is_marked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
            capture(Command::new("git").arg("-C").arg(path).args(who).args(args))
        };
        // Without Git there is nothing to test.
        if git(&["init", "-q"]).is_none() {
            return;
        }
        assert_eq!(git_commit(path), None, "no commit yet");
        fs::write(path.join("a"), "1").unwrap();
        git(&["add", "a"]).unwrap();
        git(&["commit", "-q", "-m", "first", "--no-gpg-sign"]).unwrap();
        let commit = git_commit(path).unwrap();
        assert_eq!(commit.len(), 40);
        fs::write(path.join("a"), "2").unwrap();
        assert_eq!(git_commit(path), Some(format!("{commit}, with changes")));
    }

    #[test]
    fn a_command_line_can_be_given_to_a_shell() {
        let command = ["train", "--set=a.b=[1, 2]", "it's", ""].map(String::from).into();
        let environment = Environment { command, ..Environment::default() };
        assert_eq!(environment.command_line(), r"train '--set=a.b=[1, 2]' 'it'\''s' ''");
    }

    #[test]
    fn this_machine_is_known() {
        let here = Environment::here();
        assert!(here.rustc.starts_with("rustc 1."), "{}", here.rustc);
        assert!(!here.system.is_empty() && !here.command.is_empty());
        assert_eq!(here.mlx.split('.').count(), 3, "{}", here.mlx);
        assert!(here.memory_bytes.is_none_or(|bytes| bytes > 1 << 28));
    }
}
