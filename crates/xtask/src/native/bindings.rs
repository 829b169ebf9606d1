//! Rust declarations of mlx-c, generated as mlx-sys's own build script generates them.

use super::mlx_c::files_with_extension;
use crate::error::{Error, Result};
use crate::shell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The hidden subcommand that [`Bindings::generate`] starts this program with.
pub const SUBCOMMAND: &str = "generate-bindings";

/// What the hidden subcommand is told.
#[derive(Debug, clap::Args)]
pub struct BindgenArgs {
    /// `src/mlx-c` of mlx-sys.
    mlx_c: PathBuf,
    /// `half_bindings.rs`.
    half_bindings: PathBuf,
    /// The file to write.
    out: PathBuf,
    /// The compiler's own headers (`stddef.h`), which the libclang wheel lacks.
    #[arg(long)]
    system_include: Option<PathBuf>,
}

/// Where the pieces are.
#[derive(Debug)]
pub struct Bindings<'a> {
    /// `src/mlx-c` of mlx-sys.
    pub mlx_c: &'a Path,
    /// `crates/xtask/native/half_bindings.rs`.
    pub half: &'a Path,
    /// The folder of `libclang.so`.
    pub libclang: &'a Path,
    /// The C++ compiler, which knows its headers.
    pub compiler: &'a str,
    /// `bindings.rs`.
    pub out: &'a Path,
}

impl Bindings<'_> {
    /// Writes the file.
    ///
    /// # Errors
    /// When libclang cannot be loaded or finds an error in a header.
    pub fn generate(&self, lock: &File) -> Result<()> {
        // A process of its own: libclang's place is told by an environment variable, and a process
        // may not change its own environment safely once it has threads.
        let this = std::env::current_exe().map_err(Error::io("find", Path::new("xtask")))?;
        let mut command = shell::holding(lock, this)?;
        command.env("LIBCLANG_PATH", self.libclang).arg(SUBCOMMAND);
        command.arg(self.mlx_c).arg(self.half).arg(self.out);
        if let Some(include) = self.system_include()? {
            command.arg("--system-include").arg(include);
        }
        shell::capture(&mut command).map(drop)
    }

    fn system_include(&self) -> Result<Option<PathBuf>> {
        let printed = shell::capture(Command::new(self.compiler).arg("-print-file-name=include"))?;
        Ok(Some(PathBuf::from(printed.trim())).filter(|path| path.is_absolute()))
    }
}

/// The hidden subcommand: bindgen with the settings of mlx-sys's `src/bindgen_config.rs`.
///
/// # Errors
/// When bindgen refuses or a file cannot be written.
pub fn run(args: &BindgenArgs) -> Result<()> {
    let failed = |problem: &dyn std::fmt::Display| Error::malformed(&args.mlx_c, problem);
    let rust = "1.73.0".parse().map_err(|error| failed(&format!("{error}")))?;
    let mut builder = bindgen::Builder::default()
        .rust_target(rust)
        .clang_arg(format!("-I{}", args.mlx_c.display()))
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        // The other formatter is a program that needs to be installed, and reads our rustfmt.toml.
        .formatter(bindgen::Formatter::Prettyplease);
    if let Some(include) = &args.system_include {
        builder = builder.clang_args(["-isystem".to_owned(), include.display().to_string()]);
    }
    for header in files_with_extension(&args.mlx_c.join("mlx/c"), "h")? {
        builder = builder.header(header.to_string_lossy());
    }
    let mut text = builder.generate().map_err(|error| failed(&error))?.to_string();
    let half = &args.half_bindings;
    let half_text = std::fs::read_to_string(half).map_err(Error::io("read", half))?;
    // On Arm mlx-c declares them itself.
    if !text.contains("pub fn mlx_array_item_float16") {
        text.push_str(&half_text);
    }
    std::fs::write(&args.out, text).map_err(Error::io("write", &args.out))
}
