//! A test in several processes: the ranks of a group over the ring on 127.0.0.1.

use mlx_train_core::{Result, distributed::Group};
use std::{
    env,
    fmt::Write as _,
    fs,
    io::Read,
    net::TcpListener,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a rank ended, and what it wrote.
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
}

/// No test takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_mins(2);

/// Runs `body` in `world_size` processes, which all have to succeed. `test` is the name of the test that calls it.
pub fn run(test: &str, world_size: usize, body: impl FnOnce(&Group) -> Result<()>) {
    for (rank, ended) in run_to_the_end(test, world_size, body).into_iter().enumerate() {
        assert!(ended.status.success(), "rank {rank}: {}\n{}", ended.status, ended.output);
    }
}

/// Runs `body` in `world_size` processes: how each ended. In the processes themselves it does not return.
///
/// In a rank of another size, which belongs to a later call of the same test, there are none.
pub fn run_to_the_end(
    test: &str,
    world_size: usize,
    body: impl FnOnce(&Group) -> Result<()>,
) -> Vec<Ended> {
    if env::var("MLX_TRAIN_TEST_WORLD_SIZE").is_ok_and(|size| size == world_size.to_string()) {
        let outcome = Group::of_environment().and_then(|group| {
            assert_eq!(group.world_size(), world_size);
            body(&group)
        });
        if let Err(error) = outcome {
            panic!("{error:?}");
        }
        // The test that called it is over, with its one size.
        std::process::exit(0);
    }
    if env::var("MLX_RANK").is_ok() {
        return Vec::new();
    }
    let folder = tempfile::tempdir().unwrap();
    let hostfile = folder.path().join("hosts.json");
    fs::write(&hostfile, hosts(world_size)).unwrap();
    let children: Vec<Child> = (0..world_size)
        .map(|rank| {
            Command::new(env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture", "--test-threads=1"])
                .env("MLX_RANK", rank.to_string())
                .env("MLX_HOSTFILE", &hostfile)
                .env("MLX_TRAIN_TEST_WORLD_SIZE", world_size.to_string())
                // Threads that spin would slow the other ranks down.
                .env("OPENBLAS_NUM_THREADS", "1")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let began = Instant::now();
    children.into_iter().map(|child| wait(child, began)).collect()
}

fn wait(mut child: Child, began: Instant) -> Ended {
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).unwrap();
        output
    });
    let errors = thread::spawn(move || {
        let mut output = String::new();
        stderr.read_to_string(&mut output).unwrap();
        output
    });
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
    Ended { status, output: read.join().unwrap() + &errors.join().unwrap() }
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
