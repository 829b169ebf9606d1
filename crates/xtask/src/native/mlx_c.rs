//! mlx-c, MLX's C interface, compiled from the sources inside the mlx-sys package.

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::shell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where everything is that the compiler reads and writes.
#[derive(Debug)]
pub struct MlxC<'a> {
    /// `src/mlx-c` of mlx-sys.
    pub sources: &'a Path,
    /// `crates/xtask/native`.
    pub inputs: &'a Path,
    /// `…/site-packages/mlx`, with `include` and `lib`.
    pub mlx: &'a Path,
    /// Where `libmlxc.so` and `libmlxc.a` go.
    pub out: &'a Path,
    /// A folder for objects.
    pub work: &'a Path,
    /// The C++ compiler.
    pub compiler: &'a str,
    /// The set-up's lock, which compilers hold as well.
    pub lock: &'a File,
    /// Who is told how far it is.
    pub progress: &'a Progress,
}

impl MlxC<'_> {
    /// Compiles every source, `jobs` at a time, and makes both libraries.
    ///
    /// # Errors
    /// The first compiler's failure, with its last lines.
    pub fn build(&self, jobs: usize) -> Result<()> {
        let mut sources = files_with_extension(&self.sources.join("mlx/c"), "cpp")?;
        sources.push(self.inputs.join("compat.cpp"));
        let objects: Vec<_> = sources.iter().map(|source| self.object(source)).collect();
        let num_done = AtomicUsize::new(0);
        in_parallel(jobs, &sources, |source| {
            self.compile(source)?;
            let done = num_done.fetch_add(1, Ordering::Relaxed) + 1;
            // Now and then: on a busy machine the whole takes minutes.
            if done.is_multiple_of(10) {
                self.progress.step(format_args!("  {done} of {} files", sources.len()));
            }
            Ok(())
        })?;
        self.archive(&objects)?;
        self.link(&objects)
    }

    fn object(&self, source: &Path) -> PathBuf {
        let name = source.file_stem().unwrap_or(OsStr::new("object"));
        self.work.join(name).with_extension("o")
    }

    fn compile(&self, source: &Path) -> Result<()> {
        let mut command = shell::holding(self.lock, self.compiler)?;
        // Warnings are off because the sources are not ours to change.
        command.args(["-std=c++20", "-O2", "-fPIC", "-w", "-c", "-include"]);
        command.arg(self.inputs.join("compat.h"));
        command.arg(joined("-I", self.sources)).arg(joined("-I", &self.mlx.join("include")));
        command.arg("-o").arg(self.object(source)).arg(source);
        shell::capture(&mut command).map(drop)
    }

    /// The static library, for programs that shall run on a machine without this build.
    fn archive(&self, objects: &[PathBuf]) -> Result<()> {
        let mut command = shell::holding(self.lock, "ar")?;
        command.arg("rcs").arg(self.out.join("libmlxc.a")).args(objects);
        shell::capture(&mut command).map(drop)
    }

    /// The shared library. Its name inside is its own absolute path, so that a program linked to it
    /// finds it wherever the program lies, without an rpath flag that RUSTFLAGS could displace; and it
    /// knows where libmlx.so is (`DT_RPATH`, which counts for what it loads in turn as well).
    fn link(&self, objects: &[PathBuf]) -> Result<()> {
        let library = self.out.join("libmlxc.so");
        let mlx = self.mlx.join("lib");
        let mut command = shell::holding(self.lock, self.compiler)?;
        command.arg("-shared").arg("-o").arg(&library).args(objects);
        command.arg(joined("-L", &mlx)).arg("-lmlx");
        command.arg(joined("-Wl,-soname,", &library));
        command.arg(joined("-Wl,--disable-new-dtags,-rpath,", &mlx));
        shell::capture(&mut command).map(drop)
    }
}

/// The files of a folder with this extension, sorted.
///
/// # Errors
/// When the folder cannot be listed or has none.
pub fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().map_err(Error::io("list", folder))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.extension() == Some(OsStr::new(extension)) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::malformed(folder, format!("holds no .{extension} file")));
    }
    Ok(files)
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(path);
    argument
}

/// Runs `work` on every item with `jobs` threads; after a failure no further item is begun.
fn in_parallel<T: Sync>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = Mutex::new(items.iter());
    let failure = Mutex::new(None);
    let take = || {
        let failed = failure.lock().is_ok_and(|failure| failure.is_some());
        if failed { None } else { next.lock().ok().and_then(|mut items| items.next()) }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(item) = take() {
                    if let Err(error) = work(item)
                        && let Ok(mut failure) = failure.lock()
                    {
                        failure.get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().ok().flatten().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        let done = AtomicUsize::new(0);
        let items: Vec<usize> = (1..=100).collect();
        let add = |item: &usize| {
            done.fetch_add(*item, Ordering::Relaxed);
            Ok(())
        };
        in_parallel(3, &items, add).expect("nothing fails");
        assert_eq!(done.into_inner(), 5050);
    }

    #[test]
    fn the_first_failure_comes_back_and_stops_the_rest() {
        let begun = AtomicUsize::new(0);
        let fail = |item: &usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            Err(Error::malformed("x", item))
        };
        let error = in_parallel(1, &[7, 8, 9], fail).expect_err("all fail");
        assert_eq!(error.to_string(), "x: 7");
        assert_eq!(begun.into_inner(), 1);
    }
}
