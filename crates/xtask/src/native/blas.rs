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

/// The kernels that OpenBLAS shall use where it would choose slower ones.
///
/// It knows processors by their numbers, and takes one that is newer than it for the oldest of its kind: on an AMD
/// processor of family 26 its kernels are those of AVX2, and a 1024³ sgemm on two cores has 190 GFLOP/s instead
/// of 400. Those named for Skylake run wherever these parts of AVX-512 are.
pub fn kernels() -> Option<&'static str> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        return Some("SKYLAKEX");
    }
    None
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

    /// Compiles one C function into a shared library that needs `needed`.
    #[cfg(target_os = "linux")]
    fn library(path: &Path, source: &str, needed: &[&Path]) {
        use std::process::Command;
        let folder = path.parent().expect("a folder");
        std::fs::create_dir_all(folder).expect("made");
        let file = path.with_extension("c");
        std::fs::write(&file, source).expect("written");
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        let mut command = Command::new("g++");
        command.args(["-x", "c", "-shared", "-fPIC", "-o"]).arg(path).arg(&file);
        command.arg(format!("-Wl,-soname,{name}")).args(["-x", "none"]).args(needed);
        command.arg("-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../mlx_cpu.libs");
        shell::capture(&mut command).expect("compiled");
    }

    /// A wheel in small: one BLAS function, which answers 1 in the reference and 42 in the fast one.
    #[cfg(target_os = "linux")]
    fn small_site_packages(site: &Path, fast: &str) {
        let reference = site.join("mlx_cpu.libs/libblas-1.so.3");
        library(&reference, "int cblas_f(int x) { return 1; }", &[]);
        library(&site.join("scipy_openblas32/lib/libscipy_openblas.so"), fast, &[]);
        let mlx = "int cblas_f(int); int mlx_f(int x) { return cblas_f(x); }";
        library(&site.join("mlx/lib/libmlx.so"), mlx, &[&reference]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn calls_end_in_the_fast_library_with_their_arguments() {
        use std::process::Command;
        let folder = tempfile::tempdir().expect("a folder");
        let site = folder.path();
        small_site_packages(site, "int scipy_cblas_f(int x) { return 42 + x; }");
        let lock = tempfile::tempfile().expect("a file");
        let replaced = replace(site, "g++", site, &lock).expect("replaced");
        assert_eq!(replaced.libraries, ["libblas-1.so.3"]);
        assert_eq!(replaced.num_functions, 1);
        let main = site.join("main.c");
        std::fs::write(&main, "int mlx_f(int); int main(void) { return mlx_f(8); }")
            .expect("written");
        let (program, mlx) = (site.join("main"), site.join("mlx/lib"));
        let mut compile = Command::new("g++");
        compile.args(["-x", "c"]).arg(&main).arg("-o").arg(&program);
        compile.args(["-x", "none"]).arg(mlx.join("libmlx.so"));
        compile.arg(format!("-Wl,--disable-new-dtags,-rpath,{}", mlx.display()));
        shell::capture(&mut compile).expect("compiled");
        let status = Command::new(&program).status().expect("runs");
        assert_eq!(status.code(), Some(50));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_is_replaced_when_a_function_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let site = folder.path();
        small_site_packages(site, "int scipy_cblas_g(int x) { return x; }");
        let lock = tempfile::tempfile().expect("a file");
        let refused = replace(site, "g++", site, &lock).expect_err("lacks cblas_f");
        assert!(refused.to_string().contains("lacks cblas_f, which MLX calls"), "{refused}");
        let reference = SharedObject::read(&site.join("mlx_cpu.libs/libblas-1.so.3"));
        assert!(reference.expect("still there").defined.contains("cblas_f"));
    }
}
