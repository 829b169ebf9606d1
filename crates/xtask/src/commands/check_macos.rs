//! `cargo xtask check-macos`: does the workspace type-check for Apple silicon?
//!
//! Most users are on a Mac while CI may not be. Type-checking needs the standard library for the Mac
//! but no linker and no SDK. rustup can fetch that library; where it cannot, Debian packages a compiler
//! together with the library's sources, from which Cargo makes it. Nothing is linked, so mlx-sys may
//! be given the bindings that set-up generated on this machine.

use super::setup;
use crate::error::{Error, Result};
use crate::native::{Build, Version};
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{platform, shell};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-apple-darwin";

/// Debian's compiler for building web browsers, which is much newer than its stable one.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Options of `check-macos`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask check-macos              libraries, programs, examples, tests
  cargo xtask check-macos -p xtask     one package

On a Mac this is `cargo check`. Elsewhere it needs the Mac's standard library: either
`rustup target add aarch64-apple-darwin`, or Debian's packages rustc-web, cargo-web and
rust-web-src, which it installs by itself when it runs as root.")]
pub struct CheckMacosArgs {
    /// Check this package only (may be repeated)
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
}

/// The subcommand.
///
/// # Errors
/// When no compiler can be had, or something does not type-check.
pub fn run(workspace: &Workspace, args: &CheckMacosArgs) -> Result<()> {
    setup::ensure(workspace)?;
    let progress = Progress::start();
    let mut command = if platform::is_macos() {
        progress.step("this is a Mac: plain cargo check");
        workspace.cargo()
    } else {
        for_the_mac(workspace, &progress)?
    };
    command.args(["check", "--all-targets"]);
    for package in &args.package {
        command.args(["--package", package]);
    }
    if args.package.is_empty() {
        command.arg("--workspace");
    }
    // After the subcommand's own options, so that the line reads well when it fails.
    if !platform::is_macos() {
        target_options(&mut command, workspace)?;
    }
    progress.step(shell::describe(&command));
    shell::stream(&mut command)?;
    progress.step(format_args!("the workspace type-checks for {TARGET}"));
    Ok(())
}

/// A Cargo that can check for the Mac from here.
fn for_the_mac(workspace: &Workspace, progress: &Progress) -> Result<Command> {
    if rustup_has_target(workspace) {
        progress.step("rustup's standard library for the Mac");
        return Ok(workspace.cargo());
    }
    let debian = Debian::default();
    if let Err(problem) = debian.usable() {
        install(&problem, progress)?;
        debian.usable().map_err(cannot_check)?;
    }
    progress.step("Debian's compiler and the standard library from its sources");
    Ok(debian.cargo(workspace))
}

fn target_options(command: &mut Command, workspace: &Workspace) -> Result<()> {
    let build = Build::in_use(workspace)
        .ok_or_else(|| Error::malformed(workspace.settings(), "names no build of MLX"))?;
    let out_dir = toml_edit::Value::from(build.native().display().to_string());
    command.args(["--target", TARGET, "--config"]);
    command.arg(format!("target.{TARGET}.mlx.rustc-env.OUT_DIR={}", out_dir.to_string().trim()));
    command.arg("--target-dir").arg(workspace.path("target/check-macos"));
    Ok(())
}

fn rustup_has_target(workspace: &Workspace) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]).current_dir(workspace.path(""));
    let Ok(sysroot) = shell::capture(&mut command) else { return false };
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

/// Programs of Debian's packages, by absolute path: PATH may lead to rustup's.
#[derive(Debug)]
struct Debian {
    cargo: PathBuf,
    rustc: PathBuf,
    rustdoc: PathBuf,
    library: PathBuf,
}

impl Default for Debian {
    fn default() -> Self {
        Self {
            cargo: "/usr/bin/cargo".into(),
            rustc: "/usr/bin/rustc".into(),
            rustdoc: "/usr/bin/rustdoc".into(),
            library: "/usr/lib/rustlib/src/rust/library/std".into(),
        }
    }
}

impl Debian {
    /// Whether everything is there and new enough, or why not.
    fn usable(&self) -> Result<(), String> {
        for part in [&self.cargo, &self.rustc, &self.library] {
            if !part.exists() {
                return Err(format!("{} is missing", part.display()));
            }
        }
        let needed: Version = env!("CARGO_PKG_RUST_VERSION").parse().map_err(|e| format!("{e}"))?;
        for program in [&self.cargo, &self.rustc] {
            let printed = shell::capture(Command::new(program).arg("--version"));
            let found = printed.ok().as_deref().and_then(tool_version);
            if found.as_ref().is_none_or(|found| *found < needed) {
                let found = found.map_or("unknown".to_owned(), |found| found.to_string());
                let program = program.display();
                return Err(format!("{program} is version {found}, older than {needed}"));
            }
        }
        Ok(())
    }

    fn cargo(&self, workspace: &Workspace) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(workspace.path(""));
        command.env("RUSTC", &self.rustc).env("RUSTDOC", &self.rustdoc);
        // Set by rustup for its children; a build script that calls `cargo` must not go back to it.
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        // Building the standard library is a nightly feature; this allows it in a stable compiler.
        command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        command
    }
}

/// The number in `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn tool_version(printed: &str) -> Option<Version> {
    printed.split_whitespace().nth(1)?.parse().ok()
}

/// Installs Debian's packages as root; otherwise says how.
fn install(problem: &str, progress: &Progress) -> Result<()> {
    if !platform::is_root() || shell::find("apt-get").is_none() {
        return Err(cannot_check(problem.to_owned()));
    }
    progress.step(format_args!("{problem}; installing {}", PACKAGES.join(", ")));
    apt_get(&["update", "-qq"])?;
    // Never at the cost of another package, a system's own rustc say.
    let options = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    apt_get(&[&options[..], &PACKAGES[..]].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    shell::capture(&mut command).map(drop)
}

fn cannot_check(problem: String) -> Error {
    let packages = PACKAGES.join(" ");
    let problems = vec![
        problem,
        format!("with rustup, run: rustup target add {TARGET}"),
        format!("or on Debian, run: sudo apt-get update && sudo apt-get install {packages}"),
    ];
    Error::Problems { summary: "no compiler here can check for the Mac".to_owned(), problems }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_tools_are_read() {
        let version = |text| tool_version(text).map(|version| version.to_string());
        assert_eq!(version("rustc 1.96.0 (ac68faa20 2026-05-25)\n"), Some("1.96.0".to_owned()));
        assert_eq!(version("cargo"), None);
    }

    #[test]
    fn a_missing_compiler_is_named_with_both_ways_to_get_one() {
        let debian = Debian { rustc: "/no/rustc".into(), ..Debian::default() };
        let debian = Debian { cargo: "/bin/sh".into(), ..debian };
        let problem = debian.usable().expect_err("no such file");
        assert_eq!(problem, "/no/rustc is missing");
        let message = cannot_check(problem).to_string();
        assert!(message.contains("rustup target add"), "{message}");
        assert!(message.contains("rustc-web cargo-web rust-web-src"), "{message}");
    }
}
