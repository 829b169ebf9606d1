//! `cargo xtask doctor`: what is found on this machine, and how fast it multiplies.
//!
//! It works before set-up and says what is missing. The matrix products run in the Python of the
//! environment, which loads the very `libmlx.so` (and on Linux the BLAS) that Rust programs load; so
//! nothing needs to be compiled, and the figure is MLX's, without any of our code.

use crate::native::home::Home;
use crate::native::python::Interpreter;
use crate::native::{Backend, Build, Stamp, compiler, compiler_version, global, settings};
use crate::workspace::{Workspace, cargo_program};
use crate::{platform, shell};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The median speed of the products that fit into one second on the default device, as JSON.
const MATMUL: &str = r#"
import json, statistics, time
import mlx.core as mx
gpu = mx.default_device() == mx.gpu
size = 4096 if gpu else 1024
a, b = (mx.random.normal((size, size), key=mx.random.key(k)) for k in (1, 2))

def product():
    start = time.perf_counter()
    mx.eval(a @ b)
    return time.perf_counter() - start

# The first ones load kernels and start threads.
for _ in range(3):
    product()
times = []
end = time.perf_counter() + 1.0
while not times or time.perf_counter() < end:
    times.append(product())
info = mx.device_info() if hasattr(mx, "device_info") else {}
print(json.dumps({
    "version": mx.__version__,
    "device": "gpu" if gpu else "cpu",
    "device_name": str(info.get("device_name", "")),
    "memory_bytes": int(info.get("memory_size", info.get("total_memory", 0))),
    "size": size,
    "count": len(times),
    "gflops": 2 * size**3 / statistics.median(times) / 1e9,
}))
"#;

/// What [`MATMUL`] prints.
#[derive(Debug, Deserialize)]
struct Measured {
    version: String,
    device: String,
    device_name: String,
    memory_bytes: u64,
    size: u64,
    count: u64,
    gflops: f64,
}

/// What a person should do, in the order it was found.
#[derive(Debug, Default)]
struct Advice(Vec<String>);

impl Advice {
    fn add(&mut self, advice: impl Into<String>) {
        self.0.push(advice.into());
    }
}

/// The subcommand. It cannot fail: what is not found is shown as such.
pub fn run(workspace: &Workspace) {
    let mut advice = Advice::default();
    println!("machine");
    machine();
    println!("programs");
    programs(&mut advice);
    println!("MLX");
    mlx(workspace, &mut advice);
    println!("files");
    files(workspace, &mut advice);
    if advice.0.is_empty() {
        println!("all is well");
    }
    for advice in advice.0 {
        println!("to do: {advice}");
    }
}

fn line(name: &str, found: impl std::fmt::Display) {
    println!("  {name:<12} {found}");
}

fn machine() {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    line("system", format_args!("{} ({os} {arch})", system_name()));
    line("processors", platform::cores());
    line("memory", memory().unwrap_or_else(|| "unknown".to_owned()));
    if !platform::is_macos() {
        line("GPU", gpu().unwrap_or_else(|| "none (nvidia-smi does not answer)".to_owned()));
    }
}

fn system_name() -> String {
    if platform::is_macos() {
        let version = shell::capture(Command::new("sw_vers").arg("-productVersion"));
        return format!("macOS {}", version.unwrap_or_default().trim());
    }
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

fn memory() -> Option<String> {
    if platform::is_macos() {
        let bytes = shell::capture(Command::new("sysctl").args(["-n", "hw.memsize"])).ok()?;
        return bytes.trim().parse().ok().map(gibibytes);
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let (total, available) = (meminfo(&text, "MemTotal")?, meminfo(&text, "MemAvailable")?);
    Some(format!("{}, {} of it available", gibibytes(total), gibibytes(available)))
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn gpu() -> Option<String> {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let printed = shell::capture(Command::new("nvidia-smi").args(query)).ok()?;
    let gpus: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!gpus.is_empty()).then(|| gpus.join("; "))
}

fn programs(advice: &mut Advice) {
    let cargo = shell::capture(Command::new(cargo_program()).arg("--version"));
    line("cargo", cargo.unwrap_or_default().trim().trim_start_matches("cargo "));
    let compiler = compiler();
    match compiler_version(&compiler) {
        Ok(version) => line("C++", version),
        Err(error) => {
            line("C++", "missing");
            let install = platform::install_command(&[platform::Program::Gxx]);
            let mac = "install Xcode's tools: xcode-select --install".to_owned();
            advice.add(if platform::is_macos() { mac } else { format!("{error}; {install}") });
        }
    }
    match Interpreter::find() {
        Ok(python) => {
            line("python", format_args!("{} ({})", python.version, python.program));
        }
        Err(error) => {
            line("python", "missing");
            advice.add(error.to_string());
        }
    }
    if let Some(glibc) = platform::glibc() {
        line("glibc", glibc);
    }
    if platform::is_macos() {
        let cmake = shell::capture(Command::new("cmake").arg("--version")).unwrap_or_default();
        line("cmake", cmake.lines().next().unwrap_or("missing"));
    }
}

fn mlx(workspace: &Workspace, advice: &mut Advice) {
    match workspace.mlx_sys() {
        Ok(sys) => line("wanted", format_args!("{} (mlx-sys {})", sys.mlx_version, sys.version)),
        Err(error) => advice.add(error.to_string()),
    }
    let stamp = Build::in_use(workspace).and_then(|build| build.stamp());
    if let Some(stamp) = &stamp {
        show(stamp);
    } else if !platform::is_macos() {
        line("build", "none in use");
        advice.add("run: cargo xtask setup");
    }
    if let Some(python) = python_in_use(workspace) {
        measure(advice, &python);
    }
    let best = Backend::detect();
    if stamp.is_some_and(|stamp| !stamp.backend.is_cuda() && best.is_cuda()) {
        advice.add(format!("use the GPU: cargo xtask setup --backend {best}"));
    }
}

fn show(stamp: &Stamp) {
    line("backend", stamp.backend);
    line("BLAS", &stamp.blas);
    line("mlx-c", format_args!("of mlx-sys {}, by {}", stamp.mlx_sys, stamp.compiler));
}

/// The Python that the checkout's settings name.
fn python_in_use(workspace: &Workspace) -> Option<PathBuf> {
    let text = std::fs::read_to_string(workspace.settings()).ok()?;
    settings::python(&text).filter(|python| python.exists())
}

fn measure(advice: &mut Advice, python: &Path) {
    let printed = shell::capture(Command::new(python).args(["-c", MATMUL]));
    let measured = printed.map_err(|error| error.to_string()).and_then(|text| {
        serde_json::from_str::<Measured>(&text).map_err(|error| error.to_string())
    });
    let Measured { version, device, device_name, memory_bytes, size, count, gflops } =
        match measured {
            Ok(measured) => measured,
            Err(error) => return advice.add(format!("MLX does not run: {error}")),
        };
    line("version", version);
    let memory = if memory_bytes > 0 { gibibytes(memory_bytes) } else { String::new() };
    line("device", format!("{device} {device_name} {memory}").trim());
    let how = format!("f32, {size} by {size}, median of {count} in a second");
    line("matmul", format_args!("{gflops:.0} GFLOP/s ({how})"));
}

fn files(workspace: &Workspace, advice: &mut Advice) {
    let settings = workspace.settings();
    line("settings", if settings.is_file() { shown(&settings) } else { none(&settings) });
    if let Some(build) = Build::in_use(workspace) {
        let whole = if build.stamp().is_some() { "" } else { " (not a whole build)" };
        line("build", format_args!("{}{whole}", build.dir().display()));
    }
    let global = global_build();
    if !platform::is_macos() {
        let state = global.as_ref().map_or_else(
            || "none (setup --global writes it)".to_owned(),
            |(file, build)| format!("{} names {}", file.display(), build.display()),
        );
        line("global", state);
    }
    match Home::find() {
        Ok(home) => {
            let here = [Build::in_use(workspace).map(|build| build.native())];
            let used =
                here.into_iter().chain([python_in_use(workspace), global.map(|found| found.1)]);
            cache(&home, &used.flatten().collect::<Vec<_>>());
        }
        Err(error) => advice.add(error.to_string()),
    }
}

/// Cargo's own configuration and the folder of the build that it names, if it names one.
fn global_build() -> Option<(PathBuf, PathBuf)> {
    let file = global::config_file(&global::cargo_home().ok()?);
    let text = std::fs::read_to_string(&file).ok()?;
    let out_dir = settings::out_dir(&text, &platform::triple())?;
    Some((file, out_dir))
}

/// What set-ups have kept, and how to free the space of builds that hold nothing of `used`.
fn cache(home: &Home, used: &[PathBuf]) {
    let size = gibibytes(size_bytes(home.path()));
    line("cache", format_args!("{} ({size})", home.path().display()));
    // Only shown, never removed: other checkouts may use them, and they are not known here.
    for build in unused(home.builds(), used) {
        let size = gibibytes(size_bytes(&build));
        line("", format_args!("rm -r {}  # {size}, unless another clone uses it", build.display()));
    }
}

fn unused(builds: Vec<PathBuf>, used: &[PathBuf]) -> Vec<PathBuf> {
    builds.into_iter().filter(|build| !used.iter().any(|path| path.starts_with(build))).collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn none(path: &Path) -> String {
    format!("{} (not written yet)", path.display())
}

/// What the files below a folder hold; links are not followed.
fn size_bytes(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   12288000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_576_000 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(12_288_000 * 1024));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(gibibytes(24_576_000 * 1024), "23.4 GiB");
    }

    #[test]
    fn only_builds_that_nothing_points_into_are_offered_for_removal() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let builds = paths(&["/c/mlx-1", "/c/mlx-1.earlier", "/c/mlx-2", "/c/mlx-3"]);
        let used = paths(&["/c/mlx-1/native", "/c/mlx-3/venv/bin/python"]);
        assert_eq!(unused(builds, &used), paths(&["/c/mlx-1.earlier", "/c/mlx-2"]));
    }

    #[test]
    fn folder_sizes_add_up_and_ignore_links() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("inner")).expect("made");
        std::fs::write(folder.path().join("inner/a"), [0; 1000]).expect("written");
        std::fs::write(folder.path().join("b"), [0; 24]).expect("written");
        std::os::unix::fs::symlink("/usr", folder.path().join("usr")).expect("linked");
        let size = size_bytes(folder.path());
        assert!((1024..2048).contains(&size), "{size}");
    }
}
