//! A fast BLAS behind MLX: jump stubs in place of the wheel's reference libraries.
//!
//! The CPU wheel ships netlib's BLAS and LAPACK (5.5 GFLOP/s for a 1024³ sgemm on two cores). The wheel
//! `scipy-openblas32` is OpenBLAS, a hundred GFLOP/s and more, but each of its symbols starts with
//! `scipy_`. So every library that libmlx.so asks for by name is replaced by one that holds a single
//! jump for each function that libmlx.so takes from it. Python MLX in the same environment gains too.

use super::elf::SharedObject;
use crate::error::{Error, Result};
use crate::shell;
use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs::File;
use std::path::Path;

/// What was put behind MLX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The wheel's libraries that are stubs now; none when this MLX brings no BLAS of its own.
    pub libraries: Vec<String>,
    /// How many functions lead to OpenBLAS.
    pub num_functions: usize,
}

/// Replaces the BLAS and LAPACK of the MLX wheel in `site_packages`.
///
/// # Errors
/// When OpenBLAS lacks a function that MLX calls, or a stub cannot be linked.
pub fn replace(site_packages: &Path, compiler: &str, work: &Path, lock: &File) -> Result<Replaced> {
    let mlx = SharedObject::read(&site_packages.join("mlx/lib/libmlx.so"))?;
    let openblas_path = site_packages.join("scipy_openblas32/lib/libscipy_openblas.so");
    let openblas = SharedObject::read(&openblas_path)?;
    let mut replaced = Replaced { libraries: Vec::new(), num_functions: 0 };
    for name in mlx.needed.iter().filter(|name| is_reference_blas(name)) {
        let Some(library) = bundled(site_packages, name)? else { continue };
        let reference = SharedObject::read(&library)?;
        let functions: BTreeSet<_> = mlx.undefined.intersection(&reference.defined).collect();
        let missing = missing(&functions, &openblas);
        if !missing.is_empty() {
            let problem = format!(
                "lacks {}, which MLX calls; another version of scipy-openblas32 is needed",
                missing.join(", ")
            );
            return Err(Error::malformed(&openblas_path, problem));
        }
        let source = work.join(format!("{name}.S"));
        let stubs = stubs(ARCH, &functions)
            .ok_or_else(|| Error::malformed(&source, format!("no jump stubs for {ARCH}")))?;
        std::fs::write(&source, stubs).map_err(Error::io("write", &source))?;
        link(&source, &library, name, compiler, lock)?;
        replaced.num_functions += functions.len();
        replaced.libraries.push(name.clone());
    }
    Ok(replaced)
}

fn is_reference_blas(name: &str) -> bool {
    name.starts_with("libblas") || name.starts_with("liblapack")
}

/// The wheel's own copy of a library, which lies in `mlx_cpu.libs` or `mlx_cuda_13.libs`.
fn bundled(site_packages: &Path, name: &str) -> Result<Option<std::path::PathBuf>> {
    let entries = site_packages.read_dir().map_err(Error::io("list", site_packages))?;
    for entry in entries {
        let folder = entry.map_err(Error::io("list", site_packages))?.path();
        let is_libs = folder.extension().is_some_and(|extension| extension == "libs");
        let library = folder.join(name);
        if is_libs && library.is_file() {
            return Ok(Some(library));
        }
    }
    Ok(None)
}

fn missing(functions: &BTreeSet<&String>, openblas: &SharedObject) -> Vec<String> {
    let lacks = |name: &&&String| !openblas.defined.contains(&format!("scipy_{name}"));
    functions.iter().filter(lacks).map(ToString::to_string).collect()
}

/// Assembly with one jump a function, or nothing for a processor that is not known.
fn stubs(arch: &str, functions: &BTreeSet<&String>) -> Option<String> {
    // Both forms keep every argument register, so that callers cannot tell the difference. The linker
    // may route them through its own stubs, which use only registers that the ABI sets aside for that.
    let (before, after, marker) = match arch {
        "x86_64" => ("jmp *scipy_", "@GOTPCREL(%rip)", "@"),
        "aarch64" => ("b scipy_", "", "%"),
        _ => return None,
    };
    let mut text = String::from(".text\n");
    for name in functions {
        let _ = writeln!(text, ".globl {name}\n.type {name},{marker}function");
        let _ = writeln!(text, "{name}: {before}{name}{after}");
        let _ = writeln!(text, ".size {name}, .-{name}");
    }
    // Without this note the loader would give the whole program an executable stack.
    let _ = writeln!(text, ".section .note.GNU-stack,\"\",{marker}progbits");
    Some(text)
}

fn link(source: &Path, library: &Path, name: &str, compiler: &str, lock: &File) -> Result<()> {
    // A new file, then a rename: pip may have hard-linked the old one to its cache.
    let fresh = source.with_extension("so");
    let mut command = shell::holding(lock, compiler)?;
    command.args(["-shared", "-nostdlib", "-o"]).arg(&fresh).arg(source);
    let mut search = OsString::from("-L");
    search.push(library.with_file_name("").join("../scipy_openblas32/lib"));
    command.arg(search).arg("-lscipy_openblas");
    command.arg(format!("-Wl,-soname,{name}"));
    command.arg("-Wl,--disable-new-dtags,-rpath,$ORIGIN/../scipy_openblas32/lib");
    shell::capture(&mut command)?;
    std::fs::rename(&fresh, library).map_err(Error::io("replace", library))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_function_jumps_to_its_prefixed_namesake() {
        let functions = names(&["cblas_sgemm", "sgeev_"]);
        let functions = functions.iter().collect();
        let x86 = stubs("x86_64", &functions).expect("known");
        assert!(x86.contains("\ncblas_sgemm: jmp *scipy_cblas_sgemm@GOTPCREL(%rip)\n"));
        assert!(x86.contains(".globl sgeev_\n.type sgeev_,@function\n"));
        let arm = stubs("aarch64", &functions).expect("known");
        assert!(arm.contains("\nsgeev_: b scipy_sgeev_\n"));
        assert!(arm.ends_with(".section .note.GNU-stack,\"\",%progbits\n"));
        assert_eq!(stubs("riscv64", &functions), None);
    }

    #[test]
    fn functions_that_openblas_lacks_are_named() {
        let defined = names(&["scipy_cblas_sgemm"]).into_iter().collect();
        let openblas = SharedObject { defined, ..SharedObject::default() };
        let functions = names(&["cblas_sgemm", "sgeev_"]);
        assert_eq!(missing(&functions.iter().collect(), &openblas), ["sgeev_"]);
    }

    #[test]
    fn only_blas_and_lapack_are_replaced() {
        assert!(is_reference_blas("libblas-bd8a282c.so.3.10.0"));
        assert!(is_reference_blas("liblapack-86b2c207.so.3.10.0"));
        assert!(!is_reference_blas("libstdc++.so.6"));
    }
}
