//! What MLX reads from the environment, once, when it first computes: limits of its buffers and caches.
//!
//! On a GPU, MLX puts operations into a command buffer (Metal) or a CUDA graph, and keeps every array that
//! one uses until all of it has run. Two limits say when it begins the next, so they trade memory for time.
//! A process cannot change its own environment safely once it has threads, and MLX's libraries start some
//! when they are loaded, so [`MlxEnvironment::enter`] replaces the process by itself.

use super::MemoryConfig;
use crate::{
    Error, Result,
    bytes::Bytes,
    distributed::MPI_LIBRARY,
    estimate::{Backend, Machine},
    ffi,
};
use std::{
    env, io,
    path::PathBuf,
    process::{self, Command},
};

/// The variables of the environment that a program wants MLX to see.
///
/// A program whose `main` is `mlx_train::cli::main` does this by itself. Others call it first of all, before
/// they touch an array:
///
/// ```no_run
/// # use mlx_train_core::{Result, profile::MlxEnvironment};
/// fn main() -> Result<()> {
///     MlxEnvironment { max_mb_per_buffer: Some(100), ..MlxEnvironment::default() }.enter()?;
///     // … the rest of the program
///     # Ok(())
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MlxEnvironment {
    /// `MLX_MAX_OPS_PER_BUFFER`: how many operations one buffer has at most.
    pub max_ops_per_buffer: Option<u32>,
    /// `MLX_MAX_MB_PER_BUFFER`: how much one buffer reads at most. MLX's name for it says megabytes; it counts
    /// 2^20 elements, of any size.
    pub max_mb_per_buffer: Option<u32>,
    /// `MTL_CAPTURE_ENABLED=1`: lets Metal capture what its GPU does.
    pub metal_capture: bool,
}

/// How many CUDA graphs MLX keeps.
///
/// By default it keeps 400, and fails with "Cache thrashing" when a training run needs more: the reference
/// transformer with an evaluation in between did, on an H200, and with 4000 it did not.
const CUDA_GRAPHS: (&str, &str) = ("MLX_CUDA_GRAPH_CACHE_SIZE", "4000");

/// Which kernels OpenBLAS uses, behind MLX on a Linux CPU.
///
/// It knows processors by their numbers, and takes one that is newer than it for the oldest of its kind: on an AMD
/// processor of family 26 a product of matrices took twice as long as with these, which run wherever there is AVX-512.
const BLAS_KERNELS: (&str, &str) = ("OPENBLAS_CORETYPE", "SKYLAKEX");

/// What `mpirun` tells its ranks.
const OF_MPIRUN: &str = "OMPI_COMM_WORLD_SIZE";

const MEGABYTES_PER_BUFFER: &str = "MLX_MAX_MB_PER_BUFFER";

/// Tells a process that it was started by itself: its id, which stays, and what was set for it.
const MARK: &str = "MLX_TRAIN_ENVIRONMENT";

/// Megabytes per buffer that a budget chooses from, the most first.
///
/// MLX's own limit is 1000 on an H100 or H200, 400 on an A100, 100 or less on other GPUs. On an H200, a
/// transformer took 24.0 GB and 42.7 ms a step at 1000, and 14.4 GB and 44.8 ms at 100.
const MEGABYTES: [u32; 5] = [400, 200, 100, 50, 25];

impl MlxEnvironment {
    /// What a config says. Where it says nothing, MLX's defaults stay.
    pub fn of(config: &MemoryConfig) -> Self {
        let &MemoryConfig { max_ops_per_buffer, max_mb_per_buffer, .. } = config;
        Self { max_ops_per_buffer, max_mb_per_buffer, metal_capture: false }
    }

    /// Chooses the megabytes per buffer so that a run needs no more than `budget`, unless they are given.
    ///
    /// `peak` estimates what a run takes with a number of megabytes, or with MLX's default. The default stays
    /// where that fits. Otherwise it is the most of 400, 200, 100, 50 and 25 that fits, or 25.
    ///
    /// # Errors
    /// What `peak` returns.
    pub fn within(
        mut self,
        budget: Bytes,
        mut peak: impl FnMut(Option<u32>) -> Result<Bytes>,
    ) -> Result<Self> {
        if self.max_mb_per_buffer.is_some() || peak(None)? <= budget {
            return Ok(self);
        }
        for megabytes in MEGABYTES {
            self.max_mb_per_buffer = Some(megabytes);
            if peak(self.max_mb_per_buffer)? <= budget {
                break;
            }
        }
        Ok(self)
    }

    /// With fewer megabytes per buffer than MLX's default here, where they cost no time, unless they are given. Where
    /// there is nothing to choose, no device is asked.
    ///
    /// On an H200, where the default is 1000, compiled steps of GPT-2 small that run ahead took 35.4 ms and 17.9 GiB with
    /// it, as many and 12.6 with 400, 35.8 ms and 9.9 GiB with 200, 38.2 ms and 8.8 GiB with 100.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn with_defaults(self) -> Result<Self> {
        if !ffi::has_cuda() {
            return Ok(self);
        }
        self.with_defaults_of(|| Ok(Machine::here()?.backend))
    }

    fn with_defaults_of(mut self, backend: impl FnOnce() -> Result<Backend>) -> Result<Self> {
        const ENOUGH: u32 = 400;
        if self.leaves_megabytes()
            && let Backend::Cuda(limits) = backend()?
            && limits.mega_elements > ENOUGH.into()
        {
            self.max_mb_per_buffer = Some(ENOUGH);
        }
        Ok(self)
    }

    /// Makes MLX see these variables, by replacing this process by itself where one of them is missing.
    ///
    /// Process id, signals, open files, arguments and exit code stay. A variable that the environment has
    /// already wins. On CUDA, `MLX_CUDA_GRAPH_CACHE_SIZE` is 4000 in any case; on Linux with AVX-512 and without
    /// CUDA, `OPENBLAS_CORETYPE` is `SKYLAKEX`; and a rank of `mpirun` finds the library of Open MPI by the name
    /// that it has without its headers. Where nothing is missing, and in the process that was replaced, this
    /// returns; call it once, before anything else.
    ///
    /// # Errors
    /// When the system cannot start the program anew; this process can go on, with MLX's defaults.
    pub fn enter(&self) -> Result<()> {
        let of_mpirun = env::var_os(OF_MPIRUN).is_some();
        let has_cuda = ffi::has_cuda();
        let here = Here { has_cuda, has_wide_blas: !has_cuda && has_avx512(), of_mpirun };
        let changes = self.changes(here, |name| env::var(name).ok());
        if changes.is_empty() {
            return Ok(());
        }
        let failed = restart(&changes);
        let names: Vec<&str> = changes.iter().map(|(name, _)| *name).collect();
        Err(Error::message(format!(
            "the program could not be started anew with {} for MLX ({failed}); set them yourself before you \
             start it",
            names.join(", ")
        )))
    }

    /// Whether this process was started anew by [`MlxEnvironment::enter`], which does nothing more in it.
    pub fn is_entered() -> bool {
        env::var(MARK).is_ok_and(|mark| is_of_this_process(&mark))
    }

    /// Whether the megabytes per buffer are still to be chosen: neither this nor the environment says them.
    pub fn leaves_megabytes(&self) -> bool {
        self.max_mb_per_buffer.is_none()
            && !is_the_users(MEGABYTES_PER_BUFFER, |name| env::var(name).ok())
    }

    /// Every variable that this is about, and its value if it asks for one.
    fn variables(&self, here: Here) -> [Change; 6] {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        [
            ("MLX_MAX_OPS_PER_BUFFER", number(self.max_ops_per_buffer)),
            (MEGABYTES_PER_BUFFER, number(self.max_mb_per_buffer)),
            (CUDA_GRAPHS.0, here.has_cuda.then(|| CUDA_GRAPHS.1.to_owned())),
            (BLAS_KERNELS.0, here.has_wide_blas.then(|| BLAS_KERNELS.1.to_owned())),
            (MPI_LIBRARY.0, here.of_mpirun.then(|| MPI_LIBRARY.1.to_owned())),
            ("MTL_CAPTURE_ENABLED", self.metal_capture.then(|| "1".to_owned())),
        ]
    }

    /// What is to be set or, without a value, taken away in the environment `current`: nothing that the user
    /// of this process has set.
    fn changes(&self, here: Here, current: impl Fn(&str) -> Option<String>) -> Vec<Change> {
        let mark = current(MARK).unwrap_or_default();
        if is_of_this_process(&mark) {
            return Vec::new();
        }
        let changes = self
            .variables(here)
            .into_iter()
            .filter(|(name, wanted)| current(name) != *wanted && !is_the_users(name, &current));
        changes.collect()
    }
}

/// What this process is on, and by what it was started.
#[derive(Debug, Clone, Copy, Default)]
struct Here {
    has_cuda: bool,
    /// Whether products of matrices are OpenBLAS's, on a processor with AVX-512.
    has_wide_blas: bool,
    of_mpirun: bool,
}

/// Whether this is Linux on a processor with the parts of AVX-512 that OpenBLAS's kernels need.
fn has_avx512() -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    false
}

/// A variable, and the value that it gets; without one, it goes.
type Change = (&'static str, Option<String>);

/// Whether the environment `current` has a variable, and not only because another process that was started anew
/// chose it for itself and then started this one.
fn is_the_users(name: &str, current: impl Fn(&str) -> Option<String>) -> bool {
    let mark = current(MARK).unwrap_or_default();
    current(name).is_some() && !mark.split(' ').skip(1).any(|chosen| chosen == name)
}

/// Whether a mark was made for this process, and not for one that has started it.
fn is_of_this_process(mark: &str) -> bool {
    mark.split(' ').next() == Some(&process::id().to_string())
}

/// What marks the process that has these changes from this one.
fn mark(changes: &[Change]) -> String {
    let set = changes.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name);
    [process::id().to_string().as_str()].into_iter().chain(set).collect::<Vec<_>>().join(" ")
}

/// Replaces this process by the same program in another environment; returns why it could not.
#[cfg(unix)]
fn restart(changes: &[Change]) -> io::Error {
    use std::os::unix::process::CommandExt;
    let program = match program() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(arguments).env(MARK, mark(changes)).exec()
}

#[cfg(not(unix))]
fn restart(_: &[Change]) -> io::Error {
    io::ErrorKind::Unsupported.into()
}

/// The file of this program.
#[cfg(unix)]
fn program() -> io::Result<PathBuf> {
    // Linux's name for it works as well when the file was replaced while the program runs.
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { env::current_exe() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MlxEnvironment = MlxEnvironment {
        max_ops_per_buffer: Some(7),
        max_mb_per_buffer: Some(100),
        metal_capture: false,
    };

    /// What changes where the environment has `current`.
    fn changes(limits: &MlxEnvironment, has_cuda: bool, current: &[(&str, &str)]) -> String {
        changes_on(limits, Here { has_cuda, ..Here::default() }, current)
    }

    fn changes_on(limits: &MlxEnvironment, here: Here, current: &[(&str, &str)]) -> String {
        let find = |name: &str| current.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        let changes = limits.changes(here, find).into_iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => format!("no {name}"),
        });
        changes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn megabytes_are_never_more_than_cost_no_time() -> Result<()> {
        use crate::estimate::PerBuffer;
        let gpu = |mega_elements| Backend::Cuda(PerBuffer { operations: 100, mega_elements });
        let chosen = |given: MlxEnvironment, backend| -> Result<Option<u32>> {
            Ok(given.with_defaults_of(|| Ok(backend))?.max_mb_per_buffer)
        };
        let given = MlxEnvironment { max_mb_per_buffer: Some(900), ..MlxEnvironment::default() };
        assert_eq!(chosen(MlxEnvironment::default(), gpu(1000))?, Some(400));
        assert_eq!(chosen(MlxEnvironment::default(), gpu(100))?, None);
        assert_eq!(chosen(given, gpu(1000))?, Some(900));
        assert_eq!(chosen(MlxEnvironment::default(), Backend::Cpu)?, None);
        Ok(())
    }

    #[test]
    fn what_the_environment_has_wins() {
        let all = "MLX_MAX_OPS_PER_BUFFER=7 MLX_MAX_MB_PER_BUFFER=100";
        assert_eq!(changes(&LIMITS, false, &[]), all);
        let set = [("MLX_MAX_MB_PER_BUFFER", "5")];
        assert_eq!(changes(&LIMITS, false, &set), "MLX_MAX_OPS_PER_BUFFER=7");
        // Also one that is empty: somebody has put it there.
        let set = [("MLX_MAX_MB_PER_BUFFER", ""), ("MLX_MAX_OPS_PER_BUFFER", "7")];
        assert_eq!(changes(&LIMITS, false, &set), "");
    }

    #[test]
    fn cuda_always_gets_room_for_its_graphs_and_nothing_else() {
        let none = MlxEnvironment::default();
        assert_eq!(changes(&none, true, &[]), "MLX_CUDA_GRAPH_CACHE_SIZE=4000");
        assert_eq!(changes(&none, true, &[("MLX_CUDA_GRAPH_CACHE_SIZE", "9")]), "");
        assert_eq!(changes(&none, false, &[]), "");
        let capture = MlxEnvironment { metal_capture: true, ..none };
        assert_eq!(changes(&capture, false, &[]), "MTL_CAPTURE_ENABLED=1");
    }

    #[test]
    fn a_processor_with_avx512_gets_the_kernels_for_it_unless_others_are_named() {
        let (none, wide) =
            (MlxEnvironment::default(), Here { has_wide_blas: true, ..Here::default() });
        assert_eq!(changes_on(&none, wide, &[]), "OPENBLAS_CORETYPE=SKYLAKEX");
        assert_eq!(changes_on(&none, wide, &[("OPENBLAS_CORETYPE", "HASWELL")]), "");
    }

    #[test]
    fn a_rank_of_mpirun_finds_the_library_of_programs_unless_another_is_named() {
        let (none, rank) = (MlxEnvironment::default(), Here { of_mpirun: true, ..Here::default() });
        let (name, library) = MPI_LIBRARY;
        assert_eq!(changes_on(&none, rank, &[]), format!("{name}={library}"));
        assert_eq!(changes_on(&none, rank, &[("MLX_MPI_LIBNAME", "/opt/libmpi.so")]), "");
    }

    #[test]
    fn a_process_that_was_restarted_goes_on_and_its_children_choose_for_themselves() {
        let own = mark(&[("MLX_MAX_MB_PER_BUFFER", Some("100".into()))]);
        // Without the variables, as where somebody takes them away: no loop.
        assert_eq!(changes(&LIMITS, true, &[(MARK, &own)]), "");

        let mark = (MARK, "0 MLX_MAX_MB_PER_BUFFER");
        let inherited = [mark, ("MLX_MAX_MB_PER_BUFFER", "25"), ("MLX_MAX_OPS_PER_BUFFER", "1")];
        assert_eq!(changes(&LIMITS, false, &inherited), "MLX_MAX_MB_PER_BUFFER=100");
        let none = MlxEnvironment::default();
        assert_eq!(changes(&none, false, &inherited), "no MLX_MAX_MB_PER_BUFFER");
        let same = [mark, ("MLX_MAX_MB_PER_BUFFER", "100")];
        assert_eq!(changes(&LIMITS, false, &same), "MLX_MAX_OPS_PER_BUFFER=7");
    }

    #[test]
    fn a_budget_takes_the_most_megabytes_that_fit() -> Result<()> {
        // 10 bytes, and one for each megabyte.
        let chosen = |environment: MlxEnvironment, budget| {
            let peak =
                |megabytes: Option<u32>| Ok(Bytes(10 + u64::from(megabytes.unwrap_or(1000))));
            Ok::<_, Error>(environment.within(Bytes(budget), peak)?.max_mb_per_buffer)
        };
        let default = MlxEnvironment::default;
        assert_eq!(chosen(default(), 1010)?, None, "the default fits");
        assert_eq!(chosen(default(), 1009)?, Some(400));
        assert_eq!(chosen(default(), 210)?, Some(200));
        assert_eq!(chosen(default(), 209)?, Some(100));
        assert_eq!(chosen(default(), 1)?, Some(25), "nothing fits");
        assert_eq!(chosen(LIMITS, 1)?, Some(100), "it is given");
        let fails = |_| Err(Error::message("no estimate"));
        assert!(default().within(Bytes(1), fails).is_err());
        Ok(())
    }
}
