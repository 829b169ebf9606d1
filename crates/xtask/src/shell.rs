//! Starting other programs: what they print is shown, or kept for the error message.

use crate::error::{Error, Result};
use crate::workspace::cargo_program;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How many of a failed program's last lines its error repeats.
const TAIL_LINES: usize = 25;

/// Runs to the end with the terminal's own output, so that progress shows as it happens.
///
/// # Errors
/// [`Error::Start`] and [`Error::Failed`].
pub fn stream(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| cannot_start(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: describe(command), status, output: String::new() })
}

/// Runs to the end silently and returns what the program printed to its standard output.
///
/// # Errors
/// [`Error::Start`], and [`Error::Failed`] with the last lines of both outputs.
pub fn capture(command: &mut Command) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().map_err(|source| cannot_start(command, source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let printed = text + &String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed {
        command: describe(command),
        status: output.status,
        output: indented_tail(&printed),
    })
}

/// The command as one would type it, for messages.
pub fn describe(command: &Command) -> String {
    let program = command.get_program();
    // Cargo tells us its own long path; a person types its name.
    let program = if *program == *cargo_program() { OsStr::new("cargo") } else { program };
    std::iter::once(program).chain(command.get_args()).map(quoted).collect::<Vec<_>>().join(" ")
}

/// Where `program` is on PATH, if it is.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A command that holds `lock` for as long as it or any child of it lives.
///
/// An exclusive file lock belongs to the open file, and a child inherits it as its standard input (an
/// empty file, so reading it ends at once). When a set-up is killed its compilers may go on for a
/// while; the next one waits for them before it clears the folder that they write to.
pub fn holding(lock: &File, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.stdin(lock.try_clone().map_err(Error::io("share", Path::new("the set-up lock")))?);
    Ok(command)
}

fn cannot_start(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::Start { command: describe(command), program, source }
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn indented_tail(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    if lines.is_empty() {
        return String::new();
    }
    let note = format!("({skipped} lines before these)");
    let head = std::iter::once("; it printed:").chain((skipped > 0).then_some(note.as_str()));
    head.chain(lines[skipped..].iter().copied()).collect::<Vec<_>>().join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_repeats_the_command_and_its_last_lines() {
        let refused =
            capture(Command::new("sh").args(["-c", "seq 40; echo broken pipe >&2; exit 3"]));
        let message = refused.expect_err("exit 3").to_string();
        assert!(message.starts_with("`sh -c 'seq 40; echo broken pipe >&2; exit 3'` failed"));
        assert!(message.contains("exit status: 3"));
        assert!(message.contains("(16 lines before these)"));
        assert!(!message.contains("\n    16\n"));
        assert!(message.ends_with("\n    40\n    broken pipe"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let refused = stream(&mut Command::new("no-such-program-of-mlx-train"));
        let message = refused.expect_err("cannot exist").to_string();
        assert!(message.contains("is `no-such-program-of-mlx-train` installed"));
    }

    #[test]
    fn described_commands_can_be_pasted_into_a_shell() {
        let mut command = Command::new("echo");
        command.args(["two words", "it's", "plain-1.0", ""]);
        let printed = capture(Command::new("sh").args(["-c", &describe(&command)]));
        assert_eq!(printed.expect("echo works"), "two words it's plain-1.0 \n");
    }
}
