//! A framework that takes part, and what was measured of it.

use super::{
    Peer, Task,
    work::Work,
    worker::{Hello, Reply},
};
use crate::{
    record::{Framework, Record},
    timing::Quantiles,
};
use mlx_train::{Error, Result, kernels::VARIABLE};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout},
    time::Instant,
};

pub struct Contender {
    peer: Peer,
    task: Task,
    /// Those alone that it uses of this crate's kernels, if that is said.
    kernels: Option<String>,
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    hello: Hello,
    /// From the start of the process until it can take a step.
    ready_seconds: f64,
    first_seconds: f64,
    seconds: Vec<f64>,
    last: Option<Reply>,
}

impl Contender {
    /// Starts its process, with these kernels if that is said, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not there, or ends.
    pub fn start(peer: Peer, task: Task, kernels: Option<&String>) -> Result<Self> {
        let started = Instant::now();
        let failed = |error| Error::message(format!("{} cannot be started: {error}", peer.name()));
        let mut command = peer.command(task)?;
        command.envs(kernels.map(|kernels| (VARIABLE, kernels)));
        let mut child = command.spawn().map_err(failed)?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::message("a process was started without its pipes"));
        };
        let mut replies = BufReader::new(replies);
        let hello = read_line(peer, &mut replies)?;
        Ok(Self {
            peer,
            task,
            kernels: kernels.cloned(),
            child,
            requests,
            replies,
            hello,
            ready_seconds: started.elapsed().as_secs_f64(),
            first_seconds: 0.0,
            seconds: Vec::new(),
            last: None,
        })
    }

    /// Takes steps that do not count; the very first one is noted.
    pub fn warm_up(&mut self, steps: u32) -> Result<()> {
        let is_first = self.last.is_none();
        let asked = Instant::now();
        let seconds = self.step(steps)?;
        if is_first {
            // Steps ahead are told without the first and the last, which here is the time of one step more.
            let later: f64 = seconds.iter().skip(usize::from(!self.task.ahead)).sum();
            self.first_seconds = asked.elapsed().as_secs_f64() - later;
        }
        Ok(())
    }

    /// Takes steps that count.
    pub fn measure(&mut self, steps: u32) -> Result<()> {
        let seconds = self.step(steps)?;
        self.seconds.extend(seconds);
        Ok(())
    }

    fn step(&mut self, steps: u32) -> Result<Vec<f64>> {
        let peer = self.peer;
        let asked = writeln!(self.requests, "step {steps}").and_then(|()| self.requests.flush());
        asked.map_err(|error| Error::message(format!("{} has ended: {error}", peer.name())))?;
        let reply: Reply = read_line(peer, &mut self.replies)?;
        if !reply.loss.is_finite() {
            let loss = reply.loss;
            return Err(Error::message(format!("the loss of {} is {loss}", peer.name())));
        }
        let seconds = reply.seconds.clone();
        self.last = Some(reply);
        Ok(seconds)
    }

    /// Ends its process: what was measured, and of whom.
    pub fn record(self, work: Work) -> Result<(Record, Framework)> {
        let Self { peer, task, kernels, mut child, requests, hello, last, .. } = self;
        drop(requests);
        drop(child.wait());
        let last = last.ok_or_else(|| Error::message("a framework took no step"))?;
        let num_steps = self.seconds.len();
        let seconds = Quantiles::of(self.seconds);
        let framework = Framework {
            backend: peer.backend(&hello.device),
            version: hello.version,
            device: hello.device,
            threads: hello.threads,
            resident_peak_bytes: last.resident_peak_bytes,
        };
        let record = Record {
            benchmark: "training",
            framework: peer.name(),
            model: work.name(),
            shapes: json!(work.sizes()),
            dtype: work.dtype(),
            compiled: task.compile,
            tokens_per_second: Some(f64::from(work.sizes().num_items()) / seconds.median),
            seconds,
            first_seconds: self.first_seconds,
            peak_bytes: last.peak_bytes.unwrap_or_default(),
            further: json!({
                "num_steps": num_steps,
                "ahead": task.ahead,
                "memory_limit": task.memory_limit,
                "start_seconds": self.ready_seconds + self.first_seconds,
                "loss": last.loss,
                "kernels": kernels,
            }),
        };
        Ok((record, framework))
    }
}

fn read_line<T: DeserializeOwned>(peer: Peer, replies: &mut BufReader<ChildStdout>) -> Result<T> {
    let mut line = String::new();
    let read = replies.read_line(&mut line);
    let read = read.map_err(|error| Error::message(format!("{}: {error}", peer.name())))?;
    if read == 0 {
        return Err(Error::message(format!(
            "its process has ended; {} says why above",
            peer.name()
        )));
    }
    serde_json::from_str(&line).map_err(|error| {
        Error::message(format!("{} wrote `{}`: {error}", peer.name(), line.trim()))
    })
}
