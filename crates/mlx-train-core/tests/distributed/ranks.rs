//! A test in several processes: the ranks of a group over the ring on 127.0.0.1, or over MPI.

use mlx_train_core::{
    Result,
    distributed::{Backend, Group, MPI_LIBRARY},
};
use std::{
    env,
    fmt::Write as _,
    fs,
    io::Read,
    net::TcpListener,
    panic,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a rank ended, and what it wrote. Those of MPI are one: `mpirun`, which ends as the first that fails.
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
}

/// No test takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_mins(2);

/// In a process that is a rank: the backend and the number of the ranks of its call.
const RANKS: &str = "MLX_TRAIN_TEST_RANKS";

/// Runs `body` in `world_size` processes over the ring, which all have to succeed. `test` is the name of the test
/// that calls it.
pub fn run(test: &str, world_size: usize, body: impl FnOnce(&Group) -> Result<()>) {
    run_over(Backend::Ring, test, world_size, body);
}

/// Runs `body` in `world_size` processes over a backend, which all have to succeed: one that can split groups
/// ([`Backend::Mpi`]) for a mesh of several ways.
pub fn run_over(
    backend: Backend,
    test: &str,
    world_size: usize,
    body: impl FnOnce(&Group) -> Result<()>,
) {
    let all = run_to_the_end_over(backend, test, world_size, body);
    for (rank, ended) in all.into_iter().enumerate() {
        assert!(ended.status.success(), "rank {rank}: {}\n{}", ended.status, ended.output);
    }
}

/// As [`run_to_the_end_over`], over the ring.
pub fn run_to_the_end(
    test: &str,
    world_size: usize,
    body: impl FnOnce(&Group) -> Result<()>,
) -> Vec<Ended> {
    run_to_the_end_over(Backend::Ring, test, world_size, body)
}

/// Runs `body` in `world_size` processes: how each ended. In the processes themselves it does not return.
///
/// In a rank of another call of the same test, there are none.
pub fn run_to_the_end_over(
    backend: Backend,
    test: &str,
    world_size: usize,
    body: impl FnOnce(&Group) -> Result<()>,
) -> Vec<Ended> {
    let ranks = format!("{world_size} over {backend}");
    match env::var(RANKS) {
        Ok(own) if own == ranks => be_a_rank(backend, world_size, body),
        Ok(_) => return Vec::new(),
        Err(_) => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let mut commands = match backend {
        Backend::Mpi => vec![mpirun(world_size)],
        _ => ring(world_size, folder.path()),
    };
    for command in &mut commands {
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(RANKS, &ranks)
            // Threads that spin would slow the other ranks down.
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }
    let children: Vec<Child> =
        commands.iter_mut().map(|command| command.spawn().unwrap()).collect();
    let began = Instant::now();
    children.into_iter().map(|child| wait(child, began)).collect()
}

/// Runs `body` as one of the ranks, and ends the process.
fn be_a_rank(backend: Backend, world_size: usize, body: impl FnOnce(&Group) -> Result<()>) -> ! {
    if backend == Backend::Mpi {
        // A rank that ended as others do would wait in `MPI_Finalize` for those that wait for it.
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            print(what);
            std::process::abort();
        }));
    }
    let outcome = Group::of_environment().and_then(|group| {
        assert_eq!((group.backend(), group.world_size()), (Some(backend), world_size));
        body(&group)
    });
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
    // The test that called it is over, with its one size.
    std::process::exit(0);
}

/// This program as each of the ranks of a ring.
fn ring(world_size: usize, folder: &Path) -> Vec<Command> {
    let hostfile = folder.join("hosts.json");
    fs::write(&hostfile, hosts(world_size)).unwrap();
    let rank = |rank: usize| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env("MLX_RANK", rank.to_string()).env("MLX_HOSTFILE", &hostfile);
        command
    };
    (0..world_size).map(rank).collect()
}

/// `mpirun` of this program.
fn mpirun(world_size: usize) -> Command {
    let mut command = parity::mpi::mpirun(world_size);
    command.arg(env::current_exe().unwrap()).env(MPI_LIBRARY.0, MPI_LIBRARY.1);
    command
}

fn wait(mut child: Child, began: Instant) -> Ended {
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (output, errors) = (read(stdout), read(stderr));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    };
    Ended { status, output: output.join().unwrap() + &errors.join().unwrap() }
}

fn read(mut source: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut output = String::new();
        source.read_to_string(&mut output).unwrap();
        output
    })
}

/// What the ring reads: the address of every rank, on ports that were free a moment ago.
fn hosts(world_size: usize) -> String {
    let listeners: Vec<TcpListener> =
        (0..world_size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut text = String::new();
    for (rank, listener) in listeners.iter().enumerate() {
        let comma = if rank == 0 { "" } else { ", " };
        write!(text, "{comma}[\"{}\"]", listener.local_addr().unwrap()).unwrap();
    }
    format!("[{text}]")
}
