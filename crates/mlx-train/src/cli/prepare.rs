//! `data`: token files made of texts, and what they hold.

use super::{
    Failure::{self, Failed, Refused},
    args::{DataCommand, PrepareArgs},
    models::print_json,
    program_name,
};
use crate::{
    data::{Prepare, PrepareProgress, ShardInfo, TokenFiles, Tokenizer},
    profile::Bytes,
    progress::grouped,
    summary::Summary,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

pub(super) fn run(command: DataCommand, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        DataCommand::Prepare(args) => prepare(&args, out),
        DataCommand::Info { folder, verify, json } => {
            let files = TokenFiles::open(&folder).map_err(Refused)?;
            if verify {
                files.verify().map_err(Failed)?;
            }
            if json { info_json(&files, out) } else { info(&files, verify, out) }
        }
    }
}

fn prepare(args: &PrepareArgs, out: &mut impl Write) -> Result<(), Failure> {
    let tokenizer = args.tokenizer.as_ref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::open);
    let mut prepare =
        Prepare::new(args.inputs.clone(), args.output.clone(), tokenizer.map_err(Refused)?);
    prepare.field.clone_from(&args.field);
    prepare.shard_tokens = args.shard_tokens;
    prepare.held_out = args.held_out;
    prepare.replace = args.force;
    prepare.num_threads = args.threads.unwrap_or(prepare.num_threads);
    let work = prepare.start().map_err(Refused)?;
    let mut display = Display::new();
    if work.is_finished() {
        display.line("these files are prepared already");
    }
    let files = work.run(|progress| display.show(progress)).map_err(Failed)?;
    display.finish();
    let folder = args.output.display();
    info(&files, false, out)?;
    let train = "train --model transformer --set data.kind=tokens --set data.path";
    let vocab_size = files.index().vocab_size;
    Ok(writeln!(
        out,
        "Next: {} {train}={folder} --set model.vocab_size={vocab_size}",
        program_name()
    )?)
}

/// A bar on a terminal, a line now and then elsewhere.
struct Display {
    bar: ProgressBar,
    /// Progress comes with every record, which are many a millisecond.
    next: Instant,
    between: Duration,
}

impl Display {
    fn new() -> Self {
        let (target, between) = if stderr().is_terminal() {
            (ProgressDrawTarget::stderr(), Duration::from_millis(100))
        } else {
            (ProgressDrawTarget::hidden(), Duration::from_secs(10))
        };
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is a constant, so its error would be ours; the default style also works.
        let template = "{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}  {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        Self { bar, next: Instant::now() + between, between }
    }

    fn show(&mut self, progress: &PrepareProgress) {
        if self.bar.length().is_none() {
            self.bar.set_length(progress.total_bytes);
            if progress.earlier_shards > 0 {
                // The bar's speed is that of this run alone.
                self.bar.set_position(progress.bytes_read);
                self.bar.reset_eta();
                let files = progress.earlier_shards;
                self.line(&format!("going on after {files} token files of an earlier run"));
            }
        }
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + self.between;
        self.bar.set_position(progress.bytes_read);
        self.bar.set_message(format!("{} tokens", grouped(progress.tokens)));
        if self.bar.is_hidden() {
            self.line(&format!(
                "{} of {}  {} tokens  {} documents",
                Bytes(progress.bytes_read),
                Bytes(progress.total_bytes),
                grouped(progress.tokens),
                grouped(progress.documents)
            ));
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A line above the bar, or by itself.
    fn line(&self, text: &str) {
        // If standard error is closed, nobody wants to know.
        self.bar.suspend(|| _ = writeln!(stderr(), "{text}"));
    }
}

fn info(files: &TokenFiles, verified: bool, out: &mut impl Write) -> Result<(), Failure> {
    let index = files.index();
    let mut table = Summary::new(files.folder().display().to_string());
    for (part, shards) in [("training", &index.training), ("held out", &index.held_out)] {
        if !shards.is_empty() {
            let (tokens, documents) = totals(shards);
            let (tokens, documents) = (grouped(tokens), grouped(documents));
            let files = shards.len();
            table =
                table.row(part, format!("{tokens} tokens, {documents} documents, {files} files"));
        }
    }
    let tokenizer = files.tokenizer().map_err(Refused)?;
    let name = if tokenizer.is_bytes() { "bytes" } else { "tokenizer.json" };
    table = table
        .row("on disk", format!("{} of {}", Bytes(files.num_bytes()), index.width()))
        .row("tokenizer", format!("{name}, vocabulary {}", grouped(u64::from(index.vocab_size))))
        .row("fingerprint", &index.tokenizer);
    if verified {
        table = table.row("verified", "every file is what its hash says");
    }
    Ok(write!(out, "{table}")?)
}

fn info_json(files: &TokenFiles, out: &mut impl Write) -> Result<(), Failure> {
    let index = files.index();
    let part = |shards: &[ShardInfo]| {
        let (tokens, documents) = totals(shards);
        json!({ "tokens": tokens, "documents": documents, "shards": shards })
    };
    let tokenizer = files.tokenizer().map_err(Refused)?;
    let value = json!({
        "folder": files.folder(),
        "bytes": files.num_bytes(),
        "dtype": index.width().to_string(),
        "vocab_size": index.vocab_size,
        "eos": index.eos,
        "tokenizer": if tokenizer.is_bytes() { "bytes" } else { "tokenizer.json" },
        "fingerprint": index.tokenizer,
        "training": part(&index.training),
        "held_out": part(&index.held_out),
    });
    print_json(&value, out)
}

/// How many tokens and documents some files have.
fn totals(shards: &[ShardInfo]) -> (u64, u64) {
    let sum = |count: fn(&ShardInfo) -> usize| shards.iter().map(|shard| count(shard) as u64).sum();
    (sum(|shard| shard.tokens), sum(|shard| shard.documents))
}
