//! What the peers in Rust have in common: their task, and steps that are taken when `step N` is read; see
//! `training/worker.rs` of the benchmarks.

use serde::Deserialize;
use serde_json::json;
use std::{
    env,
    error::Error,
    fs,
    io::{BufRead, Write, stdin, stdout},
    thread,
    time::Instant,
};

#[derive(Deserialize)]
pub struct Task {
    pub sizes: Sizes,
    dtype: String,
    pub max_grad_norm: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Sizes {
    Gpt {
        vocab_size: usize,
        hidden_size: usize,
        num_layers: usize,
        num_heads: usize,
        intermediate_size: usize,
        seq_len: usize,
        batch_size: usize,
    },
    Mlp {
        input_size: usize,
        hidden_sizes: [usize; 2],
        output_size: usize,
        batch_size: usize,
    },
}

impl Task {
    /// That of the command line, if it is of f32.
    pub fn of_arguments() -> Result<Self, Box<dyn Error>> {
        let task: Self = serde_json::from_str(&env::args().nth(1).ok_or("no task")?)?;
        if task.dtype != "float32" {
            return Err(format!("this peer has no {}", task.dtype).into());
        }
        Ok(task)
    }
}

/// Takes steps on these batches, again and again, until nobody asks for more; `step` returns its loss.
pub fn serve<B>(
    [framework, version, device]: [&str; 3],
    batches: &[B],
    mut step: impl FnMut(&B) -> Result<f32, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let threads = thread::available_parallelism().map_or(0, usize::from);
    let hello = json!({
        "framework": framework, "version": version, "device": device, "threads": threads,
    });
    writeln!(stdout(), "{hello}")?;
    let mut batches = batches.iter().cycle();
    for line in stdin().lock().lines() {
        let line = line?;
        let count: usize = line.strip_prefix("step ").ok_or("not understood")?.parse()?;
        let (mut seconds, mut loss) = (Vec::new(), f32::NAN);
        for batch in batches.by_ref().take(count) {
            let began = Instant::now();
            loss = step(batch)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        let reply = json!({
            "seconds": seconds,
            "loss": loss,
            "peak_bytes": null,
            "resident_peak_bytes": resident_peak_bytes(),
        });
        writeln!(stdout(), "{reply}")?;
    }
    Ok(())
}

/// The most that this process had in memory (Linux).
fn resident_peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}
