//! `cargo xtask docs`: the reference pages without a warning, and a book without a dead link.

mod book;

use super::setup;
use crate::error::{Error, Result};
use crate::native::home::Home;
use crate::progress::Progress;
use crate::shell;
use crate::workspace::Workspace;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The release that the book is written for.
const MDBOOK: &str = "0.5.4";

/// Options of `docs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask docs                     reference pages (target/doc), and the book's links checked
  cargo xtask docs --open              the same, then show them
  cargo xtask docs --check             only links, listings and quoted code: a second, no build
  cargo xtask docs --book              the book as HTML too (target/book); the first time this
                                       installs mdBook into the cache, some minutes")]
pub struct DocsArgs {
    /// Only check links, listings and quoted code; build nothing
    #[arg(long, conflicts_with_all = ["book", "open"])]
    check: bool,

    /// Also build the book
    #[arg(long)]
    book: bool,

    /// Show the reference pages in a browser
    #[arg(long)]
    open: bool,
}

/// The subcommand.
///
/// # Errors
/// When a page has a warning, a dead link, or quotes code that is not there.
pub fn run(workspace: &Workspace, args: &DocsArgs) -> Result<()> {
    let progress = Progress::start();
    let num_pages = book::check(&workspace.path(""))?;
    progress.step(format_args!("{num_pages} pages: every link and quotation leads somewhere"));
    if args.check {
        return Ok(());
    }
    setup::ensure(workspace)?;
    reference(workspace, args.open)?;
    progress.step(format_args!("reference pages: {}", workspace.path("target/doc").display()));
    if args.book {
        let site = workspace.path("target/book");
        let mut command = Command::new(mdbook(&progress)?);
        command.arg("build").arg(workspace.path("docs")).arg("--dest-dir").arg(&site);
        shell::stream(&mut command)?;
        progress.step(format_args!("book: {}", site.join("index.html").display()));
    }
    Ok(())
}

fn reference(workspace: &Workspace, open: bool) -> Result<()> {
    let mut flags = std::env::var_os("RUSTDOCFLAGS").unwrap_or_default();
    flags.push(OsString::from(" -D warnings"));
    let mut command = workspace.cargo();
    command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", flags);
    if open {
        command.arg("--open");
    }
    shell::stream(&mut command)
}

/// mdBook from PATH, or from the cache, where it is built once.
fn mdbook(progress: &Progress) -> Result<PathBuf> {
    if let Some(installed) = shell::find("mdbook") {
        return Ok(installed);
    }
    let root = Home::find()?.tools();
    let program = root.join("bin/mdbook");
    if !program.is_file() {
        progress.step(format_args!("installing mdBook {MDBOOK} into {}", root.display()));
        let mut command = Command::new(crate::workspace::cargo_program());
        command.args(["install", "mdbook", "--locked", "--version", MDBOOK, "--root"]).arg(&root);
        // Away from this repository's rust-toolchain.toml and Cargo settings.
        command.current_dir(root.parent().unwrap_or(&root));
        std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        shell::stream(&mut command)?;
    }
    Ok(program)
}
