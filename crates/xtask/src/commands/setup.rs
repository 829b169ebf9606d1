//! `cargo xtask setup`: native MLX for this machine, and Cargo told where it is.

use crate::error::{Error, Result};
use crate::native::anew::{STAMP, make_anew};
use crate::native::home::Home;
use crate::native::python::{Environment, Interpreter};
use crate::native::requirements::Requirements;
use crate::native::settings::{self, Settings};
use crate::native::{Backend, Build, Plan, global};
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{platform, shell};
use std::env::consts::ARCH;
use std::process::Command;

/// Options of `setup`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask setup                    this checkout; CUDA where nvidia-smi answers, else the CPU
  cargo xtask setup --backend cpu      the CPU, even beside a GPU
  cargo xtask setup --global           crates in other folders of this machine too
  cargo xtask setup --force            build again (no download: wheels are kept); a failure
                                       leaves the build before it

Everything goes to $MLX_TRAIN_HOME, by default ~/.cache/mlx-train, and to .cargo/mlx-native.toml.
No root is needed. On macOS mlx-sys builds MLX itself; there setup checks that it can, and makes a
Python environment with the same MLX for the parity tests.")]
pub struct SetupArgs {
    /// What MLX computes on [default: CUDA where a new enough NVIDIA driver answers, else cpu]
    #[arg(long, value_enum)]
    backend: Option<Backend>,

    /// Also write the settings to Cargo's own configuration in `$CARGO_HOME`, for crates outside this repository
    #[arg(long)]
    global: bool,

    /// Build again even if nothing changed
    #[arg(long)]
    force: bool,
}

/// The subcommand.
///
/// # Errors
/// When a program is missing, a download fails, or a compiler refuses.
pub fn run(workspace: &Workspace, args: &SetupArgs) -> Result<()> {
    if platform::is_macos() {
        if args.global || args.backend.is_some() {
            println!(
                "on macOS mlx-sys builds MLX by itself: --global and --backend change nothing"
            );
        }
        on_macos(workspace, args.force)?;
        println!("this Mac is ready: mlx-sys builds MLX with the first cargo build (some minutes)");
        return Ok(());
    }
    let backend = args.backend.unwrap_or_else(Backend::detect);
    let build = on_linux(workspace, backend, args.force, true)?;
    if args.global {
        let (path, changed) = global::install(&build.links_override())?;
        let did = if changed { "wrote the settings to" } else { "the settings are already in" };
        println!("{did} {}: crates in every folder build with this MLX", path.display());
    }
    Ok(())
}

/// What other subcommands call first: sets up what is missing, with the backend already in use.
///
/// # Errors
/// As [`run`].
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if platform::is_macos() {
        return on_macos(workspace, false);
    }
    let in_use = Build::in_use(workspace).and_then(|build| build.stamp());
    let backend = in_use.map_or_else(Backend::detect, |stamp| stamp.backend);
    on_linux(workspace, backend, false, false).map(drop)
}

fn on_linux(workspace: &Workspace, backend: Backend, force: bool, report: bool) -> Result<Build> {
    let plan = Plan::new(workspace, backend)?;
    let worked = plan.ensure(force)?;
    let build = plan.build().clone();
    let wrote = settings::write_if_changed(&workspace.settings(), &build.settings().render())?;
    if worked || wrote || report {
        println!(
            "MLX for {backend} is ready: plain cargo build, run and test work in this checkout"
        );
        println!("  build:    {}", build.dir().display());
        println!("  settings: {}", workspace.settings().display());
    }
    Ok(build)
}

fn on_macos(workspace: &Workspace, force: bool) -> Result<()> {
    let problems = missing_on_macos();
    if !problems.is_empty() {
        let summary = "mlx-sys cannot build MLX on this Mac yet".to_owned();
        return Err(Error::Problems { summary, problems });
    }
    let mlx_sys = workspace.mlx_sys()?;
    if ARCH != "aarch64" {
        let (system, arch) = ("macOS".to_owned(), ARCH.to_owned());
        let mlx_version = mlx_sys.mlx_version.to_string();
        return Err(Error::UnsupportedMachine { system, arch, mlx_version });
    }
    let path = workspace.native_inputs().join("requirements-macos.txt");
    let requirements = Requirements::read(path)?;
    requirements.check_against(&mlx_sys)?;
    let python = parity_python(&requirements, force)?;
    let settings = Settings { native: None, blas_kernels: None, python: Some(python) };
    settings::write_if_changed(&workspace.settings(), &settings.render()).map(drop)
}

/// A Python with the same MLX; remade when the file of its wheels changed.
fn parity_python(requirements: &Requirements, force: bool) -> Result<std::path::PathBuf> {
    let home = Home::find()?;
    let dir = home.build(&format!("parity-mlx-{}", requirements.mlx_version()?));
    let environment = Environment::at(dir.join("venv"));
    let stamp = dir.join(STAMP);
    let made = || std::fs::read_to_string(&stamp).is_ok_and(|text| text == requirements.text);
    let is_whole = made() && environment.is_whole();
    if force || !is_whole {
        let progress = Progress::start();
        let interpreter = Interpreter::find()?;
        let lock = home.lock()?;
        progress.step("private environment with Python MLX, for the parity tests");
        make_anew(&dir, is_whole, || {
            environment.create(&interpreter, &lock)?;
            environment.install(requirements, &home.wheels(), &lock)?;
            settings::write_if_changed(&stamp, &requirements.text)
        })?;
    }
    Ok(environment.python())
}

/// What mlx-sys's build script needs and does not find; each with the command that installs it.
fn missing_on_macos() -> Vec<String> {
    let works =
        |program: &str, argument: &str| shell::capture(Command::new(program).arg(argument)).is_ok();
    let mut problems = Vec::new();
    if !works("xcode-select", "-p") {
        problems.push("no Xcode command line tools: run `xcode-select --install`".to_owned());
    } else if !works_metal() {
        let metal = "no Metal compiler: install Xcode from the App Store, run it once, then \
                     `sudo xcode-select -s /Applications/Xcode.app` and \
                     `xcodebuild -downloadComponent MetalToolchain`";
        problems.push(metal.to_owned());
    }
    if !works("cmake", "--version") {
        problems.push("no cmake: run `brew install cmake`".to_owned());
    }
    if let Err(error) = Interpreter::find() {
        problems.push(error.to_string());
    }
    problems
}

fn works_metal() -> bool {
    let mut command = Command::new("xcrun");
    shell::capture(command.args(["-sdk", "macosx", "metal", "--version"])).is_ok()
}
