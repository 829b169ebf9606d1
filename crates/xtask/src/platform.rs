//! What kind of machine this is, and how one installs programs on it.

use crate::{native::Version, shell};
use std::env::consts::{ARCH, OS};
use std::path::Path;
use std::process::Command;

/// A system program that set-up may have to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The C++ compiler.
    Gxx,
    /// Python with `venv`.
    Python,
}

/// The target that Cargo builds for here, `x86_64-unknown-linux-gnu` say.
pub fn triple() -> String {
    match OS {
        "macos" => format!("{ARCH}-apple-darwin"),
        _ => format!("{ARCH}-unknown-linux-gnu"),
    }
}

/// Whether mlx-sys builds MLX itself here.
pub fn is_macos() -> bool {
    OS == "macos"
}

/// How many compilers to run at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Whether the user may install system packages without `sudo`.
pub fn is_root() -> bool {
    shell::capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// How much a user may still write on the disk of a folder that exists.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let printed = shell::capture(Command::new("df").arg("-Pk").arg(folder)).ok()?;
    free_in(&printed)
}

/// The fourth column of what `df -Pk` prints, in bytes.
fn free_in(printed: &str) -> Option<u64> {
    let kibibytes: u64 = printed.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The C library's version, where it is glibc.
pub fn glibc() -> Option<Version> {
    let printed = shell::capture(Command::new("getconf").arg("GNU_LIBC_VERSION")).ok()?;
    printed.split_whitespace().last()?.parse().ok()
}

/// The command that installs `programs` with this machine's package manager.
pub fn install_command(programs: &[Program]) -> String {
    let managers = ["apt-get", "dnf", "pacman", "zypper"];
    let linux = || managers.into_iter().find(|manager| shell::find(manager).is_some());
    let manager = if is_macos() { Some("brew") } else { linux() };
    install_command_with(manager, programs, is_root())
}

fn install_command_with(manager: Option<&str>, programs: &[Program], root: bool) -> String {
    let (command, packages): (&str, fn(Program) -> &'static str) = match manager {
        Some("dnf") => ("dnf install -y", |program| match program {
            Program::Gxx => "gcc-c++",
            Program::Python => "python3",
        }),
        Some("pacman") => ("pacman -S --needed", |program| match program {
            Program::Gxx => "gcc",
            Program::Python => "python",
        }),
        Some("zypper") => ("zypper install -y", |program| match program {
            Program::Gxx => "gcc-c++",
            Program::Python => "python3",
        }),
        Some("brew") => ("brew install", |program| match program {
            Program::Gxx => "gcc",
            Program::Python => "python",
        }),
        _ => ("apt-get install -y", |program| match program {
            Program::Gxx => "g++",
            Program::Python => "python3 python3-venv",
        }),
    };
    let packages: Vec<_> = programs.iter().map(|program| packages(*program)).collect();
    // Homebrew refuses to run as root.
    let sudo = if root || manager == Some("brew") { "" } else { "sudo " };
    format!("{sudo}{command} {}", packages.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_in_bytes() {
        let printed = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                       tmpfs          61440 61000       440     100% /tmp/small\n";
        assert_eq!(free_in(printed), Some(440 * 1024));
        assert_eq!(free_in("df: not found"), None);
        assert!(free_bytes(Path::new("/")).is_some());
    }

    #[test]
    fn each_package_manager_gets_its_own_names() {
        let both = [Program::Gxx, Program::Python];
        let command = |manager, root| install_command_with(manager, &both, root);
        assert_eq!(command(Some("apt-get"), true), "apt-get install -y g++ python3 python3-venv");
        assert_eq!(command(Some("dnf"), false), "sudo dnf install -y gcc-c++ python3");
        assert_eq!(command(Some("brew"), false), "brew install gcc python");
        assert!(command(None, false).starts_with("sudo apt-get install"));
    }
}
